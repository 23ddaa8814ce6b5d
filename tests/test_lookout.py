"""Watching the runs of other nodes: one open call a node, however many wait."""

from __future__ import annotations

from typing import Any

import pytest

from flock.errors import NodeDownError
from flock.future import Future
from flock.lookout import FlockLookout
from registry.readings import Reading
from tests.support import eventually

RUN = Reading("run", "bender1")


class Flock:
    """Stands for a flock whose nodes answer when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, Future[Any]]] = []
        self.is_away = False
        self.change = self

    def __getitem__(self, name: str) -> Any:
        if self.is_away:
            raise NodeDownError(f"{name} is down")
        return self

    def future(self, seen: int | None) -> Future[Any]:
        future: Future[Any] = Future()
        self.asked.append((seen, future))
        return future

    def count(self) -> int:
        return len(self.asked)


@pytest.fixture
def fleet() -> Flock:
    return Flock()


@pytest.fixture
def lookout(fleet: Any) -> FlockLookout:
    return FlockLookout(lambda: fleet)


def test_a_change_is_told_to_all_and_the_next_one_is_asked_for(fleet, lookout):
    told: list[str] = []
    cancels = [lookout.watch(RUN, lambda name=name: told.append(name)) for name in ("a", "b")]
    assert [seen for seen, _ in fleet.asked] == [None]

    fleet.asked[0][1].set(41)

    assert told == ["a", "b"]
    assert eventually(fleet.count, within=10, becomes=2) == 2
    assert fleet.asked[1][0] == 41
    for cancel in cancels:
        cancel()
    fleet.asked[1][1].set(42)
    assert told == ["a", "b"]
    assert fleet.count() == 2


def test_a_call_that_is_still_open_serves_the_next_who_waits(fleet, lookout):
    told: list[str] = []
    lookout.watch(RUN, lambda: told.append("first"))()
    cancel = lookout.watch(RUN, lambda: told.append("second"))
    assert fleet.count() == 1

    fleet.asked[0][1].set(41)

    assert told == ["second"]
    assert eventually(fleet.count, within=10, becomes=2) == 2
    cancel()


def test_a_node_that_does_not_answer_is_asked_again_and_what_was_missed_is_looked_for(
    fleet, lookout, monkeypatch
):
    monkeypatch.setattr("flock.lookout._ASK_AGAIN", 0.05)
    told: list[str] = []
    fleet.is_away = True
    cancel = lookout.watch(RUN, lambda: told.append("look"))
    assert eventually(lambda: len(told) > 2, within=10)

    fleet.is_away = False
    assert eventually(fleet.count, within=10, becomes=1) == 1
    before = len(told)
    fleet.asked[0][1].fail(NodeDownError("bender1 is down"))

    assert eventually(fleet.count, within=10, becomes=2) == 2
    # Once because it went, once because something may have happened before it was asked again.
    assert eventually(lambda: len(told) >= before + 2, within=10)
    cancel()


def test_cancelling_ends_the_asking(fleet, lookout, monkeypatch):
    monkeypatch.setattr("flock.lookout._ASK_AGAIN", 30.0)
    fleet.is_away = True
    cancel = lookout.watch(RUN, print)
    cancel()
    # Its thread is over at once: no test may leave one behind.
    assert fleet.count() == 0
