"""One run at a time on a machine, also between processes.

A `flock(2)` on a file in the node's state folder: it falls with the process
that holds it, however that dies, and is not inherited by the commands of a
run. The file says who holds it, for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

from flock.converge.forks import in_children
from flock.errors import ConvergeError
from registry.wall_clock import now_text


class RunLock:
    """The run lock of one state folder; not to be used by two threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        in_children(self._let_go)

    def take(self, what_for: str) -> bool:
        """Take the lock if it is free; say whether it is ours now.

        Args:
            what_for: what others read who find it taken.

        Raises:
            ConvergeError: the file cannot be made or locked.
        """
        if self._descriptor is not None:
            return False
        try:
            self._descriptor = self._open(what_for)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConvergeError(f"cannot take the run lock {self.path}: {error}") from error
        return True

    def _open(self, what_for: str) -> int:
        """Return the locked file, with our name in it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"pid": os.getpid(), "what_for": what_for, "since": now_text()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def release(self) -> None:
        """Give the lock up; harmless if it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def _let_go(self) -> None:
        """Close our copy in a forked child, so that the lock falls with its holder."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def holder(self) -> str:
        """Say who holds it, as far as the file tells: `process 4711 since …`."""
        try:
            found = json.loads(self.path.read_text())
            return f"process {found['pid']} since {found['since']} ({found['what_for']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
