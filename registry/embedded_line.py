"""The lines in front of the locks, and what the death of a session frees.

Every lock has one line of tickets, in the order of their ids. A ticket with a
slot holds the lock, one without waits. Whoever changes a line *settles* it in
the same transaction: the first waiter gets a free slot, and the next, until
there is none. So a hand-over is one transaction of the one who leaves, and
wakes the one who enters and nobody else. Holders of one group count as one.

A ticket of an empty session is a slot that is kept: its holder ended without
a release, and nobody but the same owner may have it.

A line is settled over the living only: where it would be blocked, the life
files of those in front are looked at, and what died with a process is removed
on the spot.

All functions work inside a transaction of the caller.
"""

from __future__ import annotations

import datetime
import itertools

from registry.contract import Holder, LockOwner, LockStatus, Waiter
from registry.embedded_folder import Folder
from registry.embedded_store import Transaction
from registry.liveness import SESSIONS_TOPIC, is_alive
from registry.records import decode, from_plain, unquote

TICKETS = "SELECT id, session, slots, slot, since, owner FROM tickets WHERE lockid = ? ORDER BY id"
"""Statement that reads a line; its value is the quoted name of the lock."""

Ticket = tuple[int, str, int, int | None, str, bytes]

KEPT = ""
"""The session of a slot that is kept."""


def utc_now() -> str:
    """Return the wall clock, ISO 8601 in UTC, for people."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    tickets: list[Ticket] = transaction.rows(TICKETS, (lockid,))
    if _give_kept_slots(transaction, lockid, tickets):
        tickets = transaction.rows(TICKETS, (lockid,))
    holders = [ticket for ticket in tickets if ticket[3] is not None]
    for ticket in tickets:
        number, session, slots, slot = ticket[:4]
        if slot is not None:
            continue
        units = {_unit(holder) for holder in holders}
        in_force = min([slots, *(holder[2] for holder in holders)])
        if len(units) >= in_force and _unit(ticket) not in units:
            # Blocked. If one of those in front is dead, the line moves on.
            sessions = (holder[1] for holder in holders if holder[1] != KEPT)
            return next((each for each in sessions if not is_alive(folder, each)), None)
        if not is_alive(folder, session):
            return session
        taken = {holder[3] for holder in holders}
        free = next(slot for slot in itertools.count() if slot not in taken)
        now = _give_slot(transaction, lockid, number, free)
        holders.append((number, session, slots, free, now, ticket[5]))
    return None


def _unit(ticket: Ticket) -> str | int:
    """Return what counts as one holder: a group, or a ticket by itself."""
    return owner_of(ticket).group or ticket[0]


def _give_slot(transaction: Transaction, lockid: str, number: int, slot: int) -> str:
    """Let a ticket hold a slot from now on; returns since when."""
    now = utc_now()
    transaction.execute("UPDATE tickets SET slot = ?, since = ? WHERE id = ?", (slot, now, number))
    transaction.changed(ticket_topic(number), lock_topic(lockid))
    return now


def owner_of(ticket: Ticket) -> LockOwner:
    """Return for whom a ticket stands."""
    return from_plain(LockOwner, decode(ticket[5]))


def _give_kept_slots(transaction: Transaction, lockid: str, tickets: list[Ticket]) -> bool:
    """Give slots that are kept to tickets of the same owners; say whether there were any."""
    kept = {owner_of(ticket).owner: ticket for ticket in tickets if ticket[1] == KEPT}
    given = False
    for ticket in tickets if kept else ():
        old = kept.pop(owner_of(ticket).owner, None) if ticket[3] is None else None
        if old is not None and old[3] is not None:
            transaction.execute("DELETE FROM tickets WHERE id = ?", (old[0],))
            _give_slot(transaction, lockid, ticket[0], old[3])
            given = True
    return given


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
        number, session, _, slot, since, _ = ticket
        owner = owner_of(ticket)
        who = (owner.owner, owner.host, owner.run_id, owner.reason, since)
        if slot is None:
            waiting.append(Waiter(*who))
        else:
            holders.append(Holder(*who, slot=slot, token=number, kept=session == KEPT))
    counted = [t[2] for t in tickets if t[3] is not None] or [t[2] for t in tickets[:1]] or [1]
    holders.sort(key=lambda holder: holder.slot)
    return LockStatus(unquote(lockid), min(counted), tuple(holders), tuple(waiting))
