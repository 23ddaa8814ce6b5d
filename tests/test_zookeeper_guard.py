"""How long a session surely stands, by a clock that the test moves."""

from __future__ import annotations

import pytest

from registry.zookeeper_guard import Guard, Standing, boottime


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Guard:
    guard = Guard(30.0, clock)
    guard.begin(7, granted=9.0, started=clock.now)
    return guard


def test_before_any_session_nothing_stands(clock):
    guard = Guard(9.0, clock)
    assert guard.session is None
    assert guard.is_over()
    assert guard.standing(7) is Standing.GONE


def test_a_new_session_is_in_doubt_until_a_write_was_committed(guard, clock):
    assert guard.standing(7) is Standing.DOUBTFUL
    guard.confirm(7, clock.now)
    assert guard.standing(7) is Standing.SURE


def test_a_confirmation_is_good_for_two_thirds_of_the_granted_timeout(guard, clock):
    guard.confirm(7, started=clock.now)
    clock.now += 5.9
    assert guard.standing(7) is Standing.SURE
    clock.now += 0.1
    assert guard.standing(7) is Standing.DOUBTFUL


def test_it_counts_from_the_start_of_the_round_trip_not_from_its_answer(guard, clock):
    started = clock.now
    clock.now += 4.0
    guard.confirm(7, started)
    clock.now += 2.0
    assert guard.standing(7) is Standing.DOUBTFUL


def test_an_older_confirmation_that_arrives_late_takes_nothing_back(guard, clock):
    guard.confirm(7, clock.now)
    guard.confirm(7, clock.now - 8.0)
    assert guard.standing(7) is Standing.SURE


def test_answers_to_pings_and_reads_do_not_make_sure(guard, clock):
    guard.confirm(7, clock.now)
    for _ in range(20):
        clock.now += 1.0
        guard.heard(clock.now)
    assert guard.standing(7) is Standing.DOUBTFUL
    assert not guard.is_over()


def test_silence_of_one_and_a_half_timeouts_is_the_end(guard, clock):
    guard.confirm(7, clock.now)
    clock.now += 13.4
    assert guard.standing(7) is Standing.DOUBTFUL
    assert not guard.is_over()
    clock.now += 0.1
    assert guard.standing(7) is Standing.GONE
    assert guard.is_over()


def test_a_new_session_makes_the_old_one_gone_at_once(guard, clock):
    guard.confirm(7, clock.now)
    guard.begin(8, granted=9.0, started=clock.now)
    assert guard.standing(7) is Standing.GONE
    assert guard.standing(8) is Standing.DOUBTFUL


def test_the_same_session_taken_up_again_keeps_its_confirmation(guard, clock):
    guard.confirm(7, clock.now)
    clock.now += 1.0
    guard.begin(7, granted=9.0, started=clock.now)
    assert guard.standing(7) is Standing.SURE


def test_a_confirmation_for_another_session_counts_nothing(guard, clock):
    guard.confirm(6, clock.now)
    guard.confirm(None, clock.now)
    assert guard.standing(7) is Standing.DOUBTFUL


def test_an_ended_session_is_gone(guard, clock):
    guard.confirm(7, clock.now)
    guard.end()
    assert guard.standing(7) is Standing.GONE
    assert guard.session is None
    assert guard.is_over()


def test_the_clock_does_not_run_backwards():
    assert 0 < boottime() <= boottime()
