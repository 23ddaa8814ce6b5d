"""One row of the outbox: a notice, or an answer, that is to leave this machine.

The table of these rows, and what is done to them inside a transaction that the
caller has begun.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flock.notice import NOTICE, Notice, Step, comes_round, notice_id

TABLES = """
CREATE TABLE IF NOT EXISTS notices_out (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    run_id TEXT NOT NULL,
    cause TEXT NOT NULL,
    notifier TEXT NOT NULL,
    notifier_action TEXT NOT NULL,
    target TEXT,
    location TEXT,
    resource TEXT NOT NULL,
    action TEXT NOT NULL,
    timing TEXT NOT NULL,
    trail TEXT NOT NULL,
    created TEXT NOT NULL,
    mark TEXT NOT NULL,
    error TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    answer TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS notices_out_by_state ON notices_out (state, target, number);
CREATE TABLE IF NOT EXISTS notices_journal (id TEXT NOT NULL);
"""

_COLUMNS = (
    "number, id, kind, state, run_id, cause, notifier, notifier_action, target, location,"
    " resource, action, timing, trail, created, mark, error, tries, answer"
)


KEPT_DEAD = 10_000
"""Dead letters that are kept."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose notices they are: a node, and the id of its journal."""

    node: str
    journal: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A row of the table."""

    number: int
    id: str
    kind: str
    state: str
    run_id: str
    cause: str
    notifier: str
    notifier_action: str
    target: str | None
    location: str | None
    resource: str
    action: str
    timing: str
    trail: tuple[Step, ...]
    created: str
    mark: str
    error: str | None = None
    tries: int = 0
    answer: str = ""

    @property
    def place(self) -> str:
        """Whom it is for: a name, or how the machines are looked up."""
        return self.target if self.target is not None else location_text(self.location or "{}")


def location_text(location: str) -> str:
    """Write a location, kept as JSON, as people read it: `roles:web AND environment:prod`."""
    parts: list[str] = []
    for key, value in json.loads(location).items():
        if value is None or value in ("", [], ()):
            continue
        if key == "query":
            parts.append(f"({value})")
        else:
            parts.extend(f"{key}:{each}" for each in ([value] if isinstance(value, str) else value))
    return " AND ".join(parts)


def renewed(row: Outgoing) -> Outgoing:
    """Return a dead letter as it sets out once more: whoever asks for it takes on what follows."""
    values = {name: getattr(row, name) for name in Outgoing.__slots__}
    values.update(state="due", trail=(), error=None, tries=0, mark="")
    return Outgoing(**values)


def about(
    notice: Notice,
    kind: str,
    state: str,
    *,
    answer: str = "",
    error: str | None = None,
    tries: int = 0,
) -> Outgoing:
    """Return a row of ours about a notice that came, with its sender as the target."""
    return Outgoing(
        number=0,
        id=notice.id,
        kind=kind,
        state=state,
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
        error=error,
        tries=tries,
        answer=answer,
    )


def select(
    connection: sqlite3.Connection, where: str, values: Sequence[Any], limit: int = -1
) -> list[Outgoing]:
    """Return rows in the order of their numbers."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM notices_out WHERE {where} ORDER BY number LIMIT ?",  # noqa: S608 - our own text
        (*values, limit),
    ).fetchall()
    rows: list[Outgoing] = []
    for each in found:
        fields = list(each)
        fields[13] = _steps(fields[13])
        rows.append(Outgoing(*fields))
    return rows


def trails_of(connection: sqlite3.Connection, number: int) -> list[tuple[Step, ...]]:
    """Return the trail of a row as it stands now."""
    return [row.trail for row in select(connection, "number = ?", [number])]


def _steps(text: str) -> tuple[Step, ...]:
    """Read a trail."""
    return tuple((node, resource, action) for node, resource, action in json.loads(text))


def insert(
    connection: sqlite3.Connection, sender: Sender, row: Outgoing, *, target: str | None = None
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
        own_id = notice_id(sender.node, sender.journal, row.cause, row.notifier, number, place)
        connection.execute("UPDATE notices_out SET id = ? WHERE number = ?", (own_id, number))
    return number


def send_off(connection: sqlite3.Connection, rows: Sequence[Outgoing]) -> list[dict[str, str]]:
    """Return the report's rows of what leaves; what would go in a circle is cut."""
    gone: list[dict[str, str]] = []
    for row in rows:
        circle = None
        if row.target is not None and row.kind == NOTICE:
            circle = comes_round(row.trail, (row.target, row.resource, row.action))
        if circle is not None:
            bury(connection, row.number, circle)
            continue
        gone.append({"id": row.id, "to": row.place, "resource": row.resource, "action": row.action})
    return gone


def bury(connection: sqlite3.Connection, number: int, error: str) -> None:
    """Make a row a dead letter."""
    connection.execute(
        "UPDATE notices_out SET state = 'dead', error = ? WHERE number = ?", (error, number)
    )
    trim(connection, "dead", KEPT_DEAD)


def trim(connection: sqlite3.Connection, state: str, kept: int) -> None:
    """Forget the oldest rows of a state that is final."""
    connection.execute(
        "DELETE FROM notices_out WHERE state = ? AND number <= (SELECT number FROM notices_out"
        " WHERE state = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (state, state, kept),
    )


def marks(values: Sequence[object]) -> str:
    """Return so many question marks."""
    return ", ".join("?" * len(values))
