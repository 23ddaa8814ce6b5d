"""Notifications between change and action, kept so that no death of the process loses one.

Before a resource that notifies makes its first change its notifications are
*armed*; when it has changed they are *due*; when their actions were made they
are struck off. All that stands when a run begins was left by a run that did
not come to its end: killed, cancelled, or out of power.

An armed one may come from a change that was made or not. So the resource is
looked at as in a why-run: still to change, then it is dropped, since this run
will notify; already right, then it is due. A resource that cannot tell, as a
command, counts as changed, and its notification is marked *maybe unchanged*.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flock.converge.notification import Notification, Trail
from flock.converge.resource import Resource
from flock.journal import Journal

_TABLES = """
CREATE TABLE IF NOT EXISTS notifications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    notifier TEXT NOT NULL,
    notifier_action TEXT NOT NULL,
    target TEXT NOT NULL,
    action TEXT NOT NULL,
    trail TEXT NOT NULL,
    lockids TEXT NOT NULL,
    is_due INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One notification on its way.

    Attributes:
        id: only grows.
        run_id: the run in which the notifier changed, or was about to.
        notifier: `kind[name]` of the resource that notifies.
        notifier_action: what it did.
        target: `kind[name]` of the resource that is to act.
        action: what it is to do.
        trail: what led here, the notifier last.
        lockids: the locks that protected the notifier: the action is made only
            by a run that holds them.
        is_due: the change was made; False while that is not known.
    """

    id: int
    run_id: str
    notifier: str
    notifier_action: str
    target: str
    action: str
    trail: Trail
    lockids: frozenset[str]
    is_due: bool


class Ledger:
    """The notifications of one run; what a method did is on disk when it returns."""

    def __init__(self, journal: Journal, run_id: str) -> None:
        self._journal = journal
        self._run_id = run_id
        journal.add_tables(_TABLES)

    def arm(
        self,
        notifier: Resource,
        action: str,
        notifications: Sequence[Notification],
        trail: Trail,
    ) -> list[int]:
        """Note notifications before the notifier's first change; returns their ids in order."""
        with self._journal.writing() as connection:
            return [
                connection.execute(
                    "INSERT INTO notifications"
                    " (run_id, notifier, notifier_action, target, action, trail, lockids)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                    (
                        self._run_id,
                        str(notifier),
                        action,
                        each.target,
                        each.action,
                        json.dumps(trail),
                        json.dumps(sorted(notifier.lockids)),
                    ),
                ).fetchone()[0]
                for each in notifications
            ]

    def make_due(self, ids: Iterable[int]) -> None:
        """Note that the change was made."""
        with self._journal.writing() as connection:
            connection.executemany(
                "UPDATE notifications SET is_due = 1 WHERE id = ?", [(each,) for each in ids]
            )

    def strike_off(self, ids: Iterable[int]) -> None:
        """Forget notifications: their action was made, or is not to be made."""
        with self._journal.writing() as connection:
            connection.executemany(
                "DELETE FROM notifications WHERE id = ?", [(each,) for each in ids]
            )

    def left_over(self) -> list[Entry]:
        """Return what earlier runs left, the oldest first."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT id, run_id, notifier, notifier_action, target, action, trail,"
                " lockids, is_due FROM notifications WHERE run_id != ? ORDER BY id",
                (self._run_id,),
            ).fetchall()
        return [
            Entry(
                id=row[0],
                run_id=row[1],
                notifier=row[2],
                notifier_action=row[3],
                target=row[4],
                action=row[5],
                trail=tuple((name, action) for name, action in json.loads(row[6])),
                lockids=frozenset(json.loads(row[7])),
                is_due=bool(row[8]),
            )
            for row in rows
        ]
