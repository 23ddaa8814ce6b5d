"""The lines in front of the locks, and what the death of a session frees.

Every lock has one line of tickets, in the order of their ids. A ticket with a
slot holds the lock, one without waits. Whoever changes a line *settles* it in
the same transaction: the first waiter gets a free slot, and the next, until
there is none. So a hand-over is one transaction of the one who leaves, and
wakes the one who enters and nobody else. Holders of one group count as one.

A ticket of an empty session is a slot that is kept: its holder ended without
a release, and nobody but the same owner may have it. While one of a group is
kept its group lets nobody else in.

A line is settled over the living only: where it would be blocked, the life
files of those in front are looked at, and what died with a process is removed
on the spot.

All functions work inside a transaction of the caller.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from registry.contract import Holder, LockOwner, LockStatus, Waiter
from registry.embedded_folder import Folder
from registry.embedded_store import Transaction
from registry.liveness import SESSIONS_TOPIC, is_alive
from registry.records import decode, from_plain, unquote
from registry.wall_clock import now_text

TICKETS = "SELECT id, session, slots, slot, since, owner, coalesce(token, id), lockid FROM tickets"
"""Statement that reads tickets, for `tickets_in`."""

LINE = f"{TICKETS} WHERE lockid = ? ORDER BY id"
"""Statement that reads a line; its value is the quoted name of the lock."""


class Ticket(NamedTuple):
    """A place in a lock's line.

    Attributes:
        id: the place; a later one has a larger id.
        session: whose it is; empty for a slot that is kept.
        slots: how many may hold the lock, as the owner counts.
        slot: the one it holds; None while it waits.
        since: when it came, or got its slot; for people.
        owner: for whom, encoded.
        token: the fence token.
        lockid: the quoted name of the lock.
    """

    id: int
    session: str
    slots: int
    slot: int | None
    since: str
    owner: bytes
    token: int
    lockid: str

    def who(self) -> LockOwner:
        """Return for whom it stands."""
        return from_plain(LockOwner, decode(self.owner))

    def unit(self) -> str | int:
        """Return what counts as one holder: a group, or a ticket by itself, as a kept one does."""
        return self.id if self.session == KEPT else self.who().group or self.id


def tickets_in(rows: Sequence[Sequence[Any]]) -> list[Ticket]:
    """Return what `TICKETS` or `LINE` found."""
    return [Ticket(*row) for row in rows]


KEPT = ""
"""The session of a slot that is kept."""


def lock_topic(lockid: str) -> str:
    """Return the topic of a lock, by its quoted name."""
    return f"lock/{lockid}"


def ticket_topic(ticket: int) -> str:
    """Return the topic of one ticket: that it got its slot, or lost it."""
    return f"ticket/{ticket}"


def settle(transaction: Transaction, folder: Folder, lockid: str) -> None:
    """Give the free slots of a lock (by its quoted name) to the first in line."""
    unsettled = [lockid]
    while unsettled:
        lock = unsettled.pop()
        dead = _grant(transaction, folder, lock)
        if dead is not None:
            unsettled.append(lock)
            unsettled.extend(_remove(transaction, folder, dead))


def _grant(transaction: Transaction, folder: Folder, lockid: str) -> str | None:
    """Grant what can be granted; return a session that is in the way and dead, if there is one."""
    tickets = tickets_in(transaction.rows(LINE, (lockid,)))
    holders = [ticket for ticket in tickets if ticket.slot is not None]
    waiting = [ticket for ticket in tickets if ticket.slot is None]
    for ticket in list(waiting):
        old = _kept_for(ticket, holders)
        if old is None or old.slot is None:
            continue
        # Past everybody in line, and past what is kept for others: nobody works under that.
        beside = [holder for holder in holders if holder.session != KEPT]
        enters = may_enter(ticket, beside)
        dead = _first_dead(folder, [ticket] if enters else beside)
        if dead is not None:
            return dead
        if enters:
            holders.remove(old)
            transaction.execute("DELETE FROM tickets WHERE id = ?", (old.id,))
            holders.append(_give_slot(transaction, ticket, old.slot))
            waiting.remove(ticket)
            _raise_tokens(transaction, waiting)
    for ticket in waiting:
        if _kept_for(ticket, holders) is not None:
            return None  # no other slot is for him, and nobody passes the first in line
        enters = may_enter(ticket, holders)
        dead = _first_dead(folder, [ticket] if enters else holders)
        if dead is not None or not enters:
            return dead
        taken = {holder.slot for holder in holders}
        free = next(slot for slot in itertools.count() if slot not in taken)
        holders.append(_give_slot(transaction, ticket, free))
    return None


def _kept_for(ticket: Ticket, holders: Sequence[Ticket]) -> Ticket | None:
    """Return the slot that is kept for a ticket's owner."""
    owner = ticket.who().owner
    return next(
        (each for each in holders if each.session == KEPT and each.who().owner == owner), None
    )


def may_enter(ticket: Ticket, holders: Sequence[Ticket]) -> bool:
    """Say whether there is room beside these holders: for one more, or in their group."""
    units = {holder.unit() for holder in holders}
    in_force = min([ticket.slots, *(holder.slots for holder in holders)])
    closed = {holder.who().group for holder in holders if holder.session == KEPT}
    return len(units) < in_force or (ticket.unit() in units and ticket.who().group not in closed)


def _first_dead(folder: Folder, tickets: Sequence[Ticket]) -> str | None:
    sessions = (ticket.session for ticket in tickets if ticket.session != KEPT)
    return next((session for session in sessions if not is_alive(folder, session)), None)


def _give_slot(transaction: Transaction, ticket: Ticket, slot: int) -> Ticket:
    """Let a ticket hold a slot from now on; returns it as it stands then."""
    now = now_text()
    transaction.execute(
        "UPDATE tickets SET slot = ?, since = ? WHERE id = ?", (slot, now, ticket.id)
    )
    transaction.changed(ticket_topic(ticket.id), lock_topic(ticket.lockid))
    return ticket._replace(slot=slot, since=now)


def _raise_tokens(transaction: Transaction, waiting: list[Ticket]) -> None:
    """Give everybody who waits a larger token than all that were given, in the line's order.

    Somebody was served before his turn: the tokens of those whom he passed
    would be smaller than his.
    """
    for ticket in waiting:
        (token,) = transaction.row(
            "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'tickets' RETURNING seq"
        )
        transaction.execute("UPDATE tickets SET token = ? WHERE id = ?", (token, ticket.id))


def abandon(transaction: Transaction, folder: Folder, ticket: int, session: str) -> None:
    """Keep the slot of a ticket that was taken with `keep`; any other leaves its line."""
    if not _keep(transaction, "id = ? AND session = ?", (ticket, session)):
        leave(transaction, folder, ticket, session)


def _keep(transaction: Transaction, which: str, values: tuple[object, ...]) -> list[str]:
    """Keep the slots of tickets that ask for it; return the quoted names of their locks."""
    kept = transaction.rows(
        f"UPDATE tickets SET session = '{KEPT}' WHERE {which}"  # noqa: S608 - our own text
        " AND keep AND slot IS NOT NULL RETURNING id, lockid",
        values,
    )
    for ticket, lock in kept:
        transaction.changed(ticket_topic(ticket), lock_topic(lock))
    return [lock for _, lock in kept]


def leave(transaction: Transaction, folder: Folder, ticket: int, session: str) -> bool:
    """Take a ticket out of its line, holding or waiting; say whether it was there."""
    row = transaction.row(
        "DELETE FROM tickets WHERE id = ? AND session IN (?, ?) RETURNING lockid",
        (ticket, session, KEPT),  # kept, if the session was lost before the release
    )
    transaction.execute(
        "DELETE FROM watches WHERE topic = ? AND session = ?", (ticket_topic(ticket), session)
    )
    if row is None:
        return False
    transaction.changed(lock_topic(row[0]))
    settle(transaction, folder, row[0])
    return True


def bury(transaction: Transaction, folder: Folder, session: str) -> None:
    """Remove everything that dies with a session, and settle the lines it stood in.

    The caller knows that the session is dead, or ends it himself. What the
    dead left in the folder is swept up after the commit. Twice is harmless.
    """
    for lock in _remove(transaction, folder, session):
        settle(transaction, folder, lock)


def _remove(transaction: Transaction, folder: Folder, session: str) -> set[str]:
    """Remove what dies with a session; return the quoted names of the locks it stood at."""
    mine = (session,)
    for name, kind in transaction.rows(
        "DELETE FROM presences WHERE session = ? RETURNING name, kind", mine
    ):
        transaction.changed(f"presence/{name}")
        if kind == "node":
            transaction.changed("nodes")
    for (key,) in transaction.rows("DELETE FROM keys WHERE session = ? RETURNING public_key", mine):
        transaction.changed(f"key/{key}")
    locks = set(_keep(transaction, "session = ?", mine))
    for ticket, lock in transaction.rows(
        "DELETE FROM tickets WHERE session = ? RETURNING id, lockid", mine
    ):
        locks.add(lock)
        transaction.changed(ticket_topic(ticket), lock_topic(lock))
    transaction.execute("DELETE FROM watches WHERE session = ?", mine)
    if transaction.rows("DELETE FROM sessions WHERE session = ? RETURNING session", mine):
        transaction.changed(SESSIONS_TOPIC)
    transaction.after_commit(lambda: folder.remove_traces(session))
    return locks


def sweep(transaction: Transaction, folder: Folder) -> None:
    """Remove life files that nobody holds and no session stands for.

    A process that was killed between locking its file and entering its
    session leaves one. Done inside a transaction, because entering is too:
    who is just about to enter notices that his file is gone.
    """
    known = {session for (session,) in transaction.rows("SELECT session FROM sessions")}
    for path in folder.path.glob("*.alive"):
        if path.stem not in known and not is_alive(folder, path.stem):
            folder.remove_traces(path.stem)


def status_of(lockid: str, tickets: list[Ticket]) -> LockStatus:
    """Say how a lock (by its quoted name) stands, given its line."""
    holders, waiting = [], []
    for ticket in tickets:
        owner = ticket.who()
        who = (owner.owner, owner.host, owner.run_id, ticket.since)
        if ticket.slot is None:
            waiting.append(Waiter(*who, owner.reason))
        else:
            kept = ticket.session == KEPT
            holders.append(Holder(*who, ticket.slot, ticket.token, owner.reason, kept))
    counted = [t.slots for t in tickets if t.slot is not None] or [t.slots for t in tickets[:1]]
    holders.sort(key=lambda holder: holder.slot)
    return LockStatus(unquote(lockid), min(counted, default=1), tuple(holders), tuple(waiting))
