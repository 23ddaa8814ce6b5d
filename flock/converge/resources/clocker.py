"""`clocker`: take a lock for the run, or give it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.locks import DEFAULT_WAIT, LockWish, current_locks
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource
from flock.errors import RunFailed


@dataclass
class Clocker(Resource):
    """A lock that the run takes (`clockon`) or gives back (`clockoff`).

    Not getting it is no failure: what says `only_if(held(id))` is skipped, and
    the report's `locks` say who has it. Never counts as a change.

    Attributes:
        lockid: the lock's name; the resource's by default.
        lockwait: seconds to wait for it; 0 for "now or not".
        slots: how many may hold it at a time, or a part of `among` as `10%`.
        among: a query over machines, as `roles:web`.
        group: machines of one group take one slot together.
        keep_on_failure: a failed run keeps its slot, so that no other machine
            follows it down, until this one's next good run or an operator's
            `flockctl unlock`.
        zookeeper: `host:2181` of another ensemble than the flock's own.
        reason: for people who look at who holds it.
    """

    kind: ClassVar[str] = "clocker"
    actions: ClassVar[tuple[str, ...]] = ("clockon", "clockoff")

    lockid: str = ""
    lockwait: float = DEFAULT_WAIT
    slots: int | str = 1
    among: str = ""
    group: str = ""
    keep_on_failure: bool = False
    zookeeper: str | None = None
    reason: str = ""

    def check(self) -> None:
        """Fill in the lock's name, and refuse what cannot be asked for."""
        self.lockid = self.lockid or self.name
        self.wish().check()

    def wish(self) -> LockWish:
        """Return what is asked for."""
        return LockWish(
            self.lockid,
            self.lockwait,
            self.slots,
            self.among,
            self.group,
            self.keep_on_failure,
            self.zookeeper,
            self.reason or str(self),
        )


class ClockerProvider(Provider[Clocker]):
    """Takes and gives back; names no change, since nothing on the machine is different after it."""

    def clockon(self, wanted: Clocker) -> Iterator[Change]:
        """Take the lock, or join it if the run holds it already."""
        locks = current_locks()
        if locks is None:
            raise RunFailed(f"{wanted}: no run is going on here that could hold a lock")
        locks.take(wanted.wish())
        return iter(())

    def clockoff(self, wanted: Clocker) -> Iterator[Change]:
        """Give the lock back, after the delayed notifications of what it protects."""
        locks = current_locks()
        if locks is not None:
            locks.release(wanted.lockid)
        return iter(())


KIND = Kind(Clocker, ClockerProvider)
