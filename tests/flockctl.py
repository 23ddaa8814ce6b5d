"""`flockctl` in processes of its own, for tests: commands that end, and nodes that stay."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import eventually

ROOT = Path(__file__).parents[1]
READY_WITHIN = 45.0
COMMAND_WITHIN = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """What stands on standard output, as JSON; nothing else may stand there."""
        return json.loads(self.out)


class Running:
    """A command that still runs; ended with the test whatever happens."""

    def __init__(self, words: list[str], environment: dict[str, str], errors: Path) -> None:
        self._errors = errors
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flock", *words],
                cwd=errors.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    @property
    def err(self) -> str:
        """What it said so far on standard error."""
        return self._errors.read_text()

    def says(self, text: str, within: float = READY_WITHIN) -> bool:
        """Wait until it has said `text`; False if it ended, or the time, before that."""

        def look() -> str:
            # Asked first: what it says last must not be missed.
            over = self.process.poll() is not None
            return "said" if text in self.err else "over" if over else ""

        return eventually(look, within=within) == "said"

    def end(self, number: signal.Signals, within: float = COMMAND_WITHIN) -> Ended:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.ended(within)

    def ended(self, within: float = COMMAND_WITHIN) -> Ended:
        """Wait for the end."""
        out, _ = self.process.communicate(timeout=within)
        return Ended(self.process.returncode, out, self.err)

    def close(self) -> None:
        """Kill it if it still runs; what ended is closed already."""
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate()


class Flockctl:
    """The command, on one registry, with a folder for cookbooks and states."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.cookbooks = folder / "cookbooks"
        self._running: list[Running] = []
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("FLOCK_") or key.startswith("FLOCK_TEST_")
        }
        self.environment = kept | {
            "FLOCK_REGISTRY": url,
            "FLOCK_CONFIG": "",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "xdg"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COLUMNS": "200",
        }

    def recipe(self, name: str, text: str) -> None:
        """Write `cookbooks/cb/recipes/NAME.py`; `{here}` in it is the folder."""
        path = self.cookbooks / "cb" / "recipes" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        words = "from flock.recipe import FlockOfChefs, execute, file, log, node\n"
        path.write_text(words + textwrap.dedent(text).replace("{here}", str(self.folder)))

    def __call__(self, *words: str, within: float = COMMAND_WITHIN, **variables: str) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "flock", *words],
            cwd=self.folder,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, **variables: str) -> Running:
        """Start a command that does not end by itself."""
        errors = self.folder / f"errors-{len(self._running)}"
        running = Running(list(words), self.environment | variables, errors)
        self._running.append(running)
        return running

    def node(self, name: str, *options: str, **variables: str) -> Running:
        """Start a node and wait until it is listed."""
        running = self.start_node(name, *options, **variables)
        assert running.says(f"READY {name} "), running.err
        return running

    def start_node(self, name: str, *options: str, **variables: str) -> Running:
        """Start a node without waiting for it."""
        state = str(self.folder / "state" / name)
        words = ("node", "--name", name, "--state-dir", state, "--cookbooks", str(self.cookbooks))
        return self.start(*words, *options, **variables)

    def close(self) -> None:
        """Kill what still runs."""
        for running in self._running:
            running.close()


@contextlib.contextmanager
def flockctl_on(url: str, folder: Path) -> Iterator[Flockctl]:
    """Give the command on a registry; whatever it started is over afterwards."""
    command = Flockctl(url, folder)
    try:
        yield command
    finally:
        command.close()
