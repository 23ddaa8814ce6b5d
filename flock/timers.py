"""Things to be done later: one clock thread for all actors of a process.

Times are monotonic. What is due is handed to its owner, which runs it; the
clock itself never works for anybody, so nobody can be late for another.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

from flock.errors import UsageError

logger = logging.getLogger(__name__)

_SWEEP_AT = 1000  # timers; fewer are not worth to be looked through


class Timer:
    """One thing to be done later; `cancel` ends it.

    Any thread may cancel it, any number of times. After `cancel` has returned
    it is not begun again.
    """

    __slots__ = ("_due", "_is_cancelled", "_is_over", "interval")

    def __init__(self, due: Callable[[Timer], None], interval: float | None) -> None:
        """Note what to do; `interval` seconds between two times, None for once."""
        self._due = due
        self._is_cancelled = False
        self._is_over = False
        self.interval = interval

    @property
    def is_cancelled(self) -> bool:
        """True once it was cancelled."""
        return self._is_cancelled

    @property
    def is_waiting(self) -> bool:
        """True while it may still fall due."""
        return not self._is_cancelled and not self._is_over

    @property
    def is_over(self) -> bool:
        """True once it never falls due again."""
        return not self.is_waiting

    def cancel(self) -> None:
        """End it."""
        self._is_cancelled = True

    def fall_due(self) -> None:
        """Hand it to its owner, unless it was cancelled; the clock's to call."""
        if not self._is_cancelled:
            self._is_over = self.interval is None
            self._due(self)


class Clock:
    """The thread that waits; it starts with the first timer and ends when none is left."""

    def __init__(self) -> None:
        """Make it without a thread."""
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything: in a child that was forked there are no thread and no owners."""
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, Timer]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sweep_at = _SWEEP_AT

    def start(
        self, seconds: float, due: Callable[[Timer], None], interval: float | None = None
    ) -> Timer:
        """Have `due(timer)` called after `seconds`, and again each `interval` seconds.

        Args:
            seconds: until the first time, 0 or more.
            due: must return at once; called on the clock's thread.
            interval: above 0; None for once.

        Raises:
            UsageError: they are no such numbers.
        """
        # Asked so that NaN is refused, too: it has no place among what is due.
        if not seconds >= 0 or (interval is not None and not interval > 0):
            raise UsageError("a timer wants seconds of 0 or more, and an interval above 0")
        timer = Timer(due, interval)
        with self._changed:
            if len(self._waiting) >= self._sweep_at:
                # What is cancelled long before it is due would be kept until then.
                self._sweep()
                self._sweep_at = max(_SWEEP_AT, 2 * len(self._waiting))
            entry = (time.monotonic() + seconds, next(self._numbers), timer)
            heapq.heappush(self._waiting, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flock-clock", daemon=True)
                self._thread.start()
            elif self._waiting[0] is entry:
                self._changed.notify()
        return timer

    def discard(self, timers: list[Timer]) -> None:
        """Cancel timers and forget them at once, so that nothing keeps the clock going."""
        for timer in timers:
            timer.cancel()
        with self._changed:
            self._sweep()
            self._changed.notify()

    def _sweep(self) -> None:
        """Forget what was cancelled; the lock is held."""
        self._waiting = [entry for entry in self._waiting if not entry[2].is_cancelled]
        heapq.heapify(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._waiting and self._waiting[0][2].is_cancelled:
                    heapq.heappop(self._waiting)
                if not self._waiting:
                    self._thread = None
                    return
                when, _, timer = self._waiting[0]
                left = when - time.monotonic()
                if left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                heapq.heappop(self._waiting)
                if timer.interval is not None:
                    # From when it was due, not from now: a late one does not shift all others.
                    following = max(when + timer.interval, time.monotonic())
                    heapq.heappush(self._waiting, (following, next(self._numbers), timer))
            try:
                timer.fall_due()
            except Exception:
                # One that fails (there is no room for a thread, say) must not end all others.
                logger.exception("what was due could not be handed over")


clock = Clock()
os.register_at_fork(after_in_child=clock.start_afresh)
"""This process's clock."""
