"""Locks of the embedded registry: taken in line, held by a row, freed by death.

A lock is held while its ticket stands with a slot, which is read anew each
time it is asked: there is no lease, no clock, and no flag that could be
stale. A stopped process keeps what it holds and blocks the line until it goes
on or is killed. Nobody waits after an unclean end, because a death is seen
exactly; nor after a break, because the old holder's next question is already
answered with LOST.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from registry.contract import (
    MAX_RECORD_BYTES,
    Cancel,
    Holder,
    Lock,
    LockCancelled,
    LockLost,
    LockOwner,
    LockState,
    LockStatus,
    LockTimeout,
    RegistryError,
    SessionState,
)
from registry.embedded_folder import Folder
from registry.embedded_line import (
    KEPT,
    TICKETS,
    Ticket,
    abandon,
    bury,
    leave,
    lock_topic,
    settle,
    status_of,
    ticket_topic,
    utc_now,
)
from registry.embedded_store import Store, Transaction
from registry.embedded_watcher import Watcher
from registry.liveness import Session, is_alive
from registry.records import encode, quote, to_plain

Leave = Callable[[Transaction, Folder, int, str], object]
"""How a ticket ends: `leave` or `abandon`."""

_CANCEL_PAUSE = 0.2
"""Seconds between two looks at a wait's `cancelled` event."""


class EmbeddedLock(Lock):
    """A slot of a lock, held by one session."""

    def __init__(
        self, locks: EmbeddedLocks, lockid: str, session: str, slot: int, slots: int, token: int
    ) -> None:
        self.lockid = lockid
        self.slot = slot
        self.slots = slots
        self.token = token
        self.session = session
        self.registry_id = locks.registry_id
        self._locks = locks
        self._released = False
        self._lost = False

    def state(self) -> LockState:
        """Read whether the slot is ours; DOUBTFUL if the registry cannot be read."""
        if self._released:
            return LockState.RELEASED
        if not self._lost:
            try:
                if self._locks.stands(self):
                    return LockState.HELD
            except RegistryError:
                return LockState.LOST if self._locks.is_over else LockState.DOUBTFUL
            self._lost = not self._is_released()  # by another thread, while we read
        return LockState.LOST if self._lost else LockState.RELEASED

    def _is_released(self) -> bool:
        return self._released

    def release(self) -> None:
        """Give the slot up; see the contract."""
        if not self._released:
            self._released = True
            self._locks.leave_line(self.token, self.session)

    def abandon(self) -> None:
        """Give the lock up and keep its slot, if it was taken so; see the contract."""
        if not self._released:
            self._released = True
            self._locks.leave_line(self.token, self.session, abandon)

    def on_change(self, callback: Callable[[LockState], None]) -> Cancel:
        """Call `callback` with the new state whenever it changes; not for our own release."""
        told = [self.state()]

        def look() -> None:
            state = self.state()
            if state is not told[0] and state is not LockState.RELEASED:
                told[0] = state
                callback(state)

        return self._locks.watch_ticket(self.token, look)


class EmbeddedLocks:
    """The locks as one opened registry sees them.

    Args:
        folder, store, session, watcher: the registry's own.
    """

    def __init__(self, folder: Folder, store: Store, session: Session, watcher: Watcher) -> None:
        self._folder = folder
        self._store = store
        self._session = session
        self._watcher = watcher
        self._over = False
        self._waiting: set[threading.Event] = set()
        self._left: set[tuple[int, str, Leave]] = set()

    @property
    def registry_id(self) -> str:
        """The registry whose locks these are."""
        return self._store.registry_id

    @property
    def is_over(self) -> bool:
        """True once the registry was closed, or this is a forked child of its process."""
        return self._over

    def end(self) -> None:
        """Wake everybody who waits; they find the registry closed."""
        self._over = True
        for event in list(self._waiting):
            event.set()

    def let_go(self) -> None:
        """Hold nothing and wait for nothing: in a forked child."""
        self._over = True

    @contextlib.contextmanager
    def woken_at_end(self, event: threading.Event) -> Iterator[None]:
        """Have `event` set when the registry is closed, so that nobody waits beyond it."""
        self._waiting.add(event)
        try:
            yield
        finally:
            self._waiting.discard(event)

    # --- taking and leaving

    def acquire(
        self,
        lockid: str,
        owner: LockOwner,
        wait: float | None,
        slots: int,
        keep: bool,
        cancelled: threading.Event | None,
    ) -> Lock:
        """Stand in line and take a slot; see the contract."""
        if slots < 1:
            raise ValueError(f"lock {lockid!r}: slots must be at least 1, not {slots}")
        began = time.monotonic()
        deadline = None if wait is None else began + wait
        stored = encode(to_plain(owner), f"owner of lock {lockid!r}", MAX_RECORD_BYTES)
        lock = quote(lockid)
        granted = threading.Event()
        cancel_watch: Cancel | None = None
        holders: tuple[Holder, ...] = ()
        with self._store.write(durable=True) as transaction:
            session = self._session.enter(transaction)
            number = transaction.execute(
                "INSERT INTO tickets (lockid, session, slots, since, owner, keep)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (lock, session, slots, utc_now(), stored, keep),
            ).lastrowid
            assert number is not None
            transaction.changed(lock_topic(lock))
            settle(transaction, self._folder, lock)
            slot = _slot_of(transaction, number)
            if slot is None:
                holders = status_of(lock, transaction.rows(TICKETS, (lock,))).holders
                if wait is not None and wait <= 0:
                    leave(transaction, self._folder, number, session)
                else:
                    cancel_watch = self._watcher.watch_within(
                        transaction, ticket_topic(number), granted.set, urgent=True
                    )
        if slot is None and cancel_watch is None:
            raise LockTimeout(lockid, 0.0, holders)
        if cancel_watch is not None:
            self._watcher.start()
            try:
                with self.woken_at_end(granted):
                    slot = self._await_slot(
                        lockid, number, session, granted, deadline, began, cancelled
                    )
            except BaseException:
                self.leave_line(number, session)
                raise
            finally:
                cancel_watch()
        assert slot is not None
        return EmbeddedLock(self, lockid, session, slot, slots, number)

    def _await_slot(
        self,
        lockid: str,
        number: int,
        session: str,
        granted: threading.Event,
        deadline: float | None,
        began: float,
        cancelled: threading.Event | None,
    ) -> int:
        while True:
            if self.is_over:
                raise self._store.unavailable("it was closed")
            if cancelled is not None and cancelled.is_set():
                raise LockCancelled(lockid)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return self._take_or_leave(lockid, number, session, began)
            look_again = None if cancelled is None else _CANCEL_PAUSE
            pauses = [pause for pause in (left, look_again) if pause is not None]
            if granted.wait(min(pauses, default=None)):
                granted.clear()
                rows = self._store.rows("SELECT slot FROM tickets WHERE id = ?", (number,))
                if not rows:
                    raise self._store.unavailable("our place in the line was lost")
                if rows[0][0] is not None:
                    return int(rows[0][0])

    def _take_or_leave(self, lockid: str, number: int, session: str, began: float) -> int:
        """Decide at the deadline: the slot if it was granted just now, else out of the line."""
        lock = quote(lockid)
        with self._store.write() as transaction:
            settle(transaction, self._folder, lock)  # the holder may have died unnoticed
            slot = _slot_of(transaction, number)
            if slot is not None:
                return slot
            status = status_of(lock, transaction.rows(TICKETS, (lock,)))
            leave(transaction, self._folder, number, session)
        raise LockTimeout(lockid, time.monotonic() - began, status.holders)

    def leave_line(self, number: int, session: str, how: Leave = leave) -> None:
        """Take a ticket away, now or as soon as the registry can be written again."""
        try:
            with self._store.write() as transaction:
                how(transaction, self._folder, number, session)
        except RegistryError:
            if not self.is_over:
                self._left.add((number, session, how))
                self._watcher.start()

    def leave_late(self) -> None:
        """Take away what could not be taken away before; for the looking thread."""
        for number, session, how in list(self._left):
            with self._store.write() as transaction:
                how(transaction, self._folder, number, session)
            self._left.discard((number, session, how))

    # --- asking

    def stands(self, lock: EmbeddedLock) -> bool:
        """Read whether a lock's slot is still that session's."""
        row = self._store.row(
            "SELECT 1 FROM tickets WHERE id = ? AND session = ? AND slot IS NOT NULL",
            (lock.token, lock.session),
        )
        return row is not None

    def check_fence(self, transaction: Transaction, lock: Lock) -> None:
        """Refuse a write under a lock whose slot is gone, in the write's own transaction.

        Raises:
            LockLost: the slot is not that lock's any more.
        """
        if not isinstance(lock, EmbeddedLock) or lock.registry_id != self.registry_id:
            raise LockLost(lock.lockid, "it belongs to another registry, and fences nothing here")
        row = transaction.row(
            "SELECT 1 FROM tickets WHERE id = ? AND session = ? AND slot IS NOT NULL",
            (lock.token, lock.session),
        )
        if row is None:
            raise LockLost(lock.lockid, f"slot {lock.slot} is not ours any more; nothing written")

    def status(self, lockid: str, *, with_waiting: bool = True) -> LockStatus:
        """Say who holds and who waits, the living only."""
        lock = quote(lockid)
        tickets = self._store.rows(TICKETS, (lock,))
        if not with_waiting:
            tickets = [ticket for ticket in tickets if ticket[3] is not None]
        return status_of(lock, self._living(tickets))

    def all(self) -> list[LockStatus]:
        """Say the same of every lock that is held or waited for."""
        rows = self._store.rows(
            "SELECT id, session, slots, slot, since, owner, lockid FROM tickets ORDER BY id"
        )
        names = {row[0]: row[6] for row in rows}
        lines: dict[str, list[Ticket]] = {}
        for ticket in self._living([row[:6] for row in rows]):
            lines.setdefault(names[ticket[0]], []).append(ticket)
        found = [status_of(lock, tickets) for lock, tickets in lines.items()]
        return sorted(found, key=lambda status: status.lockid)

    def _living(self, tickets: list[Ticket]) -> list[Ticket]:
        """Leave out the tickets of the dead, and remove what died with them."""
        sessions = {ticket[1] for ticket in tickets} - {KEPT}
        dead = {session for session in sessions if not is_alive(self._folder, session)}
        if dead:
            with contextlib.suppress(RegistryError):  # the answer is right without it
                self.bury(dead)
        return [ticket for ticket in tickets if ticket[1] not in dead]

    def bury(self, sessions: set[str]) -> None:
        """Remove what died with these sessions; each is looked at once more before."""
        with self._store.write() as transaction:
            for session in sessions:
                if not is_alive(self._folder, session):
                    bury(transaction, self._folder, session)

    def break_lock(self, lockid: str, token: int | None) -> list[Holder]:
        """Take slots from their holders; see the contract."""
        lock = quote(lockid)
        with self._store.write(durable=True) as transaction:
            tickets: list[Ticket] = transaction.rows(TICKETS, (lock,))
            broken = [t for t in tickets if t[3] is not None and token in (None, t[0])]
            for ticket in broken:
                transaction.execute("DELETE FROM tickets WHERE id = ?", (ticket[0],))
                transaction.changed(ticket_topic(ticket[0]), lock_topic(lock))
            settle(transaction, self._folder, lock)
        return list(status_of(lock, broken).holders)

    def watch(self, lockid: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after somebody came to, or left, the lock or its line."""
        return self._watcher.watch(lock_topic(quote(lockid)), changed)

    def watch_ticket(self, number: int, look: Callable[[], None]) -> Cancel:
        """Call `look` when a ticket may have been lost, or the session is in doubt."""
        cancel_watch = self._watcher.watch(ticket_topic(number), look)
        cancel_state = self._watcher.on_state(lambda state: _look_unless_closed(state, look))

        def cancel() -> None:
            cancel_watch()
            cancel_state()

        return cancel


def _look_unless_closed(state: SessionState, look: Callable[[], None]) -> None:
    if state is not SessionState.CLOSED:
        look()


def _slot_of(transaction: Transaction, number: int) -> int | None:
    row = transaction.row("SELECT slot FROM tickets WHERE id = ?", (number,))
    return None if row is None or row[0] is None else int(row[0])
