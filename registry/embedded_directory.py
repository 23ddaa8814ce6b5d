"""Keys and presences of the embedded registry: who may talk, and who is there.

A row of a process that died counts for nothing, whether somebody noticed the
death yet or not: every answer looks at the life files of those it names.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from registry.contract import (
    MAX_RECORD_BYTES,
    Cancel,
    KeyRecord,
    NameTaken,
    PresenceRecord,
    RecordInvalid,
    RegistryError,
)
from registry.embedded_folder import Folder
from registry.embedded_line import bury
from registry.embedded_lock import EmbeddedLocks
from registry.embedded_store import Store, Transaction
from registry.embedded_watcher import Watcher
from registry.liveness import Session, is_alive
from registry.records import decode, encode, from_plain, quote, to_plain, unquote

_GRACE = 2.0
"""Seconds beyond a session's timeout that a silent holder of a name is waited for."""

_RECORDS = "SELECT session, record FROM presences"


@dataclass(frozen=True, slots=True)
class _Announcement:
    """Our presence, to be entered again should the session be made anew."""

    record: PresenceRecord
    answers: Callable[[PresenceRecord], bool] | None
    name_lost: Callable[[PresenceRecord], None] | None


class EmbeddedDirectory:
    """The keys and presences as one opened registry sees them.

    Args:
        folder, store, session, watcher, locks: the registry's own.
        session_timeout: seconds, for a holder that neither answers nor dies.

    Attributes:
        must_announce: the session was made anew, and our presence is not back yet.
    """

    def __init__(
        self,
        folder: Folder,
        store: Store,
        session: Session,
        watcher: Watcher,
        locks: EmbeddedLocks,
        session_timeout: float,
    ) -> None:
        self._folder = folder
        self._store = store
        self._session = session
        self._watcher = watcher
        self._locks = locks
        self._session_timeout = session_timeout
        self._ours: _Announcement | None = None
        self._passing_keys: dict[str, KeyRecord] = {}
        self.must_announce = False
        self._announcing = False

    # --- keys

    def enter_key(self, record: KeyRecord) -> None:
        """Let the holder of a key talk; see the contract."""
        with self._store.write(durable=record.lasting) as transaction:
            self._enter_key(transaction, record)
        if not record.lasting:
            self._passing_keys[record.public_key] = record

    def _enter_key(self, transaction: Transaction, record: KeyRecord) -> None:
        rows = transaction.rows(
            "SELECT name, session, public_key, record FROM keys WHERE public_key = ? OR name = ?",
            (quote(record.public_key), quote(record.name)),
        )
        for name, session, key, stored in rows:
            if session is not None and not is_alive(self._folder, session):
                bury(transaction, self._folder, session)
            elif key == quote(record.public_key):
                if name != quote(record.name):
                    holder = _key_record(stored).name
                    raise NameTaken(record.name, f"its key belongs to {holder!r} already")
                if session is None and not record.lasting:
                    record = replace(record, lasting=True)  # kept once, kept until forgotten
            elif session is None:
                raise NameTaken(
                    record.name, "it has another kept key, which must be forgotten first"
                )
        session = None if record.lasting else self._session.enter(transaction)
        stored = encode(to_plain(record), f"key of {record.name}", MAX_RECORD_BYTES)
        transaction.execute(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)",
            (quote(record.public_key), quote(record.name), session, stored),
        )
        transaction.changed(f"key/{quote(record.public_key)}")

    def key(self, public_key: str) -> KeyRecord | None:
        """Return the record of a key as it stands now."""
        row = self._store.row(
            "SELECT session, record FROM keys WHERE public_key = ?", (quote(public_key),)
        )
        if row is None or (row[0] is not None and not self._living({row[0]})):
            return None
        return _key_record(row[1])

    def forget_key(self, name: str) -> bool:
        """Remove every key of a name; say whether there was one."""
        with self._store.write(durable=True) as transaction:
            gone = transaction.rows(
                "DELETE FROM keys WHERE name = ? RETURNING public_key", (quote(name),)
            )
            transaction.changed(*(f"key/{key}" for (key,) in gone))
        return bool(gone)

    # --- presence

    def announce(
        self,
        record: PresenceRecord,
        answers: Callable[[PresenceRecord], bool] | None,
        name_lost: Callable[[PresenceRecord], None] | None,
    ) -> None:
        """Enter our presence; see the contract."""
        stored = encode(to_plain(record), f"presence of {record.name}", MAX_RECORD_BYTES)
        other = self._enter_presence(record, stored)
        if other is not None:
            if answers is None or answers(other):
                raise NameTaken(record.name, other.whereabouts())
            self._await_end_of(other, record, stored)
        self._ours = _Announcement(record, answers, name_lost)
        self._watcher.start()

    def _enter_presence(self, record: PresenceRecord, stored: bytes) -> PresenceRecord | None:
        """Enter our presence; return that of another, who lives, if it stands in the way."""
        name = quote(record.name)
        with self._store.write() as transaction:
            session = self._session.enter(transaction)
            row = transaction.row(
                "SELECT session, generation, record FROM presences WHERE name = ?", (name,)
            )
            if row is not None and row[0] != session and row[1] != record.generation:
                if is_alive(self._folder, row[0]):
                    return _presence_record(row[2])
                bury(transaction, self._folder, row[0])
                row = None
            for old, kind in transaction.rows(
                "DELETE FROM presences WHERE session = ? AND name <> ? RETURNING name, kind",
                (session, name),
            ):
                transaction.changed(f"presence/{old}", *_nodes_topic(kind))
            transaction.execute(
                "INSERT OR REPLACE INTO presences VALUES (?, ?, ?, ?, ?, ?)",
                (
                    name,
                    session,
                    record.generation,
                    record.kind,
                    quote(record.public_key),
                    stored,
                ),
            )
            transaction.changed(f"presence/{name}")
            if row is None:
                transaction.changed(*_nodes_topic(record.kind))
        return None

    def _await_end_of(self, other: PresenceRecord, record: PresenceRecord, stored: bytes) -> None:
        """Wait for a silent holder of the name to end, and enter our presence then."""
        changed = threading.Event()
        deadline = time.monotonic() + self._session_timeout + _GRACE
        cancel = self.watch_presence(record.name, changed.set)
        try:
            with self._locks.woken_at_end(changed):
                while self._enter_presence(record, stored) is not None:
                    if not changed.wait(max(0.0, deadline - time.monotonic())):
                        raise NameTaken(
                            record.name, f"{other.whereabouts()}; it lives and is silent"
                        )
                    changed.clear()
        finally:
            cancel()

    def announce_again(self) -> None:
        """Enter our presence once more, after the session was made anew; runs as a callback."""
        ours = self._ours
        try:
            if ours is not None and self.must_announce:
                self.announce(ours.record, ours.answers, ours.name_lost)
            self.must_announce = False
        except NameTaken:
            assert ours is not None
            other = self.presence(ours.record.name)
            if other is None:
                return  # gone meanwhile: the next try decides
            self._ours = None
            self.must_announce = False
            if ours.name_lost is not None:
                ours.name_lost(other)
        finally:
            self._announcing = False

    def announce_late(self) -> None:
        """Have a presence entered that a lost session took with it; for the looking thread."""
        if self.must_announce and not self._announcing:
            self._announcing = True
            self._watcher.call(self.announce_again)

    def enter_keys_again(self, transaction: Transaction) -> None:
        """Enter our passing keys once more, for a session made anew."""
        for record in self._passing_keys.values():
            with contextlib.suppress(NameTaken):
                self._enter_key(transaction, record)

    def withdraw(self) -> None:
        """Take our presence out; harmless if there is none."""
        self._ours = None
        with self._store.write() as transaction:
            for name, kind in transaction.rows(
                "DELETE FROM presences WHERE session = ? RETURNING name, kind", (self._session.id,)
            ):
                transaction.changed(f"presence/{name}", *_nodes_topic(kind))

    def check_presence(self, transaction: Transaction) -> None:
        """Refuse what only the holder of a name may do, in that deed's own transaction.

        Raises:
            NameTaken: our presence does not stand.
        """
        row = transaction.row("SELECT 1 FROM presences WHERE session = ?", (self._session.id,))
        if row is None:
            name = self._ours.record.name if self._ours is not None else ""
            raise NameTaken(name, "our own presence does not stand")

    def presence(self, name: str) -> PresenceRecord | None:
        """Return the live entry of a name, None if absent."""
        found = self._presences(f"{_RECORDS} WHERE name = ?", quote(name))
        return found[0] if found else None

    def presence_of_key(self, public_key: str) -> PresenceRecord | None:
        """Return the live entry of the owner of a key, None if absent."""
        found = self._presences(f"{_RECORDS} WHERE public_key = ?", quote(public_key))
        return found[0] if found else None

    def presences(self) -> list[PresenceRecord]:
        """Return the entries of all live nodes, sorted by name."""
        found = self._presences(f"{_RECORDS} WHERE kind = ?", "node")
        return sorted(found, key=lambda record: record.name)

    def node_names(self) -> list[str]:
        """Return the names of live nodes, sorted."""
        rows = self._store.rows("SELECT name, session FROM presences WHERE kind = 'node'")
        living = self._living({row[1] for row in rows})
        return sorted(unquote(row[0]) for row in rows if row[1] in living)

    def _presences(self, statement: str, value: str) -> list[PresenceRecord]:
        rows = self._store.rows(statement, (value,))
        living = self._living({row[0] for row in rows})
        found = []
        for session, stored in rows:
            if session in living:
                with contextlib.suppress(RecordInvalid):  # one bad record spoils only itself
                    found.append(_presence_record(stored))
        return found

    def _living(self, sessions: set[str]) -> set[str]:
        """Return those of the sessions that live; remove what died with the others."""
        dead = {session for session in sessions if not is_alive(self._folder, session)}
        if dead:
            with contextlib.suppress(RegistryError):  # the answer is right without it
                self._locks.bury(dead)
        return sessions - dead

    # --- watches

    def watch_key(self, public_key: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the record of this key changed or went."""
        return self._watcher.watch(f"key/{quote(public_key)}", changed)

    def watch_presence(self, name: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the entry of `name` came, changed or went."""
        return self._watcher.watch(f"presence/{quote(name)}", changed)

    def watch_nodes(self, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a node came or went."""
        return self._watcher.watch("nodes", changed)


def _key_record(stored: bytes) -> KeyRecord:
    return from_plain(KeyRecord, decode(stored, "a key record"), "a key record")


def _presence_record(stored: bytes) -> PresenceRecord:
    return from_plain(PresenceRecord, decode(stored, "a presence record"), "a presence record")


def _nodes_topic(kind: str) -> tuple[str, ...]:
    return ("nodes",) if kind == "node" else ()
