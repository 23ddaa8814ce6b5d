"""What this machine has to tell others, on its disk until the registry has it.

A notice is *armed* before the change that it tells of, and *due* (*delayed*:
at the end of its run) or dropped after it. What is due waits here, in order
per target, until the courier has appended it to the target's queue; then it is
*sent*. What can never be sent, and what ended badly over there, is *dead* and
kept for people.

Any thread may use it, and several processes may (a node, and `flockctl
converge` under its name); what a method did is on disk when it returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from flock.armed_notices import ArmedNotices
from flock.faults import reached
from flock.journal import Journal
from flock.notice import ANSWER, NOTICE, Notice
from flock.outgoing import (
    TABLES,
    Outgoing,
    Sender,
    about,
    bury,
    insert,
    marks,
    renewed,
    select,
    send_off,
    trim,
)

KEPT_SENT = 1_000
"""Notices that are kept after they were sent; the oldest go first."""


class Outbox:
    """The notices of one machine that are to leave it.

    Attributes:
        node: the name that they come from.
        armed: those that hang on a change.
    """

    def __init__(self, journal: Journal, node: str) -> None:
        """Open it.

        Args:
            journal: where it is kept.
            node: the name this machine's notices come from.
        """
        self.node = node
        self._journal = journal
        self._lock_path = journal.path.with_name("outbox.lock")
        self._woken: list[Callable[[], None]] = []
        journal.add_tables(TABLES)
        with journal.writing() as connection:
            connection.execute(
                "INSERT INTO notices_journal SELECT ?"
                " WHERE NOT EXISTS (SELECT 1 FROM notices_journal)",
                (secrets.token_hex(8),),
            )
            (journal_id,) = connection.execute("SELECT id FROM notices_journal").fetchone()
        self._sender = Sender(node, journal_id)
        self.armed = ArmedNotices(journal, self._sender, self.wake)

    def on_due(self, callback: Callable[[], None]) -> None:
        """Call `callback` after something became due; it must not block."""
        self._woken.append(callback)

    def wake(self) -> None:
        """Tell whoever sends that something is due."""
        for callback in self._woken:
            callback()

    # --- for the courier

    @contextlib.contextmanager
    def draining(self) -> Iterator[bool]:
        """Keep other processes from sending meanwhile; gives False if one is at it.

        Two that send the same outbox could append a notice anew after its
        receipt over there is forgotten.
        """
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def unresolved(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what is due and for machines still to be looked up: numbers and locations."""
        with self._journal.reading() as connection:
            rows = select(connection, "state = 'due' AND target IS NULL", [])
        return [(row.number, json.loads(row.location or "{}")) for row in rows]

    def resolve(self, number: int, nodes: Iterable[str]) -> None:
        """Put a notice for each machine in the place of one for a location."""
        with self._journal.writing() as connection:
            for row in select(connection, "state = 'due' AND number = ?", [number]):
                connection.execute("DELETE FROM notices_out WHERE number = ?", (number,))
                made = [
                    insert(connection, self._sender, row, target=node)
                    for node in dict.fromkeys(nodes)
                ]
                send_off(connection, select(connection, f"number IN ({marks(made)})", made))

    def targets(self) -> list[str]:
        """Return whom something is due for, who waits longest first."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT target FROM notices_out WHERE state = 'due' AND target IS NOT NULL"
                " GROUP BY target ORDER BY MIN(number)"
            ).fetchall()
        return [row[0] for row in rows]

    def due(self, target: str, limit: int = 200) -> list[Notice]:
        """Return the first notices for a target, in order."""
        with self._journal.reading() as connection:
            rows = select(connection, "state = 'due' AND target = ?", [target], limit)
        floor = rows[0].number if rows else 0
        return [self._notice(row, floor) for row in rows]

    def sent(self, notices: Sequence[Notice]) -> None:
        """Note that the registry has these."""
        with self._journal.writing() as connection:
            for notice in notices:
                if notice.kind == ANSWER:
                    connection.execute("DELETE FROM notices_out WHERE number = ?", (notice.number,))
                else:
                    connection.execute(
                        "UPDATE notices_out SET state = 'sent', error = NULL, tries = tries + 1"
                        " WHERE number = ? AND state = 'due'",
                        (notice.number,),
                    )
            trim(connection, "sent", KEPT_SENT)
        reached("sent")

    def not_sent(self, number: int, error: str) -> None:
        """Note why a notice could not be sent now; it stays."""
        with self._journal.writing() as connection:
            connection.execute(
                "UPDATE notices_out SET error = ?, tries = tries + 1 WHERE number = ?",
                (error, number),
            )

    def bury(self, number: int, error: str) -> None:
        """Note that a notice can never be sent."""
        with self._journal.writing() as connection:
            bury(connection, number, error)

    # --- how it ended over there

    def answer(self, connection: sqlite3.Connection, notice: Notice, error: str) -> None:
        """Have a notice's sender told that it is a dead letter here.

        Args:
            connection: of the transaction that makes it one.
            notice: as it came; nobody is told if a person or this machine sent it.
            error: why.
        """
        if not notice.journal or notice.sender == self.node:
            return
        insert(connection, self._sender, about(notice, ANSWER, "due", answer=error))

    def answered(self, answer: Notice) -> None:
        """Take the news that one of our notices is a dead letter over there."""
        with self._journal.writing() as connection:
            changed = connection.execute(
                "UPDATE notices_out SET state = 'dead', error = ?, mark = ?"
                " WHERE id = ? AND kind = ?",
                (answer.error, answer.mark, answer.id, NOTICE),
            ).rowcount
            if changed:
                return
            dead = about(answer, NOTICE, "dead", error=answer.error, tries=1)
            number = insert(connection, self._sender, dead)
            connection.execute(
                "UPDATE notices_out SET id = ? WHERE number = ?", (answer.id, number)
            )

    # --- for people

    def rows(self, *, dead: bool = False, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Return notices as rows: those on their way, the dead ones, or all, oldest first."""
        where = "state = 'dead'" if dead else "state IN ('armed', 'delayed', 'due')"
        if all_of_them:
            where = "1"
        with self._journal.reading() as connection:
            rows = select(connection, f"kind = '{NOTICE}' AND {where}", [])
        return [
            self._notice(row, 0).row(row.state, tries=row.tries, error=row.error) for row in rows
        ]

    def waiting(self) -> int:
        """Count what is due."""
        with self._journal.reading() as connection:
            count: int = connection.execute(
                "SELECT COUNT(*) FROM notices_out WHERE state = 'due'"
            ).fetchone()[0]
        return count

    def retry(self, notice: str) -> bool:
        """Send a dead letter once more, as a new notice; say whether there is one of this id."""
        with self._journal.writing() as connection:
            rows = select(connection, "state = 'dead' AND id = ?", [notice])
            for row in rows:
                connection.execute("DELETE FROM notices_out WHERE number = ?", (row.number,))
                insert(connection, self._sender, renewed(row))
        if rows:
            self.wake()
        return bool(rows)

    # --- inside

    def _notice(self, row: Outgoing, floor: int) -> Notice:
        """Make what travels of a row."""
        return Notice(
            id=row.id,
            sender=self.node,
            target=row.place,
            resource=row.resource,
            action=row.action,
            timing=row.timing,
            notifier=row.notifier,
            cause=row.cause,
            trail=row.trail,
            created=row.created,
            mark=row.mark,
            journal=self._sender.journal,
            number=row.number,
            floor=floor,
            kind=row.kind,
            error=row.answer,
        )
