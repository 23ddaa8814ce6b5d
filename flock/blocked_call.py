"""A call that a run's own thread waits for, while its recipe goes on nowhere.

It counts as a wait of the run: another machine's run may wait for this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flock.errors import DeadlockError
from registry.contract import LockStatus
from registry.readings import Reading

_FOR_A_RUN = frozenset({("flock_api", "run_chef"), ("sink", "wash")})


class BlockedCall:
    """One call that is waited for; the same fields as a wait of a recipe.

    Attributes:
        number: tells it from every other wait of this process.
        since: when it began, seconds of the wall clock.
        readings: what its answer depends on.
        circle: the circle of waits that it is part of.
    """

    resource = ""
    is_plain = True
    status: Callable[[], LockStatus] | None = None

    def __init__(self, call: Any, since: float, fail: Callable[[Exception], None]) -> None:
        """Take a call.

        Args:
            call: a `flock.calls.CallFuture`.
            since: when it was made.
            fail: ends it with an error.
        """
        # No wait of a recipe has such a number.
        self.number = -int(call.call_id)
        self.since = since
        self.text = f"call {call.label}"
        self.circle = ""
        self._call = call
        self._fail = fail

    @property
    def readings(self) -> frozenset[Reading]:
        """What the answer depends on: the run over there, if it was promised for its end."""
        call = self._call
        if call.is_lifted and (call.actor, call.method) in _FOR_A_RUN:
            return frozenset({Reading("run", call.peer.title)})
        return frozenset({Reading("actor", f"{call.peer.title}/{call.actor}")})

    def ask_again(self, within: float) -> bool:  # noqa: ARG002 - it is asked once: there is nothing to wait for
        """Say whether it is still waited for."""
        return not self._call.is_ready()

    def give_up(self) -> None:
        """End it, because of its circle."""
        error = DeadlockError(f"{self.text} would have no answer; {self.circle}")
        error.may_have_run = True
        self._fail(error)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, as a wait of a recipe."""
        return {
            "resource": self.resource,
            "wait": self.text,
            "asks": sorted(str(reading) for reading in self.readings),
            "last": "",
            "seconds": round(time.time() - self.since, 1),
            "circle": self.circle,
        }


class RunThread:
    """The thread of a run, as seen by the calls it makes (`flock.context.WaitingActor`).

    Attributes:
        blocked: the call that it has been waiting for, for a while.
    """

    name = ""
    caller = ""

    def __init__(
        self,
        find: Callable[[int], BlockedCall | None],
        tell: Callable[[], None],
        fail: Callable[[int, Exception], None],
    ) -> None:
        """Wait for nothing yet.

        Args:
            find: returns a call that is waited for.
            tell: called when one takes so long that somebody should look why.
            fail: ends a call with an error.
        """
        self.blocked: BlockedCall | None = None
        self._find = find
        self._tell = tell
        self._fail = fail
        self._lock = threading.Lock()
        self._waits_for = 0
        self._cancelled: Exception | None = None

    def begin_wait(self, call_id: int) -> None:
        """Note that a call is waited for; a run that was cancelled waits for none."""
        with self._lock:
            self._waits_for = call_id
            cancelled = self._cancelled
        if cancelled is not None:
            self._fail(call_id, cancelled)

    def probe(self, call_id: int) -> None:
        """Take note of a call that has been waited for for a while."""
        self.blocked = self._find(call_id)
        if self.blocked is not None:
            self._tell()

    def end_wait(self, call_id: int) -> None:  # noqa: ARG002 - a thread waits for one at a time
        """Note that the wait is over."""
        with self._lock:
            self._waits_for = 0
        self.blocked = None

    def cancel(self, error: Exception) -> None:
        """End the call that is waited for, and all later ones, with `error`; on any thread."""
        with self._lock:
            self._cancelled = error
            call_id = self._waits_for
        if call_id:
            self._fail(call_id, error)
