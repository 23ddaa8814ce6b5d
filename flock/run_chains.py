"""On whose behalf a run works: the calls that wait for its end.

A recipe may order a run on another machine and wait for it; that machine's
recipe may do the same. When the circle closes, the last order would wait for
the run that waits for it. So a run carries the chains of the calls that wait
for it, and itself as one more link; an order that waits and comes along a
chain with the run that goes on here is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from flock.blocked_call import BlockedCall, RunThread
from flock.context import current
from flock.errors import DeadlockError, RunCancelled
from flock.messages import MAX_CHAIN, Chain


class Cancels(Protocol):
    """Whether a run was cancelled."""

    @property
    def reason(self) -> str:
        """Why."""

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when it is cancelled; returns what takes that back."""


class Ordered(Protocol):
    """A run that was ordered."""

    run_id: str

    @property
    def cancellation(self) -> Cancels:
        """How it is asked to end."""


R = TypeVar("R", bound=Ordered)


class RunChains:
    """The chains of the calls that wait for this node's runs; any thread may use it.

    Attributes:
        on_blocked: called when a run waits long for a call of its own.
    """

    def __init__(
        self,
        node_name: str,
        find: Callable[[int], BlockedCall | None] = lambda _: None,
        fail: Callable[[int, Exception], None] = lambda *_: None,
    ) -> None:
        """Begin with no runs.

        Args:
            node_name: this node's name.
            find: returns an open call of this process by its number.
            fail: ends such a call with an error.
        """
        self.on_blocked: Callable[[], None] = lambda: None
        self._node_name = node_name
        self._find = find
        self._fail = fail
        self._thread: RunThread | None = None
        self._lock = threading.Lock()
        self._waiting: dict[str, Chain] = {}
        self._running = ""

    def order_and_wait(self, order: Callable[[], R]) -> R:
        """Order a run on behalf of the call that this thread works on, which waits for its end.

        Raises:
            DeadlockError: the call came from the run that goes on here.
        """
        chain = current.chain
        # Held while the run is ordered, so that it cannot begin without its chain.
        with self._lock:
            if self._running and (self._node_name, _title(self._running), 0) in chain:
                places = [f"{node}/{name or 'caller'}" for node, name, _ in chain]
                path = " -> ".join([*places, self._node_name])
                raise DeadlockError(
                    f"run {self._running} here would wait for a run that waits for it: {path}",
                    places,
                )
            run = order()
            known = self._waiting.get(run.run_id, ())
            self._waiting[run.run_id] = (*known, *(link for link in chain if link not in known))
        return run

    @contextmanager
    def around(self, run: Ordered) -> Iterator[None]:
        """Make calls of this thread carry the run's chain, and end when the run is cancelled.

        A run may come here several times.
        """
        with self._lock:
            self._running = run.run_id
            waiting = self._waiting.get(run.run_id, ())[: MAX_CHAIN - 1]
        before, current.chain = current.chain, (*waiting, (self._node_name, _title(run.run_id), 0))
        thread = RunThread(self._find, self.on_blocked, self._fail)
        actor, current.actor, self._thread = current.actor, thread, thread
        cancellation = run.cancellation
        forget = cancellation.on_cancel(lambda: thread.cancel(RunCancelled(cancellation.reason)))
        try:
            yield
        finally:
            forget()
            current.chain, current.actor, self._thread = before, actor, None

    @property
    def blocked(self) -> BlockedCall | None:
        """The call that the run going on here has been waiting for, if it waits for one."""
        thread = self._thread
        return None if thread is None else thread.blocked

    def over(self, run_id: str) -> None:
        """Forget a run that ended."""
        with self._lock:
            self._waiting.pop(run_id, None)
            if self._running == run_id:
                self._running = ""


def _title(run_id: str) -> str:
    return f"run {run_id}"
