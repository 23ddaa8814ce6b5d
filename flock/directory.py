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
from registry.contract import Cancel, PresenceRecord, Registry

logger = logging.getLogger(__name__)


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
        self._lock = threading.Lock()

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
        with self._lock:
            watched = name in self._watches
        if not watched:
            # Watched before it is read, so that no change falls between.
            cancel = self._registry.watch_presence(name, lambda: self._reread(name))
            with self._lock:
                if name in self._watches:
                    doubled = cancel
                else:
                    self._watches[name] = cancel
                    doubled = None
            if doubled is not None:
                doubled()
        record = self._registry.presence(name)
        if record is None or record.kind != "node":
            self._records.pop(name, None)
            self._forget(name)
            return None
        self._records[name] = record
        return record

    def _reread(self, name: str) -> None:
        try:
            record = self._registry.presence(name)
        except RegistryError as error:
            logger.debug("%s stays as it was known: %s", name, error)
            return
        if record is None:
            self._records.pop(name, None)
        else:
            self._records[name] = record
        self._changed(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            cancel = self._watches.pop(name, None)
        if cancel is not None:
            cancel()

    def close(self) -> None:
        """End all watches."""
        with self._lock:
            cancels = list(self._watches.values())
            self._watches.clear()
        for cancel in cancels:
            cancel()
