"""The examples run as they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
WITHIN = 90.0


def environment(registry: str, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLOCK_REGISTRY": registry,
        "FLOCK_STATE_DIR": str(folder / "state"),
        "PYTHONUNBUFFERED": "1",
    }


def run(name: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=WITHIN, check=False
    )


def test_scratchy_fights_with_itchy(registry_url: str, tmp_path: Path) -> None:
    env = environment(registry_url, tmp_path)
    lonely = run("scratchy.py", env=env)
    assert lonely.returncode == 3
    assert "start examples/itchy.py first" in lonely.stderr

    itchy = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "itchy.py")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert itchy.stdout is not None
    assert itchy.stderr is not None
    try:
        assert itchy.stdout.readline() == "itchy is ready for mayhem\n"
        fought = run("scratchy.py", env=env)
        assert fought.returncode == 0, fought.stderr
        three = ["Bite!"] * 3 + ["Fight!"] * 3
        assert fought.stdout.splitlines() == [*three, " ".join(three), "12 rounds"]
        itchy.send_signal(signal.SIGUSR1)
        dump = next(line for line in itchy.stderr if "what the actors are doing" in line)
        assert dump  # a node like any other, although no command started it
    finally:
        itchy.send_signal(signal.SIGTERM)
        assert itchy.wait(WITHIN) == 0
        itchy.stdout.close()
        itchy.stderr.close()


def test_a_thousand_actors_on_ten_nodes_answer(embedded_url: str, tmp_path: Path) -> None:
    env = environment(embedded_url, tmp_path)
    del env["FLOCK_STATE_DIR"]  # ten nodes: each has its own beside the registry

    massive = run("massive.py", env=env)

    assert massive.returncode == 0, massive.stderr
    assert massive.stdout.startswith("1000 of 1000 actors on 10 nodes answered")
