"""The locks of one run: what it holds, what it did not get, and what it lost.

A lock says that only one machine (or so many) does something at a time. Not
getting one is no failure: the run goes on, and what asks `held(id)` is
skipped. But a run that *had* a lock must not do half of a change: while the
lock is in doubt the run waits at the boundary between two resources; when it
is lost the run fails with the lock's name, and what was being done meanwhile
is reported as a possible overlap.

Where locks come from is not known here: a `Locksmith` is put in from outside.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flock.converge.cancellation import Cancellation
from flock.converge.notification import check_query
from flock.converge.report import Report
from flock.converge.waiting import Waits
from flock.errors import LockCancelled, LockTimeout, RegistryError, RunFailed
from registry.contract import MAX_SLOTS, Lock, LockState, LockStatus
from registry.readings import Reading

log = logging.getLogger("flock.converge")

DEFAULT_WAIT = 60.0
"""Seconds that a recipe waits for a lock if it does not say how long."""

_LOOK_PAUSE = 0.1
"""Seconds between two looks at a lock that is in doubt; a look asks no server."""


@dataclass(frozen=True, slots=True)
class LockWish:
    """A lock as a recipe, or an order, asks for it.

    Attributes:
        lockid: its name, any text.
        wait: seconds to wait in line; 0 for "now or not", None without limit.
        slots: how many may hold it at a time, or a part as `10%`.
        among: for a part: a query over the machines that are counted, when the
            lock is asked for; rounded down, at least 1.
        group: those of one group take one slot together.
        keep_on_failure: a run that fails keeps its slot from others until its
            machine's next good run, or an operator's `unlock`.
        zookeeper: another ensemble than the flock's own, as `host:2181`.
        reason: for people who look at who holds it.
    """

    lockid: str
    wait: float | None = DEFAULT_WAIT
    slots: int | str = 1
    among: str = ""
    group: str = ""
    keep_on_failure: bool = False
    zookeeper: str | None = None
    reason: str = ""

    def check(self) -> None:
        """Refuse what cannot be asked for.

        Raises:
            ValueError: says which part is wrong.
        """
        if not self.lockid:
            raise ValueError("a lock needs a name")
        if self.wait is not None and not 0 <= self.wait < math.inf:
            raise ValueError(f"the wait for a lock is 0 s or more, not {self.wait!r}")
        if isinstance(self.slots, str):
            if not self.among:
                raise ValueError(f"slots={self.slots!r} needs among='roles:web': a part of what?")
            _percent(self.slots)
            check_query(self.among)
        elif not 1 <= self.slots <= MAX_SLOTS:
            raise ValueError(f"slots are 1 to {MAX_SLOTS}, not {self.slots}")
        elif self.among:
            raise ValueError("among counts machines for slots='10%'; slots is a number")

    def slots_of(self, count: Callable[[str], int]) -> int:
        """Return how many slots that are now.

        Args:
            count: returns how many machines a query finds.
        """
        if isinstance(self.slots, int):
            return self.slots
        return max(1, math.floor(count(self.among) * _percent(self.slots) / 100))


def _percent(text: str) -> float:
    """Return the number of `10%`.

    Raises:
        ValueError: it is none, or not above 0 and up to 100.
    """
    wrong = ValueError(f"slots is a number or a part as '10%', not {text!r}")
    if not text.endswith("%"):
        raise wrong
    try:
        percent = float(text[:-1])
    except ValueError:
        raise wrong from None
    if not 0 < percent <= 100:
        raise wrong
    return percent


class Locksmith(Protocol):
    """Where a run's locks come from."""

    def acquire(self, wish: LockWish, run_id: str, cancelled: threading.Event) -> Lock:
        """Wait in line for a slot and take it.

        Raises:
            LockTimeout, LockCancelled: not had.
            RegistryError: it could not be asked for; nothing is held.
        """

    def status(self, wish: LockWish) -> LockStatus:
        """Say who has the lock; the cost must not grow with those who wait.

        Raises:
            RegistryError: that cannot be known now.
        """


class Held:
    """The guard `held(id)`: whether this run surely holds a lock, asked afresh each time."""

    def __init__(self, lockid: str) -> None:
        self.lockid = lockid

    def __call__(self) -> bool:
        """Ask; a lock that this run never asked for is not held, and warned about."""
        locks = current_locks()
        if locks is None:
            log.warning("held(%r): no run is going on here", self.lockid)
            return False
        return locks.is_held(self.lockid)

    def __str__(self) -> str:
        return f"held({self.lockid!r})"


@dataclass(slots=True)
class _Entry:
    """One lock that the run asked for, and its row in the report.

    Attributes:
        circle: the circle of waits because of which it was given up.
    """

    wish: LockWish
    row: dict[str, Any]
    lock: Lock | None = None
    circle: str = ""


@dataclass(slots=True)
class RunLocks:
    """The locks of one run; used by its thread.

    Attributes:
        locksmith: gives locks; None where there are none to be had.
        report: gets a row for each lock.
        cancellation: ends a wait.
        waits: where others see which lock is waited for.
        emit: told of each step.
        why_run: nothing is asked for, and what asks is told yes, to show what
            would be done.
        on_taken: called with a lock's name after it was got.
        before_release: called with a lock's name before it is released.
    """

    locksmith: Locksmith | None
    report: Report
    cancellation: Cancellation
    waits: Waits
    emit: Callable[[str, Mapping[str, Any]], None]
    why_run: bool = False
    on_taken: Callable[[str], None] = lambda _: None
    before_release: Callable[[str], None] = lambda _: None
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _done_since_look: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make these the locks that `held` speaks of in this thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    # --- taking and giving back

    def take(self, wish: LockWish) -> bool:
        """Take a lock, or join it if the run holds it already; say whether it is held.

        Raises:
            RunFailed: the run had it, and lost it.
            RunCancelled: the run was cancelled while it waited.
        """
        if self.why_run:
            return True
        entry = self._entries.get(wish.lockid)
        if entry is not None and entry.lock is not None:
            if entry.wish.zookeeper != wish.zookeeper:
                raise RunFailed(f"lock {wish.lockid!r} is held already, from another registry")
            self._confirm(entry)
            return True
        if entry is not None and entry.row["state"] == "lost":
            return False
        row = {
            "lockid": wish.lockid,
            "state": "not held",
            "waited": 0.0,
            "token": None,
            "holder": None,
        }
        if entry is None:
            entry = self._entries[wish.lockid] = _Entry(wish, row)
            self.report.locks.append(row)
        entry.wish = wish
        entry.row.update(row)
        self._acquire(entry)
        if entry.lock is None:
            return False
        self.on_taken(wish.lockid)
        return True

    def _acquire(self, entry: _Entry) -> None:
        """Ask for the lock; what became of it stands in the entry."""
        wish, row = entry.wish, entry.row
        entry.circle = ""
        begun = time.monotonic()
        try:
            if self.locksmith is None:
                log.warning("lock %r: there is no registry to take it from", wish.lockid)
            else:
                entry.lock = self._wait_for(entry, self.locksmith)
        except LockTimeout as error:
            row["holder"] = error.holders[0].as_data() if error.holders else None
            log.warning("%s", error)
        except RegistryError as error:
            # What cannot be asked grants nothing; the run goes on without, as without getting it.
            log.warning("lock %r is not had: %s", wish.lockid, error)
        finally:
            row["waited"] = round(time.monotonic() - begun, 3)
        if entry.lock is not None:
            row.update(state="held", token=entry.lock.token)
        self.emit(f"lock {row['state']}", dict(row))

    def _wait_for(self, entry: _Entry, locksmith: Locksmith) -> Lock | None:
        """Wait in line for a lock; None if the wait was given up because of a circle."""
        wish = entry.wish
        cancelled = threading.Event()
        forget = self.cancellation.on_end(cancelled.set)

        def status() -> LockStatus:
            found = locksmith.status(wish)
            waiting.last = ", ".join(f"{each.owner} since {each.since}" for each in found.holders)
            # The smallest count is in force: ours, too.
            slots = wish.slots if isinstance(wish.slots, int) else found.slots
            return replace(found, slots=min(slots, found.slots))

        try:
            with self.waits.waiting(
                "",
                f"lock {wish.lockid!r}",
                is_plain=True,
                status=status,
                on_give_up=cancelled.set,
            ) as waiting:
                waiting.readings = frozenset({Reading("lock", wish.lockid)})
                self.emit("lock asked for", {"lockid": wish.lockid})
                return locksmith.acquire(wish, self.report.run_id, cancelled)
        except LockCancelled:
            self.cancellation.check_boundary()
            if not waiting.gave_up:
                raise
        finally:
            forget()
        entry.circle = waiting.circle
        log.warning("lock %r is given up: %s", wish.lockid, entry.circle)
        holders = locksmith.status(wish).holders
        entry.row["holder"] = holders[0].as_data() if holders else None
        return None

    def release(self, lockid: str) -> None:
        """Give a lock back, after what is still to be done under it; harmless if it is not held."""
        entry = self._entries.get(lockid)
        if entry is None or entry.lock is None:
            return
        self._confirm(entry)
        self.before_release(lockid)
        self._confirm(entry)
        entry.lock.release()
        entry.lock = None
        entry.row["state"] = "released"
        self.emit("lock released", dict(entry.row))

    def end(self, *, failed: bool) -> None:
        """Give everything back at the end of the run.

        Args:
            failed: locks that are to be kept on failure are kept for this
                machine.
        """
        for entry in self._entries.values():
            lock, entry.lock = entry.lock, None
            if lock is None:
                continue
            if failed and entry.wish.keep_on_failure:
                log.warning("lock %r is kept: the run failed", lock.lockid)
                lock.abandon()
            else:
                lock.release()

    # --- asking

    def is_held(self, lockid: str) -> bool:
        """Say whether the run surely holds a lock now; waits while that is in doubt.

        Raises:
            RunFailed: the run had it, and lost it.
        """
        if self.why_run:
            return True
        entry = self._entries.get(lockid)
        if entry is None:
            log.warning(
                "held(%r): this run never asked for that lock; it is named by lockid", lockid
            )
            return False
        if entry.lock is None:
            return False
        self._confirm(entry)
        return True

    def has(self, lockid: str) -> bool:
        """Say whether the run got a lock and did not give it back or lose it, without looking."""
        entry = self._entries.get(lockid)
        return entry is not None and entry.lock is not None

    def is_lost(self, lockid: str) -> bool:
        """Say whether the run had a lock and lost it."""
        entry = self._entries.get(lockid)
        return entry is not None and entry.row["state"] == "lost"

    def holder_of(self, lockid: str) -> str:
        """Say who had a lock that the run did not get, for a report."""
        entry = self._entries.get(lockid)
        holder = entry.row["holder"] if entry is not None else None
        said = f"lock {lockid!r} not held"
        if holder is not None:
            said += f": {holder['owner']} has it since {holder['since']}"
        if entry is not None and entry.circle:
            said += f"; {entry.circle}"
        return said

    def boundary(self) -> None:
        """Look at all locks between two resources; wait while one is in doubt.

        Raises:
            RunFailed: one was lost; told once.
            RunCancelled: the run was cancelled meanwhile.
        """
        for entry in list(self._entries.values()):
            if entry.lock is not None:
                self._confirm(entry)
        self._done_since_look.clear()

    def doing(self, what: str) -> None:
        """Note what is done now, to be named if a lock turns out to have gone meanwhile."""
        self._done_since_look.append(what)

    def _confirm(self, entry: _Entry) -> None:
        """Wait until a lock is surely ours.

        Raises:
            RunFailed: it is lost.
        """
        lock = entry.lock
        assert lock is not None
        state = lock.state()
        if state is LockState.DOUBTFUL:
            log.warning("lock %r is in doubt: the run waits", lock.lockid)
            self.emit("lock in doubt", dict(entry.row))
            with self.waits.waiting("", f"lock {lock.lockid!r}, which is in doubt"):
                while state is LockState.DOUBTFUL:
                    self.cancellation.pause(_LOOK_PAUSE)
                    state = lock.state()
        if state is LockState.HELD:
            return
        entry.row["state"] = "lost"
        entry.lock = None
        if entry.wish.keep_on_failure:
            lock.abandon()
        self.emit("lock lost", dict(entry.row))
        message = f"lock {lock.lockid!r} was lost"
        if self._done_since_look:
            done = ", ".join(dict.fromkeys(self._done_since_look))
            message += f" while this was done: {done} (possible overlap with its next holder)"
        raise RunFailed(message)


_current: ContextVar[RunLocks | None] = ContextVar("flock_run_locks", default=None)


def current_locks() -> RunLocks | None:
    """Return the locks of the run that this thread works for."""
    return _current.get()
