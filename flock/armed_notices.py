"""Notices that hang on a change: armed before it, due or dropped after it.

A process that dies between the two leaves them armed, and whoever runs next
settles them: see `left_over`. What waits for the end of a run (`delayed`) is
let go here, too. It is the outbox that brings on their way those that are due.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flock.errors import UsageError
from flock.faults import reached
from flock.journal import Journal
from flock.notice import MAYBE_UNCHANGED, NOTICE, Step, joined_trails
from flock.outgoing import (
    Outgoing,
    Sender,
    insert,
    marks,
    select,
    send_off,
    trails_of,
)
from registry.wall_clock import now_text


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


class ArmedNotices:
    """The notices of one machine that are not yet to leave it; any thread may use them."""

    def __init__(self, journal: Journal, sender: Sender, wake: Callable[[], None]) -> None:
        """Take them from a journal; `Outbox` makes it.

        Args:
            journal: where the outbox keeps its rows.
            sender: whose notices they are.
            wake: called after something became due.
        """
        self._journal = journal
        self._sender = sender
        self._wake = wake

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
                    numbers.append(insert(connection, self._sender, row))
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
            gone = send_off(connection, [row for row in rows if row.timing != "delayed"])
        reached("due")
        if rows:
            self._wake()
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
            gone = send_off(connection, merged)
        if rows:
            self._wake()
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
