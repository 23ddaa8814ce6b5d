"""Which run goes on, which one waits, and who may join.

One run goes on, at most one more is queued. The run at the front starts once
no other process runs on this machine (`RunLock`). Runs happen on a thread that
lives only while there is something to run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from flock.converge.cancellation import Cancellation
from flock.converge.report import RunState
from flock.converge.run import Run
from flock.converge.run_lock import RunLock
from flock.errors import BusyError

log = logging.getLogger("flock.converge")

LOCK_PAUSE = 0.2
"""Seconds between two tries for a run lock that another process holds."""

LAST_GRACE = 15.0
"""Seconds in which what was cancelled is to end. Commands and waits do within 5, and a registry
that is away costs what settles a run some times 3; Python code of a recipe that goes on and asks
nobody can only be left behind."""

_LEAVING = "the node is leaving"


class RunMaker(Protocol):
    """Who makes the runs of a queue; called on the queue's thread."""

    def perform(self, run: Run) -> tuple[RunState, str | None]:
        """Make a run from its start to its end; returns its state and error, never raises."""

    def keep(self, run: Run, state: RunState, error: str | None) -> None:
        """Note that a run is over, before the next may start; never raises."""

    def announce(self, run: Run) -> None:
        """Tell everybody that a run is over, when it is active no more; never raises."""

    def queued(self, run: Run) -> None:
        """Tell that a run was accepted and waits for its turn; never raises."""

    def wait_for_lock(self, run: Run, holder: str) -> None:
        """Tell that a run waits for another process; never raises."""


class RunQueue:
    """The runs of one kitchen; any thread may use it."""

    def __init__(self, name: str, run_lock: RunLock, maker: RunMaker) -> None:
        self.name = name
        self._run_lock = run_lock
        self._maker = maker
        self._lock = threading.Lock()
        self._running: Run | None = None
        self._queued: Run | None = None
        self._worker: threading.Thread | None = None
        self._leaving = False
        self._wake = threading.Event()
        self._lock_released = threading.Condition(self._lock)
        self._deeds: set[Cancellation] = set()
        self._ending: Run | None = None
        self._given_up: Run | None = None

    @property
    def runs(self) -> tuple[Run | None, Run | None]:
        """The run that goes on, and the one that is queued."""
        with self._lock:
            return self._running, self._queued

    @property
    def is_leaving(self) -> bool:
        """Whether no more orders are taken."""
        return self._leaving

    def join_or_add(self, new_run: Callable[[], Run]) -> Run:
        """Accept an order.

        Args:
            new_run: makes the run; called only under the queue's lock.

        Returns:
            The run, or the queued one if that is to do the same.

        Raises:
            BusyError: another kind of run is queued, or the node is leaving.
        """
        with self._lock:
            self._refuse_if_leaving()
            run = new_run()
            if self._queued is not None:
                if self._queued.asks_the_same(run):
                    self._queued.listeners += run.listeners
                    return self._queued
                raise BusyError(
                    f"{self.name} is busy: run {self._queued.run_id} is queued already and is"
                    " another kind of run"
                )
            starts = self._running is None and self._take_run_lock(run)
            if not starts:
                self._queued = run
            self._start_worker()
        if not starts:
            self._maker.queued(run)
        return run

    def add_alone(self, run: Run, *, wait: bool) -> None:
        """Accept a run only if nothing else goes on.

        Args:
            run: what is to run.
            wait: wait for another process that runs here.

        Raises:
            BusyError: a run goes on; says whose.
        """
        with self._lock:
            self._refuse_if_leaving()
            for other in (self._running, self._queued):
                if other is not None:
                    raise BusyError(f"{self.name} is busy with run {other.run_id} of this process")
            if not self._take_run_lock(run):
                if not wait:
                    holder = self._run_lock.holder()
                    raise BusyError(f"{self.name} is busy: {holder} converges here")
                self._queued = run
            self._start_worker()

    def do_if_idle(self, deed: Callable[[], None]) -> bool:
        """Do something under the run lock, unless a run goes on here; say whether it was done."""
        with self._lock:
            if self._running is not None or not self._run_lock.take("a look at what is left over"):
                return False
            try:
                deed()
            finally:
                self._run_lock.release()
            return True

    @contextlib.contextmanager
    def alone(self, label: str, cancellation: Cancellation) -> Iterator[None]:
        """Wait until no run goes on, and keep runs out while inside.

        For deeds that are no run, such as the action of a notified resource.
        Runs that are ordered meanwhile wait.

        Args:
            label: what others read who find the run lock taken.
            cancellation: ends the wait; `stop` cancels it.

        Raises:
            RunCancelled: the wait was ended.
            BusyError: the node is leaving.
        """
        with self._lock:
            self._refuse_if_leaving()
            self._deeds.add(cancellation)
        try:
            with self._lock:
                while self._running is not None or not self._run_lock.take(label):
                    cancellation.check_boundary()
                    self._lock_released.wait(LOCK_PAUSE)
            try:
                yield
            finally:
                with self._lock:
                    self._release_run_lock()
        finally:
            with self._lock:
                self._deeds.discard(cancellation)
                self._lock_released.notify_all()

    def cancel(self, run_id: str | None, reason: str) -> Run | None:
        """End the run of this id, or the one that goes on, else the queued one."""
        with self._lock:
            known = [run for run in (self._running, self._queued) if run is not None]
            run = next((each for each in known if run_id in (None, each.run_id)), None)
            was_queued = run is not None and run is self._queued
            if was_queued:
                self._queued = None
        if run is None:
            return None
        run.cancel(reason)
        self._wake.set()
        if was_queued:
            self._finish(run, "cancelled", reason)
        return run

    def await_end(self, run: Run) -> None:
        """Wait for the end of a run that was cancelled; one that does not end is given up.

        It is over then for everybody but its own thread, and nothing else can
        run here: for a process that leaves.
        """
        if run.wait(LAST_GRACE) is not None:
            return
        with self._lock:
            if run is not self._running or run is self._ending:
                return
            self._given_up = run
        number = f"{LAST_GRACE:g}"
        error = f"{run.cancellation.reason}; it did not end within {number} s and is left behind"
        log.error("%s: run %s: %s: is it in Python code?", self.name, run.run_id, error)
        self._maker.keep(run, "cancelled", error)
        self._maker.announce(run)

    def stop(self, timeout: float) -> None:
        """Take no more orders and end what goes on: at its boundary, after `timeout` at once."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._leaving = True
            running, queued, worker = self._running, self._queued, self._worker
            for deed in self._deeds:
                deed.stop(_LEAVING)
            self._lock_released.notify_all()
        if queued is not None:
            self.cancel(queued.run_id, _LEAVING)
        if running is not None:
            running.cancellation.stop(_LEAVING)
            told = "%s: run %s goes on to its next resource, for %g s at most"
            log.info(told, running.report.node, running.run_id, timeout)
        self._wake.set()
        if worker is not None and worker is not threading.current_thread():
            if running is None or running is not self._given_up:
                worker.join(timeout)
            if worker.is_alive() and running is not None:
                running.cancel(_LEAVING)
                self.await_end(running)
                if running is not self._given_up:
                    worker.join()
        with self._lock:
            self._lock_released.wait_for(
                lambda: not self._deeds, max(0.0, deadline - time.monotonic())
            )
            deeds = tuple(self._deeds)
        for deed in deeds:
            deed.cancel(_LEAVING)
        with self._lock:
            if not self._lock_released.wait_for(lambda: not self._deeds, LAST_GRACE):
                log.error("%s: an action does not end and is left behind", self.name)

    def _refuse_if_leaving(self) -> None:
        """Take no order when the node is going."""
        if self._leaving:
            raise BusyError(f"{self.name} is leaving and takes no run")

    def _take_run_lock(self, run: Run) -> bool:
        """Let a run begin if no other process runs here; our lock is held."""
        if not self._run_lock.take(f"run {run.run_id}"):
            return False
        self._running = run
        run.report.begin()
        return True

    def _release_run_lock(self) -> None:
        """Let others run here; our lock is held."""
        self._run_lock.release()
        self._lock_released.notify_all()
        self._wake.set()

    def _start_worker(self) -> None:
        """See to it that somebody runs what was ordered; our lock is held."""
        if self._worker is None:
            self._worker = threading.Thread(
                target=self._work, name=f"kitchen-{self.name}", daemon=True
            )
            self._worker.start()

    def _work(self) -> None:
        """Run what was ordered until there is nothing left."""
        told = ""
        while True:
            with self._lock:
                self._wake.clear()
                if self._running is None and self._queued is not None:
                    queued = self._queued
                    if self._take_run_lock(queued):
                        self._queued = None
                run, waiting = self._running, self._queued
                if run is None and waiting is None:
                    self._worker = None
                    return
            if run is not None:
                self._finish(run, *self._outcome(run))
                told = ""
            elif waiting is not None:
                holder = self._run_lock.holder()
                if holder != told:
                    told = holder
                    self._maker.wait_for_lock(waiting, holder)
                self._wake.wait(LOCK_PAUSE)

    def _outcome(self, run: Run) -> tuple[RunState, str | None]:
        """Make a run; even what nobody expected leaves the queue able to go on."""
        try:
            return self._maker.perform(run)
        except BaseException as error:
            log.exception("%s: run %s failed", self.name, run.run_id)
            return "failed", f"{type(error).__name__}: {error}"

    def _finish(self, run: Run, state: RunState, error: str | None) -> None:
        """End a run: keep its report, be idle again, tell everybody, in this order."""
        with self._lock:
            is_told = run is self._given_up
            if not is_told:
                self._ending = run
        if not is_told:
            self._maker.keep(run, state, error)
        with self._lock:
            if self._running is run:
                self._running = None
                self._release_run_lock()
        if not is_told:
            self._maker.announce(run)
