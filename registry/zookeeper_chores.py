"""The janitor: what must be done sooner or later, however often it takes.

A release during an outage, an entry whose creation was given up before the
answer came, a presence that went with its session: the caller has long
returned, and here it is tried until it is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from registry.contract import RegistryError
from registry.zookeeper_session import Session

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_LOOKING_PAUSE = 0.5
"""Seconds between two looks at the clock while no server answers: only time says then that the
session is lost."""

Chore: TypeAlias = Callable[[], bool]
"""Tries once, and says whether it is done; may raise `RegistryError`, which means "not yet"."""


class Chores:
    """Does chores on a thread of its own, while there is a connection."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._open: list[tuple[str, Chore]] = []
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flock-registry-chores", daemon=True)
        session.wake_on_change(self._woken.set)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def add(self, what: str, chore: Chore) -> None:
        """Hand over something that is tried until it is done; `what` is for the log."""
        with self._lock:
            self._open.append((what, chore))
        self._woken.set()

    @property
    def count(self) -> int:
        """How many are not done."""
        return len(self._open)

    def stop(self, timeout: float) -> None:
        """End the thread after a last try of everything, at most `timeout` seconds."""
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping:
            self._woken.wait(pause if self._open or not self._session.is_connected else None)
            was_woken = self._woken.is_set()
            self._woken.clear()
            self._session.revive()
            self._session.look()
            if not self._session.is_connected:
                pause = _LOOKING_PAUSE
                continue
            if was_woken:
                pause = _FIRST_PAUSE
            before = time.monotonic()
            self._try_all()
            # What has to be waited for is asked about ever more rarely.
            pause = min(_LONGEST_PAUSE, 2 * pause + (time.monotonic() - before))
        if self._session.is_connected:
            self._try_all()

    def _try_all(self) -> None:
        for item in list(self._open):
            what, chore = item
            try:
                done = chore()
            except RegistryError as error:
                _log.debug("%s: not yet: %s", what, error)
                done = False
            except Exception:  # noqa: BLE001 - the other chores go on
                _log.exception("%s failed for good", what)
                done = True
            if done:
                with self._lock:
                    self._open.remove(item)
