"""Which slot of a lock one contender may take, and when to look again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from registry.contract import LockOwner
from registry.zookeeper_lock import Claim, Places
from registry.zookeeper_session import Session
from registry.zookeeper_slots import Slots, UncleanEnds

TimeLeft = Callable[[str, Claim | None, Claim], float]
"""Tells of a mark, its claim and ours for how many seconds it counts."""


@dataclass(slots=True)
class Vacancy:
    """One contender's view of a lock's slots.

    A slot whose holder ended uncleanly counts as held for the lock-delay: what
    he had begun may still be going on.

    Attributes:
        session: tells the lock-delay.
        unclean: since when each unclean end is known here.
        places: the lock's nodes.
        owner: for whom a slot is wanted.
        slots: how many the contender counts.
        next_look: seconds after which a slot may be free by time alone; the
            caller sets it, and it only gets smaller here.
    """

    session: Session
    unclean: UncleanEnds
    places: Places
    owner: LockOwner
    slots: int
    next_look: float = field(default=math.inf)

    def kept_for_us(self, slots: Slots, us: Claim) -> tuple[int, float] | None:
        """Return a slot that is kept for our owner, or surely will be.

        Returns:
            Its number, and seconds until we may have it: infinite until
            something changes at the slots.
        """
        for mark, (number, claim) in slots.unclean.items():
            if self._is_kept_for_us(claim):
                delay = self._work_left(mark, claim, us)
                # What is kept for others is in nobody's way here: no one works under that.
                if delay <= 0 and self._is_full(slots, self._occupied(slots, us, self._work_left)):
                    delay = math.inf
                return number, delay
        for number, claim in slots.held.items():
            if claim is not None and self._is_kept_for_us(claim) and us.has_outlived(claim):
                return number, math.inf
        return None

    def free_slot(self, slots: Slots, us: Claim) -> int | None:
        """Return a slot that may be taken now; those of one group count as one."""
        self.unclean.keep_only(self.places.marks, slots.unclean)
        kept = self.kept_for_us(slots, us)
        if kept is not None:
            # No other slot is for us.
            number, delay = kept
            self.next_look = min(self.next_look, delay)
            return number if delay <= 0 else None
        occupied = self._occupied(slots, us, self._delay_left)
        if self._is_full(slots, occupied):
            return None
        return next(number for number in itertools.count() if number not in occupied)

    def _occupied(self, slots: Slots, us: Claim, time_left: TimeLeft) -> dict[int, Claim | None]:
        """Return who is in our way: who holds, and those gone for whom there is time left."""
        occupied: dict[int, Claim | None] = dict(slots.held)
        for mark, (number, claim) in slots.unclean.items():
            remaining = time_left(mark, claim, us)
            if remaining > 0:
                occupied[number] = claim
                self.next_look = min(self.next_look, remaining)
        return occupied

    def _is_full(self, slots: Slots, occupied: dict[int, Claim | None]) -> bool:
        """Say whether there is room neither for one more nor in our group."""
        claims = {number: claim for number, claim in occupied.items() if claim is not None}
        # One that is kept counts by itself, and closes its group: nobody follows it down.
        kept = {n for n, claim in claims.items() if claim.keep and n not in slots.held}
        open_groups = {
            n: claim.group for n, claim in claims.items() if claim.group and n not in kept
        }
        units = {open_groups.get(number, number) for number in occupied}
        in_force = min([self.slots, *(claim.slots for claim in claims.values())])
        closed = {claims[number].group for number in kept}
        group = self.owner.group
        may_join = group in open_groups.values() and group not in closed
        return len(units) >= in_force and not may_join

    def marks_of_the_past(self, slots: Slots, number: int, us: Claim) -> list[str]:
        """Return the marks that go when we take a slot: their time is over."""
        return [
            mark
            for mark, (marked, claim) in slots.unclean.items()
            # A slot that is kept for us is ours to give up only if it is this one.
            if self._delay_left(mark, claim, us) <= 0
            and (marked == number or not self._is_kept_for_us(claim))
        ]

    def _is_kept_for_us(self, claim: Claim | None) -> bool:
        return claim is not None and claim.keep and claim.owner == self.owner.owner

    def _delay_left(self, mark: str, claim: Claim | None, us: Claim) -> float:
        """Return seconds until a mark that was left behind counts no more for us."""
        if claim is not None and claim.keep and not self._is_kept_for_us(claim):
            return math.inf
        return self._work_left(mark, claim, us)

    def _work_left(self, mark: str, claim: Claim | None, us: Claim) -> float:
        """Return seconds for which what was begun under a mark may be going on."""
        if claim is not None and (claim.abandoned or us.is_past_of_same_node(claim)):
            return 0.0
        delay = self.session.lock_delay
        if claim is not None and claim.broken:
            # His session may stand yet: for as long as that takes to end he may believe in it.
            delay = max(delay, claim.session_milliseconds / 1000)
        return delay - self.unclean.age(mark)
