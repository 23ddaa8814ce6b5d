"""Nothing is left of what is over: not after thousands of calls, visitors and restarts.

Counted in both processes: threads, open files, Python's own objects (one that
is kept for each visitor shows), and memory.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import zmq

from flock import Flock
from flock.errors import CallError
from tests.support import eventually
from tests.system.flock_process import Start, what_is_kept

Counts = dict[str, int]


def left_over(count: Callable[[], Counts], before: Counts, times: int) -> Counts:
    """Return by how much more there is than `before`, as far as it is too much.

    Pools make threads as they need them, each new thread may have the C library
    take another piece of memory, and everything is closed a moment after it is
    over: a few more are allowed, one for each time never.

    Args:
        count: counts now.
        before: what there was.
        times: how often that was done of which nothing may be left.
    """
    allowed = {"threads": 8, "files": 8, "objects": times // 5 + 100, "kib": times + 8192}

    def too_much() -> Counts:
        now = count()
        return {
            what: now[what] - before[what]
            for what in before
            if now[what] - before[what] > allowed[what]
        }

    return eventually(too_much, within=30.0, becomes={}, pause=0.5)


def test_nothing_is_left_of_ten_thousand_calls(start: Start, registry_url: str) -> None:
    there = start("there")
    with Flock(registry=registry_url) as here:
        target = here["there"]["target"]

        def call(times: int) -> None:
            for number in range(times // 10):
                futures = [target.add.future(number, each) for each in range(7)]
                target.note.defer(number) if number < 10 else target.inherited.defer()
                assert target.add(number, 1) == number + 1
                with pytest.raises(ValueError, match="no"):
                    target.raise_value_error("no")
                assert [future.get() for future in futures] == [number + each for each in range(7)]

        call(500)
        mine, others = what_is_kept(), there.do("kept")
        call(10_000)

        assert left_over(what_is_kept, mine, 10_000) == {}
        assert left_over(lambda: there.do("kept"), others, 10_000) == {}


@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_thousand_visitors(start: Start) -> None:
    there, visitors = start("there"), start(None)
    visitors.do("visit", node="there", times=50)
    mine, others = visitors.do("kept"), there.do("kept")
    visitors.begin("visit", node="there", times=1000)
    visitors.result(within=200.0)

    assert left_over(lambda: visitors.do("kept"), mine, 1000) == {}
    assert left_over(lambda: there.do("kept"), others, 1000) == {}


def test_nothing_is_left_of_a_hundred_restarts_of_a_peer(start: Start, registry_url: str) -> None:
    keys = [key.decode() for key in zmq.curve_keypair()]
    there = start("there")
    with Flock(registry=registry_url) as here:
        target = here["there"]["target"]

        def restart(times: int, keys: list[str] | None) -> None:
            for number in range(times):
                promised = target.promise_for_ever.future()
                assert target.add(number, 1) == number + 1
                there.do("start_anew", keys=keys)
                with pytest.raises(CallError):
                    promised.get()
                assert target.add(number, 2) == number + 2

        restart(10, None)
        mine, others = what_is_kept(), there.do("kept")
        restart(50, None)
        restart(50, keys)

        assert left_over(what_is_kept, mine, 100) == {}
        assert left_over(lambda: there.do("kept"), others, 100) == {}


def test_nothing_is_left_of_peers_that_were_killed(start: Start, registry_url: str) -> None:
    there = start("there")
    for _ in range(2):
        _visit_and_be_killed(start)
    before = there.do("kept")
    for _ in range(10):
        _visit_and_be_killed(start)

    # Of one at a time a hundred objects are left until its session has ended, too.
    def left() -> int:
        return int(there.do("kept")["objects"] - before["objects"])

    assert eventually(left, within=40.0, until=lambda count: count < 100, pause=0.5) < 100
    assert left_over(lambda: there.do("kept"), before, 10) == {}


def _visit_and_be_killed(start: Start) -> None:
    visitor = start(None)
    assert visitor.call("there", "target", "add", 1, 1) == 2
    visitor.kill()
