"""One run that was ordered: what it is asked to do, how it goes, how it ended."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flock.converge.cancellation import Cancellation
from flock.converge.locks import LockWish
from flock.converge.report import Report, RunState
from flock.converge.waiting import Waits

log = logging.getLogger("flock.converge")

Ended = Callable[[dict[str, Any]], None]
Listener = Callable[[dict[str, Any]], None]


class Run:
    """A run from its acceptance to its end; any thread may look at it.

    Attributes:
        run_id: its name.
        override_run_list: what it runs instead of the node's own run list.
        why_run: it names changes and makes none.
        lock: the lock that it is under as a whole; None for none.
        deed: `restart service[app]` if it is the action of a notice; None for a run.
        wash: the sinks that it washes instead of converging; None for a run that converges.
        unwashed: the sinks that it left dirty; None for a run that says nothing
            of what is still in use.
        listeners: are told each event of the run, on its thread; they must not
            block, and add themselves before it starts.
        cancellation: how it is asked to end.
        waits: what it waits for right now.
        report: filled by the kitchen.
    """

    def __init__(
        self,
        node: str,
        asked_by: str,
        run_list: Sequence[str],
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
        lock: LockWish | None = None,
        wash: Sequence[str] | None = None,
        cancellation: Cancellation | None = None,
        deed: str | None = None,
    ) -> None:
        self.run_id = secrets.token_hex(8)
        self.override_run_list = None if override_run_list is None else list(override_run_list)
        self.why_run = why_run
        self.lock = lock
        self.deed = deed
        self.wash = None if wash is None else tuple(wash)
        self.unwashed: list[str] | None = None
        self.listeners: list[Listener] = []
        self.cancellation = cancellation or Cancellation()
        self.waits = Waits(self.cancellation)
        wanted = run_list if override_run_list is None else override_run_list
        self.report = Report(self.run_id, node, asked_by, list(wanted), why_run)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._final: dict[str, Any] | None = None
        self._callbacks: list[Ended] = []

    @property
    def state(self) -> RunState:
        """`queued`, `running`, `ok`, `failed` or `cancelled`."""
        return self.report.state

    @property
    def is_own(self) -> bool:
        """Whether it converges the node's own run list."""
        return self.override_run_list is None and self.wash is None

    def as_data(self) -> dict[str, Any]:
        """Return what the run is and how it stands, as plain data without its resources."""
        return {
            "run_id": self.run_id,
            "node": self.report.node,
            "state": self.state,
            "asked_by": self.report.asked_by,
            "deed": self.deed,
            "override_run_list": self.override_run_list,
            "why_run": self.why_run,
            "lock": None if self.lock is None else self.lock.lockid,
        }

    def asks_the_same(self, other: Run) -> bool:
        """Say whether `other` would do the same, so that its caller may join this one."""
        mine = (self.override_run_list, self.why_run, self.lock, self.wash)
        return mine == (other.override_run_list, other.why_run, other.lock, other.wash)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to end: its command is killed, its waits end; harmless once it is over."""
        self.cancellation.cancel(reason)

    def on_ended(self, callback: Ended) -> None:
        """Call `callback` with the report when the run is over; at once if it is.

        Called on the kitchen's thread (or on the caller's, if the run is over),
        after the run has given up everything and is active no more.
        """
        with self._lock:
            if self._final is None:
                self._callbacks.append(callback)
                return
            final = self._final
        callback(final)

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Wait for the end.

        Returns:
            The report; None if the run was not over after `timeout` seconds.
        """
        self._ended.wait(timeout)
        return self._final

    def settle(self, final: dict[str, Any]) -> None:
        """Tell that the run is over; only the kitchen does, once."""
        with self._lock:
            self._final = final
            callbacks, self._callbacks = self._callbacks, []
        self._ended.set()
        for callback in callbacks:
            try:
                callback(final)
            except (Exception, SystemExit):
                log.exception("somebody who waited for run %s failed", self.run_id)
