"""`make demo` shows what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import eventually, processes_of_tests

DEMO = Path(__file__).parents[2] / "scripts" / "demo"


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demo with `folder` as the place for temporary files."""
    return subprocess.Popen(
        [sys.executable, str(DEMO), *options],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("registry", ["embedded", "zookeeper"])
def test_the_demo_converges_a_node_and_leaves_nothing_behind(registry, short_path):
    known = processes_of_tests()
    demo = start(short_path, "--registry", registry)
    out, err = demo.communicate(timeout=100)

    assert (demo.returncode, err) == (0, "")
    for said in (
        "node    bender0",
        "node    bender1",
        "FlockOfChefs['bender0']['flock_api'].run_chef()",
        "holds 'foobar\\n'",
        "report  ok",
    ):
        assert said in out
    assert list(short_path.iterdir()) == []
    assert processes_of_tests(known) == {}


@pytest.mark.parametrize("moment", ["registry in", "node    bender0", "call    "])
def test_the_demo_cleans_up_when_it_is_interrupted(moment, short_path):
    known = processes_of_tests()
    demo = start(short_path)
    assert demo.stdout is not None
    while not (line := demo.stdout.readline()).startswith(moment):
        assert line, "it ended before that"

    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=60)

    assert demo.returncode == 130
    assert "Traceback" not in err
    assert list(short_path.iterdir()) == []
    assert eventually(lambda: processes_of_tests(known), within=5.0, becomes={}) == {}
