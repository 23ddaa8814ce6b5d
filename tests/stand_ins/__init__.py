"""Programs that answer as foreign ones do, for tests where those cannot be had.

`put_on_path` puts one on PATH under the name of the program it stands for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


class StandIn:
    """A stand-in on PATH: what it is to answer, and what it was asked.

    Attributes:
        folder: its own, where it keeps what it remembers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answers(self, stdout: str = "", exit_code: int = 0, stderr: str = "") -> None:
        """Let it answer this from now on."""
        (self.folder / "stdout").write_text(stdout)
        (self.folder / "stderr").write_text(stderr)
        (self.folder / "exit_code").write_text(str(exit_code))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call."""
        path = self.folder / "calls"
        return [line.split("\0") for line in path.read_text().splitlines()] if path.exists() else []


def put_on_path(name: str, folder: Path, source: str = "stand_in_any.py") -> StandIn:
    """Put a stand-in for the program `name` first on PATH; the test's monkeypatch restores PATH.

    Args:
        name: the program it stands for.
        folder: where; made.
        source: which stand-in.
    """
    own = folder / f"stand-in-{name}"
    own.mkdir(parents=True)
    program = own / name
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FOLDER / source} {own} "$@"\n')
    program.chmod(0o755)
    os.environ["PATH"] = f"{own}{os.pathsep}{os.environ['PATH']}"
    return StandIn(own)
