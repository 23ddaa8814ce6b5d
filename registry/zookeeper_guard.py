"""What is surely known of our session, told by the clock.

kazoo never says that a session is lost while no server answers, and a process
that was paused hears of it a tenth of a second after it goes on. So nobody
here believes a flag: whether we still hold what we held is computed, each
time it is asked, from the start of the last round trip that proved it.

The clock is `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

_SURE = 2 / 3
"""Part of the session timeout that a confirmation is good for. The server ends a
session no sooner than one timeout after it last heard of it; the third that is
left is for clocks that run at different rates and for the time between asking
the guard and the effect."""

_SURELY_GONE = 3 / 2
"""Part of the session timeout after which a silent session has surely ended: the
server rounds up to its next tick, and a timeout has at least two of those."""

_NEVER = float("-inf")


def boottime() -> float:
    """Return seconds since the machine was booted, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Standing(enum.Enum):
    """What is known of something that lives as long as its session."""

    SURE = "sure"
    DOUBTFUL = "doubtful"
    GONE = "gone"


class Guard:
    """One session at a time: its id, the timeout it was granted, and its last proofs of life.

    Any thread may ask and tell.

    Args:
        asked: the session timeout that is asked for, in seconds; used until a
            server has granted one.
        clock: seconds; never runs backwards.
    """

    def __init__(self, asked: float, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._session: int | None = None
        self._granted = asked
        self._confirmed = _NEVER
        self._heard = _NEVER

    @property
    def session(self) -> int | None:
        """The session's id; None before the first one and after one has ended."""
        return self._session

    @property
    def granted(self) -> float:
        """The session timeout in seconds, as the server granted it."""
        return self._granted

    def now(self) -> float:
        """Return the clock's time, to be told as the start of a round trip."""
        return self._clock()

    def begin(self, session: int, granted: float, started: float) -> None:
        """Note that a server has made this session, or taken it up again.

        Args:
            session: its id.
            granted: its timeout in seconds.
            started: when we asked.
        """
        with self._lock:
            if session != self._session:
                self._session = session
                self._confirmed = _NEVER
                self._heard = started
            self._granted = granted
            self._heard = max(self._heard, started)

    def end(self) -> None:
        """Note that a server said the session has ended, or that we ended it."""
        with self._lock:
            self._session = None
            self._confirmed = _NEVER
            self._heard = _NEVER

    def heard(self, started: float) -> None:
        """Note that a server answered something that we sent at `started`."""
        with self._lock:
            self._heard = max(self._heard, started)

    def confirm(self, session: int | None, started: float) -> None:
        """Note that a write which we sent at `started` was committed.

        Only a committed write proves that the session stands: a follower that
        is cut off from its leader goes on answering pings and reads.
        """
        with self._lock:
            if session is not None and session == self._session:
                self._confirmed = max(self._confirmed, started)
                self._heard = max(self._heard, started)

    def standing(self, session: int) -> Standing:
        """Say what is known of what was held in `session`; asks no server."""
        with self._lock:
            if session != self._session:
                return Standing.GONE
            now = self._clock()
            if now < self._confirmed + _SURE * self._granted:
                return Standing.SURE
            if now < self._heard + _SURELY_GONE * self._granted:
                return Standing.DOUBTFUL
            return Standing.GONE

    def is_over(self) -> bool:
        """Say whether there is no session, or none that a server can still know."""
        with self._lock:
            return self._session is None or (
                self._clock() >= self._heard + _SURELY_GONE * self._granted
            )
