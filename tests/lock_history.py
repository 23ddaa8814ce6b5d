"""Judge what became of locks: a history of who entered and left, against what a lock promises.

A history has three sources. The *journal* is written by the holders under
their locks, in one order that the registry decides. The *claims* are what
each process said of itself, on the clock that all processes of a machine
share. The *faults* are what was done to them meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ORDER_MARGIN = 1.0
"""Seconds by which one must have asked before another, to be surely before him in the line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal of a lock: `enter` or `leave`, written under the lock."""

    worker: str
    event: str
    slot: int
    token: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a process said: `asked`, `granted`, `held` (asked before the answer), `left`, `lost`."""

    at: float
    worker: str
    lock: str
    event: str
    slot: int = -1
    token: int = -1


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to whom, from when to when; a kill has no length."""

    at: float
    until: float
    kind: str
    target: str


@dataclass(slots=True)
class History:
    """All that is known of one run.

    Attributes:
        slots: how many may hold each lock.
        journals: the journal of each lock.
        claims: of all processes.
        faults: in the order of their beginnings.
        ended: when the processes were told to end.
    """

    slots: dict[str, int]
    journals: dict[str, list[Entry]]
    claims: list[Claim] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ended: float = float("inf")

    def check(self, *, stuck_after: float, settle: float) -> list[str]:
        """Return what broke a promise; empty if all were kept.

        Args:
            stuck_after: seconds within which a waiter must get the slot of a
                holder that was killed.
            settle: seconds for which the effects of a fault may last.
        """
        return [
            *self._double_holders(),
            *self._tokens_out_of_order(),
            *self._overlapping_claims(),
            *self._stuck(stuck_after, settle),
            *self._out_of_turn(settle),
        ]

    # --- the journal

    def _double_holders(self) -> Iterator[str]:
        """Look for more holders than slots among the journal's writes.

        A holder holds from his entry on until he leaves, or until the next one
        has entered his slot: one who died, or lost his lock, never leaves.
        """
        for lock, journal in self.journals.items():
            holding: dict[int, Entry] = {}
            for entry in journal:
                holder = holding.get(entry.slot)
                if entry.event == "enter":
                    holding[entry.slot] = entry
                    if len(holding) > self.slots[lock]:
                        names = ", ".join(each.worker for each in holding.values())
                        yield f"{lock}: more holders than slots: {names}"
                elif holder is None or holder.token != entry.token:
                    now = "nobody" if holder is None else f"{holder.worker} ({holder.token})"
                    yield (
                        f"{lock}: {entry.worker} ({entry.token}) wrote in slot {entry.slot}, "
                        f"which {now} had"
                    )
                else:
                    del holding[entry.slot]

    def _tokens_out_of_order(self) -> Iterator[str]:
        """Look for a token that is not larger than the last one of its slot."""
        for lock, journal in self.journals.items():
            last: dict[int, Entry] = {}
            for entry in journal:
                if entry.event != "enter":
                    continue
                before = last.get(entry.slot)
                if before is not None and entry.token <= before.token:
                    yield (
                        f"{lock}: slot {entry.slot} was given to {entry.worker} with token "
                        f"{entry.token} after {before.worker} with {before.token}"
                    )
                last[entry.slot] = entry

    # --- the claims

    def _overlapping_claims(self) -> Iterator[str]:
        """Look for times at which more processes were told `held` than there are slots."""
        for lock, slots in self.slots.items():
            edges: list[tuple[float, int, str]] = []
            for mine in _grouped(c for c in self.claims if c.lock == lock and c.token >= 0):
                sure = [claim.at for claim in mine if claim.event in ("granted", "held")]
                if len(sure) > 1:
                    edges += [(sure[0], 1, mine[0].worker), (sure[-1], -1, mine[0].worker)]
            inside: list[str] = []
            for at, step, worker in sorted(edges):
                if step < 0:
                    inside.remove(worker)
                    continue
                inside.append(worker)
                if len(inside) > slots:
                    yield f"{lock}: at {at:.3f} each of {', '.join(inside)} was told that it holds"

    def _stuck(self, stuck_after: float, settle: float) -> Iterator[str]:
        """Look for a killed holder whose slot nobody got, though somebody waited."""
        for case in self._cases_of_death(stuck_after, settle):
            served = any(
                claim.event == "granted"
                and claim.lock == case.lock
                and case.kill.at < claim.at < case.deadline
                for claim in self.claims
            )
            still_there = [wait for wait in case.waiting if wait.until > case.deadline]
            if still_there and not served:
                yield (
                    f"{case.lock}: {case.kill.target} was killed holding it at "
                    f"{case.kill.at:.3f}, and {still_there[0].worker} had not got it at "
                    f"{case.deadline:.3f}"
                )

    def _cases_of_death(self, stuck_after: float, settle: float) -> Iterator[_Case]:
        """Return the killed holders for whose slot somebody waited long enough to judge."""
        waits = list(self._waits())
        for kill in (fault for fault in self.faults if fault.kind == "kill"):
            lock = self._held_at(kill)
            if lock is None:
                continue
            # Whatever else was broken meanwhile makes it longer, by itself and what follows.
            others = [f for f in self.faults if f is not kill and f.until + settle > kill.at]
            deadline = kill.at + stuck_after
            for fault in sorted(others, key=lambda each: each.at):
                if fault.at < deadline:
                    deadline += fault.until - max(fault.at, kill.at) + settle
            waiting = [
                w for w in waits if w.lock == lock and w.asked < kill.at + 1.0 and w.until > kill.at
            ]
            if deadline <= self.ended and waiting:
                yield _Case(kill, lock, deadline, waiting)

    def _held_at(self, kill: Fault) -> str | None:
        """Return the lock that a process held when it was killed."""
        mine = [c for c in self.claims if c.worker == kill.target and c.at <= kill.at]
        last = max(mine, key=lambda claim: claim.at, default=None)
        return last.lock if last is not None and last.event in ("granted", "held") else None

    def _out_of_turn(self, settle: float) -> Iterator[str]:
        """Look for one who was served before another who had come earlier, while all was well."""
        for first, second in self._cases_of_order(settle):
            if second.until < first.until:
                yield (
                    f"{second.lock}: {second.worker} asked at {second.asked:.3f} and was served "
                    f"before {first.worker}, who had asked at {first.asked:.3f}"
                )

    def _cases_of_order(self, settle: float) -> Iterator[tuple[_Wait, _Wait]]:
        """Return who waited at the same time for a lock while all was well, the earlier first."""
        quiet = [
            wait
            for wait in self._waits()
            if wait.was_granted
            and not any(f.at < wait.until and wait.asked < f.until + settle for f in self.faults)
        ]
        for first, second in itertools.permutations(quiet, 2):
            if (
                first.lock == second.lock
                and first.asked + ORDER_MARGIN < second.asked < first.until
            ):
                yield first, second

    def _waits(self) -> Iterator[_Wait]:
        """Return how long everybody waited; who never got it waited to his end."""
        by_worker: dict[str, list[Claim]] = {}
        for claim in self.claims:
            by_worker.setdefault(claim.worker, []).append(claim)
        ends = {f.target: f.at for f in self.faults if f.kind == "kill"}
        for worker, claims in by_worker.items():
            claims.sort(key=lambda claim: claim.at)
            for claim, after in itertools.zip_longest(claims, claims[1:]):
                if claim.event == "asked":
                    until = after.at if after else ends.get(worker, self.ended)
                    granted = after is not None and after.event == "granted"
                    yield _Wait(worker, claim.lock, claim.at, until, granted)

    # --- figures

    def judged(self, *, stuck_after: float, settle: float) -> dict[str, int]:
        """Return how many cases there were of what `check` can only judge at times."""
        return {
            "deaths": len(list(self._cases_of_death(stuck_after, settle))),
            "order": len(list(self._cases_of_order(settle))),
        }

    def figures(self) -> dict[str, Any]:
        """Return how much happened, so that a history in which nothing did is seen as such."""
        entered = {
            lock: sum(entry.event == "enter" for entry in journal)
            for lock, journal in self.journals.items()
        }
        kinds = sorted({fault.kind for fault in self.faults})
        return {
            "entered": entered,
            "lost": sum(claim.event == "lost" for claim in self.claims),
            "faults": {kind: sum(f.kind == kind for f in self.faults) for kind in kinds},
        }


@dataclass(frozen=True, slots=True)
class _Wait:
    worker: str
    lock: str
    asked: float
    until: float
    was_granted: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """A holder that was killed while others waited.

    Attributes:
        kill: when, and who.
        lock: what he held.
        deadline: when somebody must have it at the latest.
        waiting: who waited.
    """

    kill: Fault
    lock: str
    deadline: float
    waiting: Sequence[_Wait]


def _grouped(claims: Iterable[Claim]) -> Iterator[Sequence[Claim]]:
    """Return the claims of each grant, in order."""
    by_grant: dict[tuple[str, int, int], list[Claim]] = {}
    for claim in claims:
        by_grant.setdefault((claim.worker, claim.slot, claim.token), []).append(claim)
    for mine in by_grant.values():
        yield sorted(mine, key=lambda claim: claim.at)
