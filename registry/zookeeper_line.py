"""Standing in line for a lock: one attempt, from the first step to the grant.

All contenders stand in one line, each watching the one before it; only the
first looks at the slots. When one is free it takes the slot and leaves the
line in a single transaction, which wakes exactly the next one.

What is found out twice: that an entry is ours (its name carries an id of this
attempt, and its owner is our session), and that a claim whose answer was lost
was done or not (what stands in the slot carries the same id).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Container
from dataclasses import dataclass

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
from registry.zookeeper_watches import Hub

_log = logging.getLogger(__name__)

_RECHECK = 10.0
"""Seconds after which a waiter looks without having been woken: a watch may be lost."""

_PAUSE_IN_OUTAGE = 0.5
_CANCEL_CHECK = 0.25
_SHORTEST_TIMEOUT = 1.0
_GRACE = 0.2
"""Seconds after the deadline in which a waiter that was just woken looks once more."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a lock as one look found them.

    Attributes:
        version: of the slots' folder, which every claim raises: a claim that is
            made for this version knows all holders. None if there is no folder.
        held: who holds which slot; None for what cannot be read.
        unclean: marks whose holders are gone without a clean end, by path.
    """

    version: int | None
    held: dict[int, Claim | None]
    unclean: dict[str, tuple[int, Claim | None]]

    @classmethod
    def look(cls, requests: Requests, places: Places, hub: Hub) -> Slots:
        """Read all of it, with watches for whatever may free a slot."""
        # The slots first: a mark is never without its slot to who reads them in this order.
        return cls.read(
            requests, places, *requests.children_of_all([places.slots, places.marks], hub.fired)
        )

    @classmethod
    def read(
        cls,
        requests: Requests,
        places: Places,
        slots: tuple[list[str], ZnodeStat] | None,
        marks: tuple[list[str], ZnodeStat] | None,
    ) -> Slots:
        """Read what stands at the names that were found in the two folders."""
        named = [number_in(name) for name in (slots[0] if slots else [])]
        numbers = sorted(number for number in named if number is not None)
        nodes = requests.get_many([places.slot(number) for number in numbers])
        held = {
            number: Claim.parse(node[0])
            for number, node in zip(numbers, nodes, strict=True)
            if node is not None
        }
        names = marks[0] if marks else []
        live = {f"{number}.{claim.attempt}" for number, claim in held.items() if claim}
        stale = [name for name in names if name not in live]
        nodes = requests.get_many([f"{places.marks}/{name}" for name in stale])
        unclean = {
            f"{places.marks}/{name}": (number_in(name) or 0, Claim.parse(node[0]))
            for name, node in zip(stale, nodes, strict=True)
            if node is not None
        }
        return cls(int(slots[1].version) if slots else None, held, unclean)


class UncleanEnds:
    """Since when this process knows of each unclean end; the lock-delay is counted from there."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._first_seen: dict[str, float] = {}

    def age(self, mark: str) -> float:
        """Return seconds since a left-behind mark was first asked for."""
        now = self._now()
        with self._lock:
            return now - self._first_seen.setdefault(mark, now)

    def keep_only(self, folder: str, marks: Container[str]) -> None:
        """Forget the marks of one lock that are not among `marks`."""
        with self._lock:
            for mark in list(self._first_seen):
                if mark.startswith(f"{folder}/") and mark not in marks:
                    del self._first_seen[mark]


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
        if self._entering or self._claiming is not None:
            self._remove_later()
        self._new_attempt()

    def _new_attempt(self) -> None:
        self._claim = Claim.of(self._owner, uuid.uuid4().hex, self._since, self._slots, self._keep)
        self._entry: str | None = None
        self._entering = False
        self._claiming: int | None = None
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
            # Once begun an outage is waited out; it is the deadline that ends it.
            has_begun = self._was_in_line or self._claiming is not None
            if not has_begun or self._session.state() is SessionState.CLOSED:
                raise
            self._unreachable = error
            self._next_look = _PAUSE_IN_OUTAGE
            return None
        self._unreachable = None
        return lock

    def _requests(self) -> Requests:
        """Begin a step that does not outlast the deadline by more than a second."""
        if self._deadline is None or not self._was_in_line:
            return self._session.requests()
        remaining = self._deadline - time.monotonic()
        return self._session.requests(min(OPERATION_TIMEOUT, max(_SHORTEST_TIMEOUT, remaining)))

    # --- getting into the line

    def _enter(self) -> ZooKeeperLock | None:
        """Take a slot without standing in line, if that is fair; else enter the line."""
        requests = self._requests()
        if self._claiming is not None:
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
            if lock is not None or self._claiming is not None:
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
        self._listen(self._places.slots)
        self._listen(self._places.marks)
        slots = Slots.look(requests, self._places, self._hub)
        free = self._free_slot(slots)
        return None if free is None else self._take(requests, free, slots)

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

    def _take(self, requests: Requests, number: int, slots: Slots) -> ZooKeeperLock | None:
        """Take a free slot and leave the line, in one transaction."""
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
        for mark, (kept, claim) in slots.unclean.items():
            # A slot that is kept for us is ours to give up only if it is this one.
            is_past = self._delay_left(mark, claim) <= 0
            if is_past and (kept == number or not self._is_kept_for_us(claim)):
                steps.delete(mark)
        steps.create(self._places.mark(number, self._claim.attempt), data)
        self._claiming = number
        self._session_id = self._session_id or self._session.guard.session
        try:
            found = steps.commit_then_get(slot)
        except Refused:
            self._claiming = None
            self._woken.set()  # something changed under our hands: look again
            return None
        return self._lock_if_ours(found)

    def _find_claim(self, requests: Requests) -> ZooKeeperLock | None:
        """Return the lock if the slot we claimed is surely ours."""
        if self._claiming is None or self._session_id is None:
            return None
        return self._lock_if_ours(requests.get(self._places.slot(self._claiming)))

    def _lock_if_ours(self, found: tuple[bytes, ZnodeStat] | None) -> ZooKeeperLock | None:
        if found is None or self._claiming is None or self._session_id is None:
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
            self._claiming,
            self._slots,
            int(found[1].czxid),
            self._session_id,
            self._session.guard,
            self._keeper,
        )
        if lock.state() is LockState.LOST:
            return None
        self._claiming, self._entry = None, None
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
            if self._deadline is not None and now >= self._deadline:
                if self._unreachable is not None:
                    raise self._unreachable
                # What woke us may have been the lock falling free: one look more, not many.
                if not self._woken.is_set() or now >= self._deadline + _GRACE:
                    raise LockTimeout(self._lockid, now - self._began, holders())
            if self._woken.is_set() or now >= look_at:
                return
            pause = look_at - now
            if self._deadline is not None:
                pause = min(pause, self._deadline - now)
            if self._cancelled is not None:
                pause = min(pause, _CANCEL_CHECK)
            self._woken.wait(max(0.0, pause))

    def _listen(self, path: str) -> None:
        self._listening.append(self._hub.listen(path, self._woken.set))

    def _stop_listening(self) -> None:
        for stop in self._listening:
            stop()
        self._listening.clear()

    # --- leaving

    def _leave(self) -> None:
        """Take back whatever we may have entered, now or later."""
        if self._entry is None and not self._entering and self._claiming is None:
            return
        try:
            if self._traces().remove(timeout=_SHORTEST_TIMEOUT) and not self._entering:
                return
        except RegistryError as error:
            _log.debug("lock %r: the wait's entry is removed later: %s", self._lockid, error)
        self._remove_later()

    def _remove_later(self) -> None:
        self._chores.add(f"leave the line of lock {self._lockid!r}", self._traces().remove_for_sure)

    def _traces(self) -> Traces:
        return Traces(self._session, self._places, self._claim.attempt, self._claiming)


class Traces:
    """What an attempt that was given up may have left, and may yet come into being.

    A request whose answer never came can still be on its way, so one look that
    finds nothing is not enough.
    """

    def __init__(
        self,
        session: Session,
        places: Places,
        attempt: str,
        slot: int | None,
    ) -> None:
        self._session = session
        self._places = places
        self._attempt = attempt
        self._slot = slot
        self._clean_looks = 0

    def remove(self, timeout: float = OPERATION_TIMEOUT) -> bool:
        """Remove what is there; say whether anything was."""
        requests = self._session.requests(timeout)
        requests.sync(self._places.folder)
        removed = False
        for name in requests.names(self._places.line):
            if name.startswith(f"{self._attempt}."):
                removed = requests.delete(f"{self._places.line}/{name}") or removed
        if self._slot is not None:
            removed = give_back(requests, self._places, self._slot, self._attempt) or removed
        if removed:
            tidy(requests, self._places)
        return removed

    def remove_for_sure(self) -> bool:
        """Do the same for `Chores`, until two looks in a row find nothing."""
        self._clean_looks = 0 if self.remove() else self._clean_looks + 1
        return self._clean_looks >= 2


def give_back(requests: Requests, places: Places, slot: int, attempt: str) -> bool:
    """Remove the mark of an attempt, and its slot if it still has it; say whether it had a mark."""
    steps = requests.transaction()
    # Where this mark stands nobody else can have the slot: who takes it removes the mark.
    steps.delete(places.mark(slot, attempt))
    steps.delete(places.slot(slot))
    try:
        steps.commit()
    except Refused as refusal:
        if refusal.step == 0:
            return False
        return requests.delete(places.mark(slot, attempt))
    return True


def leave_mark(requests: Requests, lock: ZooKeeperLock) -> None:
    """Remove a slot and note at its mark that its holder went of his own accord."""
    slot, mark = lock.fence
    left = dataclasses.replace(lock.claim, abandoned=True).encoded()
    steps = requests.transaction()
    steps.set(mark, left)
    steps.delete(slot)
    try:
        steps.commit()
    except Refused as refusal:
        if refusal.step == 1:  # the slot went with its session
            with contextlib.suppress(NoNodeError):
                requests.set(mark, left)


def tidy(requests: Requests, places: Places) -> None:
    """Remove the folders of a lock that nobody uses, without waiting for the answer."""
    steps = requests.transaction()
    steps.delete_all(reversed(places.all))
    steps.commit_later(lambda _: None)


def _wall_clock() -> str:
    """Return the time of day for people: nothing is decided by it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number_in(name: str) -> int | None:
    """Return the number of a slot from its name or its mark's; None for what is not ours."""
    number = name.partition(".")[0]
    return int(number) if number.isascii() and number.isdecimal() else None


def in_order(line: list[str]) -> list[str]:
    """Sort a line by ZooKeeper's number, as a number; what is not ours stands last."""

    def place(name: str) -> tuple[int, str]:
        try:
            return int(name.rpartition(".")[2]), name
        except ValueError:
            return 2**31, name

    return sorted(line, key=place)
