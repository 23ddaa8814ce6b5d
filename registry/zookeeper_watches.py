"""Watches: who wants to know what, and the thread that tells them.

A watch of ZooKeeper says once that something may have changed. Here it only
means *look again*: the node is read anew, with a new watch, and whoever asked
is called if what stands differs from what was seen last. So nothing is missed
when several changes come as one event, and a watch that was lost (with a
connection, or for any other reason) is made good by a slow re-read.

One bound method is given to kazoo for every watch: kazoo keeps a set, so
asking a hundred times about one node costs one entry.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from kazoo.protocol.states import WatchedEvent

from registry.contract import Cancel, RegistryError
from registry.zookeeper_requests import Requests
from registry.zookeeper_session import Session

_log = logging.getLogger(__name__)

_REREAD = 30.0
"""Seconds, give or take a third, after which a watched node is read again without any event."""

_PAUSE_AFTER_FAILURE = 1.0

Callback: TypeAlias = Callable[[], None]


def _STOP() -> None:  # noqa: N802 - a mark among the callbacks, never called
    """Tell the thread to end."""


_Key: TypeAlias = tuple[bool, str]
"""Whether the names below are watched (else the node itself), and the path."""


class Hub:
    """Passes kazoo's events on to those who listen at a path.

    Args:
        unwatch: takes back the watches on a path; must not block.
    """

    def __init__(self, unwatch: Callable[[str], None]) -> None:
        self._unwatch = unwatch
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Callback]] = {}

    def listen(self, path: str, heard: Callback) -> Cancel:
        """Call `heard` on kazoo's thread after an event at `path`; it must not block.

        The caller reads with `watch=hub.fired` himself, after this.
        """
        with self._lock:
            self._listeners.setdefault(path, []).append(heard)

        def cancel() -> None:
            with self._lock:
                listeners = self._listeners.get(path, [])
                if heard in listeners:
                    listeners.remove(heard)
                if not listeners:
                    self._listeners.pop(path, None)

        return cancel

    def take_back(self, path: str) -> None:
        """Have the server watch a path no longer, unless somebody listens; waits for nothing.

        For what may never fire again: the watch on a node that is gone, or
        that nobody asks about any more, stays with the server and with kazoo
        for as long as the session lasts.
        """
        with self._lock:  # who listens from now on sends his watch after this
            if path not in self._listeners:
                self._unwatch(path)

    def fired(self, event: WatchedEvent) -> None:
        """Take an event from kazoo: one without a path means that every watch is gone."""
        if event.path is None:
            self.wake_all()
            return
        with self._lock:
            heard = list(self._listeners.get(event.path, ()))
        for one in heard:
            one()

    def wake_all(self) -> None:
        """Let everybody look, as after the loss of every watch."""
        with self._lock:
            heard = [one for listeners in self._listeners.values() for one in listeners]
        for one in heard:
            one()


@dataclass(slots=True, eq=False)
class _Subscriber:
    callback: Callback
    is_cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Watched:
    """A node that somebody watches."""

    key: _Key
    stop_listening: Cancel
    reading: threading.Lock = field(default_factory=threading.Lock)
    seen: object = None
    due: float = 0.0
    subscribers: list[_Subscriber] = field(default_factory=list)


class Watches:
    """All watches of a registry, and the one thread that runs callbacks.

    Args:
        session: asked on the callbacks' thread.
        hub: where events come from.
    """

    def __init__(self, session: Session, hub: Hub) -> None:
        self._session = session
        self._hub = hub
        self._lock = threading.Lock()
        self._watched: dict[_Key, _Watched] = {}
        self._posted: queue.SimpleQueue[Callback | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name="flock-registry-callbacks", daemon=True
        )
        self._stopping = threading.Event()
        session.wake_on_change(self.wake)

    def start(self) -> None:
        """Begin to run callbacks."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread once everything posted so far has run; may be called from a callback."""
        self._stopping.set()
        self._posted.put(_STOP)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def post(self, callback: Callback) -> None:
        """Run `callback` on the callbacks' thread, in the order posted."""
        self._posted.put(callback)

    def wake(self) -> None:
        """Let the thread look for what is due."""
        self._posted.put(None)

    # --- watching

    def watch_node(self, path: str, callback: Callback) -> Cancel:
        """Call `callback` after the node came, changed or went.

        Raises:
            RegistryUnavailable: it could not be read; nothing is watched.
        """
        return self._watch((False, path), callback)

    def watch_names(self, path: str, callback: Callback) -> Cancel:
        """Call `callback` after a name one level below `path` came or went.

        Raises:
            RegistryUnavailable: it could not be read; nothing is watched.
        """
        return self._watch((True, path), callback)

    def _watch(self, key: _Key, callback: Callback) -> Cancel:
        subscriber = _Subscriber(callback)
        requests = self._session.requests()
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                watched = _Watched(key, lambda: None)
                watched.stop_listening = self._hub.listen(key[1], lambda: self._make_due(key))
                self._watched[key] = watched
            watched.subscribers.append(subscriber)

        def cancel() -> None:
            subscriber.is_cancelled = True
            with self._lock:
                if subscriber in watched.subscribers:
                    watched.subscribers.remove(subscriber)
                if not watched.subscribers and self._watched.get(key) is watched:
                    del self._watched[key]
                    watched.stop_listening()
                    self._hub.take_back(key[1])

        try:
            with watched.reading:
                seen = self._read(requests, key)
                for other in self._others_to_tell(watched, subscriber, seen):
                    self.post(lambda other=other: self._call(other))  # type: ignore[misc]
        except BaseException:
            cancel()
            raise
        return cancel

    def _others_to_tell(
        self, watched: _Watched, newcomer: _Subscriber, seen: object
    ) -> list[_Subscriber]:
        """Note what was seen; return who watched already and has missed a change."""
        with self._lock:
            others = [one for one in watched.subscribers if one is not newcomer]
            has_changed = seen != watched.seen
            watched.seen = seen
            watched.due = _next_reread()
        return others if has_changed else []

    def _make_due(self, key: _Key) -> None:
        """Take an event, on kazoo's thread."""
        watched = self._watched.get(key)
        if watched is not None:
            watched.due = 0.0
            self.wake()

    def _read(self, requests: Requests, key: _Key) -> object:
        """Read what is watched, with a new watch; equal answers mean nothing changed."""
        of_names, path = key
        while of_names:
            found = requests.children(path, self._hub.fired)
            if found is not None:
                stat = found[1]
                # A folder that never held anything is as good as none. (One that was made
                # together with what it holds has equal numbers, too.)
                return stat.pzxid if stat.numChildren or stat.pzxid != stat.czxid else 0
            if requests.exists(path, self._hub.fired) is None:
                return 0
        stat = requests.exists(path, self._hub.fired)
        return (stat.czxid, stat.mzxid) if stat is not None else None

    # --- the thread

    def _run(self) -> None:
        retry_at = 0.0
        while True:
            posted = self._next_posted(self._idle_time(retry_at))
            while posted is not None:
                if posted is _STOP:
                    return
                self._guarded(posted)
                posted = self._next_posted(0.0)
            may_read = time.monotonic() >= retry_at and self._session.is_connected
            if may_read and not self._reread_what_is_due():
                retry_at = time.monotonic() + _PAUSE_AFTER_FAILURE

    def _next_posted(self, timeout: float) -> Callback | None:
        """Return what was posted next, None if nothing was or we were only woken."""
        try:
            return self._posted.get(timeout=timeout) if timeout else self._posted.get_nowait()
        except queue.Empty:
            return None

    def _idle_time(self, retry_at: float) -> float:
        """Return seconds until something is due."""
        if not self._session.is_connected:
            return _REREAD  # we are woken when a connection is there
        with self._lock:
            due = min((watched.due for watched in self._watched.values()), default=None)
        now = time.monotonic()
        return _REREAD if due is None else min(_REREAD, max(0.0, due - now, retry_at - now))

    def _reread_what_is_due(self) -> bool:
        """Read what is due and tell of changes; say whether everything could be read."""
        now = time.monotonic()
        with self._lock:
            due = [watched for watched in self._watched.values() if watched.due <= now]
        for watched in due:
            try:
                self._reread(watched)
            except RegistryError as error:
                _log.debug("a watch could not be read again: %s", error)
                return False
        return True

    def _reread(self, watched: _Watched) -> None:
        with watched.reading:
            watched.due = _next_reread()  # before reading: an event during it makes it due again
            try:
                seen = self._read(self._session.requests(), watched.key)
            except BaseException:
                watched.due = 0.0
                raise
            with self._lock:
                has_changed = seen != watched.seen
                watched.seen = seen
                subscribers = list(watched.subscribers)
        if has_changed:
            for subscriber in subscribers:
                self._call(subscriber)

    def _call(self, subscriber: _Subscriber) -> None:
        if not subscriber.is_cancelled and not self._stopping.is_set():
            self._guarded(subscriber.callback)

    def _guarded(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - it is others' code
            _log.exception("a callback of the registry failed")


def _next_reread() -> float:
    return time.monotonic() + _REREAD * random.uniform(2 / 3, 4 / 3)  # noqa: S311 - no secret
