"""Documents and queues of the embedded registry: what lasts."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from registry import contract
from registry.contract import (
    MAX_DOCUMENT_BYTES,
    MAX_RECORD_BYTES,
    Cancel,
    Document,
    Lock,
    QueueEntry,
    QueueFull,
    RecordInvalid,
    VersionConflict,
)
from registry.embedded_lock import EmbeddedLocks
from registry.embedded_store import Store, Transaction
from registry.embedded_watcher import Watcher
from registry.records import decode, encode, fingerprint, quote, quote_path, unquote

_log = logging.getLogger(__name__)

_BELOW, _PAST_BELOW = "/", "0"
"""All paths below `p` sort from `p/` to before `p0`, since `0` follows `/`."""
_AT_ONCE = 500
"""Documents asked for in one question; sqlite3 has a limit on its length."""
_NEXT = "\x01"
"""Sorts before everything that quoted text is made of."""


class EmbeddedDocuments:
    """The documents, each a row under its quoted path.

    Args:
        store, watcher, locks: the registry's own.
    """

    def __init__(self, store: Store, watcher: Watcher, locks: EmbeddedLocks) -> None:
        self._store = store
        self._watcher = watcher
        self._locks = locks

    def read(self, path: str) -> Document | None:
        """Return a document, None if absent."""
        row = self._store.row(
            "SELECT version, value FROM documents WHERE path = ?", (quote_path(path),)
        )
        return None if row is None else Document(path, decode(row[1], f"document {path!r}"), row[0])

    def read_many(self, paths: Sequence[str]) -> list[Document | None]:
        """Return documents; see the contract."""
        found: dict[str, Document] = {}
        by_quoted = {quote_path(path): path for path in paths}
        quoted = list(by_quoted)
        for start in range(0, len(quoted), _AT_ONCE):
            some = quoted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for place, version, stored in self._store.rows(
                f"SELECT path, version, value FROM documents WHERE path IN ({marks})",  # noqa: S608 - marks only
                tuple(some),
            ):
                path = by_quoted[place]
                with contextlib.suppress(RecordInvalid):
                    value = decode(stored, f"document {path!r}")
                    found[path] = Document(path, value, version)
        return [found.get(path) for path in paths]

    def write(self, path: str, value: Any, version: int | None, under: Lock | None) -> int:
        """Write a document and return its new version; see the contract."""
        quoted = quote_path(path)
        stored = encode(value, f"document {path!r}", MAX_DOCUMENT_BYTES)
        with self._store.write(durable=True) as transaction:
            if under is not None:
                self._locks.check_fence(transaction, under)
            found = self._version(transaction, path, quoted, version)
            if not found:
                transaction.changed(*_came_or_went(transaction, quoted))
            transaction.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (quoted, found + 1, stored)
            )
            transaction.changed(f"document/{quoted}")
        return found + 1

    def delete(self, path: str, version: int | None) -> bool:
        """Delete a document; see the contract."""
        quoted = quote_path(path)
        with self._store.write(durable=True) as transaction:
            found = self._version(transaction, path, quoted, version)
            if found:
                transaction.execute("DELETE FROM documents WHERE path = ?", (quoted,))
                transaction.changed(f"document/{quoted}", *_came_or_went(transaction, quoted))
        return found > 0

    @staticmethod
    def _version(transaction: Transaction, path: str, quoted: str, wanted: int | None) -> int:
        """Return the version that stands, 0 if none; refuse any other than the wanted one."""
        row = transaction.row("SELECT version FROM documents WHERE path = ?", (quoted,))
        found = row[0] if row else 0
        if wanted is not None and wanted != found:
            raise VersionConflict(path, wanted, found)
        return int(found)

    def children(self, path: str) -> list[str]:
        """Return the names one level below `path`, sorted."""
        start = quote_path(path) + _BELOW if path else ""
        end = quote_path(path) + _PAST_BELOW if path else "\x7f"
        names: set[str] = set()
        position = start
        while True:
            # From one name to the next, past all that lies below it.
            row = self._store.row(
                "SELECT path FROM documents WHERE path >= ? AND path < ? ORDER BY path LIMIT 1",
                (position, end),
            )
            if row is None:
                return sorted(unquote(name) for name in names)
            name, below, _ = row[0][len(start) :].partition("/")
            names.add(name)
            position = start + name + (_PAST_BELOW if below else _NEXT)

    def watch(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the document came, changed or went."""
        return self._watcher.watch(f"document/{quote_path(path)}", changed)

    def watch_children(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a name one level below `path` came or went."""
        return self._watcher.watch(f"children/{quote_path(path) if path else ''}", changed)


def _came_or_went(transaction: Transaction, path: str) -> list[str]:
    """Return the topics of the levels at which a name comes or goes with this document.

    Asked while the document itself does not stand: before it is created, or
    after it was deleted.
    """
    topics: list[str] = []
    while True:
        parent = path.rpartition("/")[0]
        stands = transaction.row(
            "SELECT 1 FROM documents WHERE path = ?1 OR (path >= ?1 || '/' AND path < ?1 || '0') "
            "LIMIT 1",
            (path,),
        )
        if stands:
            return topics
        topics.append(f"children/{parent}")
        if not parent:
            return topics
        path = parent


class EmbeddedQueues:
    """The queues: entries in one table, their ids growing over all queues.

    Args:
        store, watcher: the registry's own.
        check_presence: raises `NameTaken`, in a transaction, if our own
            presence does not stand.
    """

    def __init__(
        self, store: Store, watcher: Watcher, check_presence: Callable[[Transaction], None]
    ) -> None:
        self._store = store
        self._watcher = watcher
        self._check_presence = check_presence

    def append(self, queue: str, value: Any, dedup_id: str | None) -> int:
        """Append an entry and return its id; see the contract."""
        quoted = quote(queue)
        stored = encode(value, f"entry of queue {queue!r}", MAX_RECORD_BYTES)
        once = None if dedup_id is None else fingerprint(dedup_id)
        with self._store.write(durable=True) as transaction:
            try:
                number = transaction.execute(
                    "INSERT INTO entries (queue, dedup_id, value) VALUES (?, ?, ?)",
                    (quoted, once, stored),
                ).lastrowid
            except sqlite3.IntegrityError:
                row = transaction.row(
                    "SELECT id FROM entries WHERE queue = ? AND dedup_id = ?", (quoted, once)
                )
                return int(row[0])
            length = _length(transaction.row(_COUNT, (quoted,))) - 1
            if length >= contract.MAX_QUEUE_LENGTH:
                raise QueueFull(queue, length)
            transaction.changed(f"queue/{quoted}")
        assert number is not None
        return number

    def entries(self, queue: str, limit: int) -> list[QueueEntry]:
        """Return the first entries in order."""
        rows = self._store.rows(
            "SELECT id, value FROM entries WHERE queue = ? ORDER BY id LIMIT ?",
            (quote(queue), min(max(0, limit), contract.MAX_QUEUE_LENGTH)),
        )
        entries = []
        for entry_id, stored in rows:
            try:
                entries.append(QueueEntry(entry_id, decode(stored)))
            except RecordInvalid as error:
                _log.warning("queue %r, entry %d: %s", queue, entry_id, error)
        return entries

    def length(self, queue: str) -> int:
        """Return the number of entries."""
        return _length(self._store.row(_COUNT, (quote(queue),)))

    def remove(self, queue: str, entry_id: int, if_present: bool) -> bool:
        """Remove one entry; see the contract.

        Raises:
            NameTaken: with `if_present`, our presence does not stand.
        """
        quoted = quote(queue)
        with self._store.write(durable=True) as transaction:
            if if_present:
                self._check_presence(transaction)
            removed = transaction.row(
                "DELETE FROM entries WHERE id = ? AND queue = ? RETURNING id", (entry_id, quoted)
            )
            if removed is not None:
                transaction.changed(f"queue/{quoted}")
        return removed is not None

    def drop(self, queue: str) -> None:
        """Remove a queue with all its entries."""
        quoted = quote(queue)
        with self._store.write(durable=True) as transaction:
            if transaction.execute("DELETE FROM entries WHERE queue = ?", (quoted,)).rowcount:
                transaction.changed(f"queue/{quoted}")

    def names(self, prefix: str) -> list[str]:
        """Return the names of the queues that begin with `prefix`, sorted."""
        rows = self._store.rows("SELECT DISTINCT queue FROM entries")
        names = (unquote(row[0]) for row in rows)
        return sorted(name for name in names if name.startswith(prefix))

    def watch(self, queue: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after an entry was appended or removed."""
        return self._watcher.watch(f"queue/{quote(queue)}", changed)


_COUNT = "SELECT count(*) FROM entries WHERE queue = ?"


def _length(row: Any) -> int:
    return int(row[0])
