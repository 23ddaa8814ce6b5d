"""Who is alive, on one machine: decided by locked files, told at once by the kernel.

Every opened registry has a *session*: a random id, and a file of that name
that is locked (`flock(2)`) before anybody can know of it and is never locked
again by another. The kernel drops the lock when the process ends, however it
ends, and not before: a killed process is seen to be dead at once, a stopped
one keeps what it holds, and no clock is asked. (`lockf` would not do: it drops
when any descriptor of the file is closed.)

Deaths are awaited through process descriptors (`pidfd_open`) where there are
any; they only say *look now*, the file decides. A child that was forked lets
go of the files, or it would keep its dead parent alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from registry.contract import RegistryUnavailable
from registry.embedded_folder import Folder
from registry.embedded_store import Transaction
from registry.processes import is_local, start_of, this_process

_SELDOM = 30.0
"""Seconds between two looks at the file of a session whose process is awaited anyway."""


class SessionLost(RegistryUnavailable):
    """Others took this session for dead: its life file was removed from under it."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "our session was removed from it; it is being made anew")


class Session:
    """One opened registry's claim to be alive; nothing exists on disk until it is entered.

    `enter` must be called inside a write transaction, which also keeps two
    threads from entering at once.

    Attributes:
        id: names the files; empty until entered.
        published: the session stands in the database.
        lost: it stood there, and what it held was not entered again yet.
        nudges: the socket others nudge it at, None where there is none.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._file: int | None = None
        self.nudges: socket.socket | None = None
        self.id = ""
        self.published = False
        self.lost = False
        let_go_in_children(self)

    def enter(self, transaction: Transaction) -> str:
        """Make sure that the session stands in the database, and return its id.

        Raises:
            SessionLost: it stood there, and was removed by somebody.
        """
        if not self.id:
            self._lock_a_new_file()
        if transaction.row("SELECT 1 FROM sessions WHERE session = ?", (self.id,)):
            return self.id
        if self.published:
            raise SessionLost(self._folder.url)
        assert self._file is not None
        if os.fstat(self._file).st_nlink == 0:  # swept away before it was published
            self.renew()
            return self.enter(transaction)
        me = this_process()
        transaction.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
            (self.id, me.boot_id, me.pid_namespace, me.pid, me.process_start),
        )
        transaction.changed(SESSIONS_TOPIC)
        transaction.after_commit(self._is_published)
        return self.id

    def _is_published(self) -> None:
        self.published = True

    def renew(self) -> None:
        """Let the lost session go; the next `enter` makes a new one."""
        self.let_go()
        if self.id:
            self._folder.remove_traces(self.id)
        self.id = ""
        self.published = False

    def let_go(self) -> None:
        """Close the file, which frees its lock, and the socket. Twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self.nudges is not None:
            self.nudges.close()
            self.nudges = None

    def _lock_a_new_file(self) -> None:
        session = os.urandom(8).hex()
        self._file = os.open(
            self._folder.life_file(session),
            os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC,
            0o600,
        )
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        address = self._folder.nudge_address(session)
        if address is not None:
            nudges = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            nudges.setblocking(False)
            try:
                nudges.bind(address)
            except OSError:
                nudges.close()  # the once-a-second look finds what no nudge tells
            else:
                self.nudges = nudges
        self.id = session


SESSIONS_TOPIC = "sessions"
"""Changed whenever a session comes or goes."""


def is_alive(folder: Folder, session: str) -> bool:
    """Say whether somebody holds the life file of a session.

    Raises:
        RegistryUnavailable: it cannot be told (no file descriptor left).
    """
    try:
        probe = os.open(folder.life_file(session), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RegistryUnavailable(folder.url, f"{error.strerror} ({error.filename})") from error
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(probe)
    return False


class Nudger:
    """Tells other sessions to look at what changed; any thread may use it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._socket: socket.socket | None = None
        let_go_in_children(self)

    def nudge(self, sessions: Iterable[str]) -> None:
        """Send each session a datagram; one that cannot be had finds out within a second."""
        for session in sessions:
            address = self._folder.nudge_address(session)
            if address is None:
                continue
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            # A full socket has nudges waiting already; a missing one has no reader.
            with contextlib.suppress(OSError):
                self._socket.sendto(b"!", address)

    def let_go(self) -> None:
        """Close the socket. Twice is harmless."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(slots=True)
class _Awaited:
    """A session whose end is awaited: by its process's descriptor, or only by looking."""

    descriptor: int | None
    next_look: float


class DeathWatch:
    """Awaits the end of other sessions, for one polling thread.

    Args:
        folder: where the life files lie.
        selector: the thread's; process descriptors are registered there with
            the session's id as data.
    """

    def __init__(self, folder: Folder, selector: selectors.BaseSelector) -> None:
        self._folder = folder
        self._selector = selector
        self._awaited: dict[str, _Awaited] = {}

    def follow(self, sessions: Mapping[str, tuple[str, int, int, int]]) -> None:
        """Await exactly these sessions.

        Args:
            sessions: boot id, pid namespace, pid and process start by session.
        """
        for session in self._awaited.keys() - sessions.keys():
            self._close(self._awaited.pop(session))
        for session in sessions.keys() - self._awaited.keys():
            descriptor = _process_descriptor(*sessions[session])
            if descriptor is not None:
                self._selector.register(descriptor, selectors.EVENT_READ, session)
            self._awaited[session] = _Awaited(descriptor, 0.0)

    def ended(self, session: str) -> None:
        """Take note that the process of a session ended: look at its file soon and often."""
        awaited = self._awaited.get(session)
        if awaited is not None:
            self._close(awaited)
            awaited.next_look = 0.0

    def dead(self) -> set[str]:
        """Return the sessions that are found dead among those it is time to look at."""
        now = time.monotonic()
        dead = set()
        for session, awaited in self._awaited.items():
            if awaited.next_look > now:
                continue
            if not is_alive(self._folder, session):
                dead.add(session)
            awaited.next_look = now + (0.9 if awaited.descriptor is None else _SELDOM)
        return dead

    def _close(self, awaited: _Awaited) -> None:
        if awaited.descriptor is not None:
            self._selector.unregister(awaited.descriptor)
            os.close(awaited.descriptor)
            awaited.descriptor = None

    def close(self) -> None:
        """Await nobody any more."""
        self.follow({})


def _process_descriptor(
    boot_id: str, pid_namespace: int, pid: int, process_start: int
) -> int | None:
    """Return a descriptor that becomes readable when the process ends, None if there is none."""
    pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    if pidfd_open is None or pid == os.getpid() or not is_local(boot_id, pid_namespace):
        return None
    try:
        descriptor = pidfd_open(pid)
    except OSError:
        return None  # gone already, or no descriptor left: looking finds it
    if start_of(pid) == process_start:
        return descriptor
    os.close(descriptor)
    return None


class _Holder(Protocol):
    def let_go(self) -> None: ...


_holders: weakref.WeakSet[_Holder] = weakref.WeakSet()


def let_go_in_children(holder: _Holder) -> None:
    """Have `holder.let_go()` called in every child that is forked from this process."""
    _holders.add(holder)


def _let_go() -> None:
    for holder in list(_holders):
        holder.let_go()


os.register_at_fork(after_in_child=_let_go)
