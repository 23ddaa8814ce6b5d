"""`locker`: locks of the whole flock, for whoever can call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from flock.actor import Actor
from flock.errors import LockLost, UsageError
from flock.fleet import Flock
from flock.future import Future
from flock.journal import Journal
from flock.locksmith import tell_holder
from registry.contract import Lock, LockOwner, LockStatus, Registry
from registry.wall_clock import now_text

logger = logging.getLogger(__name__)

_BROKEN_FACT = "broken locks"
_BROKEN_KEPT = 100


class Locker(Actor):
    """Answers for all locks: who has them, who waits; takes and gives back in this node's name.

    What was taken here is held by this node's process until it is released, or
    the process ends. Waiting and asking the registry happen beside the
    actor's thread, which answers meanwhile.
    """

    survives_tells: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("flock", "journal")

    def __init__(self, flock: Flock, journal: Journal) -> None:
        """Answer for the locks of a flock's registry.

        Args:
            flock: joined.
            journal: keeps which of our locks were broken, and why.
        """
        super().__init__()
        self._fleet = flock
        self._journal = journal
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Lock] = {}

    @property
    def _registry(self) -> Registry:
        return self._fleet.registry

    # --- taking and giving back

    def acquire(
        self,
        lockid: str,
        wait: float | None = 60.0,
        slots: int = 1,
        reason: str = "",
        group: str = "",
    ) -> Future[dict[str, Any]]:
        """Take a lock in this node's name.

        Args:
            lockid: any text.
            wait: seconds, 0 for "now or not", None for as long as it takes.
            slots: how many may hold it at a time.
            reason: for people; who asked is added.
            group: those of one group take one slot together.

        Returns:
            `lockid`, `slot` and `token` of the lock.

        Raises:
            LockTimeout: it was not free in time.
            RegistryUnavailable: it could not be asked for.
        """
        if slots < 1:
            raise UsageError(f"a lock has at least one slot, not {slots!r}")
        presence = self._fleet.node.presence()
        asked_by = self.caller or presence.name
        why = f"{reason} (for {asked_by})" if reason else f"for {asked_by}"
        owner = LockOwner(presence.name, presence.host, reason=why, group=group)

        def take() -> dict[str, Any]:
            lock = self._registry.acquire(lockid, owner, wait=wait, slots=slots)
            with self._lock:
                self._held[lockid, lock.token] = lock
            return {"lockid": lockid, "slot": lock.slot, "token": lock.token}

        return self._beside(take)

    def release(self, lockid: str, token: int | None = None) -> Future[bool]:
        """Give a lock back that was taken here; say whether there was one.

        Args:
            lockid: its name.
            token: which one, if it was taken here for several slots.
        """
        with self._lock:
            mine = [
                self._held.pop(key)
                for key in list(self._held)
                if key[0] == lockid and token in (None, key[1])
            ]

        def give_back() -> bool:
            for lock in mine:
                lock.release()
            return bool(mine)

        return self._beside(give_back)

    def held(self, lockid: str, token: int | None = None) -> bool:
        """Say whether a lock that was taken here is surely held now; asks no server."""
        with self._lock:
            mine = [lock for key, lock in self._held.items() if key[0] == lockid]
        return any(lock.held and token in (None, lock.token) for lock in mine)

    # --- the others

    def holder(self, lockid: str) -> Future[dict[str, Any] | None]:
        """Return who holds a lock, the first of several; None if nobody does."""
        return self._asked(
            lockid, lambda status: status.holders[0].as_data() if status.holders else None
        )

    def holders(self, lockid: str) -> Future[list[dict[str, Any]]]:
        """Return all who hold a lock, by slot."""
        return self._asked(lockid, lambda status: [each.as_data() for each in status.holders])

    def waiting(self, lockid: str) -> Future[list[dict[str, Any]]]:
        """Return who waits for a lock, the first in line first."""
        return self._asked(
            lockid,
            lambda status: [each.as_data() for each in status.waiting],
        )

    def break_lock(
        self, lockid: str, reason: str, token: int | None = None
    ) -> Future[list[dict[str, Any]]]:
        """Take a lock from its holders; each is told why, and keeps it in its journal.

        Args:
            lockid: its name.
            reason: why, for the holders.
            token: only the slot with this token.

        Returns:
            Who had it.
        """
        if not reason:
            raise UsageError("say why: the holder is told")
        by = self.caller or self._fleet.node.identity.name

        def take_away() -> list[dict[str, Any]]:
            broken = self._registry.break_lock(lockid, token=token)
            rows = [holder.as_data() for holder in broken]
            for row in rows:
                tell_holder(self._fleet, lockid, row, by, reason)
            return rows

        return self._beside(take_away)

    def was_broken(self, lockid: str, token: int, reason: str, by: str = "") -> None:
        """Hear that a lock of this node was broken; kept in the journal.

        Args:
            lockid: its name.
            token: of the grant that was broken.
            reason: why.
            by: who asked for that, if it was not the caller himself.
        """
        caller = self.caller or self._fleet.node.identity.name
        who = caller if by in ("", caller) else f"{by} (says {caller})"
        logger.warning("lock %r (token %s) was broken by %s: %s", lockid, token, who, reason)
        entry = {
            "lockid": str(lockid)[:1000],
            "token": token,
            "by": who,
            "reason": str(reason)[:1000],
            "at": now_text(),
        }
        self._journal.remember(_BROKEN_FACT, [*self.broken(), entry][-_BROKEN_KEPT:])

    def broken(self) -> list[dict[str, Any]]:
        """Return which locks of this node were broken, by whom and why, the last ones last."""
        known: list[dict[str, Any]] = self._journal.recall(_BROKEN_FACT, [])
        return known

    # --- inside

    def _asked(self, lockid: str, answer: Callable[[LockStatus], Any]) -> Future[Any]:
        return self._beside(lambda: answer(self._registry.lock_status(lockid)))

    def _beside(self, deed: Callable[[], Any]) -> Future[Any]:
        """Do something that may wait on a thread of its own, and answer when it is done."""
        answer = self.later()

        def do() -> None:
            try:
                answer.set(deed())
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                answer.set_exception((type(error), error, error.__traceback__))

        threading.Thread(target=do, name="locker", daemon=True).start()
        return answer

    def on_stop(self) -> None:
        """Give back what was taken here."""
        with self._lock:
            mine, self._held = list(self._held.values()), {}
        for lock in mine:
            try:
                lock.release()
            except LockLost:
                logger.debug("lock %r was lost before", lock.lockid)
