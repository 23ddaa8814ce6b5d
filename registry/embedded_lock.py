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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from registry.contract import (
    MAX_OWNER_BYTES,
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
    check_slots,
)
from registry.embedded_folder import Folder
from registry.embedded_line import (
    KEPT,
    LINE,
    TICKETS,
    Ticket,
    abandon,
    bury,
    leave,
    lock_topic,
    settle,
    status_of,
    ticket_topic,
    tickets_in,
)
from registry.embedded_store import Store, Transaction
from registry.embedded_watcher import Watcher
from registry.liveness import Session, is_alive
from registry.records import encode, quote, to_plain
from registry.wall_clock import now_text

Leave = Callable[[Transaction, Folder, int, str], object]
"""How a ticket ends: `leave` or `abandon`."""

_TICKET = f"{TICKETS} WHERE id = ?"
_HELD = "SELECT 1 FROM tickets WHERE id = ? AND session = ? AND slot IS NOT NULL"

_CANCEL_PAUSE = 0.2
"""Seconds between two looks at a wait's `cancelled` event."""


class EmbeddedLock(Lock):
    """A slot of a lock, held by one session.

    Args:
        locks: where it was got.
        lockid: its name.
        slots: how many its owner counts.
        ticket: its place in the line, with its slot.
    """

    def __init__(self, locks: EmbeddedLocks, lockid: str, slots: int, ticket: Ticket) -> None:
        assert ticket.slot is not None
        self.lockid = lockid
        self.slot = ticket.slot
        self.slots = slots
        self.token = ticket.token
        self.ticket = ticket.id
        self.session = ticket.session
        self._locks = locks
        self._released = False
        self._lost = False

    def is_from(self, locks: EmbeddedLocks) -> bool:
        """Say whether it was got there."""
        return self._locks is locks

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
            self._locks.leave_line(self.ticket, self.session)

    def abandon(self) -> None:
        """Give the lock up and keep its slot, if it was taken so; see the contract."""
        if not self._released:
            self._released = True
            self._locks.leave_line(self.ticket, self.session, abandon)

    def on_change(self, callback: Callable[[LockState], None]) -> Cancel:
        """Call `callback` with the new state whenever it changes; not for our own release."""
        told = [self.state()]

        def look() -> None:
            state = self.state()
            if state is not told[0] and state is not LockState.RELEASED:
                told[0] = state
                callback(state)

        return self._locks.watch_ticket(self.ticket, look)


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
        check_slots(lockid, slots)
        began = time.monotonic()
        deadline = None if wait is None else began + wait
        stored = encode(to_plain(owner), f"owner of lock {lockid!r}", MAX_OWNER_BYTES)
        lock = quote(lockid)
        granted = threading.Event()
        cancel_watch: Cancel | None = None
        holders: tuple[Holder, ...] = ()
        with self._store.write(durable=True) as transaction:
            session = self._session.enter(transaction)
            number = transaction.execute(
                "INSERT INTO tickets (lockid, session, slots, since, owner, keep)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (lock, session, slots, now_text(), stored, keep),
            ).lastrowid
            assert number is not None
            transaction.changed(lock_topic(lock))
            settle(transaction, self._folder, lock)
            ticket = _with_slot(transaction.rows(_TICKET, (number,)))
            if ticket is None:
                holders = status_of(lock, tickets_in(transaction.rows(LINE, (lock,)))).holders
                if wait is not None and wait <= 0:
                    leave(transaction, self._folder, number, session)
                else:
                    cancel_watch = self._watcher.watch_within(
                        transaction, ticket_topic(number), granted.set, urgent=True
                    )
        if ticket is None and cancel_watch is None:
            raise LockTimeout(lockid, 0.0, holders)
        if cancel_watch is not None:
            self._watcher.start()
            try:
                with self.woken_at_end(granted):
                    ticket = self._await_slot(
                        lockid, number, session, granted, deadline, began, cancelled
                    )
                if ticket.token != number:
                    self._sync(number)
            except BaseException:
                self.leave_line(number, session)
                raise
            finally:
                cancel_watch()
        assert ticket is not None
        return EmbeddedLock(self, lockid, slots, ticket)

    def _await_slot(
        self,
        lockid: str,
        number: int,
        session: str,
        granted: threading.Event,
        deadline: float | None,
        began: float,
        cancelled: threading.Event | None,
    ) -> Ticket:
        while True:
            if self.is_over:
                raise self._store.unavailable("it was closed")
            if cancelled is not None and cancelled.is_set():
                raise LockCancelled(lockid)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return self._take_or_leave(lockid, number, session, began)
            look_again = None if cancelled is None else _CANCEL_PAUSE
            pauses = (left, look_again, threading.TIMEOUT_MAX)
            if granted.wait(min(pause for pause in pauses if pause is not None)):
                granted.clear()
                rows = self._store.rows(_TICKET, (number,))
                if not rows:
                    raise self._store.unavailable("our place in the line was lost")
                ticket = _with_slot(rows)
                if ticket is not None:
                    return ticket

    def _take_or_leave(self, lockid: str, number: int, session: str, began: float) -> Ticket:
        """Decide at the deadline: the slot if it was granted just now, else out of the line."""
        lock = quote(lockid)
        with self._store.write() as transaction:
            settle(transaction, self._folder, lock)  # the holder may have died unnoticed
            ticket = _with_slot(transaction.rows(_TICKET, (number,)))
            if ticket is not None:
                return ticket
            status = status_of(lock, tickets_in(transaction.rows(LINE, (lock,))))
            leave(transaction, self._folder, number, session)
        raise LockTimeout(lockid, time.monotonic() - began, status.holders)

    def _sync(self, number: int) -> None:
        """Have a ticket's token on the disk: an id is there from the start, another token is not.

        A token that went with the power would be given once more.
        """
        with self._store.write(durable=True) as transaction:
            transaction.execute("UPDATE tickets SET token = token WHERE id = ?", (number,))

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
        return self._store.row(_HELD, (lock.ticket, lock.session)) is not None

    def check_fence(self, transaction: Transaction, lock: Lock) -> None:
        """Refuse a write under a lock whose slot is gone, in the write's own transaction.

        Raises:
            LockLost: the slot is not that lock's any more.
        """
        if not isinstance(lock, EmbeddedLock) or not lock.is_from(self):
            raise LockLost(lock.lockid, "it was not got here, and fences nothing")
        if transaction.row(_HELD, (lock.ticket, lock.session)) is None:
            raise LockLost(lock.lockid, f"slot {lock.slot} is not ours any more; nothing written")

    def status(self, lockid: str, *, with_waiting: bool = True) -> LockStatus:
        """Say who holds and who waits, the living only."""
        lock = quote(lockid)
        tickets = self._living(LINE, lock)
        if not with_waiting:
            tickets = [ticket for ticket in tickets if ticket.slot is not None]
        return status_of(lock, tickets)

    def all(self) -> list[LockStatus]:
        """Say the same of every lock that is held or waited for."""
        lines: dict[str, list[Ticket]] = {}
        for ticket in self._living(f"{TICKETS} ORDER BY id"):
            lines.setdefault(ticket.lockid, []).append(ticket)
        found = [status_of(lock, tickets) for lock, tickets in lines.items()]
        return sorted(found, key=lambda status: status.lockid)

    def _living(self, statement: str, *values: str) -> list[Ticket]:
        """Read tickets without those of the dead, after removing, or keeping, what they had."""
        tickets = tickets_in(self._store.rows(statement, values))
        sessions = {ticket.session for ticket in tickets} - {KEPT}
        dead = {session for session in sessions if not is_alive(self._folder, session)}
        if not dead:
            return tickets
        try:
            self.bury(dead)
        except RegistryError:  # the answer is right without it, but for what is kept
            return [ticket for ticket in tickets if ticket.session not in dead]
        return tickets_in(self._store.rows(statement, values))

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
            tickets = tickets_in(transaction.rows(LINE, (lock,)))
            broken = [t for t in tickets if t.slot is not None and token in (None, t.token)]
            for ticket in broken:
                transaction.execute("DELETE FROM tickets WHERE id = ?", (ticket.id,))
                transaction.changed(ticket_topic(ticket.id), lock_topic(lock))
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


def _with_slot(rows: Sequence[Sequence[Any]]) -> Ticket | None:
    """Return the one ticket that was found, None if it has no slot."""
    return next((ticket for ticket in tickets_in(rows) if ticket.slot is not None), None)
