"""Where nodes are, as far as this process asked: presence records kept fresh by watches.

Only names that are used are watched. A record that is known stays usable while
the registry is away; a name that is not known is asked for, and an answer "not
there" is never kept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from flock.errors import RegistryError
from flock.timers import Timer, clock
from registry.contract import Cancel, PresenceRecord, Registry

logger = logging.getLogger(__name__)

_ASK_AGAIN = 1.0  # seconds


class Directory:
    """The presence records of the nodes this process talks to.

    Any thread may ask. `changed` is called with a name, on a thread of the
    registry, after what is known of it changed.
    """

    def __init__(self, registry: Registry, changed: Callable[[str], None]) -> None:
        """Make it empty."""
        self._registry = registry
        self._changed = changed
        self._records: dict[str, PresenceRecord] = {}
        self._watches: dict[str, Cancel] = {}
        # How often the watch of a name brought news: who reads a record himself
        # sees by it whether he may have read something older.
        self._changes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._later: dict[str, Timer] = {}

    def known(self, name: str) -> PresenceRecord | None:
        """Return the record of a name as far as it is known here; asks nobody."""
        return self._records.get(name)

    def find(self, name: str) -> PresenceRecord | None:
        """Return a name's record, asking the registry if it is not known here.

        Raises:
            RegistryUnavailable: it is not known here and cannot be asked for.
        """
        record = self._records.get(name)
        return record if record is not None else self.look_again(name)

    def look_again(self, name: str) -> PresenceRecord | None:
        """Ask the registry for a name's record, whatever is known here."""
        while True:
            # Watched before it is read, so that no change falls between.
            self._watch(name)
            with self._lock:
                change = self._changes.get(name, 0)
            record = self._registry.presence(name)
            if record is not None and record.kind != "node":
                record = None
            with self._lock:
                if self._changes.get(name, 0) != change:
                    continue  # what was read may be older than what the watch has read
                if record is not None and name in self._watches:
                    self._records[name] = record
                    return record
                if record is None:
                    self._records.pop(name, None)
                    cancel = self._watches.pop(name, None)
                    self._changes.pop(name, None)
                    break
        if cancel is not None:
            cancel()
        return None

    def _watch(self, name: str) -> None:
        with self._lock:
            if name in self._watches:
                return
        cancel = self._registry.watch_presence(name, lambda: self._reread(name))
        with self._lock:
            kept = self._watches.setdefault(name, cancel)
        if kept is not cancel:
            cancel()

    def _reread_soon(self, name: str) -> None:
        # Asking takes time, and is not the clock's work.
        threading.Thread(
            target=self._reread, args=(name,), name="flock-directory", daemon=True
        ).start()

    def _reread(self, name: str) -> None:
        """Take the news of a watch; the registry brings one at a time."""
        with self._lock:
            if name not in self._watches:
                return
            self._changes[name] = self._changes.get(name, 0) + 1
        try:
            record = self._registry.presence(name)
        except RegistryError as error:
            logger.debug("%s stays as it was known: %s", name, error)
            # The registry tells of a change once: asked again until it answers.
            with self._lock:
                if name in self._watches:
                    self._later[name] = clock.start(_ASK_AGAIN, lambda _: self._reread_soon(name))
            return
        with self._lock:
            if name not in self._watches:
                return
            self._changes[name] = self._changes.get(name, 0) + 1
            if record is None or record.kind != "node":
                self._records.pop(name, None)
            else:
                self._records[name] = record
        self._changed(name)

    def close(self) -> None:
        """End all watches."""
        with self._lock:
            cancels = list(self._watches.values())
            timers = list(self._later.values())
            self._watches.clear()
        clock.discard(timers)
        for cancel in cancels:
            cancel()
