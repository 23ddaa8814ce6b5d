"""A lock that was got: whether it is still ours, and how it is given back.

    locks/LOCK/line/ATTEMPT.NUMBER   who waits, in order; goes with its session
    locks/LOCK/slots/K               who holds slot K; goes with its session
    locks/LOCK/marks/K.ATTEMPT       that ATTEMPT holds slot K; removed by a clean end only

A mark without its slot means an unclean end: the slot counts as held for the
lock-delay, or, if it was taken with `keep`, until its owner comes again.

A slot and its holder's mark are made in one transaction. An attempt's id is
never used again, so a transaction that demands both the slot and the mark is
done only while this very holder has the slot.
"""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kazoo.protocol.states import ZnodeStat

from registry.contract import (
    MAX_OWNER_BYTES,
    Cancel,
    Holder,
    Lock,
    LockOwner,
    LockState,
    RecordInvalid,
    Waiter,
)
from registry.processes import is_process_dead, this_process
from registry.records import decode, encode, from_plain, quote, to_plain
from registry.wall_clock import time_text
from registry.zookeeper_guard import Guard, Standing

_MAX_CLAIM_BYTES = MAX_OWNER_BYTES + 1024
"""An owner, and of which process he is."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the nodes of one lock are."""

    folder: str

    @classmethod
    def of(cls, locks: str, lockid: str) -> Places:
        """Return the places of a lock below the folder of all locks."""
        return cls(f"{locks}/{quote(lockid)}")

    @property
    def line(self) -> str:
        """The folder of those who wait."""
        return f"{self.folder}/line"

    @property
    def slots(self) -> str:
        """The folder of the slots."""
        return f"{self.folder}/slots"

    @property
    def marks(self) -> str:
        """The folder of the holders' marks."""
        return f"{self.folder}/marks"

    @property
    def all(self) -> tuple[str, ...]:
        """The folders, in the order they are made."""
        return self.folder, self.line, self.slots, self.marks

    def slot(self, number: int) -> str:
        """Return the path of a slot."""
        return f"{self.slots}/{number}"

    def mark(self, number: int, attempt: str) -> str:
        """Return the path of a holder's mark."""
        return f"{self.marks}/{number}.{attempt}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What stands in a place in the line, in a slot and in a mark: who, for what, asked when."""

    attempt: str
    owner: str
    host: str
    run_id: str
    reason: str
    since: str
    slots: int
    boot_id: str = ""
    pid_namespace: int = 0
    pid: int = 0
    process_start: int = 0
    group: str = ""
    keep: bool = False
    abandoned: bool = False
    broken: bool = False
    session_milliseconds: int = 0

    @classmethod
    def of(
        cls,
        owner: LockOwner,
        attempt: str,
        since: str,
        slots: int,
        keep: bool,
        session_timeout: float,
    ) -> Claim:
        """Make the claim of one attempt of this process."""
        us = this_process()
        return cls(
            attempt,
            owner.owner,
            owner.host,
            owner.run_id,
            owner.reason,
            since,
            slots,
            us.boot_id,
            us.pid_namespace,
            us.pid,
            us.process_start,
            owner.group,
            keep,
            session_milliseconds=math.ceil(session_timeout * 1000),
        )

    @classmethod
    def parse(cls, data: bytes) -> Claim | None:
        """Read a claim; None for what is nothing of ours."""
        try:
            return from_plain(cls, decode(data))
        except RecordInvalid:
            return None

    def encoded(self) -> bytes:
        """Return the bytes that are stored.

        Raises:
            DocumentTooLarge: the texts of its owner are too long.
        """
        return encode(to_plain(self), "what is said of a lock's owner", _MAX_CLAIM_BYTES)

    def is_past_of_same_node(self, other: Claim) -> bool:
        """Say whether `other` is what our own node left behind, so that nobody works on under it.

        The commands of a node die with its process, and of one process the
        guard has already said no. Another process of the same name that still
        lives, as of a second command on this host, may go on.
        """
        if self._process() == other._process():
            # Of a broken one he will say so himself, by removing what he left.
            return (self.owner, self.host) == (other.owner, other.host) and not other.broken
        return self.has_outlived(other)

    def has_outlived(self, other: Claim) -> bool:
        """Say whether `other` is of another process of our own node, which is surely dead."""
        if (self.owner, self.host) != (other.owner, other.host):
            return False
        was_rebooted = bool(other.boot_id) and other.boot_id != self.boot_id
        return was_rebooted or is_process_dead(*other._process())

    def _process(self) -> tuple[str, int, int, int]:
        return self.boot_id, self.pid_namespace, self.pid, self.process_start

    def as_holder(self, slot: int, stat: ZnodeStat, *, kept: bool = False) -> Holder:
        """Return it as others read it, of one who holds, or for whom a slot is kept.

        Args:
            slot: its number.
            stat: of the slot or, made together with it, of the mark.
            kept: nobody holds it.
        """
        had = datetime.datetime.fromtimestamp(stat.ctime / 1000, datetime.UTC)
        return Holder(
            self.owner,
            self.host,
            self.run_id,
            time_text(had),
            slot,
            int(stat.czxid),
            self.reason,
            kept,
        )

    def as_waiter(self) -> Waiter:
        """Return it as others read it, of one who waits."""
        return Waiter(self.owner, self.host, self.run_id, self.since, self.reason)


class Keeper(Protocol):
    """Who looks after the locks we hold."""

    def release(self, lock: ZooKeeperLock) -> None:
        """Remove the slot and its mark, now or later."""

    def abandon(self, lock: ZooKeeperLock) -> None:
        """Remove the slot and leave its mark, now or later."""

    def wake(self) -> None:
        """Look at all locks now."""


class ZooKeeperLock(Lock):
    """One slot, held in one session.

    Args:
        lockid: the lock's name.
        places: its nodes.
        claim: what stands in slot and mark.
        slot: its number.
        slots: how many were in force.
        token: the slot's `czxid`.
        session: the session that the slot goes with.
        guard: says whether that session surely stands.
        keeper: looks after it.
    """

    def __init__(
        self,
        lockid: str,
        places: Places,
        claim: Claim,
        slot: int,
        slots: int,
        token: int,
        session: int,
        guard: Guard,
        keeper: Keeper,
    ) -> None:
        self.lockid = lockid
        self.slot = slot
        self.slots = slots
        self.token = token
        self.places = places
        self.claim = claim
        self.session = session
        self.was_broken = False
        self._guard = guard
        self._keeper = keeper
        self._lock = threading.Lock()
        self._end: LockState | None = None
        self._callbacks: list[Callable[[LockState], None]] = []

    @property
    def fence(self) -> tuple[str, str]:
        """Nodes that stand together exactly as long as we hold the slot."""
        return self.places.slot(self.slot), self.places.mark(self.slot, self.claim.attempt)

    def is_kept_by(self, keeper: Keeper) -> bool:
        """Say whether it was got from this keeper, so that its nodes mean something there."""
        return self._keeper is keeper

    def state(self) -> LockState:
        """Say whether the lock is surely ours now. Once it is lost it stays lost."""
        end = self._end
        if end is not None:
            return end
        standing = self._guard.standing(self.session)
        if standing is Standing.SURE:
            return LockState.HELD
        if standing is Standing.DOUBTFUL:
            return LockState.DOUBTFUL
        self.lose()
        return self._end or LockState.LOST

    def lose(self, *, broken: bool = False) -> None:
        """Note that the lock is not ours any more.

        Args:
            broken: taken from us while our session stands.
        """
        with self._lock:
            if self._end is not None:
                return
            self.was_broken = broken
            self._end = LockState.LOST
        self._keeper.wake()

    def release(self) -> None:
        """Give the slot up; see `Lock.release`."""
        with self._lock:
            if self._end is LockState.RELEASED:
                return
            self._end = LockState.RELEASED
        # Also after a loss: who releases says that nothing goes on under this lock any more.
        self._keeper.release(self)

    def abandon(self) -> None:
        """Give the lock up and keep its slot; see `Lock.abandon`."""
        if not self.claim.keep:
            self.release()
            return
        with self._lock:
            if self._end is LockState.RELEASED:
                return
            self._end = LockState.RELEASED
        self._keeper.abandon(self)

    def on_change(self, callback: Callable[[LockState], None]) -> Cancel:
        """Call `callback` with each new state; see `Lock.on_change`."""
        with self._lock:
            self._callbacks.append(callback)

        def cancel() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return cancel

    def tell(self, state: LockState) -> None:
        """Call the callbacks (for the keeper, on the callbacks' thread)."""
        for callback in list(self._callbacks):
            if callback in self._callbacks:  # not cancelled by one before it
                callback(state)
