"""Standing in line for a lock: one attempt, from the first step to the grant.

All contenders stand in one line, each watching the one before it; only the
first looks at the slots. When one is free it takes the slot and leaves the
line in a single transaction, which wakes exactly the next one.

What is found out twice: that an entry is ours (its name carries an id of this
attempt, and its owner is our session), and that a claim whose answer was lost
was done or not (what stands in the slot carries the same id).
"""

from __future__ import annotations

import datetime
import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable

from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.protocol.states import ZnodeStat

from registry.contract import (
    OPERATION_TIMEOUT,
    Cancel,
    Holder,
    LockCancelled,
    LockOwner,
    LockState,
    LockTimeout,
    RegistryError,
    RegistryUnavailable,
    SessionState,
)
from registry.zookeeper_chores import Chores
from registry.zookeeper_lock import Claim, Keeper, Places, ZooKeeperLock
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_slots import Slots, UncleanEnds
from registry.zookeeper_traces import Traces
from registry.zookeeper_watches import Hub

_log = logging.getLogger(__name__)

_RECHECK = 10.0
"""Seconds after which a waiter looks without having been woken: a watch may be lost."""

_PAUSE_IN_OUTAGE = 0.5
_CANCEL_CHECK = 0.25
_SHORTEST_TIMEOUT = 0.5
_CANCELLABLE_TIMEOUT = 0.6
_LEAVING_TIMEOUT = 0.3
_GRACE = 0.2
"""Seconds after the deadline in which a waiter that was just woken looks once more."""


class Attempt:
    """One `acquire`: stands in line until it has a slot, or its time is over.

    Used by one thread, once.
    """

    def __init__(
        self,
        session: Session,
        hub: Hub,
        chores: Chores,
        keeper: Keeper,
        unclean: UncleanEnds,
        places: Places,
        lockid: str,
        owner: LockOwner,
        wait: float | None,
        slots: int,
        keep: bool,
        cancelled: threading.Event | None,
    ) -> None:
        self._session = session
        self._hub = hub
        self._chores = chores
        self._keeper = keeper
        self._unclean = unclean
        self._places = places
        self._lockid = lockid
        self._owner = owner
        self._slots = slots
        self._keep = keep
        self._cancelled = cancelled
        self._unreachable: RegistryUnavailable | None = None
        self._began = time.monotonic()
        self._deadline = None if wait is None else self._began + max(0.0, wait)
        self._woken = threading.Event()
        self._listening: list[Cancel] = []
        self._was_in_line = False
        self._next_look = _RECHECK
        self._since = _wall_clock()
        self._new_attempt()

    def _begin_anew(self) -> None:
        """Give the place in line up: it went with its session, or was taken from us."""
        if self._entering or self._claimed:
            self._remove_later()
        self._new_attempt()

    def _new_attempt(self) -> None:
        self._claim = Claim.of(self._owner, uuid.uuid4().hex, self._since, self._slots, self._keep)
        self._last: Slots | None = None
        self._is_first = False
        self._entry: str | None = None
        self._entering = False
        # Slots whose claim may have been done: its answer was lost, or could not be used.
        self._claimed: set[int] = set()
        self._session_id: int | None = None

    def run(self, holders: Callable[[], tuple[Holder, ...]]) -> ZooKeeperLock:
        """Wait for a slot and take it; see `Registry.acquire`.

        Args:
            holders: who has it, for the error.
        """
        try:
            while True:
                lock = self._step()
                if lock is not None:
                    return lock
                self._sleep_until_woken(holders)
        except BaseException:
            self._leave()
            raise
        finally:
            self._stop_listening()

    def _step(self) -> ZooKeeperLock | None:
        """Do what can be done now; return the lock if that was the last of it."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise LockCancelled(self._lockid)
        self._next_look = _RECHECK
        self._woken.clear()
        try:
            if self._entry is not None and self._session.guard.session != self._session_id:
                self._begin_anew()
            lock = self._enter() if self._entry is None else self._advance()
        except RegistryUnavailable as error:
            if self._session.state() is SessionState.CLOSED or not self._may_go_on():
                raise
            self._unreachable = error
            self._next_look = _PAUSE_IN_OUTAGE
            return None
        self._unreachable = None
        return lock

    def _may_go_on(self) -> bool:
        """Say whether an outage is waited out: once in line until the deadline, before not long."""
        return (
            self._has_begun()
            or time.monotonic() < self._began + OPERATION_TIMEOUT - _SHORTEST_TIMEOUT
        )

    def _has_begun(self) -> bool:
        return self._was_in_line or bool(self._claimed)

    def _requests(self) -> Requests:
        """Begin a step that outlasts neither a cancellation nor the deadline by much."""
        limit = OPERATION_TIMEOUT if self._cancelled is None else _CANCELLABLE_TIMEOUT
        if self._was_in_line and self._deadline is not None:
            remaining = self._deadline - time.monotonic()
            limit = min(limit, max(_SHORTEST_TIMEOUT, remaining))
        return self._session.requests(limit)

    # --- getting into the line

    def _enter(self) -> ZooKeeperLock | None:
        """Take a slot without standing in line, if that is fair; else enter the line."""
        requests = self._requests()
        if self._claimed:
            # The answer to a claim was lost: it was done, or it is undone for sure.
            lock = self._find_claim(requests)
            if lock is not None:
                return lock
            self._begin_anew()
        line, slots, marks = requests.children_of_all(
            [self._places.line, self._places.slots, self._places.marks]
        )
        found = Slots.read(requests, self._places, slots, marks)
        kept = self._kept_for_us(found)
        if kept is not None:
            # Past everybody in line, who cannot have it anyway.
            number, delay = kept
            if delay <= 0:
                return self._take(requests, number, found)
            self._next_look = min(self._next_look, delay)
            return None
        if not (line and line[0]):
            free = self._free_slot(found)
            lock = None if free is None else self._take(requests, free, found)
            if lock is not None or self._claimed:
                return lock
        if self._deadline is None or time.monotonic() < self._deadline:
            self._enter_line(requests)
            return self._advance()
        return None

    def _enter_line(self, requests: Requests) -> None:
        session = self._session.guard.session
        while True:
            path = f"{self._places.line}/{self._claim.attempt}."
            self._entering = True
            try:
                created, stat = requests.create_in_sequence(path, self._claim.encoded())
            except NoNodeError:
                self._lay_out(requests)
                continue
            except RegistryUnavailable as error:
                if not error.may_have_happened or not requests.remaining:
                    raise
                found = self._find_entry(requests)
                if found is None:
                    self._begin_anew()
                    continue
                created, stat = found
            break
        self._entering = False
        if stat.ephemeralOwner != session:
            # Made in a session that began in between, or of one that is ending.
            if stat.ephemeralOwner != self._session.guard.session:
                self._begin_anew()
                raise RegistryUnavailable(self._session.url, "the session has just ended")
            session = stat.ephemeralOwner
        self._entry, self._session_id = created.rpartition("/")[2], session
        self._was_in_line = True

    def _lay_out(self, requests: Requests) -> None:
        """Make the folders of a lock that nobody used before, or that was tidied away."""
        steps = requests.transaction()
        for folder in self._places.all:
            steps.create(folder)
        try:
            steps.commit()
        except RegistryUnavailable as error:
            # Made or not: whoever enters next finds out.
            if not error.may_have_happened or not requests.remaining:
                raise
        except Refused as refusal:
            if isinstance(refusal.error, NodeExistsError):
                return
            raise RegistryUnavailable(
                self._session.url, f"no place for locks ({refusal})"
            ) from None

    def _find_entry(self, requests: Requests) -> tuple[str, ZnodeStat] | None:
        """Return our entry in the line and its stat, if it stands."""
        for name in requests.names(self._places.line):
            if name.startswith(f"{self._claim.attempt}."):
                stat = requests.exists(f"{self._places.line}/{name}")
                if stat is not None:
                    return name, stat
        return None

    # --- moving on

    def _advance(self) -> ZooKeeperLock | None:
        """Look where we stand; take a slot if we are first and one is free."""
        self._stop_listening()
        requests = self._requests()
        # A claim whose answer was lost may be done yet, which takes our entry away.
        if not self._is_first or self._claimed:
            line = in_order(requests.names(self._places.line))
            if self._entry not in line:
                lock = self._find_claim(requests)
                if lock is None:
                    self._begin_anew()
                    self._woken.set()
                return lock
            place = line.index(self._entry)
            if place > 0:
                before = f"{self._places.line}/{line[place - 1]}"
                self._listen(before)
                if requests.exists(before, self._hub.fired) is None:
                    self._woken.set()
                return None
            # And stays so: should the entry be gone, a claim, which removes it, is refused.
            self._is_first = True
        lock = self._take_from_last(requests)
        if lock is not None:
            return lock
        self._is_first = True
        self._listen(self._places.slots)
        self._listen(self._places.marks)
        slots = Slots.look(requests, self._places, self._hub)
        if self._session.guard.session != self._session_id:
            self._begin_anew()  # the entry went with its session, while we were asking
            self._woken.set()
            return None
        free = self._free_slot(slots)
        if free is not None:
            return self._take(requests, free, slots)
        if len(slots.held) == 1 and not slots.unclean:
            self._last = slots
        return None

    def _take_from_last(self, requests: Requests) -> ZooKeeperLock | None:
        """Take the slot of the only holder that was seen, if he gave it back, without a look.

        The claim itself demands what a look would have shown: nobody took
        anything since, the slot is free, and its mark went with it.
        """
        seen, self._last = self._last, None
        if seen is None or seen.version is None:
            return None
        ((number, claim),) = seen.held.items()
        if claim is None:
            return None
        nothing = Slots(seen.version, {}, {})
        lock = self._take(requests, number, nothing, gone=self._places.mark(number, claim.attempt))
        if lock is None and not self._claimed:
            self._woken.clear()  # refused: the look that follows is all that is needed
        return lock

    def _kept_for_us(self, slots: Slots) -> tuple[int, float] | None:
        """Return a slot that is kept for our owner, and seconds until we may have it."""
        for mark, (number, claim) in slots.unclean.items():
            if self._is_kept_for_us(claim):
                return number, self._delay_left(mark, claim)
        return None

    def _is_kept_for_us(self, claim: Claim | None) -> bool:
        return claim is not None and claim.keep and claim.owner == self._owner.owner

    def _free_slot(self, slots: Slots) -> int | None:
        """Return a slot that may be taken now.

        A slot whose holder ended uncleanly counts as held for the lock-delay:
        what it had begun may still be going on. Those of one group count as
        one, and let each other in.
        """
        self._unclean.keep_only(self._places.marks, slots.unclean)
        kept = self._kept_for_us(slots)
        if kept is not None and kept[1] <= 0:
            return kept[0]
        occupied: dict[int, Claim | None] = dict(slots.held)
        for mark, (number, claim) in slots.unclean.items():
            remaining = self._delay_left(mark, claim)
            if remaining > 0:
                occupied[number] = claim
                self._next_look = min(self._next_look, remaining)
        units = {
            claim.group if claim is not None and claim.group else number
            for number, claim in occupied.items()
        }
        in_force = min([self._slots, *(claim.slots for claim in occupied.values() if claim)])
        if len(units) >= in_force and (not self._owner.group or self._owner.group not in units):
            return None
        return next(number for number in itertools.count() if number not in occupied)

    def _delay_left(self, mark: str, claim: Claim | None) -> float:
        """Return seconds until a mark that was left behind counts no more for us."""
        if claim is not None and claim.keep and not self._is_kept_for_us(claim):
            return math.inf
        if claim is not None and (claim.abandoned or self._claim.is_past_of_same_node(claim)):
            return 0.0
        return self._session.lock_delay - self._unclean.age(mark)

    def _take(
        self, requests: Requests, number: int, slots: Slots, gone: str | None = None
    ) -> ZooKeeperLock | None:
        """Take a free slot and leave the line, in one transaction.

        Args:
            requests: asks.
            number: the slot.
            slots: as they were seen; anything taken since makes it fail.
            gone: a mark that must not stand any more.
        """
        self._claim = Claim.of(
            self._owner, self._claim.attempt, _wall_clock(), self._slots, self._keep
        )
        data = self._claim.encoded()
        slot = self._places.slot(number)
        steps = requests.transaction()
        if self._entry is not None:
            steps.delete(f"{self._places.line}/{self._entry}")
        if slots.version is None:
            for folder in self._places.all:
                steps.create(folder)
        else:
            steps.set(self._places.slots, b"", slots.version)
        steps.create(slot, data, ephemeral=True)
        if gone is not None:
            # What stands cannot be made: so this is a check that it does not.
            steps.create(gone)
            steps.delete(gone)
        for mark, (kept, claim) in slots.unclean.items():
            # A slot that is kept for us is ours to give up only if it is this one.
            is_past = self._delay_left(mark, claim) <= 0
            if is_past and (kept == number or not self._is_kept_for_us(claim)):
                steps.delete(mark)
        steps.create(self._places.mark(number, self._claim.attempt), data)
        claimed_before = set(self._claimed)
        self._claimed.add(number)
        self._session_id = self._session_id or self._session.guard.session
        self._is_first = False  # done, refused, or unknown: where we stand is read anew
        try:
            found = steps.commit_then_get(slot)
        except Refused:
            self._claimed = claimed_before
            self._woken.set()  # something changed under our hands: look again
            return None
        except RegistryUnavailable as error:
            if not error.may_have_happened:
                self._claimed = claimed_before
            raise
        lock = self._lock_if_ours(number, found)
        if lock is None:
            self._woken.set()
        return lock

    def _find_claim(self, requests: Requests) -> ZooKeeperLock | None:
        """Return the lock if a slot that we claimed is surely ours."""
        for number in sorted(self._claimed):
            lock = self._lock_if_ours(number, requests.get(self._places.slot(number)))
            if lock is not None:
                return lock
        return None

    def _lock_if_ours(
        self, number: int, found: tuple[bytes, ZnodeStat] | None
    ) -> ZooKeeperLock | None:
        if found is None or self._session_id is None:
            return None
        if found[1].ephemeralOwner != self._session_id:
            return None
        claim = Claim.parse(found[0])
        if claim is None or claim.attempt != self._claim.attempt:
            return None
        lock = ZooKeeperLock(
            self._lockid,
            self._places,
            claim,
            number,
            self._slots,
            int(found[1].czxid),
            self._session_id,
            self._session.guard,
            self._keeper,
        )
        if lock.state() is LockState.LOST:
            return None
        self._claimed, self._entry = set(), None
        return lock

    # --- waiting

    def _sleep_until_woken(self, holders: Callable[[], tuple[Holder, ...]]) -> None:
        """Wait for a change, at most until the deadline.

        Raises:
            LockTimeout, LockCancelled: the wait is over.
        """
        look_at = time.monotonic() + self._next_look
        while True:
            if self._cancelled is not None and self._cancelled.is_set():
                raise LockCancelled(self._lockid)
            now = time.monotonic()
            is_over = self._deadline is not None and now >= self._deadline
            if is_over and self._unreachable is not None:
                if self._has_begun() or not self._may_go_on():
                    raise self._unreachable
            elif is_over and not self._may_look_once_more(now):
                raise LockTimeout(self._lockid, now - self._began, holders())
            if self._woken.is_set() or now >= look_at:
                return
            pause = look_at - now
            if self._deadline is not None and not is_over:
                pause = min(pause, self._deadline - now)
            if self._cancelled is not None:
                pause = min(pause, _CANCEL_CHECK)
            self._woken.wait(max(0.0, pause))

    def _may_look_once_more(self, now: float) -> bool:
        """Say whether what woke us after the deadline may be the lock falling free."""
        return self._woken.is_set() and now < (self._deadline or 0.0) + _GRACE

    def _listen(self, path: str) -> None:
        self._listening.append(self._hub.listen(path, self._woken.set))

    def _stop_listening(self) -> None:
        for stop in self._listening:
            stop()
        self._listening.clear()

    # --- leaving

    def _leave(self) -> None:
        """Take back whatever we may have entered, now or later."""
        if self._entry is None and not self._entering and not self._claimed:
            return
        try:
            if self._traces().remove(timeout=_LEAVING_TIMEOUT) and not self._entering:
                return
        except RegistryError as error:
            _log.debug("lock %r: the wait's entry is removed later: %s", self._lockid, error)
        self._remove_later()

    def _remove_later(self) -> None:
        self._chores.add(f"leave the line of lock {self._lockid!r}", self._traces().remove_for_sure)

    def _traces(self) -> Traces:
        return Traces(self._session, self._places, self._claim.attempt, self._claimed)


def _wall_clock() -> str:
    """Return the time of day for people: nothing is decided by it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_order(line: list[str]) -> list[str]:
    """Sort a line by ZooKeeper's number, as a number; what is not ours stands last."""

    def place(name: str) -> tuple[int, str]:
        try:
            return int(name.rpartition(".")[2]), name
        except ValueError:
            return 2**31, name

    return sorted(line, key=place)
