"""A wait while it goes on: woken, asked again, given up, cancelled."""

from __future__ import annotations

import threading
import time

import pytest

from flock.converge.cancellation import Cancellation
from flock.converge.waiting import Waits
from flock.errors import RunCancelled
from registry.contract import LockStatus
from registry.readings import Reading
from tests.support import eventually


@pytest.fixture
def waits():
    return Waits(Cancellation())


def beside(function, *args):
    """Call a function on another thread; returns the thread and the list that gets its value."""
    values = []
    thread = threading.Thread(target=lambda: values.append(function(*args)))
    thread.start()
    return thread, values


def test_what_is_waited_for_is_shown_while_it_goes_on(waits):
    assert waits.as_data() is None
    with waits.waiting("log[a]", "wait_until x") as waiting:
        waiting.begin_question()
        waiting.end_question("False", {Reading("run", "bender1"), Reading("nodes")})
        shown = waits.as_data()
    assert shown.pop("seconds") < 5
    assert shown == {
        "resource": "log[a]",
        "wait": "wait_until x",
        "asks": ["nodes", "run bender1"],
        "last": "False",
        "circle": "",
    }
    assert waits.as_data() is None


def test_news_during_a_question_make_it_be_asked_once_more_at_once(waits):
    with waits.waiting("", "x") as waiting:
        waiting.begin_question()
        waiting.wake()
        waiting.end_question("False", ())
        begun = time.monotonic()
        waiting.pause(60)
    assert time.monotonic() - begun < 30


def test_news_before_a_question_are_its_own(waits):
    with waits.waiting("", "x") as waiting:
        waiting.wake()
        waiting.begin_question()
        waiting.end_question("False", ())
        begun = time.monotonic()
        waiting.pause(0.2)
    assert time.monotonic() - begun >= 0.2


def test_however_often_it_is_woken_it_is_not_asked_without_a_pause(waits):
    with waits.waiting("", "x") as waiting:
        begun = time.monotonic()
        for _ in range(5):
            waiting.begin_question()
            waiting.wake()
            waiting.end_question("False", ())
            waiting.pause(60)
    assert time.monotonic() - begun >= 5 * 0.05


def test_asking_again_waits_for_an_answer_to_a_question_begun_afterwards(waits):
    with waits.waiting("", "x") as waiting:
        waiting.begin_question()
        asking, answers = beside(waiting.ask_again, 30.0)
        assert eventually(lambda: waiting._is_woken, within=10)
        waiting.end_question("old", ())
        assert answers == []
        waiting.pause(60)
        waiting.begin_question()
        waiting.end_question("new", ())
        asking.join(10)
        assert answers == [True]


def test_asking_again_says_no_when_the_wait_ends_or_nothing_comes(waits):
    with waits.waiting("", "x") as waiting:
        assert waiting.ask_again(0.01) is False
        asking, answers = beside(waiting.ask_again, 30.0)
    asking.join(10)
    assert answers == [False]
    assert waiting.ask_again(0.01) is False


def test_the_wait_for_a_lock_has_no_question_to_be_asked_again(waits):
    with waits.waiting("", "lock 'web'", status=lambda: LockStatus("web", 1)) as waiting:
        assert waiting.ask_again(0.0) is True
    assert waiting.ask_again(0.0) is False


def test_giving_up_wakes_it_and_tells_who_holds_it_up(waits):
    told = []
    with waits.waiting("", "x", on_give_up=lambda: told.append("told")) as waiting:
        waiting.give_up()
        waiting.pause(60)
    assert waiting.gave_up
    assert told == ["told"]


def test_a_cancelled_run_ends_its_pause(waits):
    cancellation = Cancellation()
    with Waits(cancellation).waiting("", "x") as waiting:
        timer = threading.Timer(0.1, cancellation.cancel, ("enough",))
        timer.start()
        with pytest.raises(RunCancelled, match="enough"):
            waiting.pause(60)
        timer.join()
