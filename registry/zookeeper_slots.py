"""The slots of a lock: who has them, for whom they are kept, and how they are given back."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass

from kazoo.exceptions import NoNodeError
from kazoo.protocol.states import ZnodeStat

from registry.zookeeper_lock import Claim, Places, ZooKeeperLock
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_watches import Hub


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a lock as one look found them.

    Attributes:
        version: of the slots' folder, which every claim raises: a claim that is
            made for this version knows all holders. None if there is no folder.
        held: who holds which slot; None for what cannot be read.
        unclean: marks whose holders are gone without a clean end, by path.
    """

    version: int | None
    held: dict[int, Claim | None]
    unclean: dict[str, tuple[int, Claim | None]]

    @classmethod
    def look(cls, requests: Requests, places: Places, hub: Hub) -> Slots:
        """Read all of it, with watches for whatever may free a slot."""
        watched = [places.slots]
        while True:
            # The slots first: a mark is never without its slot to who reads them in this order.
            slots, marks = requests.children_of_all(
                [places.slots, places.marks], watched, hub.fired
            )
            found = cls.read(requests, places, slots, marks)
            # While every mark has its slot, none goes without it: one event for both is enough.
            if not found.unclean or places.marks in watched:
                return found
            watched.append(places.marks)

    @classmethod
    def read(
        cls,
        requests: Requests,
        places: Places,
        slots: tuple[list[str], ZnodeStat] | None,
        marks: tuple[list[str], ZnodeStat] | None,
    ) -> Slots:
        """Read what stands at the names that were found in the two folders."""
        named = [number_in(name) for name in (slots[0] if slots else [])]
        numbers = sorted(number for number in named if number is not None)
        nodes = requests.get_many([places.slot(number) for number in numbers])
        held = {
            number: Claim.parse(node[0])
            for number, node in zip(numbers, nodes, strict=True)
            if node is not None
        }
        names = marks[0] if marks else []
        live = {f"{number}.{claim.attempt}" for number, claim in held.items() if claim}
        stale = [name for name in names if name not in live]
        nodes = requests.get_many([f"{places.marks}/{name}" for name in stale])
        unclean = {
            f"{places.marks}/{name}": (number_in(name) or 0, Claim.parse(node[0]))
            for name, node in zip(stale, nodes, strict=True)
            if node is not None
        }
        return cls(int(slots[1].version) if slots else None, held, unclean)


class UncleanEnds:
    """Since when this process knows of each unclean end; the lock-delay is counted from there."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._first_seen: dict[str, float] = {}

    def age(self, mark: str) -> float:
        """Return seconds since a left-behind mark was first asked for."""
        now = self._now()
        with self._lock:
            return now - self._first_seen.setdefault(mark, now)

    def keep_only(self, folder: str, marks: Container[str]) -> None:
        """Forget the marks of one lock that are not among `marks`."""
        with self._lock:
            for mark in list(self._first_seen):
                if mark.startswith(f"{folder}/") and mark not in marks:
                    del self._first_seen[mark]


def give_back(requests: Requests, places: Places, slot: int, attempt: str) -> bool:
    """Remove the mark of an attempt, and its slot if it still has it; say whether it had a mark."""
    steps = requests.transaction()
    # Where this mark stands nobody else can have the slot: who takes it removes the mark.
    steps.delete(places.mark(slot, attempt))
    steps.delete(places.slot(slot))
    try:
        steps.commit()
    except Refused as refusal:
        if refusal.step == 0:
            return False
        return requests.delete(places.mark(slot, attempt))
    return True


def leave_mark(requests: Requests, lock: ZooKeeperLock) -> None:
    """Remove a slot and note at its mark that its holder went of his own accord.

    Of one that was broken the mark goes, too.
    """
    slot, mark = lock.fence
    left = dataclasses.replace(lock.claim, abandoned=True).encoded()
    steps = requests.transaction()
    steps.set(mark, left)
    steps.delete(slot)
    try:
        steps.commit()
    except Refused as refusal:
        if refusal.step == 1:  # the slot went with its session, or was broken
            found = requests.get(mark)
            claim = None if found is None else Claim.parse(found[0])
            if claim is not None and claim.broken:
                # Nothing is kept for who was told to give it up, and nothing of his goes on.
                requests.delete(mark)
                return
            with contextlib.suppress(NoNodeError):
                requests.set(mark, left)


def tidy(requests: Requests, places: Places) -> None:
    """Remove the folders of a lock that nobody uses, without waiting for the answer."""
    steps = requests.transaction()
    steps.delete_all(reversed(places.all))
    steps.commit_later(lambda _: None)


def number_in(name: str) -> int | None:
    """Return the number of a slot from its name or its mark's; None for what is not ours."""
    number = name.partition(".")[0]
    return int(number) if number.isascii() and number.isdecimal() else None
