"""The registry in ZooKeeper: for many machines.

One session per process. What is held by being alive (presence, passing keys,
slots of locks, places in a line) goes with that session; when a server has
ended it, a new one is made and presence and key are entered anew by
themselves.

Below the root stand `registry`, `keys`, `names`, `presence`, `nodes`, `visitors`,
`documents`, `queues`, `queue_marks` and `locks`; the module of each says how.
With a user in the URL, or a client certificate, everything below the root is
ours alone; without, ZooKeeper is open to all who reach it, and a warning says
so.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kazoo.exceptions import NodeExistsError
from kazoo.security import Permissions

from registry.contract import (
    MAX_RECORD_BYTES,
    OPERATION_TIMEOUT,
    Cancel,
    Document,
    Holder,
    KeyRecord,
    Lock,
    LockLost,
    LockOwner,
    LockState,
    LockStatus,
    NameTaken,
    NotPermitted,
    PresenceRecord,
    QueueEntry,
    Registry,
    RegistrySettings,
    RegistryUnavailable,
    SessionState,
    WrongRegistry,
)
from registry.readings import note
from registry.records import decode, encode
from registry.zookeeper_address import parse_address
from registry.zookeeper_chores import Chores
from registry.zookeeper_documents import Documents
from registry.zookeeper_keys import Keys
from registry.zookeeper_lock import ZooKeeperLock
from registry.zookeeper_locks import Locks
from registry.zookeeper_presence import Presences
from registry.zookeeper_queues import Queues
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_watches import Hub, Watches

_log = logging.getLogger(__name__)

_LAYOUT = 1
_ABOUT = "registry"
"""The node that says what this registry is: its id, and how it is laid out. It is made last."""

_STRANGERS_MAY = Permissions.CREATE | Permissions.DELETE | Permissions.WRITE


class ZooKeeperRegistry(Registry):
    """One process's connection to a registry in ZooKeeper.

    Threads: kazoo's three while it is open, one that runs callbacks, one for
    chores, and one more once a lock was got.

    Args:
        settings: where it is; session timeout, lock-delay and TLS.

    Raises:
        WrongRegistry: the URL is no good (the files for TLS are looked at by `open`).
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._address = parse_address(settings.url)
        self._settings = settings
        self.url = self._address.url
        self._lifecycle = threading.Lock()
        self._registry_id = ""
        self._make_parts()

    def _make_parts(self) -> None:
        """Make everything anew: a session object is opened once."""
        root = self._address.root
        self._session = session = Session(self._address, self._settings)
        self._hub = hub = Hub(lambda path: session.unwatch(path, hub.fired))
        self._watches = Watches(self._session, hub)
        self._chores = Chores(self._session)
        self._keys = Keys(self._session, self._watches, root)
        self._presences = Presences(self._session, self._watches, hub, self._chores, root)
        self._documents = Documents(self._session, self._watches, root)
        self._queues = Queues(self._session, self._watches, root)
        self._locks = Locks(self._session, self._watches, hub, self._chores, root)
        self._state_callbacks: list[Callable[[SessionState], None]] = []
        self._restored_in: int | None = None
        self._session.tell_states(self._state_changed)
        self._session.wake_on_change(self._restore_in_new_session)

    # --- session

    def open(self, timeout: float = OPERATION_TIMEOUT) -> None:
        """Connect and lay out what is missing; see `Registry.open`."""
        with self._lifecycle:
            callbacks = self._state_callbacks
            self._session.open(timeout)
            try:
                self._lay_out(self._session.requests(max(timeout, 1.0)))
            except BaseException:
                self._session.close()
                self._make_parts()
                self._state_callbacks = callbacks
                raise
            self._restored_in = self._session.guard.session
            self._watches.start()
            self._chores.start()

    def _lay_out(self, requests: Requests) -> None:
        path = f"{self._address.root}/{_ABOUT}"
        found = requests.get(path)
        if found is None:
            requests.sync("/")  # it may be there, and this server be behind
            for part in (self._documents, self._keys, self._presences, self._queues, self._locks):
                for folder in part.folders:
                    requests.ensure(folder)
            fresh = {"id": secrets.token_hex(16), "layout": _LAYOUT}
            with contextlib.suppress(NodeExistsError):  # somebody was quicker: his stands
                requests.create(path, encode(fresh, "what this registry is", MAX_RECORD_BYTES))
            found = requests.get(path)
        about = decode(found[0], f"registry {self.url}") if found is not None else None
        if not isinstance(about, dict) or not isinstance(about.get("id"), str):
            raise WrongRegistry(f"{self.url}: what stands there is no registry of ours")
        if about.get("layout") != _LAYOUT:
            raise WrongRegistry(
                f"{self.url} is laid out by another version of this software "
                f"({about.get('layout')!r:.20}, ours is {_LAYOUT}): use that one, or another root"
            )
        self._registry_id = about["id"]
        self._warn_if_open(requests)

    def _warn_if_open(self, requests: Requests) -> None:
        if not self._session.is_secured:
            _log.warning(
                "registry %s is open: whoever reaches ZooKeeper decides who may talk; "
                "put USER:PASSWORD@ before its hosts, or use client certificates",
                self.url,
            )
            return
        try:
            rights = requests.acls(self._address.root)
        except NotPermitted:
            return  # made by somebody who keeps it to himself
        if any(acl.id.scheme == "world" and acl.perms & _STRANGERS_MAY for acl in rights):
            _log.warning(
                "registry %s: strangers may write at %s itself; take those rights away with "
                "ZooKeeper's own tools",
                self.url,
                self._address.root,
            )

    def close(self) -> None:
        """Leave; see `Registry.close`. Locks that are held are given back."""
        with self._lifecycle:
            if self._session.state() is SessionState.CLOSED:
                return
            connected = self._session.is_connected
            self._locks.release_all(OPERATION_TIMEOUT if connected else 0.0)
            self._locks.stop()
            self._chores.stop(OPERATION_TIMEOUT)
            self._session.close()
            self._hub.wake_all()  # whoever waits for a lock, or for a name, finds it closed
            self._chores.stop(OPERATION_TIMEOUT)
            self._watches.stop(OPERATION_TIMEOUT)

    def registry_id(self) -> str:
        """Return the registry's random id; see `Registry.registry_id`."""
        if not self._registry_id:
            raise RegistryUnavailable(self.url, "not opened")
        return self._registry_id

    def state(self) -> SessionState:
        """Return what is known of our session; see `Registry.state`."""
        note("session")
        return self._session.state()

    def on_state(self, callback: Callable[[SessionState], None]) -> Cancel:
        """Call `callback` with each new state; see `Registry.on_state`."""
        self._state_callbacks.append(callback)

        def cancel() -> None:
            if callback in self._state_callbacks:
                self._state_callbacks.remove(callback)

        return cancel

    def _state_changed(self, state: SessionState) -> None:
        """Take a new state from the session, on a thread that must not wait."""
        for callback in list(self._state_callbacks):
            self._watches.post(lambda callback=callback: self._tell_state(callback, state))  # type: ignore[misc]

    def _tell_state(self, callback: Callable[[SessionState], None], state: SessionState) -> None:
        if callback in self._state_callbacks:
            callback(state)

    def default_host(self) -> str:
        """Return our end of the connection, in brackets if IPv6; see `Registry.default_host`."""
        host = self._session.local_host()
        return f"[{host}]" if ":" in host else host

    def _restore_in_new_session(self) -> None:
        """Bring back what went with the last session; called on kazoo's thread."""
        session = self._session.guard.session
        if session is None or self._restored_in in {None, session}:
            return
        self._restored_in = session
        self._chores.add("enter our key again", self._restore_key)
        self._chores.add("enter our presence again", self._presences.restore)

    def _restore_key(self) -> bool:
        try:
            return self._keys.restore()
        except NameTaken as error:
            _log.error("our key was not let in again: %s", error)
            return True

    # --- keys

    def enter_key(self, record: KeyRecord) -> None:
        """Let the holder of a key talk; see `Registry.enter_key`."""
        self._keys.enter(record)

    def key(self, public_key: str) -> KeyRecord | None:
        """Return the record of a key as it stands now; see `Registry.key`."""
        note("key", public_key)
        return self._keys.get(public_key)

    def forget_key(self, name: str) -> bool:
        """Remove every key of `name`; see `Registry.forget_key`."""
        return self._keys.forget(name)

    def watch_key(self, public_key: str, changed: Callable[[], None]) -> Cancel:
        """Watch one key; see `Registry.watch_key`."""
        return self._keys.watch(public_key, changed)

    # --- presence

    def announce(
        self,
        record: PresenceRecord,
        *,
        answers: Callable[[PresenceRecord], bool] | None = None,
        name_lost: Callable[[PresenceRecord], None] | None = None,
    ) -> None:
        """Enter `record` in the directory; see `Registry.announce`."""
        self._presences.announce(record, answers, name_lost)

    def withdraw(self) -> None:
        """Take our entry out of the directory; see `Registry.withdraw`."""
        self._presences.withdraw()

    def presence(self, name: str) -> PresenceRecord | None:
        """Return one live entry; see `Registry.presence`."""
        note("presence", name)
        return self._presences.get(name)

    def presence_of_key(self, public_key: str) -> PresenceRecord | None:
        """Return the live entry of a key's owner; see `Registry.presence_of_key`."""
        note("key", public_key)
        key = self._keys.get(public_key)
        if key is None:
            return self._presences.find(public_key)
        record = self._presences.get(key.name)
        return record if record is not None and record.public_key == public_key else None

    def node_names(self) -> list[str]:
        """Return the names of live nodes; see `Registry.node_names`."""
        note("nodes")
        return self._presences.node_names()

    def presences(self) -> list[PresenceRecord]:
        """Return the entries of all live nodes; see `Registry.presences`."""
        note("nodes")
        return self._presences.get_all()

    def watch_presence(self, name: str, changed: Callable[[], None]) -> Cancel:
        """Watch one entry; see `Registry.watch_presence`."""
        return self._presences.watch(name, changed)

    def watch_nodes(self, changed: Callable[[], None]) -> Cancel:
        """Watch the set of nodes; see `Registry.watch_nodes`."""
        return self._presences.watch_nodes(changed)

    # --- documents

    def read(self, path: str) -> Document | None:
        """Return a document; see `Registry.read`."""
        note("document", path)
        return self._documents.read(path)

    def read_many(self, paths: Sequence[str]) -> list[Document | None]:
        """Return documents; see `Registry.read_many`."""
        for path in paths:
            note("document", path)
        return self._documents.read_many(paths)

    def create(self, path: str, value: Any) -> int:
        """Create a document; see `Registry.create`."""
        return self._documents.write(path, value, 0)

    def write(
        self, path: str, value: Any, *, version: int | None = None, under: Lock | None = None
    ) -> int:
        """Write a document; see `Registry.write`."""
        if under is None:
            return self._documents.write(path, value, version)
        if not isinstance(under, ZooKeeperLock) or not under.is_kept_by(self._locks):
            raise LockLost(under.lockid, "it was not got here, and fences nothing")
        if under.state() in {LockState.LOST, LockState.RELEASED}:
            raise LockLost(under.lockid, "it is not held any more; nothing was written")
        try:
            return self._documents.write(path, value, version, under.fence)
        except Refused as refusal:
            under.lose(broken=self._session.guard.session == under.session)
            raise LockLost(under.lockid, "its slot is gone; nothing was written") from refusal.error

    def delete(self, path: str, *, version: int | None = None) -> bool:
        """Delete a document; see `Registry.delete`."""
        return self._documents.delete(path, version)

    def children(self, path: str) -> list[str]:
        """Return the names one level below; see `Registry.children`."""
        note("children", path)
        return self._documents.children(path)

    def watch_document(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Watch a document; see `Registry.watch_document`."""
        return self._documents.watch(path, changed)

    def watch_children(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Watch the names one level below; see `Registry.watch_children`."""
        return self._documents.watch_children(path, changed)

    # --- queues

    def append(self, queue: str, value: Any, *, dedup_id: str | None = None) -> int:
        """Append to a queue; see `Registry.append`."""
        return self._queues.append(queue, value, dedup_id)

    def entries(self, queue: str, *, limit: int = 1000) -> list[QueueEntry]:
        """Return the first entries; see `Registry.entries`."""
        note("queue", queue)
        return self._queues.entries(queue, limit)

    def queue_length(self, queue: str) -> int:
        """Return the number of entries; see `Registry.queue_length`."""
        note("queue", queue)
        return self._queues.length(queue)

    def remove(self, queue: str, entry_id: int, *, if_present: bool = False) -> bool:
        """Remove one entry; see `Registry.remove`."""
        fence = None
        if if_present:
            marker = self._presences.own_marker
            if marker is None:
                raise NameTaken(self._presences.own_name, "we have announced no presence")
            fence = (marker, self._presences.own_name)
        return self._queues.remove(queue, entry_id, fence)

    def drop_queue(self, queue: str) -> None:
        """Remove a queue; see `Registry.drop_queue`."""
        self._queues.drop(queue)

    def queues(self, prefix: str = "") -> list[str]:
        """Return the names of queues; see `Registry.queues`."""
        note("queues", prefix)
        return self._queues.names(prefix)

    def watch_queue(self, queue: str, changed: Callable[[], None]) -> Cancel:
        """Watch a queue; see `Registry.watch_queue`."""
        return self._queues.watch(queue, changed)

    # --- locks

    def acquire(
        self,
        lockid: str,
        owner: LockOwner,
        *,
        wait: float | None = None,
        slots: int = 1,
        keep: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Lock:
        """Wait in line for a slot and take it; see `Registry.acquire`."""
        return self._locks.acquire(lockid, owner, wait, slots, keep, cancelled)

    def lock_status(self, lockid: str) -> LockStatus:
        """Return who holds and who waits; see `Registry.lock_status`."""
        note("lock", lockid)
        return self._locks.status(lockid)

    def lock_holders(self, lockid: str) -> LockStatus:
        """Return who holds; see `Registry.lock_holders`."""
        note("lock", lockid)
        return self._locks.status(lockid, with_waiting=False)

    def locks(self) -> list[LockStatus]:
        """Return every lock that is held or waited for; see `Registry.locks`."""
        note("locks")
        return self._locks.all()

    def break_lock(self, lockid: str, *, token: int | None = None) -> list[Holder]:
        """Take the lock from its holders; see `Registry.break_lock`."""
        return self._locks.break_lock(lockid, token)

    def watch_lock(self, lockid: str, changed: Callable[[], None]) -> Cancel:
        """Watch a lock; see `Registry.watch_lock`."""
        return self._locks.watch(lockid, changed)
