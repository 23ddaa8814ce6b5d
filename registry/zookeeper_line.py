"""Standing in line for a lock: one attempt, from the first step to the grant.

All contenders stand in one line, each watching the one before it; only the
first looks at the slots. When one is free it takes the slot and leaves the
line in a single transaction, which wakes exactly the next one. Where there is
one holder only, the event that tells of his going sends that transaction.

What is found out twice: that an entry is ours (its name carries an id of this
attempt, and its owner is our session), and that a claim whose answer was lost
was done or not (what stands in the slot carries the same id).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from kazoo.exceptions import NoNodeError
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
from registry.wall_clock import now_text
from registry.zookeeper_chores import Chores
from registry.zookeeper_lock import Claim, Keeper, Places, ZooKeeperLock
from registry.zookeeper_requests import Refused, Requests, Sent, Transaction
from registry.zookeeper_session import Session
from registry.zookeeper_slots import Slots, UncleanEnds
from registry.zookeeper_traces import Traces
from registry.zookeeper_vacancy import Vacancy
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


@dataclass(slots=True)
class _Shot:
    """A claim of a slot.

    Attributes:
        number: of the slot.
        slots: as they were seen; anything taken since makes it fail.
        gone: a mark that must not stand any more.
        granted: the step whose answer is the slot's stat.
    """

    number: int
    slots: Slots
    gone: str | None = None
    granted: int = -1


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
        self._places = places
        self._lockid = lockid
        self._owner = owner
        self._slots = slots
        self._vacancy = Vacancy(session, unclean, places, owner, slots)
        self._keep = keep
        self._cancelled = cancelled
        self._unreachable: RegistryUnavailable | None = None
        self._began = time.monotonic()
        self._deadline = None if wait is None else self._began + max(0.0, wait)
        self._woken = threading.Event()
        self._listening: list[Cancel] = []
        self._was_in_line = False
        self._since = now_text()
        # An event at the slots sends our claim on kazoo's thread; else one thread uses all of this.
        self._lock = threading.Lock()
        self._armed: tuple[_Shot, Transaction] | None = None
        self._new_attempt()

    def _begin_anew(self) -> None:
        """Give the place in line up: it went with its session, or was taken from us."""
        if self._entering or self._claimed:
            self._remove_later()
        self._new_attempt()

    def _new_attempt(self) -> None:
        self._claim = Claim.of(
            self._owner,
            uuid.uuid4().hex,
            self._since,
            self._slots,
            self._keep,
            self._session.guard.granted,
        )
        self._is_first = False
        self._look_for_kept_at = 0.0
        self._fired: tuple[_Shot, Sent] | None = None
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
            self._disarm()
            self._leave()
            raise
        finally:
            self._stop_listening()

    def _step(self) -> ZooKeeperLock | None:
        """Do what can be done now; return the lock if that was the last of it."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise LockCancelled(self._lockid)
        self._vacancy.next_look = _RECHECK
        self._disarm()
        self._woken.clear()
        try:
            if self._entry is not None and self._session.guard.session != self._session_id:
                self._begin_anew()
            lock = self._enter() if self._entry is None else self._advance()
        except RegistryUnavailable as error:
            if self._session.state() is SessionState.CLOSED or not self._may_go_on():
                raise
            self._unreachable = error
            self._vacancy.next_look = _PAUSE_IN_OUTAGE
            return None
        self._unreachable = None
        return lock

    def _may_go_on(self) -> bool:
        """Say whether an outage is waited out: once in line until the deadline, before not long."""
        if self._has_begun():
            return True
        until = self._began + OPERATION_TIMEOUT - _SHORTEST_TIMEOUT
        if self._deadline is not None:
            until = min(until, self._deadline)
        return time.monotonic() < until

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
        is_one_kept = self._vacancy.kept_for_us(found, self._claim) is not None
        # A slot that is kept for us is had past everybody in line, who cannot have it anyway.
        if is_one_kept or not (line and line[0]):
            lock = self._take_free(requests, found)
            if lock is not None or self._claimed:
                return lock
        if self._deadline is None or time.monotonic() < self._deadline:
            self._enter_line(requests)
            self._look_for_kept_at = 0.0 if is_one_kept else time.monotonic() + _RECHECK
            return self._advance()
        return None

    def _take_kept(self, requests: Requests) -> ZooKeeperLock | None:
        """Take the slot that is kept for us from wherever we stand in line, or listen for it.

        Whoever stands before us may be waiting for this very slot, in vain: so
        it is the slots that wake us.
        """
        self._listen(self._places.slots)
        self._listen(self._places.marks)
        slots = Slots.look(requests, self._places, self._hub)
        if self._vacancy.kept_for_us(slots, self._claim) is None:
            self._woken.set()  # freed meanwhile: no other is ours before our turn
            return None
        return self._take_free(requests, slots)

    def _is_one_kept(self, requests: Requests) -> bool:
        """Look for a slot that is kept for us: one that is known at once, else now and then.

        He who had it, in our name, may have been alive when we came, or have seemed so.
        """
        if time.monotonic() < self._look_for_kept_at:
            return False
        slots, marks = requests.children_of_all([self._places.slots, self._places.marks])
        found = Slots.read(requests, self._places, slots, marks)
        if self._vacancy.kept_for_us(found, self._claim) is not None:
            return True
        self._look_for_kept_at = time.monotonic() + _RECHECK
        return False

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
        steps.lay_out()

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
        requests = self._requests()
        if self._fired is not None:
            lock = self._end_of_shot(requests)
            if lock is not None:
                return lock
        self._stop_listening()
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
                if self._is_one_kept(requests):
                    return self._take_kept(requests)
                before = f"{self._places.line}/{line[place - 1]}"
                self._listen(before)
                if requests.exists(before, self._hub.fired) is None:
                    self._woken.set()
                return None
            # And stays so: should the entry be gone, a claim, which removes it, is refused.
            self._is_first = True
        self._listen(self._places.slots, self._slots_changed)
        self._listen(self._places.marks)
        slots = Slots.look(requests, self._places, self._hub)
        if self._session.guard.session != self._session_id:
            self._begin_anew()  # the entry went with its session, while we were asking
            self._woken.set()
            return None
        free = self._vacancy.free_slot(slots, self._claim)
        if free is not None:
            return self._take(requests, free, slots)
        self._arm(slots)
        return None

    # --- the event that sends our claim

    def _arm(self, slots: Slots) -> None:
        """Let the next event at the slots send our claim, where one holder is all we wait for.

        The claim itself demands what a look would have shown: nobody took
        anything since, the slot is free, and its mark went with it.
        """
        if len(slots.held) != 1 or slots.unclean or self._claimed:
            return
        ((number, claim),) = slots.held.items()
        if claim is None:
            return
        gone = self._places.mark(number, claim.attempt)
        shot = _Shot(number, Slots(slots.version, {}, {}), gone)
        steps = self._claim_steps(self._session.requests(), shot)
        steps.make_ready()
        with self._lock:
            self._armed = shot, steps

    def _disarm(self) -> None:
        with self._lock:
            self._armed = None

    def _slots_changed(self) -> None:
        """Take an event at the slots, on kazoo's thread: what is sent here is not waited for."""
        with self._lock:
            armed, self._armed = self._armed, None
            sent = None if armed is None else armed[1].send()
            if armed is not None and sent is not None:
                self._claimed.add(armed[0].number)
                self._fired = armed[0], sent
        self._woken.set()

    def _end_of_shot(self, requests: Requests) -> ZooKeeperLock | None:
        """Wait for the answer to what an event sent; return the lock if that was done."""
        assert self._fired is not None
        (shot, sent), self._fired = self._fired, None
        lock = self._end_of_claim(requests, shot, sent, claimed_before=set())
        if lock is None and not self._claimed:
            # Refused: the look that follows is all that is needed.
            self._is_first = True
            self._woken.clear()
        return lock

    # --- taking a slot

    def _take_free(self, requests: Requests, slots: Slots) -> ZooKeeperLock | None:
        """Take the slot that may be taken now, of these; None if there is none, or it failed."""
        free = self._vacancy.free_slot(slots, self._claim)
        return None if free is None else self._take(requests, free, slots)

    def _take(self, requests: Requests, number: int, slots: Slots) -> ZooKeeperLock | None:
        """Take a free slot and leave the line, in one transaction.

        Args:
            requests: asks.
            number: the slot.
            slots: as they were seen; anything taken since makes it fail.
        """
        shot = _Shot(number, slots)
        claimed_before = set(self._claimed)
        self._session_id = self._session_id or self._session.guard.session
        sent = self._claim_steps(requests, shot).send_when_connected()
        self._claimed.add(number)
        return self._end_of_claim(requests, shot, sent, claimed_before)

    def _claim_steps(self, requests: Requests, shot: _Shot) -> Transaction:
        """Make the transaction that takes a slot; its first step's answer is the slot's stat."""
        data = self._claim.encoded()
        slot = self._places.slot(shot.number)
        steps = requests.transaction()
        if self._entry is not None:
            steps.delete(f"{self._places.line}/{self._entry}")
        if shot.slots.version is None:
            for folder in self._places.all:
                steps.create(folder)
        else:
            steps.set(self._places.slots, b"", shot.slots.version)
        steps.create(slot, ephemeral=True)
        # The answer to this one tells the slot's token and owner, so that nothing is asked behind.
        shot.granted = steps.set(slot, data)
        if shot.gone is not None:
            # What stands cannot be made: so this is a check that it does not.
            steps.create(shot.gone)
            steps.delete(shot.gone)
        for mark in self._vacancy.marks_of_the_past(shot.slots, shot.number, self._claim):
            steps.delete(mark)
        steps.create(self._places.mark(shot.number, self._claim.attempt), data)
        return steps

    def _end_of_claim(
        self, requests: Requests, shot: _Shot, sent: Sent, claimed_before: set[int]
    ) -> ZooKeeperLock | None:
        """Wait for the answer to a claim; return the lock if it is surely ours.

        Args:
            requests: waits.
            shot: what was claimed.
            sent: the claim.
            claimed_before: what may have been claimed apart from it.
        """
        self._is_first = False  # done, refused, or unknown: where we stand is read anew
        try:
            stat: ZnodeStat = requests.results(sent)[shot.granted]
        except Refused as refusal:
            self._claimed = claimed_before
            if shot.slots.version is None and isinstance(refusal.error, NoNodeError):
                raise requests.folders_gone(refusal) from refusal.error
            self._woken.set()  # something changed under our hands: look again
            return None
        lock = self._lock_if_ours(shot.number, self._claim, stat)
        if lock is None:
            self._woken.set()
        return lock

    def _find_claim(self, requests: Requests) -> ZooKeeperLock | None:
        """Return the lock if a slot that we claimed is surely ours."""
        for number in sorted(self._claimed):
            found = requests.get(self._places.slot(number))
            claim = None if found is None else Claim.parse(found[0])
            if found is None or claim is None or claim.attempt != self._claim.attempt:
                continue
            lock = self._lock_if_ours(number, claim, found[1])
            if lock is not None:
                return lock
        return None

    def _lock_if_ours(self, number: int, claim: Claim, stat: ZnodeStat) -> ZooKeeperLock | None:
        if self._session_id is None or stat.ephemeralOwner != self._session_id:
            return None
        lock = ZooKeeperLock(
            self._lockid,
            self._places,
            claim,
            number,
            self._slots,
            int(stat.czxid),
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
        look_at = time.monotonic() + self._vacancy.next_look
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

    def _listen(self, path: str, heard: Callable[[], None] | None = None) -> None:
        self._listening.append(self._hub.listen(path, heard or self._woken.set))

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


def in_order(line: list[str]) -> list[str]:
    """Sort a line by ZooKeeper's number, as a number; what is not ours stands last."""

    def place(name: str) -> tuple[int, str]:
        try:
            return int(name.rpartition(".")[2]), name
        except ValueError:
            return 2**31, name

    return sorted(line, key=place)
