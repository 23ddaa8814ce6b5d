"""What a node remembers on disk: its runs, and a few facts.

One sqlite3 file in the node's state folder. Everything written is on disk when
the method returns. Several processes may use one journal (a node, and
`flockctl converge` under its name); every write is a short transaction that
takes the file's lock at its beginning, waits at most 3 s for others, and never
spans anybody else's code.

More tables can stand beside: `add_tables`, `writing` and `reading` are for the
modules that keep them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flock.errors import JournalError

KEPT_RUNS = 100
"""Reports that are kept; the oldest go first."""

RESERVE_BYTES = 1024 * 1024
"""Set aside on disk, given up to write a run's end when the disk is full."""

_BUSY_SECONDS = 3.0
_HEAD_ONLY = ("resources", "notices", "locks")
"""The long parts of a report, left out where many are listed."""

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    head TEXT NOT NULL,
    report TEXT NOT NULL
);
"""


class Journal:
    """The journal of one node; any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Open the journal, and lay it out if it is new.

        Raises:
            JournalError: it cannot be opened, or is no journal.
        """
        self.path = path
        self._lock = threading.RLock()
        self._reserve = path.with_name(path.name + ".reserve")
        with self._translated("open"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_TABLES)
            except BaseException:
                self._connection.close()
                raise
            path.chmod(0o600)
        self._set_reserve_aside()

    def close(self) -> None:
        """Close the file; twice is harmless."""
        with self._lock:
            self._connection.close()

    # --- runs

    def save_run(self, report: dict[str, Any], *, last_words: bool = False) -> None:
        """Keep a run's report as it stands; saving it again replaces it.

        Args:
            report: plain data with `run_id` and `state`.
            last_words: the run has ended: if the disk is full the reserve is
                given up for it.

        Raises:
            JournalError: it was not kept.
        """
        try:
            self._save_run(report)
        except JournalError:
            if not last_words or not self._give_up_reserve():
                raise
            self._save_run(report)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's report, None if there is none of this id (any more)."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT report FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def runs(self, limit: int = KEPT_RUNS) -> list[dict[str, Any]]:
        """Return the heads of the last runs, the newest first.

        A head is a report without its resources, notices and locks.
        """
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT head FROM runs ORDER BY number DESC LIMIT ?", (max(0, limit),)
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def last_run(self) -> dict[str, Any] | None:
        """Return the report of the newest run, None if there was none."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT report FROM runs ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def settle_dead_runs(self) -> list[str]:
        """Mark runs that are still `running` as failed, and return their ids.

        To be called by whoever holds the run lock, before a run of its own: a
        run that is not over then belongs to a process that died.
        """
        with self.writing() as connection:
            rows = connection.execute("SELECT report FROM runs WHERE state = 'running'").fetchall()
            reports = [json.loads(row[0]) for row in rows]
            for report in reports:
                report.update(state="failed", error="process died")
                connection.execute(
                    "UPDATE runs SET state = 'failed', head = ?, report = ? WHERE run_id = ?",
                    (json.dumps(head_of(report)), json.dumps(report), report["run_id"]),
                )
        return [report["run_id"] for report in reports]

    # --- facts

    def remember(self, key: str, value: Any) -> None:
        """Keep a value under a key, replacing what was there.

        Args:
            key: any text.
            value: plain data (what JSON has).
        """
        text = json.dumps(value)
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO facts VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, text),
            )

    def recall(self, key: str, default: Any = None) -> Any:
        """Return what was kept under a key, else `default`."""
        with self.reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    # --- for the keepers of further tables

    def add_tables(self, statements: str) -> None:
        """Lay out further tables; `statements` create what is not there yet."""
        with self._lock, self._translated("lay out"):
            self._connection.executescript(statements)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside one write transaction; on disk when left.

        What is done inside must be quick and call nobody else's code. An
        exception takes everything back.
        """
        with self._lock, self._translated("write to"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:  # a full disk rolls back by itself
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for a question."""
        with self._lock, self._translated("read"):
            yield self._connection

    # --- inside

    def _save_run(self, report: dict[str, Any]) -> None:
        """Write a report, and drop what is over `KEPT_RUNS`."""
        row = (report["run_id"], report["state"], json.dumps(head_of(report)), json.dumps(report))
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO runs (run_id, state, head, report) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (run_id) DO UPDATE SET"
                " state = excluded.state, head = excluded.head, report = excluded.report",
                row,
            )
            connection.execute(
                "DELETE FROM runs WHERE number <="
                " (SELECT number FROM runs ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (KEPT_RUNS,),
            )

    def _set_reserve_aside(self) -> None:
        """Take the room a last report needs; without it the journal works all the same."""
        with contextlib.suppress(OSError):
            if self._reserve.exists() and self._reserve.stat().st_size >= RESERVE_BYTES:
                return
            with open(self._reserve, "wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)

    def _give_up_reserve(self) -> bool:
        """Free the room set aside; say whether there was any."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        """Turn sqlite3's and the system's errors into ours, in one line."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"cannot {verb} the journal {self.path}: {error}") from error


def head_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without its resources, notices and locks."""
    return {key: value for key, value in report.items() if key not in _HEAD_ONLY}
