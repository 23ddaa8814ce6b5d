"""The lines in front of the locks, and what the death of a session frees.

Every lock has one line of tickets, in the order of their ids. A ticket with a
slot holds the lock, one without waits. Whoever changes a line *settles* it in
the same transaction: the first waiter gets a free slot, and the next, until
there is none. So a hand-over is one transaction of the one who leaves, and
wakes the one who enters and nobody else.

A line is settled over the living only: where it would be blocked, the life
files of those in front are looked at, and what died with a process is removed
on the spot.

All functions work inside a transaction of the caller.
"""

from __future__ import annotations

import datetime

from registry.contract import Holder, LockOwner, LockStatus, Waiter
from registry.embedded_folder import Folder
from registry.embedded_store import Transaction
from registry.liveness import SESSIONS_TOPIC, is_alive
from registry.records import decode, from_plain, unquote

TICKETS = "SELECT id, session, slots, slot, since, owner FROM tickets WHERE lockid = ? ORDER BY id"
"""Statement that reads a line; its value is the quoted name of the lock."""

Ticket = tuple[int, str, int, int | None, str, bytes]


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
    holders = [ticket for ticket in tickets if ticket[3] is not None]
    for ticket in tickets:
        number, session, slots, slot = ticket[:4]
        if slot is not None:
            continue
        in_force = min([slots, *(holder[2] for holder in holders)])
        if len(holders) >= in_force:
            # Blocked. If one of those in front is dead, the line moves on.
            return next((h[1] for h in holders if not is_alive(folder, h[1])), None)
        if not is_alive(folder, session):
            return session
        now = utc_now()
        taken = {holder[3] for holder in holders}
        free = next(slot for slot in range(in_force) if slot not in taken)
        transaction.execute(
            "UPDATE tickets SET slot = ?, since = ? WHERE id = ?", (free, now, number)
        )
        transaction.changed(ticket_topic(number), lock_topic(lockid))
        holders.append((number, session, slots, free, now, ticket[5]))
    return None


def leave(transaction: Transaction, folder: Folder, ticket: int, session: str) -> bool:
    """Take a ticket out of its line, holding or waiting; say whether it was there."""
    row = transaction.row(
        "DELETE FROM tickets WHERE id = ? AND session = ? RETURNING lockid", (ticket, session)
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
    locks = set()
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
    for number, _, _, slot, since, stored in tickets:
        owner = from_plain(LockOwner, decode(stored))
        who = (owner.owner, owner.host, owner.run_id, owner.reason, since)
        if slot is None:
            waiting.append(Waiter(*who))
        else:
            holders.append(Holder(*who, slot=slot, token=number))
    counted = [t[2] for t in tickets if t[3] is not None] or [t[2] for t in tickets[:1]] or [1]
    holders.sort(key=lambda holder: holder.slot)
    return LockStatus(unquote(lockid), min(counted), tuple(holders), tuple(waiting))
