"""The database of an embedded registry: its tables, and how they are read and written.

Readers never wait: the journal is a write-ahead log, and reads have a
connection of their own, which never writes. Writes are short transactions
that take the write lock at their start (a transaction that begins by reading
and then wants to write fails at once when somebody else wrote in between, and
no waiting helps). No code of a caller runs inside a transaction.

What must survive a loss of power - documents, queues, kept keys, and the
tokens of locks - is synced to disk before the write returns; what dies with
its process anyway is not.

A writer names the *topics* it changed. Who watches a topic has a row in
`watches`, whose counter the writer raises in the same transaction; after the
commit exactly those sessions are nudged. A nudge carries nothing and may be
lost: the counters tell what changed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from registry.contract import (
    OPERATION_TIMEOUT,
    RegistryError,
    RegistryUnavailable,
    WrongRegistry,
)
from registry.embedded_folder import Folder

_LAYOUT = 3
_APPLICATION_ID = 0x464C4F43  # "FLOC", so that `file` and we know our own

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Who has the registry open. A session lives while its life file is locked;
-- boot_id, pid_namespace, pid and process_start only say whose end to await.
CREATE TABLE sessions (
    session TEXT PRIMARY KEY, boot_id TEXT NOT NULL, pid_namespace INTEGER NOT NULL,
    pid INTEGER NOT NULL, process_start INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE presences (
    name TEXT PRIMARY KEY, session TEXT NOT NULL, generation TEXT NOT NULL, kind TEXT NOT NULL,
    public_key TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX presences_of_session ON presences (session);
CREATE INDEX presences_of_key ON presences (public_key);

-- session is NULL for a key that is kept after its process.
CREATE TABLE keys (
    public_key TEXT PRIMARY KEY, name TEXT NOT NULL, session TEXT, record BLOB NOT NULL
);
CREATE INDEX keys_of_name ON keys (name);
CREATE INDEX keys_of_session ON keys (session);

CREATE TABLE documents (path TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL);

CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, dedup_id TEXT, value BLOB NOT NULL
);
CREATE INDEX entries_of_queue ON entries (queue, id);
CREATE UNIQUE INDEX entries_once ON entries (queue, dedup_id) WHERE dedup_id IS NOT NULL;

-- The line of each lock, holders included: the id is the place in the line and
-- the fence token, slot is NULL while waiting. An id is never given twice.
-- A token of its own has who was passed by the owner of a kept slot.
-- A ticket with keep stays, with an empty session, when its session ends.
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, lockid TEXT NOT NULL, session TEXT NOT NULL,
    slots INTEGER NOT NULL, slot INTEGER, since TEXT NOT NULL, owner BLOB NOT NULL,
    keep INTEGER NOT NULL DEFAULT 0, token INTEGER
);
CREATE INDEX tickets_of_lock ON tickets (lockid, id);
CREATE INDEX tickets_of_session ON tickets (session);

CREATE TABLE watches (
    topic TEXT NOT NULL, session TEXT NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY (topic, session)
) WITHOUT ROWID;
CREATE INDEX watches_of_session ON watches (session);
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.005
"""Seconds between two tries for the write lock. SQLite's own waiting sleeps up
to 0.1 s, and a process can starve beside a few busy writers."""


class Transaction:
    """One write transaction; it ends with the `with` block of `Store.write`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._topics: set[str] = set()
        self._after_commit: list[Callable[[], None]] = []
        self._after_rollback: list[Callable[[], object]] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement to its end and return its rows."""
        return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Run one statement to its end and return its first row, None if it has none."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def changed(self, *topics: str) -> None:
        """Tell whoever watches these topics, once the transaction stands."""
        self._topics.update(topics)

    def after_commit(self, deed: Callable[[], None]) -> None:
        """Do something outside the transaction, once it stands."""
        self._after_commit.append(deed)

    def after_rollback(self, deed: Callable[[], object]) -> None:
        """Undo something in memory, should the transaction not stand."""
        self._after_rollback.append(deed)

    def raise_counters(self) -> set[str]:
        """Count the changes for those who watch; return their sessions."""
        watching: set[str] = set()
        for topic in self._topics:
            rows = self.rows(
                "UPDATE watches SET changed = changed + 1 WHERE topic = ? RETURNING session",
                (topic,),
            )
            watching.update(session for (session,) in rows)
        return watching

    def run_deeds(self, *, stands: bool) -> None:
        """Do what was asked for after the end of the transaction."""
        deeds: Sequence[Callable[[], object]] = (
            self._after_commit if stands else self._after_rollback
        )
        for deed in deeds:
            deed()


class Store:
    """The database, with one connection for reads and one for writes.

    Any thread may use it. The connections are made when first needed: who
    only reads never opens the one for writing.

    Args:
        folder: where it lies, already opened.
        nudge: tells these sessions that a topic of theirs changed.
    """

    def __init__(self, folder: Folder, nudge: Callable[[set[str]], None]) -> None:
        self._folder = folder
        self._nudge = nudge
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._durable = True
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._refusal: str | None = "it is not open"
        self.registry_id = ""

    def open(self, timeout: float) -> None:
        """Connect, and lay the tables out if the database is empty.

        Raises:
            RegistryUnavailable: busy for `timeout` seconds, or damaged.
            WrongRegistry: the database is not ours, or of a newer layout.
        """
        deadline = time.monotonic() + timeout
        try:
            with self._translated():
                self._reader = self._connect()
                if self._layout(self._reader) == 0:
                    self._lay_out(deadline)
                self._durable = True  # as a new connection is
                rows = self._reader.execute(
                    "SELECT value FROM meta WHERE name = 'registry_id'"
                ).fetchall()
                if not rows:
                    raise WrongRegistry(f"{self._folder.url}: the registry has no id")
                self.registry_id = rows[0][0]
            self._refusal = None
        except BaseException:
            self.close("it is not open")
            raise

    def close(self, reason: str) -> None:
        """Disconnect; whoever asks later is told `reason`. Twice is harmless.

        The last process that closes folds the log back into the database.
        """
        self._refusal = reason
        with self._reading, self._writing:  # whoever holds them is done within its own bound
            for connection in (self._reader, self._writer):
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            self._reader = self._writer = None

    def refuse(self, reason: str) -> None:
        """Refuse everything from now on: in a forked child nothing here may be touched."""
        self._refusal = reason
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        # Closing a connection that a fork copied would confuse its owner's locks.
        _left_alone.extend(c for c in (self._reader, self._writer) if c is not None)
        self._reader = self._writer = None

    # --- reading and writing

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read: run one `SELECT` and return its rows.

        Raises:
            RegistryUnavailable: no answer.
        """
        self._check_usable()
        if not self._reading.acquire(timeout=OPERATION_TIMEOUT):
            raise self.unavailable("another thread is reading for too long")
        try:
            if self._reader is None:
                raise self.unavailable(self._refusal or "it is not open")
            with self._translated():
                return self._reader.execute(statement, values).fetchall()
        finally:
            self._reading.release()

    def row(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Read one row, None if there is none; see `rows`."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def data_version(self) -> int:
        """Return a number that differs from the last one if somebody wrote in between."""
        return int(self.row("PRAGMA data_version")[0])

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Transaction]:
        """Write: everything in the `with` block stands, or nothing of it.

        Args:
            durable: synced to disk when the block has ended.

        Raises:
            RegistryUnavailable: others wrote for `OPERATION_TIMEOUT` seconds,
                the disk is full, the folder is gone; nothing was written
                unless the error says that it may have happened.
        """
        self._check_usable()
        deadline = time.monotonic() + OPERATION_TIMEOUT
        if not self._writing.acquire(timeout=OPERATION_TIMEOUT):
            raise self.unavailable(f"another thread has been writing for {OPERATION_TIMEOUT:g} s")
        try:
            if self._refusal is not None:
                raise self.unavailable(self._refusal)
            with self._translated():
                connection = self._writer_for(durable)
                self._begin(connection, deadline)
            transaction = Transaction(connection)
            try:
                with self._translated():
                    yield transaction
                    watching = transaction.raise_counters()
                with self._translated(may_have_happened=True):
                    connection.execute("COMMIT")
            except BaseException as error:
                self._give_up(connection, error)
                transaction.run_deeds(stands=False)
                raise
        finally:
            self._writing.release()
        transaction.run_deeds(stands=True)
        self._nudge(watching)

    def unavailable(self, reason: str, *, may_have_happened: bool = False) -> RegistryUnavailable:
        """Make the error that says why this registry cannot answer."""
        return RegistryUnavailable(self._folder.url, reason, may_have_happened=may_have_happened)

    # --- inner parts

    def _check_usable(self) -> None:
        reason = self._refusal or self._folder.trouble()
        if reason is not None:
            raise self.unavailable(reason)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._folder.database,
            timeout=OPERATION_TIMEOUT,
            isolation_level=None,  # transactions are begun by us, where we say
            check_same_thread=False,
        )

    def _writer_for(self, durable: bool) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._connect()
            self._writer.execute("PRAGMA busy_timeout = 0")
            self._durable = True
        if durable is not self._durable:
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        return self._writer

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Take the write lock, waiting until `deadline` (monotonic seconds)."""
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)

    def _patiently(self, step: Callable[[], object], deadline: float) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                step()
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _give_up(self, connection: sqlite3.Connection, error: BaseException) -> None:
        """Leave no half transaction behind, and no connection that failed on the disk."""
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if isinstance(error, RegistryUnavailable) and connection is self._writer:
            # After a failed sync the cached pages and the disk may differ:
            # begin again from what the disk says.
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            self._writer = None

    def _layout(self, connection: sqlite3.Connection) -> int:
        """Return the layout's number, 0 for an empty database."""
        # The tables first: they come together with the number, perhaps while we look.
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        layout = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if layout == 0 and not tables:
            return 0
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise WrongRegistry(f"{self._folder.url}: registry.sqlite is not a registry")
        if layout != _LAYOUT:
            raise WrongRegistry(
                f"{self._folder.url}: laid out by another version (layout {layout}, "
                f"this one knows {_LAYOUT}): use that version, or move the folder away"
            )
        return layout

    def _lay_out(self, deadline: float) -> None:
        connection = self._connect()
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            # Several processes may open a new folder at once.
            self._patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), deadline)
            self._begin(connection, deadline)
            if self._layout(connection) == 0:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO meta VALUES ('registry_id', ?)", (os.urandom(16).hex(),)
                )
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_LAYOUT}")
            connection.execute("COMMIT")
        finally:
            connection.close()

    @contextlib.contextmanager
    def _translated(self, *, may_have_happened: bool = False) -> Iterator[None]:
        """Turn errors of SQLite and of the system into the contract's, with one clear line."""
        try:
            yield
        except RegistryError:
            raise
        except sqlite3.Error as error:
            raise self.unavailable(
                self._cause(error), may_have_happened=may_have_happened
            ) from error
        except OSError as error:
            raise self.unavailable(f"{error.strerror} ({error.filename})") from error

    def _cause(self, error: sqlite3.Error) -> str:
        known = {
            sqlite3.SQLITE_BUSY: f"another process has been writing for {OPERATION_TIMEOUT:g} s",
            sqlite3.SQLITE_FULL: "the disk is full",
            sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
            sqlite3.SQLITE_READONLY: "the database is read-only",
            sqlite3.SQLITE_CANTOPEN: "the database cannot be opened",
        }
        damaged = f"{self._folder.database} is damaged; move the folder away to begin anew"
        known[sqlite3.SQLITE_CORRUPT] = known[sqlite3.SQLITE_NOTADB] = damaged
        cause = known.get(_code(error))
        return f"{cause} ({error})" if cause else str(error)


_left_alone: list[sqlite3.Connection] = []
"""Connections that were copied by a fork, kept from being closed in the child."""


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, without the details in the upper bits."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
