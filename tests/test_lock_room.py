"""Whether there is room for one more at a lock: both registries judge alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import LockOwner
from registry.embedded_line import KEPT, Ticket, may_enter
from registry.records import encode, to_plain
from registry.zookeeper_lock import Claim, Places
from registry.zookeeper_slots import Slots, UncleanEnds
from registry.zookeeper_vacancy import Vacancy

PLACES = Places("/flock/locks/web")


@dataclass(frozen=True)
class Seat:
    """Who has a slot, or wants one."""

    name: str
    group: str = ""
    slots: int = 1
    kept: bool = False

    @property
    def owner(self) -> LockOwner:
        return LockOwner(self.name, f"host of {self.name}", group=self.group)


def embedded_has_room(seat: Seat, taken: list[Seat]) -> bool:
    def ticket(number: int, one: Seat) -> Ticket:
        owner = encode(to_plain(one.owner), "an owner", 1000)
        session = KEPT if one.kept else f"session {number}"
        return Ticket(number, session, one.slots, number, "", owner, number, "web")

    if any(one.kept and one.name == seat.name for one in taken):
        taken = [one for one in taken if not one.kept]
    return may_enter(ticket(99, seat), [ticket(number, one) for number, one in enumerate(taken)])


def zookeeper_has_room(seat: Seat, taken: list[Seat]) -> bool:
    def claim(number: int, one: Seat) -> Claim:
        return Claim(
            attempt=f"attempt{number}",
            owner=one.name,
            host=one.owner.host,
            run_id="",
            reason="",
            since="",
            slots=one.slots,
            group=one.group,
            keep=one.kept,
            abandoned=one.kept,
        )

    held: dict[int, Claim | None] = {}
    unclean: dict[str, tuple[int, Claim | None]] = {}
    for number, one in enumerate(taken):
        if one.kept:
            unclean[PLACES.mark(number, f"attempt{number}")] = (number, claim(number, one))
        else:
            held[number] = claim(number, one)
    session: Any = SimpleNamespace(lock_delay=10.0)
    vacancy = Vacancy(session, UncleanEnds(lambda: 0.0), PLACES, seat.owner, seat.slots)
    return vacancy.free_slot(Slots(1, held, unclean), claim(99, seat)) is not None


@pytest.mark.parametrize("has_room", [embedded_has_room, zookeeper_has_room])
@pytest.mark.parametrize(
    ("seat", "taken", "expected"),
    [
        (Seat("fry"), [], True),
        (Seat("fry"), [Seat("leela")], False),
        (Seat("fry", slots=2), [Seat("leela", slots=2)], True),
        (Seat("fry", slots=1), [Seat("leela", slots=2)], False),
        (Seat("fry", slots=2), [Seat("leela", slots=1)], False),
        # A group shares a slot.
        (Seat("fry", "rack1"), [Seat("leela", "rack1"), Seat("zoidberg", "rack1")], True),
        (Seat("fry", "rack2"), [Seat("leela", "rack1")], False),
        (Seat("fry", "rack2", slots=2), [Seat("leela", "rack1", slots=2)], True),
        # What is kept takes a slot by itself, and nobody of its group follows.
        (Seat("fry"), [Seat("leela", kept=True)], False),
        (Seat("fry", slots=2), [Seat("leela", slots=2, kept=True)], True),
        (Seat("fry", "rack1"), [Seat("leela", "rack1", kept=True)], False),
        (Seat("fry", "rack1"), [Seat("zoidberg", "rack1"), Seat("leela", "rack1", 1, True)], False),
        (Seat("fry", "rack1", 2), [Seat("leela", "rack1", slots=2, kept=True)], True),
        # Its owner comes back past what is kept for others, not past those who hold.
        (Seat("fry"), [Seat("fry", kept=True), Seat("leela", kept=True)], True),
        (Seat("fry"), [Seat("fry", kept=True), Seat("leela", slots=2)], False),
        (Seat("fry", "rack2"), [Seat("fry", "rack1", 1, True), Seat("leela", "rack1")], False),
        (Seat("fry", "rack1"), [Seat("fry", "rack1", 1, True), Seat("leela", "rack1")], True),
    ],
)
def test_who_finds_room(has_room, seat, taken, expected):
    assert has_room(seat, taken) is expected


seats = st.builds(
    Seat,
    name=st.sampled_from(["fry", "leela", "zoidberg", "amy"]),
    group=st.sampled_from(["", "rack1", "rack2"]),
    slots=st.integers(1, 3),
    kept=st.booleans(),
)


@given(seats, st.lists(seats, max_size=5, unique_by=lambda seat: seat.name))
def test_both_registries_find_the_same_room(seat, taken):
    seat = replace(seat, kept=False)
    assert zookeeper_has_room(seat, taken) is embedded_has_room(seat, taken)
