"""Values that the whole flock shares: `FlockOfChefs.globals['release'] = '1.4'`.

A mapping from names, any text, to plain data, kept in the registry: it
outlives every process. Each value has a version, so that who changes it on
top of what he read (`compare_and_set`, `change`) loses nobody's write. The
last write wins where no version is named.

For facts that change now and then, not for traffic: every read and write asks
the registry. Every method raises `RegistryUnavailable` when that cannot
answer; a name that is absent is a `KeyError` or None, never a guess.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from flock.errors import RegistryError, UsageError, VersionConflict
from registry.contract import Cancel, Registry, SessionState
from registry.records import quote, unquote

logger = logging.getLogger(__name__)

_TOP = "globals"
_MAX_NAME = 1000
_ATTEMPTS = 50
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and the version it stands at.

    Attributes:
        value: None where nothing stands.
        version: grows with each write; 0 where nothing stands.
    """

    value: Any
    version: int


class Globals(MutableMapping[str, Any]):
    """The shared values of one registry; any thread may use it."""

    _notes_readings = True

    def __init__(self, registry: Registry) -> None:
        """Look into a registry that is open."""
        self._registry = registry

    # --- as a mapping

    def __getitem__(self, name: str) -> Any:
        """Return a value; `KeyError` if there is none."""
        found = self.entry(name)
        if not found.version:
            raise KeyError(name)
        return found.value

    def __setitem__(self, name: str, value: Any) -> None:
        """Write a value over whatever stands.

        Raises:
            RecordInvalid: it is not plain data; says where.
            DocumentTooLarge: it is over 512 KiB.
        """
        self._registry.write(_path(name), value)

    def __delitem__(self, name: str) -> None:
        """Remove a value; `KeyError` if there is none."""
        if not self._registry.delete(_path(name)):
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        """Say whether there is a value of this name; None is one, too."""
        return isinstance(name, str) and self.entry(name).version > 0

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names that stand now, sorted."""
        return iter(sorted(unquote(part) for part in self._registry.children(_TOP)))

    def __len__(self) -> int:
        """Count the values."""
        return len(self._registry.children(_TOP))

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a value and return it; of several who do so at once one gets it."""
        for _ in range(_ATTEMPTS):
            found = self.entry(name)
            if not found.version:
                if default:
                    return default[0]
                raise KeyError(name)
            try:
                if self._registry.delete(_path(name), version=found.version):
                    return found.value
            except VersionConflict:
                continue
        raise VersionConflict(_path(name), found.version, self.entry(name).version)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return the value, after writing `default` if there is none; all see the same one."""
        for _ in range(_ATTEMPTS):
            found = self.entry(name)
            if found.version:
                return found.value
            try:
                self.compare_and_set(name, default, version=0)
            except VersionConflict:
                continue
            return default
        raise VersionConflict(_path(name), 0, self.entry(name).version)

    def as_dict(self) -> dict[str, Any]:
        """Return all values by name, read in few questions; not of one single moment."""
        names, values = list(self), {}
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            documents = self._registry.read_many([_path(name) for name in some])
            for name, document in zip(some, documents, strict=True):
                if document is not None:
                    values[name] = document.value
        return values

    # --- with versions

    def entry(self, name: str) -> Entry:
        """Return a value with its version; version 0 where nothing stands."""
        document = self._registry.read(_path(name))
        return Entry(None, 0) if document is None else Entry(document.value, document.version)

    def compare_and_set(self, name: str, value: Any, *, version: int) -> int:
        """Write a value if nobody wrote since; returns the new version.

        Args:
            name: any text.
            value: plain data.
            version: as `entry` returned it; 0 for "nothing must stand".

        Raises:
            VersionConflict: another version stands; read it again.
        """
        return self._registry.write(_path(name), value, version=version)

    def change(self, name: str, change: Callable[[Any], Any], default: Any = None) -> Any:
        """Write what `change` makes of the value, whoever else writes; returns the new value.

            FlockOfChefs.globals.change('deploys', lambda number: number + 1, default=0)

        Args:
            name: any text.
            change: asked again if somebody was quicker; must not block.
            default: what it is given where nothing stands.

        Raises:
            VersionConflict: others were quicker 50 times.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            found = self.entry(name)
            value = change(found.value if found.version else default)
            try:
                self.compare_and_set(name, value, version=found.version)
            except VersionConflict:
                if attempt == _ATTEMPTS:
                    raise
                continue
            return value
        raise AssertionError("unreachable: the last attempt returns or raises")

    def watch(self, name: str, changed: Callable[[Entry], None]) -> Cancel:
        """Call `changed` with the entry whenever it differs from the last one that was seen.

        Changes that follow each other quickly may come as one, the last. One
        that happens during an outage is told after it.

        Args:
            name: any text; nothing needs to stand there.
            changed: called on a thread of the registry, one call after the
                other; must not block for long. What it raises is logged.

        Returns:
            A function that ends it.
        """
        watch = _Watch(self, name, changed)
        cancels = (
            self._registry.watch_document(_path(name), watch.look),
            self._registry.on_state(watch.look_when_connected),
        )

        def cancel() -> None:
            for each in cancels:
                each()

        try:
            watch.look_first()
        except BaseException:
            cancel()
            raise
        return cancel


class _Watch:
    """Remembers what was told last, so that a change is told once and none is missed."""

    def __init__(self, values: Globals, name: str, changed: Callable[[Entry], None]) -> None:
        self._values = values
        self._name = name
        self._changed = changed
        self._lock = threading.Lock()
        self._told: Entry | None = None

    def look_first(self) -> None:
        """Note what stands when the watch begins."""
        with self._lock:
            if self._told is None:
                self._told = self._values.entry(self._name)

    def look_when_connected(self, state: SessionState) -> None:
        if state is SessionState.CONNECTED:
            self.look()

    def look(self) -> None:
        with self._lock:
            try:
                found = self._values.entry(self._name)
            except RegistryError as error:
                # Asked again when the session is back.
                logger.debug("global %r cannot be read now: %s", self._name, error)
                return
            before, self._told = self._told, found
            if before is None or found == before:
                return
            try:
                self._changed(found)
            except Exception:
                logger.exception("what watches the global %r failed", self._name)


def _path(name: str) -> str:
    if not isinstance(name, str):
        raise UsageError(f"a global's name is text, not {name!r:.80}")
    # Quoted here, too, since a name may be empty or hold what separates the parts of a path.
    quoted = quote(name)
    if len(quoted) > _MAX_NAME:
        raise UsageError(f"a global's name has at most {_MAX_NAME} bytes when quoted: {name:.80}…")
    return f"{_TOP}/{quoted}"
