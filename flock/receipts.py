"""What became of the notices that came to this machine, on its disk.

A receipt is *started* before the action, and counts how often; *done* or
*dead* after it. A notice for a resource that nobody declares yet is set
*aside*, one that is to run once more is *ready*: those two are *only here*,
the registry has them no more. Any other leaves the queue when it is over: one
that is not over and not there was dropped by hand.

A receipt stays at least as long as its sender may send the notice again: each
notice says below which number its sender's journal tries nothing any more.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flock.journal import Journal
from flock.notice import DIED, MAYBE_TWICE, Notice, with_mark
from flock.outbox import Outbox

MOST_STARTS = 2
"""How often an action is begun in which the process dies: once, and once more."""

KEPT_DONE = 1_000
"""Receipts of notices that were done which are kept for people; the oldest go first."""

KEPT_DEAD = 10_000
"""Dead letters that are kept."""

_TABLES = """
CREATE TABLE IF NOT EXISTS notices_in (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    journal TEXT NOT NULL,
    number INTEGER NOT NULL,
    notice TEXT NOT NULL,
    state TEXT NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,
    mark TEXT NOT NULL,
    aside REAL NOT NULL DEFAULT 0,
    only_here INTEGER NOT NULL DEFAULT 1,
    error TEXT,
    report TEXT
);
CREATE INDEX IF NOT EXISTS notices_in_by_state ON notices_in (state, place);
CREATE INDEX IF NOT EXISTS notices_in_by_number ON notices_in (journal, number);
"""

_ONLY_HERE = "ALTER TABLE notices_in ADD COLUMN only_here INTEGER NOT NULL DEFAULT 1"
"""For a journal of an earlier version, which did not tell: what it began may have been aside."""

_COLUMNS = "notice, state, starts, mark, aside, only_here, error"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known here of one notice.

    Attributes:
        notice: as it came, with the marks it was given here.
        state: `aside`, `ready`, `started`, `done` or `dead`.
        starts: how often its action was begun.
        aside: seconds for which a fully declared run list did not know its resource.
        only_here: the registry may have it no more, although it is not over.
        error: why it is a dead letter, or what is waited for.
    """

    notice: Notice
    state: str
    starts: int
    aside: float
    only_here: bool
    error: str | None

    def row(self) -> dict[str, Any]:
        """Return the row that people and programs are shown."""
        return self.notice.row(self.state, tries=self.starts, error=self.error)


class Receipts:
    """The receipts of one machine; what a method did is on disk when it returns."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        """Open them.

        Args:
            journal: where they are kept.
            outbox: in the same journal; takes the answers to the senders.
        """
        self._journal = journal
        self._outbox = outbox
        journal.add_tables(_TABLES)
        with journal.writing() as connection:
            columns = connection.execute("PRAGMA table_info(notices_in)").fetchall()
            if "only_here" not in {column[1] for column in columns}:
                connection.execute(_ONLY_HERE)

    def find(self, notice: str) -> Receipt | None:
        """Return the receipt of a notice by id, None if there is none."""
        with self._journal.reading() as connection:
            found = _select(connection, "id = ?", [notice])
        return found[0] if found else None

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the state of each of these notices that has a receipt."""
        with self._journal.reading() as connection:
            return dict(
                connection.execute(
                    "SELECT id, state FROM notices_in WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(ids)),),
                ).fetchall()
            )

    def kept(self, *states: str) -> list[Receipt]:
        """Return the receipts in these states, in the order they came."""
        with self._journal.reading() as connection:
            return _select(connection, f"state IN ({_marks(states)})", list(states))

    def start(self, notices: Sequence[Notice]) -> list[Notice]:
        """Note that the action of these, as one, begins now.

        Returns:
            Those that take part in it. Left out is one in whose action the
            process died too often: that is a dead letter now.
        """
        begun: list[Notice] = []
        with self._journal.writing() as connection:
            for notice in notices:
                known = _select(connection, "id = ?", [notice.id])
                starts = known[0].starts if known else 0
                marked = known[0].notice if known else notice
                if starts >= MOST_STARTS:
                    self._end(connection, marked, "dead", DIED)
                    continue
                if starts:
                    marked = replace(marked, mark=with_mark(marked.mark, MAYBE_TWICE))
                self._put(connection, marked, "started", starts + 1)
                begun.append(marked)
        if len(begun) < len(notices):
            self._outbox.wake()
        return begun

    def done(self, notices: Sequence[Notice], report: Mapping[str, Any] | None = None) -> None:
        """Note that the action of these was made."""
        with self._journal.writing() as connection:
            for notice in notices:
                self._end(connection, notice, "done", None, report)
            self._forget(connection, notices)

    def bury(
        self, notices: Sequence[Notice], error: str, report: Mapping[str, Any] | None = None
    ) -> None:
        """Make these dead letters, and have their senders told."""
        with self._journal.writing() as connection:
            for notice in notices:
                self._end(connection, notice, "dead", error, report)
            self._forget(connection, notices)
        self._outbox.wake()

    def set_aside(self, notices: Sequence[Notice], error: str) -> None:
        """Keep these until their resource is declared.

        Also one that was begun, or that was about to: its resource is gone
        again. One that is over is left as it is.
        """
        with self._journal.writing() as connection:
            for notice in notices:
                connection.execute(
                    "INSERT INTO notices_in (id, journal, number, notice, state, mark, error)"
                    " VALUES (?, ?, ?, ?, 'aside', ?, ?) ON CONFLICT (id) DO UPDATE SET"
                    " state = 'aside', error = excluded.error, only_here = 1"
                    " WHERE state IN ('ready', 'started')",
                    (
                        notice.id,
                        notice.journal,
                        notice.number,
                        json.dumps(notice.as_data()),
                        notice.mark,
                        error,
                    ),
                )

    def make_ready(self, ids: Sequence[str]) -> None:
        """Let what was set aside run: its resource is declared now."""
        with self._journal.writing() as connection:
            connection.executemany(
                "UPDATE notices_in SET state = 'ready', error = NULL"
                " WHERE id = ? AND state = 'aside'",
                [(each,) for each in ids],
            )

    def add_time_aside(self, seconds: float) -> None:
        """Add to the time for which a fully declared run list did not know what was set aside."""
        with self._journal.writing() as connection:
            connection.execute(
                "UPDATE notices_in SET aside = aside + ? WHERE state = 'aside'", (seconds,)
            )

    def retry(self, notice: str) -> bool:
        """Let a dead letter run once more; say whether there is one of this id."""
        with self._journal.writing() as connection:
            return bool(
                connection.execute(
                    "UPDATE notices_in SET state = 'ready', starts = 0, aside = 0, only_here = 1,"
                    " error = NULL WHERE id = ? AND state = 'dead'",
                    (notice,),
                ).rowcount
            )

    def report(self, notice: str) -> dict[str, Any] | None:
        """Return the report of the action that a notice led to, None if there is none."""
        with self._journal.reading() as connection:
            row = connection.execute(
                "SELECT report FROM notices_in WHERE id = ?", (notice,)
            ).fetchone()
        return None if row is None or row[0] is None else json.loads(row[0])

    # --- inside

    def _put(
        self,
        connection: sqlite3.Connection,
        notice: Notice,
        state: str,
        starts: int,
        error: str | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a receipt over what stands; one that is new is of what stands in the queue."""
        connection.execute(
            "INSERT INTO notices_in (id, journal, number, notice, state, starts, mark, only_here,"
            " error, report) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " state = excluded.state, starts = excluded.starts, mark = excluded.mark,"
            " error = excluded.error, report = excluded.report",
            (
                notice.id,
                notice.journal,
                notice.number,
                json.dumps(notice.as_data()),
                state,
                starts,
                notice.mark,
                error,
                None if report is None else json.dumps(report),
            ),
        )

    def _end(
        self,
        connection: sqlite3.Connection,
        notice: Notice,
        state: str,
        error: str | None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Write how a notice ended."""
        known = _select(connection, "id = ?", [notice.id])
        self._put(connection, notice, state, known[0].starts if known else 0, error, report)
        if state == "dead":
            self._outbox.answer(connection, notice, error or "")

    def _forget(self, connection: sqlite3.Connection, notices: Sequence[Notice]) -> None:
        """Drop old receipts that no sender can ask for any more."""
        floors: dict[str, int] = {}
        for notice in notices:
            # Nobody tries a person's wish again: it has no journal, and no number above 0.
            floor = notice.floor if notice.journal else 1
            floors[notice.journal] = max(floor, floors.get(notice.journal, 0))
        for journal, floor in floors.items():
            connection.execute(
                "DELETE FROM notices_in WHERE state = 'done' AND journal = ? AND number < ?"
                " AND place <= (SELECT place FROM notices_in WHERE state = 'done'"
                " ORDER BY place DESC LIMIT 1 OFFSET ?)",
                (journal, floor, KEPT_DONE),
            )
            connection.execute(
                "DELETE FROM notices_in WHERE state = 'dead' AND journal = ? AND number < ?"
                " AND place <= (SELECT place FROM notices_in WHERE state = 'dead'"
                " ORDER BY place DESC LIMIT 1 OFFSET ?)",
                (journal, floor, KEPT_DEAD),
            )


def _select(connection: sqlite3.Connection, where: str, values: Sequence[Any]) -> list[Receipt]:
    """Return receipts in the order they came."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM notices_in WHERE {where} ORDER BY place",  # noqa: S608 - our own text
        values,
    ).fetchall()
    return [
        Receipt(
            replace(Notice.from_data(json.loads(notice)), mark=mark),
            state,
            starts,
            aside,
            bool(only_here),
            error,
        )
        for notice, state, starts, mark, aside, only_here, error in found
    ]


def _marks(values: Sequence[object]) -> str:
    """Return so many question marks."""
    return ", ".join("?" * len(values))
