"""What a thread reads while it asks something, so that it can ask again when that changed.

A question is a plain function. While it is asked inside `noted`, each thing
that it reads is noted by whoever answers: a registry its documents, presences
and locks; the layers above what they read of other nodes. Each thread has its
own notes; outside `noted` nothing is kept, and a note costs next to nothing.

    with noted() as notes:
        answer = question()
    cancels = [watch(registry, reading, ask_again) for reading in notes]
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from registry.contract import Cancel, Registry


class Reading(NamedTuple):
    """One thing that was read.

    Attributes:
        what: of which kind it is: of a registry `document`, `children`,
            `presence`, `nodes`, `queue` or `lock`, which can be watched, and
            `key`, `queues`, `locks` and `session`; others as the layers above
            call them.
        name: which one; empty where there is only one.
    """

    what: str
    name: str = ""

    def __str__(self) -> str:
        """Name it for people."""
        return f"{self.what} {self.name}" if self.name else self.what


class _Notes(threading.local):
    """The notes of one thread; None while it notes nothing."""

    readings: set[Reading] | None = None


_notes = _Notes()


@contextmanager
def noted() -> Iterator[set[Reading]]:
    """Note what this thread reads inside; nested, each gets what is read inside it."""
    before, inside = _notes.readings, set[Reading]()
    _notes.readings = inside
    try:
        yield inside
    finally:
        _notes.readings = before
        if before is not None:
            before |= inside


def note(what: str, name: str = "") -> None:
    """Note that something is read, if this thread takes notes."""
    if _notes.readings is not None:
        _notes.readings.add(Reading(what, name))


def takes_notes() -> bool:
    """Say whether this thread takes notes; for who would have to find out what it reads."""
    return _notes.readings is not None


def watch(registry: Registry, reading: Reading, changed: Callable[[], None]) -> Cancel | None:
    """Have `changed` called after something that was read in a registry changed.

    Args:
        registry: the one it was read in.
        reading: what.
        changed: called on a thread of the registry; must be quick.

    Returns:
        A function that ends it; None if it is nothing that can be watched.

    Raises:
        RegistryUnavailable: it cannot be watched now.
    """
    if reading.what == "document":
        return registry.watch_document(reading.name, changed)
    if reading.what == "children":
        return registry.watch_children(reading.name, changed)
    if reading.what == "presence":
        return registry.watch_presence(reading.name, changed)
    if reading.what == "nodes":
        return registry.watch_nodes(changed)
    if reading.what == "queue":
        return registry.watch_queue(reading.name, changed)
    if reading.what == "lock":
        return registry.watch_lock(reading.name, changed)
    return None
