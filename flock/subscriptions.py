"""Who wants to be told when a resource changes: kept under the publisher's name.

    subscriptions/PUBLISHER/SUBSCRIBER   what that subscriber's recipes ask for

A subscriber writes its own documents only, after each run and at each start,
and takes away what a complete, successful run no longer declared. A publisher
reads its folder whenever it changes, and keeps a copy in its journal: a run
asks that copy and never waits for the registry.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from flock.armed_notices import Wish
from flock.journal import Journal
from registry.contract import Cancel, Registry, is_node_name

logger = logging.getLogger(__name__)

FOLDER = "subscriptions"

_WANTED = "subscriptions wanted"
_WRITTEN = "subscriptions written to"
_SUBSCRIBERS = "subscribers"

Find: TypeAlias = Callable[[Mapping[str, Any]], Sequence[str]]

Subscription: TypeAlias = dict[str, Any]
"""`watched`, `resource`, `action`, `timing`, `recipe`; with `nodes` or `location` while it is
a wish of ours, with `subscriber` when it is somebody's to us."""


class Subscriptions:
    """Both sides of one machine's subscriptions; any thread may use them."""

    def __init__(self, journal: Journal, node: str) -> None:
        """Open them; the registry is not asked yet.

        Args:
            journal: keeps the copies.
            node: this machine's name.
        """
        self._journal = journal
        self._node = node
        self._lock = threading.Lock()
        self._to_push = True
        self._to_pull = True
        self._watches: dict[str, Cancel] = {}
        self._woken: Callable[[], None] = lambda: None
        self._by_watched = _by_watched(journal.recall(_SUBSCRIBERS, []))

    # --- as a publisher

    def wishes(self, notifier: str) -> list[Wish]:
        """Return what subscribers want done when a resource of this machine changes."""
        with self._lock:
            found = self._by_watched.get(notifier, ())
        return [
            Wish(each["resource"], each["action"], each["timing"], (each["subscriber"],))
            for each in found
        ]

    def subscribers(self) -> list[Subscription]:
        """Return who subscribed here, as far as is known."""
        with self._lock:
            return [each for found in self._by_watched.values() for each in found]

    def watch(self, registry: Registry, woken: Callable[[], None]) -> None:
        """Begin to follow who subscribes here.

        Args:
            registry: open.
            woken: called when `work` has something to do.
        """
        self._woken = woken
        self._watches[""] = registry.watch_children(f"{FOLDER}/{self._node}", self._note_change)

    def close(self) -> None:
        """End the watches."""
        with self._lock:
            watches, self._watches = list(self._watches.values()), {}
        for cancel in watches:
            cancel()

    # --- as a subscriber

    def declare(self, wanted: Sequence[Subscription], *, complete: bool) -> None:
        """Note what this machine's recipes ask for; written to the registry later.

        Args:
            wanted: `watched`, `resource`, `action`, `timing`, `recipe`, and
                `nodes` or `location`.
            complete: that is all: what was asked for earlier is wanted no more.
        """
        known: list[Subscription] = [] if complete else self._journal.recall(_WANTED, [])
        merged = {_key(each): each for each in (*known, *wanted)}
        self._journal.remember(_WANTED, list(merged.values()))
        with self._lock:
            self._to_push = True
        self._woken()

    # --- what needs the registry

    def work(self, registry: Registry, find: Find) -> None:
        """Write what is wanted, read who wants to be told; cheap if nothing changed.

        Used by one thread at a time.

        Args:
            registry: open.
            find: returns the machines at a location.

        Raises:
            RegistryError: not all could be done; it is still to be done.
        """
        with self._lock:
            push, self._to_push = self._to_push, False
            pull, self._to_pull = self._to_pull, False
        try:
            if pull:
                self._pull(registry)
                pull = False
            if push:
                self._push(registry, find)
                push = False
        finally:
            with self._lock:
                self._to_push |= push
                self._to_pull |= pull

    def look_again(self) -> None:
        """Have `work` look up locations anew: machines may have come."""
        wanted: list[Subscription] = self._journal.recall(_WANTED, [])
        if any(not each.get("nodes") for each in wanted):
            with self._lock:
                self._to_push = True
            self._woken()

    def _push(self, registry: Registry, find: Find) -> None:
        """Write our documents where they are not as they should be."""
        wanted: list[Subscription] = self._journal.recall(_WANTED, [])
        written: list[str] = self._journal.recall(_WRITTEN, [])
        by_publisher: dict[str, list[Subscription]] = {name: [] for name in written}
        for each in wanted:
            for publisher in each.get("nodes") or find(each.get("location") or {}):
                if not is_node_name(publisher):
                    logger.error("%s subscribes to %r, which no node can be", each, publisher)
                    continue
                by_publisher.setdefault(publisher, []).append(
                    {
                        key: each[key]
                        for key in ("watched", "resource", "action", "timing", "recipe")
                    }
                )
        # Noted before it is written, so that what is written is found again.
        now = [name for name, asked in by_publisher.items() if asked]
        self._journal.remember(_WRITTEN, sorted({*written, *now}))
        names = list(by_publisher)
        paths = [f"{FOLDER}/{name}/{self._node}" for name in names]
        standing = registry.read_many(paths)
        for name, path, document in zip(names, paths, standing, strict=True):
            asked = by_publisher[name]
            if not asked:
                if document is not None:
                    registry.delete(path)
            elif document is None or document.value != asked:
                registry.write(path, asked)
        if sorted(now) != sorted({*written, *now}):
            self._journal.remember(_WRITTEN, sorted(now))

    def _pull(self, registry: Registry) -> None:
        """Read who wants to be told."""
        found = self._read(registry)
        self._journal.remember(_SUBSCRIBERS, found)
        with self._lock:
            self._by_watched = _by_watched(found)

    def _read(self, registry: Registry) -> list[Subscription]:
        folder = f"{FOLDER}/{self._node}"
        names = registry.children(folder)
        if self._watches:
            # Watched before they are read, so that no change falls between.
            for name in set(names) - set(self._watches):
                self._watches[name] = registry.watch_document(f"{folder}/{name}", self._note_change)
            for name in set(self._watches) - {"", *names}:
                self._watches.pop(name)()
        documents = registry.read_many([f"{folder}/{name}" for name in names])
        return [
            each
            for name, document in zip(names, documents, strict=True)
            if document is not None
            for each in checked(document.value, name)
        ]

    def _note_change(self) -> None:
        with self._lock:
            self._to_pull = True
        self._woken()


def all_of(registry: Registry, publisher: str | None = None) -> list[Subscription]:
    """Return subscriptions as the registry has them, each with `publisher` and `subscriber`.

    Args:
        registry: open.
        publisher: whose; None for everybody's.
    """
    publishers = [publisher] if publisher is not None else registry.children(FOLDER)
    found: list[Subscription] = []
    for name in publishers:
        names = registry.children(f"{FOLDER}/{name}")
        documents = registry.read_many([f"{FOLDER}/{name}/{each}" for each in names])
        for subscriber, document in zip(names, documents, strict=True):
            if document is not None:
                found += [
                    {"publisher": name, **each} for each in checked(document.value, subscriber)
                ]
    return found


def forget(registry: Registry, node: str) -> int:
    """Remove a machine's subscriptions, and those to it; returns how many documents went."""
    gone = [f"{FOLDER}/{node}/{name}" for name in registry.children(f"{FOLDER}/{node}")]
    gone += [
        f"{FOLDER}/{publisher}/{node}"
        for publisher in registry.children(FOLDER)
        if node in registry.children(f"{FOLDER}/{publisher}")
    ]
    return sum(registry.delete(path) for path in gone)


def checked(value: object, subscriber: str) -> list[Subscription]:
    """Return the subscriptions of a document; what is none is left out."""
    if not isinstance(value, list | tuple):
        return []
    keys = ("watched", "resource", "action", "timing", "recipe")
    return [
        {**{key: each[key] for key in keys}, "subscriber": subscriber}
        for each in value
        if isinstance(each, Mapping) and all(isinstance(each.get(key), str) for key in keys)
    ]


def _by_watched(found: Iterable[Subscription]) -> dict[str, list[Subscription]]:
    by_watched: dict[str, list[Subscription]] = {}
    for each in found:
        by_watched.setdefault(each["watched"], []).append(each)
    return by_watched


def _key(subscription: Mapping[str, Any]) -> str:
    return json.dumps(subscription, sort_keys=True)
