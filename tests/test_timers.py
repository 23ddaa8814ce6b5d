"""The clock: what is due is handed over, whatever becomes of the others."""

from __future__ import annotations

import threading

import pytest

from flock.errors import UsageError
from flock.timers import Clock, Timer


def test_one_that_cannot_be_handed_over_ends_none_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, done = Clock(), threading.Event()

    def fail(_: Timer) -> None:
        raise RuntimeError("can't start new thread")

    clock.start(0.0, fail)
    clock.start(0.05, lambda _: done.set())
    assert done.wait(20)
    assert "can't start new thread" in caplog.text


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_one_that_is_due_in_no_time_a_thread_can_wait_ends_none_of_the_others(
    seconds: float,
) -> None:
    clock, done = Clock(), threading.Event()
    never = clock.start(seconds, lambda _: None)
    clock.start(0.05, lambda _: None)
    clock.start(0.1, lambda _: done.set())
    assert done.wait(5)
    clock.discard([never])


@pytest.mark.parametrize("seconds", [float("nan"), -1])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="a timer wants seconds"):
        Clock().start(seconds, lambda _: None)
    with pytest.raises(UsageError, match="a timer wants seconds"):
        Clock().start(1.0, lambda _: None, seconds)


def test_what_is_cancelled_long_before_it_is_due_is_not_kept() -> None:
    clock = Clock()
    kept = clock.start(3600, lambda _: None)
    for _ in range(10_000):
        clock.start(3600, lambda _: None).cancel()
    assert len(clock._waiting) <= 1001
    clock.discard([kept])


def test_timers_fall_due_in_order_and_each_time_anew_until_they_are_cancelled() -> None:
    clock, seen, done = Clock(), [], threading.Event()

    def tick(timer: Timer) -> None:
        seen.append("tick")
        if seen.count("tick") == 3:
            timer.cancel()
            clock.start(0.0, lambda _: done.set())

    # So far apart that a loaded machine sets them all before the second is due.
    clock.start(0.5, lambda _: seen.append("second"))
    clock.start(0.0, lambda _: seen.append("first"))
    ticking = clock.start(0.7, tick, 0.01)
    assert done.wait(20)
    assert seen == ["first", "second", "tick", "tick", "tick"]
    assert ticking.is_over
