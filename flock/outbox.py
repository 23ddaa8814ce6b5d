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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flock.errors import UsageError
from flock.faults import reached
from flock.journal import Journal
from flock.notice import (
    ANSWER,
    MAYBE_UNCHANGED,
    NOTICE,
    Notice,
    Step,
    comes_round,
    joined_trails,
    notice_id,
)
from flock.outgoing import (
    TABLES,
    Outgoing,
    location_text,
    marks,
    now_text,
    renewed,
    select,
    trails_of,
    trim,
)

KEPT_SENT = 1_000
"""Notices that are kept after they were sent; the oldest go first."""

KEPT_DEAD = 10_000
"""Dead letters that are kept."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to happen elsewhere if a resource changes.

    Attributes:
        resource: `kind[name]` over there.
        action: what it is to do.
        timing: `immediately` or `delayed`.
        nodes: where; wins over `location`.
        location: `roles`, `recipes`, `environment`, `query`, looked up when it is sent.
    """

    resource: str
    action: str
    timing: str = "immediately"
    nodes: tuple[str, ...] = ()
    location: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LeftOver:
    """What a process armed that died before it could say whether the change was made."""

    numbers: tuple[int, ...]
    run_id: str
    notifier: str
    notifier_action: str


class Outbox:
    """The notices of one machine that are to leave it."""

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
            self._journal_id: str = connection.execute("SELECT id FROM notices_journal").fetchone()[
                0
            ]

    def on_due(self, callback: Callable[[], None]) -> None:
        """Call `callback` after something became due; it must not block."""
        self._woken.append(callback)

    def wake(self) -> None:
        """Tell whoever sends that something is due."""
        for callback in self._woken:
            callback()

    # --- before and after a change

    def arm(
        self,
        run_id: str,
        notifier: str,
        notifier_action: str,
        wishes: Sequence[Wish],
        trail: Iterable[Step] = (),
        cause: str = "",
    ) -> list[int]:
        """Note what is to be told if a change is made, before it is made.

        Args:
            run_id: the run that makes it.
            notifier: `kind[name]` that is about to change.
            notifier_action: what it does.
            wishes: what is to happen elsewhere.
            trail: through what this change came, itself last.
            cause: the notice that set it off; the run if nothing is given.

        Returns:
            The numbers of what was armed, a row per target node or location.
        """
        steps = tuple(trail)
        created = now_text()
        numbers: list[int] = []
        with self._journal.writing() as connection:
            for wish in wishes:
                targets: Sequence[str | None] = tuple(dict.fromkeys(wish.nodes)) or (None,)
                for target in targets:
                    row = Outgoing(
                        number=0,
                        id="",
                        kind=NOTICE,
                        state="armed",
                        run_id=run_id,
                        cause=cause or run_id,
                        notifier=notifier,
                        notifier_action=notifier_action,
                        target=target,
                        location=None if target else json.dumps(dict(wish.location or {})),
                        resource=wish.resource,
                        action=wish.action,
                        timing=wish.timing,
                        trail=steps,
                        created=created,
                        mark="",
                    )
                    numbers.append(self._insert(connection, row))
        reached("arm")
        return numbers

    def make_due(
        self, numbers: Iterable[int], *, maybe_unchanged: bool = False
    ) -> list[dict[str, str]]:
        """Note that the change was made: what is armed is to leave, now or with the run's end.

        Args:
            numbers: what `arm` returned.
            maybe_unchanged: nobody can tell whether it was made.

        Returns:
            A row per notice that leaves now: `id`, `to`, `resource`, `action`.
        """
        mark = MAYBE_UNCHANGED if maybe_unchanged else ""
        wanted = list(numbers)
        with self._journal.writing() as connection:
            rows = select(connection, f"state = 'armed' AND number IN ({marks(wanted)})", wanted)
            for row in rows:
                connection.execute(
                    "UPDATE notices_out SET state = ?, mark = ? WHERE number = ?",
                    ("delayed" if row.timing == "delayed" else "due", mark, row.number),
                )
            gone = self._send_off(connection, [row for row in rows if row.timing != "delayed"])
        reached("due")
        if rows:
            self.wake()
        return gone

    def drop(self, numbers: Iterable[int]) -> None:
        """Note that the change was not made: nobody is told."""
        wanted = list(numbers)
        with self._journal.writing() as connection:
            connection.execute(
                f"DELETE FROM notices_out WHERE state = 'armed' AND number IN ({marks(wanted)})",  # noqa: S608 - question marks
                wanted,
            )

    def let_delayed_go(self, run_id: str | None = None) -> list[dict[str, str]]:
        """Make what was put off to the end of a run due, once per target, resource and action.

        Args:
            run_id: the run that is over; None for all runs.
        """
        with self._journal.writing() as connection:
            rows = select(
                connection,
                "state = 'delayed'" + (" AND run_id = ?" if run_id is not None else ""),
                [] if run_id is None else [run_id],
            )
            first: dict[tuple[str, str, str], Outgoing] = {}
            for row in rows:
                key = (row.place, row.resource, row.action)
                known = first.setdefault(key, row)
                if known is row:
                    connection.execute(
                        "UPDATE notices_out SET state = 'due' WHERE number = ?", (row.number,)
                    )
                    continue
                connection.execute("DELETE FROM notices_out WHERE number = ?", (row.number,))
                trail = joined_trails([*trails_of(connection, known.number), row.trail])
                connection.execute(
                    "UPDATE notices_out SET trail = ? WHERE number = ?",
                    (json.dumps(trail), known.number),
                )
            numbers = [row.number for row in first.values()]
            merged = select(connection, f"number IN ({marks(numbers)})", numbers)
            gone = self._send_off(connection, merged)
        if rows:
            self.wake()
        return gone

    def left_over(self, run_id: str) -> list[LeftOver]:
        """Return what other runs armed and never settled; to be asked under the run lock."""
        with self._journal.reading() as connection:
            rows = select(connection, "state = 'armed' AND run_id != ?", [run_id])
        found: dict[tuple[str, str, str], list[int]] = {}
        for row in rows:
            key = (row.run_id, row.notifier, row.notifier_action)
            found.setdefault(key, []).append(row.number)
        return [LeftOver(tuple(numbers), *key) for key, numbers in found.items()]

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
                made = [self._insert(connection, row, target=node) for node in dict.fromkeys(nodes)]
                self._send_off(connection, select(connection, f"number IN ({marks(made)})", made))

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
            self._bury(connection, number, error)

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
        self._insert(
            connection,
            Outgoing(
                number=0,
                id=notice.id,
                kind=ANSWER,
                state="due",
                run_id="",
                cause=notice.cause,
                notifier=notice.notifier,
                notifier_action="",
                target=notice.sender,
                location=None,
                resource=notice.resource,
                action=notice.action,
                timing=notice.timing,
                trail=notice.trail,
                created=notice.created,
                mark=notice.mark,
                answer=error,
            ),
        )

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
            number = self._insert(
                connection,
                Outgoing(
                    number=0,
                    id=answer.id,
                    kind=NOTICE,
                    state="dead",
                    run_id="",
                    cause=answer.cause,
                    notifier=answer.notifier,
                    notifier_action="",
                    target=answer.sender,
                    location=None,
                    resource=answer.resource,
                    action=answer.action,
                    timing=answer.timing,
                    trail=answer.trail,
                    created=answer.created,
                    mark=answer.mark,
                    error=answer.error,
                    tries=1,
                ),
            )
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
                again = renewed(row)
                self._insert(connection, again)
        if rows:
            self.wake()
        return bool(rows)

    # --- inside

    def _insert(
        self, connection: sqlite3.Connection, row: Outgoing, *, target: str | None = None
    ) -> int:
        """Insert a row under a new number, with the id that follows; returns the number."""
        target = target or row.target
        number: int = connection.execute(
            "INSERT INTO notices_out (id, kind, state, run_id, cause, notifier, notifier_action,"
            " target, location, resource, action, timing, trail, created, mark, error, tries,"
            " answer)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
            (
                row.id,
                row.kind,
                row.state,
                row.run_id,
                row.cause,
                row.notifier,
                row.notifier_action,
                target,
                None if target else row.location,
                row.resource,
                row.action,
                row.timing,
                json.dumps(row.trail),
                row.created,
                row.mark,
                row.error,
                row.tries,
                row.answer,
            ),
        ).fetchone()[0]
        if row.kind == NOTICE:
            place = target if target is not None else location_text(row.location or "{}")
            own_id = notice_id(self.node, self._journal_id, row.cause, row.notifier, number, place)
            connection.execute("UPDATE notices_out SET id = ? WHERE number = ?", (own_id, number))
        return number

    def _send_off(
        self, connection: sqlite3.Connection, rows: Sequence[Outgoing]
    ) -> list[dict[str, str]]:
        """Return the report's rows of what leaves; what would go in a circle is cut."""
        gone: list[dict[str, str]] = []
        for row in rows:
            circle = None
            if row.target is not None and row.kind == NOTICE:
                circle = comes_round(row.trail, (row.target, row.resource, row.action))
            if circle is not None:
                self._bury(connection, row.number, circle)
                continue
            gone.append(
                {"id": row.id, "to": row.place, "resource": row.resource, "action": row.action}
            )
        return gone

    def _bury(self, connection: sqlite3.Connection, number: int, error: str) -> None:
        """Make a row a dead letter."""
        connection.execute(
            "UPDATE notices_out SET state = 'dead', error = ? WHERE number = ?", (error, number)
        )
        trim(connection, "dead", KEPT_DEAD)

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
            journal=self._journal_id,
            number=row.number,
            floor=floor,
            kind=row.kind,
            error=row.answer,
        )


def check_wish(target: str, resource: str, action: str) -> None:
    """Refuse what can be no notice.

    Raises:
        UsageError: says what to write.
    """
    kind, bracket, rest = resource.partition("[")
    if not (kind.isidentifier() and bracket and rest.endswith("]") and len(rest) > 1):
        raise UsageError(f"{resource!r} does not name a resource: write 'kind[name]'")
    if not action.isidentifier():
        raise UsageError(f"{action!r} is no action of {resource} on {target}")
