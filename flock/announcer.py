"""A node's entry in the directory: made, brought up to date after changes, given up.

Changes come from many sides and often together: one thread writes the entry
anew after them, several at once as one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from flock.errors import RegistryError
from registry.contract import NameTaken, PresenceRecord, Registry

logger = logging.getLogger(__name__)

_TRY_AGAIN = 1.0  # seconds


class Announcer:
    """Keeps one entry as it should be read; any thread may use it."""

    def __init__(
        self,
        registry: Registry,
        record: Callable[[], PresenceRecord],
        answers: Callable[[PresenceRecord], bool],
        name_lost: Callable[[PresenceRecord], None] | None,
    ) -> None:
        """Make it; `start` begins, `announce` enters the directory.

        Args:
            registry: where the directory is.
            record: returns the entry as it should be read now.
            answers: says whether the process behind an entry is alive.
            name_lost: called if the name belongs to another generation after
                an outage.
        """
        self._registry = registry
        self._record = record
        self._answers = answers
        self._name_lost = name_lost
        self._is_announced = False
        self._is_closed = False
        # Who handles a signal may close this on the thread that is just announcing.
        self._lock = threading.RLock()
        self._stale = threading.Event()

    def start(self) -> None:
        """Begin to write the entry anew after changes."""
        threading.Thread(target=self._run, name="flock-announcer", daemon=True).start()

    def refuse_taken_name(self) -> None:
        """See early that the name is free; `announce` decides, and waits for who is dead.

        Raises:
            NameTaken: a live process has this name.
        """
        ours = self._record()
        there = self._registry.presence(ours.name)
        if there is not None and there.generation != ours.generation and self._answers(there):
            raise NameTaken(there.name, there.whereabouts())

    def announce(self) -> None:
        """Enter the directory; from now on the entry follows what changes.

        Raises:
            NameTaken: a live process has this name.
        """
        with self._lock:
            self._write()
            self._is_announced = True

    def changed(self) -> None:
        """Have the entry brought up to date soon."""
        self._stale.set()

    def close(self) -> bool:
        """Write nothing any more; the entry goes with the registry. False if it was closed."""
        with self._lock:
            if self._is_closed:
                return False
            self._is_closed = True
            self._is_announced = False
        self._stale.set()
        return True

    def _write(self) -> None:
        self._registry.announce(self._record(), answers=self._answers, name_lost=self._name_lost)

    def _run(self) -> None:
        pause: float | None = None
        while True:
            self._stale.wait(pause)
            if self._is_closed:
                return
            self._stale.clear()
            if not self._is_announced:
                continue
            try:
                with self._lock:
                    if self._is_announced:
                        self._write()
                pause = None
            except RegistryError as error:
                # The registry writes the latest entry itself once it is back,
                # as far as it knows it; ours is tried again until it stands.
                if pause is None:
                    logger.info("the directory does not show the latest of us: %s", error)
                pause = _TRY_AGAIN
