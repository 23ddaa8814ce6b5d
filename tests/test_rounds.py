"""When work is looked at again."""

from __future__ import annotations

import threading

from flock.rounds import SWEEP, go_round


class Woken(threading.Event):
    """Notes how long each wait would be, and wakes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return True


def test_work_that_fails_is_tried_sooner_then_later_and_what_is_done_waits_for_the_sweep() -> None:
    woken, stopped = Woken(), threading.Event()
    results = iter([True, False, False, False, False, True, False])

    def work() -> bool:
        done = next(results, None)
        if done is None:
            stopped.set()
        return bool(done)

    go_round(work, woken, stopped, longest_pause=0.5)

    assert woken.pauses[:8] == [SWEEP, SWEEP, 0.1, 0.2, 0.4, 0.5, SWEEP, 0.1]


def test_who_is_stopped_works_no_more() -> None:
    woken, stopped = Woken(), threading.Event()
    stopped.set()

    go_round(lambda: 1 / 0 > 0, woken, stopped, longest_pause=1.0)

    assert woken.pauses == [SWEEP]
