"""The notifications that wait for the end of a run, once per target and action.

With those of this run wait what earlier runs left in the ledger. What a lock
protects is made before the lock is released; what a lost lock protected, and
what is left from a run that held one, waits for a run that holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flock.converge.collection import Collection
from flock.converge.ledger import Entry, Ledger
from flock.converge.locks import RunLocks
from flock.converge.notification import Trail
from flock.converge.resource import Resource

log = logging.getLogger("flock.converge")


@dataclass(slots=True)
class Delayed:
    """One action that waits; several notifications of one kind are one.

    Attributes:
        target: the resource that is to act.
        action: what it is to do.
        trail: what led here first.
        lockids: the locks that protect what notified.
        ledger_ids: where it stands in the ledger.
        is_made: it was made, or is being made.
    """

    target: Resource
    action: str
    trail: Trail
    lockids: set[str] = field(default_factory=set)
    ledger_ids: list[int] = field(default_factory=list)
    is_made: bool = False


class DelayedActions:
    """All actions that wait for the end of one run; used by its thread."""

    def __init__(
        self,
        resources: Collection,
        locks: RunLocks,
        ledger: Ledger | None,
        would_change: Callable[[Resource, str], bool | None],
        emit: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Make the list, empty.

        Args:
            resources: among which targets are found.
            locks: what the run holds.
            ledger: keeps notifications over the death of the process.
            would_change: says whether an action would change anything; None if
                it cannot be told.
            emit: told of what is taken up.
        """
        self._resources = resources
        self._locks = locks
        self._ledger = ledger
        self._would_change = would_change
        self._emit = emit
        self._all: dict[tuple[str, str], Delayed] = {}
        self._held_back: list[Entry] = []

    def add(
        self,
        target: Resource,
        action: str,
        trail: Trail,
        lockids: Iterable[str],
        ledger_id: int | None,
    ) -> None:
        """Put an action off; one that was made already is not made again in this run."""
        delayed = self._all.setdefault((str(target), action), Delayed(target, action, trail))
        if delayed.is_made:
            self.strike_off([ledger_id])
            return
        delayed.lockids.update(lockids)
        if ledger_id is not None:
            delayed.ledger_ids.append(ledger_id)

    def ready(self, under: str | None = None) -> list[Delayed]:
        """Return what is still to be made, and by this run, in order.

        Args:
            under: only what this lock protects.
        """
        return [
            each
            for each in self._all.values()
            if not each.is_made
            and (under is None or under in each.lockids)
            and not any(self._locks.is_lost(lockid) for lockid in each.lockids)
        ]

    def strike_off(self, ids: Sequence[int | None]) -> None:
        """Note in the ledger that notifications are done with; None stands for one not in it."""
        known = [each for each in ids if each is not None]
        if known and self._ledger is not None:
            self._ledger.strike_off(known)

    def take_up_left_over(self) -> None:
        """Add what earlier runs left; what needs locks waits until they are taken."""
        if self._ledger is None:
            return
        for entry in self._ledger.left_over():
            if self._lockids_of(entry):
                self._held_back.append(entry)
            else:
                self._take_up(entry)

    def take_up_under(self, lockid: str) -> None:
        """Add what earlier runs left that may be made now that this lock is held."""
        held_back, self._held_back = self._held_back, []
        for entry in held_back:
            lockids = self._lockids_of(entry)
            if lockid in lockids and all(self._locks.has(each) for each in lockids):
                self._take_up(entry)
            else:
                self._held_back.append(entry)

    def _lockids_of(self, entry: Entry) -> frozenset[str]:
        """Return the locks that protect an entry's notifier, as it is declared now if it is."""
        notifier = self._resources.find(entry.notifier)
        return entry.lockids if notifier is None else notifier.lockids

    def _take_up(self, entry: Entry) -> None:
        """Add what an earlier run left, if it is still to be made."""
        target = self._resources.find(entry.target)
        to_change = False if entry.is_due else self._is_still_to_change(entry)
        if target is None or not target.can(entry.action):
            log.warning("%s is declared no more: not notified", entry.target)
        elif not to_change:
            self.add(target, entry.action, entry.trail, self._lockids_of(entry), entry.id)
            self._emit(
                "notification taken up",
                {
                    "resource": entry.target,
                    "action": entry.action,
                    "notified_by": entry.notifier,
                    "from_run": entry.run_id,
                    "maybe_unchanged": to_change is None,
                },
            )
            return
        self.strike_off([entry.id])

    def _is_still_to_change(self, entry: Entry) -> bool | None:
        """Say whether the notifier's change is still to be made; None if that cannot be told."""
        notifier = self._resources.find(entry.notifier)
        return None if notifier is None else self._would_change(notifier, entry.notifier_action)
