"""The embedded registry: for one machine, any number of processes, nothing to start.

It keeps every promise of `registry.contract` in one folder: an SQLite
database holds the facts, a locked file per opened registry says who is alive
(`registry.liveness`), and whoever changes something nudges those who watch it.
Nothing depends on clocks: a killed process is gone at once, and a stopped one
keeps its presence and its locks until it goes on or is killed.

Opening one and reading from it writes nothing and starts no thread; the first
watch, presence or wait for a lock does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from registry.contract import (
    OPERATION_TIMEOUT,
    Cancel,
    Document,
    Holder,
    KeyRecord,
    Lock,
    LockOwner,
    LockStatus,
    PresenceRecord,
    QueueEntry,
    Registry,
    RegistryError,
    RegistrySettings,
    SessionState,
    WrongRegistry,
)
from registry.embedded_directory import EmbeddedDirectory
from registry.embedded_documents import EmbeddedDocuments, EmbeddedQueues
from registry.embedded_folder import Folder
from registry.embedded_line import bury, sweep
from registry.embedded_lock import EmbeddedLocks
from registry.embedded_store import Store
from registry.embedded_watcher import Watcher
from registry.liveness import Nudger, Session, let_go_in_children
from registry.readings import note

_SCHEME = "embedded:"


class EmbeddedRegistry(Registry):
    """One opened embedded registry; a process may open several, of one folder too.

    A child that was forked from this process has nothing of it: the child's
    copy refuses everything, and the parent's life does not depend on it.

    Args:
        settings: `url` is `embedded:DIR`; of the rest only `session_timeout`
            counts, for a holder of a name that lives and does not answer.

    Raises:
        WrongRegistry: the URL names no folder.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        if not settings.url.startswith(_SCHEME) or settings.url == _SCHEME:
            raise WrongRegistry(f"{settings.url!r} is not embedded:DIR")
        path = os.path.expanduser(settings.url.removeprefix(_SCHEME))
        self._folder = Folder(Path(os.path.abspath(path)))
        self.url = self._folder.url
        self._nudger = Nudger(self._folder)
        self._store = Store(self._folder, self._nudger.nudge)
        self._session = Session(self._folder)
        self._watcher = Watcher(
            self._folder,
            self._store,
            self._session,
            state=self.state,
            on_deaths=self._bury,
            on_loss=self._make_anew,
            each_second=self._each_second,
        )
        self._locks = EmbeddedLocks(self._folder, self._store, self._session, self._watcher)
        self._directory = EmbeddedDirectory(
            self._folder,
            self._store,
            self._session,
            self._watcher,
            self._locks,
            settings.session_timeout,
        )
        self._documents = EmbeddedDocuments(self._store, self._watcher, self._locks)
        self._queues = EmbeddedQueues(self._store, self._watcher, self._directory.check_presence)
        self._opened = False
        self._closed = False

    # --- session

    def open(self, timeout: float = OPERATION_TIMEOUT) -> None:
        """Open the folder, laying it out if it is empty; see the contract.

        Raises:
            RegistryUnavailable: busy, damaged, or not there to be made.
            NotPermitted: the folder belongs to others, or can be written by them.
            WrongRegistry: it lies on a network file system, or is no registry.
        """
        if self._opened or self._closed:
            raise self._store.unavailable("a registry object is opened once")
        self._folder.open()
        try:
            self._store.open(timeout)
        except BaseException:
            self._folder.close()
            raise
        self._opened = True
        let_go_in_children(self)

    def close(self) -> None:
        """Leave: presence, passing key and locks go at once. Twice is harmless.

        Whoever waits for a lock in this registry is told that it was closed.
        """
        if self._closed:
            return
        self._closed = True
        self._locks.end()
        self._watcher.stop_looking()
        if self._session.published:
            # Should this fail, the freed life file says the same as a death would.
            with contextlib.suppress(RegistryError), self._store.write() as transaction:
                bury(transaction, self._folder, self._session.id)
        self._watcher.tell_state(SessionState.CLOSED)
        self._store.close("it was closed")
        self._watcher.stop_calling()
        self._session.renew()
        self._nudger.let_go()
        self._folder.close()

    def let_go(self) -> None:
        """Refuse everything: called in a forked child."""
        self._closed = True
        self._store.refuse("this process was forked from the one that opened it")
        self._locks.let_go()
        self._watcher.let_go()
        self._folder.close()

    def registry_id(self) -> str:
        """Return the random id this registry was given when it was laid out."""
        if not self._store.registry_id:
            raise self._store.unavailable("it is not open")
        return self._store.registry_id

    def state(self) -> SessionState:
        """Return what is known of our session; SUSPENDED while the folder is not there."""
        note("session")
        if self._closed:
            return SessionState.CLOSED
        if self._session.lost:
            return SessionState.LOST
        if not self._opened or self._folder.trouble() is not None:
            return SessionState.SUSPENDED
        return SessionState.CONNECTED

    def on_state(self, callback: Callable[[SessionState], None]) -> Cancel:
        """Call `callback` with each new session state, in order."""
        return self._watcher.on_state(callback)

    def default_host(self) -> str:
        """Return the loopback address: an embedded registry serves one machine."""
        return "127.0.0.1"

    # --- what the looking thread does

    def _bury(self, sessions: set[str]) -> None:
        known = {session for (session,) in self._store.rows("SELECT session FROM sessions")}
        if not sessions & known:
            return  # everybody notices a death, and somebody was quicker
        self._locks.bury(sessions & known)
        with self._store.write() as transaction:
            sweep(transaction, self._folder)

    def _make_anew(self) -> None:
        """Make the session anew: others took it for dead, and what it held is gone."""
        self._session.lost = True
        self._watcher.tell_state(SessionState.LOST)
        self._session.renew()
        with self._store.write() as transaction:
            session = self._session.enter(transaction)
            self._directory.enter_keys_again(transaction)
            self._watcher.enter_again(transaction, session)
        self._directory.must_announce = True
        self._session.lost = False

    def _each_second(self) -> None:
        self._locks.leave_late()
        self._directory.announce_late()

    # --- keys

    def enter_key(self, record: KeyRecord) -> None:
        """Let the holder of a key talk; see the contract."""
        self._directory.enter_key(record)

    def key(self, public_key: str) -> KeyRecord | None:
        """Return the record of a key as it stands now; a dead process's key does not."""
        note("key", public_key)
        return self._directory.key(public_key)

    def forget_key(self, name: str) -> bool:
        """Remove every key of `name`; say whether there was one."""
        return self._directory.forget_key(name)

    def watch_key(self, public_key: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the record of this key changed or went."""
        return self._directory.watch_key(public_key, changed)

    # --- presence

    def announce(
        self,
        record: PresenceRecord,
        *,
        answers: Callable[[PresenceRecord], bool] | None = None,
        name_lost: Callable[[PresenceRecord], None] | None = None,
    ) -> None:
        """Enter our presence; see the contract. A dead holder of the name is seen as such."""
        self._directory.announce(record, answers, name_lost)

    def withdraw(self) -> None:
        """Take our entry out of the directory; harmless if there is none."""
        self._directory.withdraw()

    def presence(self, name: str) -> PresenceRecord | None:
        """Return the live entry of a node or visitor by name, None if absent."""
        note("presence", name)
        return self._directory.presence(name)

    def presence_of_key(self, public_key: str) -> PresenceRecord | None:
        """Return the live entry of the process that owns this key, None if absent."""
        note("key", public_key)
        return self._directory.presence_of_key(public_key)

    def node_names(self) -> list[str]:
        """Return the names of live nodes, sorted; visitors are not among them."""
        note("nodes")
        return self._directory.node_names()

    def presences(self) -> list[PresenceRecord]:
        """Return the entries of all live nodes, sorted by name."""
        note("nodes")
        return self._directory.presences()

    def watch_presence(self, name: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the entry of `name` came, changed or went."""
        return self._directory.watch_presence(name, changed)

    def watch_nodes(self, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a node came or went."""
        return self._directory.watch_nodes(changed)

    # --- documents

    def read(self, path: str) -> Document | None:
        """Return a document, None if absent."""
        note("document", path)
        return self._documents.read(path)

    def read_many(self, paths: Sequence[str]) -> list[Document | None]:
        """Return documents, None for each that is absent; see the contract."""
        for path in paths:
            note("document", path)
        return self._documents.read_many(paths)

    def create(self, path: str, value: Any) -> int:
        """Create a document and return its version (1); see the contract."""
        return self._documents.write(path, value, 0, None)

    def write(
        self, path: str, value: Any, *, version: int | None = None, under: Lock | None = None
    ) -> int:
        """Write a document and return its new version; see the contract."""
        return self._documents.write(path, value, version, under)

    def delete(self, path: str, *, version: int | None = None) -> bool:
        """Delete a document; say whether it was there."""
        return self._documents.delete(path, version)

    def children(self, path: str) -> list[str]:
        """Return the names one level below `path`, sorted."""
        note("children", path)
        return self._documents.children(path)

    def watch_document(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the document came, changed or went."""
        return self._documents.watch(path, changed)

    def watch_children(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a name one level below `path` came or went."""
        return self._documents.watch_children(path, changed)

    # --- queues

    def append(self, queue: str, value: Any, *, dedup_id: str | None = None) -> int:
        """Append to a queue and return the entry's id; see the contract."""
        return self._queues.append(queue, value, dedup_id)

    def entries(self, queue: str, *, limit: int = 1000) -> list[QueueEntry]:
        """Return the first entries in order."""
        note("queue", queue)
        return self._queues.entries(queue, limit)

    def queue_length(self, queue: str) -> int:
        """Return the number of entries."""
        note("queue", queue)
        return self._queues.length(queue)

    def remove(self, queue: str, entry_id: int, *, if_present: bool = False) -> bool:
        """Remove one entry; say whether it was there. See the contract."""
        return self._queues.remove(queue, entry_id, if_present)

    def drop_queue(self, queue: str) -> None:
        """Remove a queue with all its entries."""
        self._queues.drop(queue)

    def queues(self, prefix: str = "") -> list[str]:
        """Return the names of the queues that begin with `prefix`, sorted."""
        note("queues", prefix)
        return self._queues.names(prefix)

    def watch_queue(self, queue: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after an entry was appended or removed."""
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
        cancelled: Event | None = None,
    ) -> Lock:
        """Wait in line for a slot of a lock and take it; see the contract."""
        return self._locks.acquire(lockid, owner, wait, slots, keep, cancelled)

    def lock_status(self, lockid: str) -> LockStatus:
        """Return who holds and who waits; the living only."""
        note("lock", lockid)
        return self._locks.status(lockid)

    def lock_holders(self, lockid: str) -> LockStatus:
        """Return who holds; the living only."""
        note("lock", lockid)
        return self._locks.status(lockid, with_waiting=False)

    def locks(self) -> list[LockStatus]:
        """Return every lock that is held or waited for, sorted by name."""
        note("locks")
        return self._locks.all()

    def break_lock(self, lockid: str, *, token: int | None = None) -> list[Holder]:
        """Take the lock, or one slot of it, from its holders; return who had it.

        The next in line has it at once: what the old holder asks next is
        answered from the same rows.
        """
        return self._locks.break_lock(lockid, token)

    def watch_lock(self, lockid: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a holder or a waiter of the lock came or went."""
        return self._locks.watch(lockid, changed)
