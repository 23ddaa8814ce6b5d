"""When a piece of work that waits on disk or in the registry is looked at again.

Whoever works something off, as the courier and the receiver of notices do,
looks when it is woken, once a minute for what nobody woke it for, and soon
after a failure, a little later each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

SWEEP = 60.0
"""Seconds between two looks when nothing wakes it."""

_FIRST_PAUSE = 0.1


def go_round(
    work: Callable[[], bool],
    woken: threading.Event,
    stopped: threading.Event,
    longest_pause: float,
) -> None:
    """Do `work` each time it is due, on the calling thread, until it is stopped.

    Args:
        work: says whether all was done; if not, it is tried again soon.
        woken: set by whoever wants a look at once; cleared before the work begins.
        stopped: ends it; set `woken` after it.
        longest_pause: seconds between two tries of work that fails again and again.
    """
    pause = SWEEP
    while True:
        woken.wait(pause)
        if stopped.is_set():
            return
        woken.clear()
        if work():
            pause = SWEEP
        else:
            pause = min(longest_pause, _FIRST_PAUSE if pause >= SWEEP else pause * 2)
