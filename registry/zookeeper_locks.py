"""All locks of a registry, and the thread that looks after those we hold.

While something is held, each lock's mark is written every quarter of the
session timeout, in one transaction that demands its slot. The answer proves
three things at once: the session stands, the slot is there, and it is ours.
The write is not waited for: a server that answers late is no reason to look
late at the clock, which is what says that a lock has become doubtful.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from registry.contract import (
    OPERATION_TIMEOUT,
    Cancel,
    Holder,
    LockOwner,
    LockState,
    LockStatus,
    RecordInvalid,
    RegistryError,
    RegistryUnavailable,
    check_slots,
)
from registry.records import unquote
from registry.zookeeper_chores import Chores
from registry.zookeeper_line import Attempt, in_order
from registry.zookeeper_lock import Claim, Places, ZooKeeperLock
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_slots import UncleanEnds, give_back, leave_mark, number_in, tidy
from registry.zookeeper_watches import Callback, Hub, Watches

_log = logging.getLogger(__name__)

_RELEASE_TIMEOUT = 2.0

_WATCH_AFTER = 0.25
"""Seconds after which a slot of ours is watched, to hear of a break at once. Not before: the watch
costs an event at the very moment of a release, and what is held for moments need not pay that."""

_TIDY_AFTER = 2.0
"""Seconds after which the folders of a lock that was given back are removed if nobody uses them:
not at once, or who takes it again and again would make them again and again."""


@dataclass(slots=True, eq=False)
class _Kept:
    """A lock we hold, as the keeper sees it."""

    lock: ZooKeeperLock
    stop_listening: Cancel
    told: LockState = LockState.HELD
    confirm_at: float = 0.0
    watch_at: float = 0.0


class Locks:
    """The locks of a registry."""

    def __init__(
        self, session: Session, watches: Watches, hub: Hub, chores: Chores, root: str
    ) -> None:
        self._session = session
        self._watches = watches
        self._hub = hub
        self._chores = chores
        self._folder = f"{root}/locks"
        self._unclean = UncleanEnds(session.guard.now)
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._untidy: dict[Places, float] = {}
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        session.wake_on_change(self._woken.set)

    @property
    def folders(self) -> tuple[str, ...]:
        """Return what must be there before a lock is asked for."""
        return (self._folder,)

    # --- taking

    def acquire(
        self,
        lockid: str,
        owner: LockOwner,
        wait: float | None,
        slots: int,
        keep: bool,
        cancelled: threading.Event | None,
    ) -> ZooKeeperLock:
        """Wait in line for a slot and take it; see `Registry.acquire`."""
        check_slots(lockid, slots)
        attempt = Attempt(
            self._session,
            self._hub,
            self._chores,
            self,
            self._unclean,
            Places.of(self._folder, lockid),
            lockid,
            owner,
            wait,
            slots,
            keep,
            cancelled,
        )
        lock = attempt.run(lambda: self._holders_for_error(lockid))
        self._keep(lock)
        return lock

    def _holders_for_error(self, lockid: str) -> tuple[Holder, ...]:
        try:
            return self._status(self._session.requests(0.5), lockid).holders
        except RegistryError:
            return ()

    def release(self, lock: ZooKeeperLock) -> None:
        """Remove a slot and its mark, now or later (for `ZooKeeperLock`)."""

        def give_back_and_tidy(requests: Requests) -> None:
            give_back(requests, lock.places, lock.slot, lock.claim.attempt)
            self._tidy_later(lock.places)

        self._now_or_later(f"release lock {lock.lockid!r}", give_back_and_tidy)

    def abandon(self, lock: ZooKeeperLock) -> None:
        """Remove a slot and leave its mark, now or later (for `ZooKeeperLock`)."""
        self._now_or_later(
            f"abandon lock {lock.lockid!r}", lambda requests: leave_mark(requests, lock)
        )

    def _now_or_later(self, what: str, deed: Callable[[Requests], None]) -> None:
        def later() -> bool:
            deed(self._session.requests())
            return True

        try:
            deed(self._session.requests(_RELEASE_TIMEOUT))
        except RegistryUnavailable as error:
            _log.info("%s: done later: %s", what, error)
            self._chores.add(what, later)
        finally:
            self._woken.set()

    # --- looking after what we hold

    def wake(self) -> None:
        """Look at all locks now (for `ZooKeeperLock`)."""
        self._woken.set()

    def _keep(self, lock: ZooKeeperLock) -> None:
        kept = _Kept(lock, lambda: None)

        def look() -> None:
            kept.confirm_at = kept.watch_at = 0.0
            self._woken.set()

        kept.stop_listening = self._hub.listen(lock.places.slot(lock.slot), look)
        now = self._session.guard.now()
        kept.watch_at = now + _WATCH_AFTER
        kept.confirm_at = now + self._session.guard.granted / 4  # the claim itself was a write
        with self._lock:
            self._kept.append(kept)
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="flock-registry-locks", daemon=True
                )
                self._thread.start()
        self._woken.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(self._pause())
            self._woken.clear()
            with self._lock:
                kept = list(self._kept)
            for one in kept:
                self._look_after(one)
            self._tidy(time.monotonic())

    def _pause(self) -> float | None:
        """Return seconds until something is due, None if nothing is."""
        with self._lock:
            pauses = [_TIDY_AFTER] if self._untidy else []
            if self._kept:
                # An eighth, so that doubt is told soon after it begins.
                pauses.append(self._session.guard.granted / 8)
            now = self._session.guard.now()
            pauses += [kept.watch_at - now for kept in self._kept if kept.watch_at > now]
        return min(pauses, default=None)

    def _tidy_later(self, places: Places) -> None:
        with self._lock:
            self._untidy[places] = time.monotonic() + _TIDY_AFTER
        self._woken.set()

    def _tidy(self, until: float) -> None:
        """Remove the folders that are due at `until`, if nobody uses them."""
        with self._lock:
            due = [places for places, at in self._untidy.items() if at <= until]
            for places in due:
                del self._untidy[places]
        if due:
            with contextlib.suppress(RegistryUnavailable):  # closed
                requests = self._session.requests()
                for places in due:
                    tidy(requests, places)

    def _look_after(self, kept: _Kept) -> None:
        lock = kept.lock
        state = lock.state()
        if state in {LockState.HELD, LockState.DOUBTFUL}:
            self._watch_and_confirm(kept)
        if state is not kept.told:
            kept.told = state
            self._watches.post(lambda: lock.tell(state))
        if state in {LockState.LOST, LockState.RELEASED}:
            kept.stop_listening()
            with self._lock:
                self._kept.remove(kept)
        if state is LockState.LOST:
            _log.warning("lock %r is lost%s", lock.lockid, ": it was broken" * lock.was_broken)
            # Not before the callbacks have run: what stands says "somebody may still work on it".
            self._watches.post(
                lambda: self._chores.add(
                    f"clear lock {lock.lockid!r}", lambda: self._clear_after_loss(lock)
                )
            )

    def _watch_and_confirm(self, kept: _Kept) -> None:
        """Watch its slot and write its mark, as far as that is due."""
        now = self._session.guard.now()
        if now < min(kept.confirm_at, kept.watch_at) or not self._session.is_connected:
            return
        lock = kept.lock
        try:
            requests = self._session.requests()
        except RegistryUnavailable:
            return  # closed
        slot, mark = lock.fence

        def find_out() -> None:
            kept.confirm_at = 0.0
            self._woken.set()

        if now >= kept.watch_at and requests.watch_later(slot, self._hub.fired, find_out):
            kept.watch_at = math.inf
        if now < kept.confirm_at:
            return
        steps = requests.transaction()
        steps.check(slot)
        steps.set(mark, lock.claim.encoded())

        def done(refusal: Refused | None) -> None:
            if refusal is not None and self._session.guard.session == lock.session:
                lock.lose(broken=True)

        if steps.commit_later(done):
            kept.confirm_at = now + self._session.guard.granted / 4

    def _clear_after_loss(self, lock: ZooKeeperLock) -> bool:
        """Take our slot away if it still stands; say that we know of a break by removing the mark.

        After a break that is all the next holder waits for. After a lost
        session the mark stays: the next one waits for the lock-delay.
        """
        if lock.state() is LockState.RELEASED:
            return True  # the release removes both
        requests = self._session.requests()
        slot, mark = lock.fence
        if lock.was_broken:
            requests.delete(mark)
            self._tidy_later(lock.places)
            return True
        steps = requests.transaction()
        steps.check(mark)
        steps.delete(slot)
        with contextlib.suppress(Refused):  # the slot went with its session
            steps.commit()
        return True

    def release_all(self, timeout: float) -> None:
        """Give back, or keep, all that we hold, as far as it can be done in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._lock:
            kept = list(self._kept)
        for one in kept:
            if time.monotonic() < deadline:
                one.lock.abandon()  # which is a release, unless its slot shall be kept

    def stop(self) -> None:
        """End the thread."""
        self._tidy(math.inf)
        self._stopping.set()
        self._woken.set()
        thread = self._thread
        if thread is not None and threading.current_thread() is not thread:
            thread.join(OPERATION_TIMEOUT)

    # --- the others

    def status(self, lockid: str, *, with_waiting: bool = True) -> LockStatus:
        """Return who holds and who waits; see `Registry.lock_status`."""
        return self._status(self._session.requests(), lockid, with_waiting=with_waiting)

    def _status(self, requests: Requests, lockid: str, *, with_waiting: bool = True) -> LockStatus:
        places = Places.of(self._folder, lockid)
        holders = self._holders(requests, places)
        claims = self._waiting(requests, places) if with_waiting else []
        counts = [claim.slots for _, claim in holders] or [claim.slots for claim in claims]
        return LockStatus(
            lockid,
            min(counts, default=1),
            tuple(holder for holder, _ in holders),
            tuple(claim.as_waiter() for claim in claims),
        )

    def _holders(self, requests: Requests, places: Places) -> list[tuple[Holder, Claim]]:
        """Return who has a slot, and for whom one is kept, by slot."""
        found = []
        paths = [f"{places.slots}/{name}" for name in requests.names(places.slots)]
        for path, node in zip(paths, requests.get_many(paths), strict=True):
            number = number_in(path.rpartition("/")[2])
            claim = Claim.parse(node[0]) if node is not None else None
            if node is not None and claim is not None and number is not None:
                found.append((claim.as_holder(number, node[1]), claim))
        live = {places.mark(holder.slot, claim.attempt) for holder, claim in found}
        marks = [f"{places.marks}/{name}" for name in requests.names(places.marks)]
        marks = [mark for mark in marks if mark not in live]
        for mark, node in zip(marks, requests.get_many(marks), strict=True):
            number = number_in(mark.rpartition("/")[2])
            claim = Claim.parse(node[0]) if node is not None else None
            if node is not None and claim is not None and claim.keep and number is not None:
                # Made in one transaction with the slot, the mark has the same token.
                found.append((claim.as_holder(number, node[1], kept=True), claim))
        return sorted(found, key=lambda pair: pair[0].slot)

    def _waiting(self, requests: Requests, places: Places) -> list[Claim]:
        nodes = requests.get_many(
            [f"{places.line}/{name}" for name in in_order(requests.names(places.line))]
        )
        claims = [Claim.parse(node[0]) for node in nodes if node is not None]
        return [claim for claim in claims if claim is not None]

    def all(self) -> list[LockStatus]:
        """Return every lock that is held or waited for; see `Registry.locks`."""
        requests = self._session.requests()
        found = []
        for part in requests.names(self._folder):
            try:
                status = self._status(requests, unquote(part))
            except RecordInvalid:
                continue  # nothing of ours
            if status.holders or status.waiting:
                found.append(status)
        return sorted(found, key=lambda status: status.lockid)

    def break_lock(self, lockid: str, token: int | None) -> list[Holder]:
        """Take the lock from its holders; see `Registry.break_lock`."""
        requests = self._session.requests()
        places = Places.of(self._folder, lockid)
        broken = []
        for holder, claim in self._holders(requests, places):
            if token is not None and holder.token != token:
                continue
            mark = places.mark(holder.slot, claim.attempt)
            steps = requests.transaction()
            if holder.kept:
                steps.delete(mark)
            else:
                # The mark stays: who held must first say that he knows. Nothing is kept for him.
                steps.set(mark, dataclasses.replace(claim, keep=False, broken=True).encoded())
                steps.delete(places.slot(holder.slot))
            try:
                steps.commit()
            except Refused:
                continue  # given back meanwhile
            broken.append(holder)
        tidy(requests, places)
        return broken

    def watch(self, lockid: str, changed: Callback) -> Cancel:
        """Watch a lock; see `Registry.watch_lock`."""
        places = Places.of(self._folder, lockid)
        cancel_slots = self._watches.watch_names(places.slots, changed)
        try:
            cancel_line = self._watches.watch_names(places.line, changed)
        except BaseException:
            cancel_slots()
            raise

        def cancel() -> None:
            cancel_slots()
            cancel_line()

        return cancel
