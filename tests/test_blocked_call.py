"""The thread of a run, and the calls that it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from flock.blocked_call import BlockedCall, RunThread
from flock.errors import DeadlockError, RunCancelled
from registry.readings import Reading


@dataclass
class Peer:
    title: str = "bender1"


@dataclass
class Call:
    """Stands for an open call, as far as it matters here."""

    call_id: int = 7
    actor: str = "flock_api"
    method: str = "run_chef"
    is_lifted: bool = True
    is_over: bool = False
    peer: Any = None

    def __post_init__(self) -> None:
        self.peer = Peer()

    @property
    def label(self) -> str:
        return f"{self.peer.title}/{self.actor}.{self.method}()"

    def is_ready(self) -> bool:
        return self.is_over


@pytest.mark.parametrize(
    ("call", "reading"),
    [
        (Call(), Reading("run", "bender1")),
        (Call(actor="sink", method="wash"), Reading("run", "bender1")),
        # With a timeout of its own it ends by itself.
        (Call(is_lifted=False), Reading("actor", "bender1/flock_api")),
        (Call(actor="itchy", method="fight"), Reading("actor", "bender1/itchy")),
    ],
)
def test_what_a_call_depends_on_is_the_run_that_it_waits_for_or_else_the_actor(call, reading):
    assert BlockedCall(call, 1.0, print).readings == {reading}


def test_a_call_goes_on_until_it_has_an_answer():
    call = Call()
    blocked = BlockedCall(call, 1.0, print)
    assert blocked.ask_again(60.0)
    call.is_over = True
    assert not blocked.ask_again(60.0)


def test_a_call_that_is_given_up_fails_with_its_circle():
    errors: list[Exception] = []
    blocked = BlockedCall(Call(), 1.0, errors.append)
    blocked.circle = "these wait for each other: a -> b"
    blocked.give_up()
    (error,) = errors
    assert isinstance(error, DeadlockError)
    assert error.may_have_run
    assert str(error) == (
        "call bender1/flock_api.run_chef() would have no answer; these wait for each other: a -> b"
    )
    assert blocked.as_data()["circle"] == blocked.circle


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def thread(told: list[Any]) -> RunThread:
    return RunThread(
        lambda call_id: BlockedCall(Call(call_id), 1.0, print),
        lambda: told.append("look"),
        lambda call_id, error: told.append((call_id, error)),
    )


def test_only_a_call_that_takes_long_is_looked_at(thread, told):
    thread.begin_wait(3)
    assert (thread.blocked, told) == (None, [])
    thread.probe(3)
    assert (thread.blocked.number, told) == (-3, ["look"])
    thread.end_wait(3)
    assert thread.blocked is None


def test_a_call_that_is_over_before_it_is_looked_at_is_nothing(told):
    thread = RunThread(lambda _: None, lambda: told.append("look"), lambda *_: None)
    thread.begin_wait(3)
    thread.probe(3)
    assert (thread.blocked, told) == (None, [])


def test_a_cancelled_run_ends_the_call_it_waits_for_and_those_that_follow(thread, told):
    error = RunCancelled("enough")
    thread.begin_wait(3)
    thread.cancel(error)
    thread.end_wait(3)
    thread.begin_wait(4)
    assert told == [(3, error), (4, error)]


def test_a_run_that_is_cancelled_while_it_works_ends_no_call(thread, told):
    thread.begin_wait(3)
    thread.end_wait(3)
    thread.cancel(RunCancelled("enough"))
    assert told == []
