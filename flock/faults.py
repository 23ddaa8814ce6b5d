"""Places where a test lets this process die.

Between a change and the last receipt of its notice lie steps after each of
which a machine may lose its power. The code says at each that it is there;
with `FLOCK_TEST_FAULTS=STEP:N` in the environment the process kills itself
the Nth time it comes to that step, as `kill -9` would. Without the variable
nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "FLOCK_TEST_FAULTS"

_lock = threading.Lock()
_counts: dict[str, int] = {}


def reached(step: str) -> None:
    """Say that the work has come to `step`; any thread may."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, number = wanted.rpartition(":")
    if name != step:
        return
    with _lock:
        _counts[step] = _counts.get(step, 0) + 1
        if _counts[step] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
