"""The keeper of lanes: waits for what becomes of their connections.

One thread for all lanes of a process. It reads the sockets' monitors, notices
a lane that nobody answers in time and one that nobody uses any more, and tells
the owner of the lanes, who decides. Whatever may take time is the owner's, on
threads of his own: one silent peer delays nobody else.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from flock.lanes import Lane, monitor_event

OPEN_WITHIN = 3.0
"""Seconds within which a peer must have answered our HELLO."""

IDLE_AFTER = 300.0
"""Seconds without traffic and open calls after which a lane is closed."""

EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
"""What a lane's monitor is to tell."""

_LOOK_PAUSE = 0.02  # seconds between two looks at all lanes, at least

_EAGAIN = 11
"""What a handshake that timed out gives as its reason; a wrong key gives another."""

_REFUSED_WITHIN = 2.5
"""Seconds of a connection within which a peer that has another key has refused it. One that
hangs has not: its libzmq ends a handshake that nobody decides about after 3."""


class Watched:
    """A lane as the keeper sees it.

    Attributes:
        peer: whose lane it is.
        lane: the lane.
        monitor: its socket's monitor.
        connected_at: monotonic seconds when the connection was made, whatever
            became of it; None before.
        is_over: its end was told.
        deadline: monotonic seconds until which it must be open; None once it was.
    """

    __slots__ = ("connected_at", "deadline", "is_over", "lane", "monitor", "peer")

    def __init__(self, peer: Any, lane: Lane, monitor: Any) -> None:
        """Begin with a lane that is about to connect."""
        self.peer = peer
        self.lane = lane
        self.monitor = monitor
        self.connected_at: float | None = None
        self.is_over = False
        self.deadline: float | None = time.monotonic() + OPEN_WITHIN

    @property
    def seems_refused(self) -> bool:
        """True if an end of the handshake without a reason is the peer's doing, not a timeout."""
        connected_at = self.connected_at
        return connected_at is not None and time.monotonic() - connected_at < _REFUSED_WITHIN

    @property
    def is_idle(self) -> bool:
        """True if nothing was sent for long."""
        return self.lane.idle_for > IDLE_AFTER


class Keeper:
    """Watches lanes on a thread that starts with the first of them."""

    def __init__(
        self,
        *,
        over: Callable[[Watched, str, int], None],
        is_needed: Callable[[Any], bool],
        idle: Callable[[Watched], None],
    ) -> None:
        """Make it; no thread yet.

        Args:
            over: told once that a lane's connection ended or never came, why
                (`connection ended`, `no connection`, `no answer`, `wrong key`,
                `not let in`, `full`), and with `not let in` the peer's status.
            is_needed: says whether somebody waits for something on the lane to
                a peer; it is then never idle.
            idle: told, again and again, that a lane has been idle for long.
        """
        self._over_listener = over
        self._is_needed = is_needed
        self._idle = idle
        self._orders: deque[tuple[str, Any]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: dict[int, Watched] = {}
        self._descriptors: dict[Lane, int] = {}
        # When all lanes are looked at again: each event alone concerns one of them.
        self._next_look = math.inf
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    # --- for the owner of the lanes; any thread may

    def watch(self, watched: Watched) -> None:
        """Begin with a lane that is connecting."""
        self._order("watch", watched)

    def opened(self, lane: Lane) -> None:
        """Note that a peer has answered: the lane is not late any more."""
        self._order("opened", lane)

    def forget(self, lane: Lane) -> None:
        """End with a lane that is closed."""
        self._order("forget", lane)

    def look(self) -> None:
        """Look at all lanes now."""
        self._order("look", None)

    def give_up(self, lane: Lane) -> None:
        """Tell that a lane is over as if its connection had ended: it is full."""
        self._order("give up", lane)

    def over(self, watched: Watched, why: str, status: int = 0) -> None:
        """Tell the end of a lane, once: the first event says why, the others follow from it."""
        watched.deadline = None
        if not watched.is_over:
            watched.is_over = True
            self._over_listener(watched, why, status)

    def close(self) -> None:
        """End the thread; lanes have to be closed before, while somebody listens to them."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            thread = self._thread
            os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join()
        os.close(self._wake)

    def _order(self, what: str, about: Any) -> None:
        self._orders.append((what, about))
        with self._lock:
            if self._is_closed:
                return  # it tidied up as it ended
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flock-keeper", daemon=True)
                self._thread.start()
            os.eventfd_write(self._wake, 1)

    # --- the thread

    def _run(self) -> None:
        """Wait for the lanes' events and deadlines."""
        poll = select.epoll()
        poll.register(self._wake, select.EPOLLIN)
        try:
            while not self._is_closed:
                left = self._next_look - time.monotonic()
                timeout = max(0.0, left) + 0.001 if math.isfinite(left) else -1
                for descriptor, _ in poll.poll(timeout):
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                    else:
                        self._read_events(self._watched.get(descriptor))
                self._carry_out_orders(poll)
                if time.monotonic() >= self._next_look:
                    self._look_at_all()
        finally:
            for watched in self._watched.values():
                watched.monitor.close(linger=0)
            self._watched.clear()
            self._descriptors.clear()
            while self._orders:
                what, about = self._orders.popleft()
                if what == "watch":
                    about.monitor.close(linger=0)
            poll.close()

    def _carry_out_orders(self, poll: select.epoll) -> None:
        while self._orders:
            what, about = self._orders.popleft()
            if what == "watch":
                descriptor = about.monitor.fileno()
                self._watched[descriptor] = about
                self._descriptors[about.lane] = descriptor
                if about.deadline is not None:
                    self._next_look = min(self._next_look, about.deadline)
                poll.register(descriptor, select.EPOLLIN)
                # The descriptor is edge-like: what came before it was registered is read now.
                self._read_events(about)
                continue
            if what == "look":
                self._next_look = 0.0
                continue
            descriptor = self._descriptors.get(about, -1)
            watched = self._watched.get(descriptor)
            if watched is None:
                continue
            if what == "opened":
                watched.deadline = None
            elif what == "give up":
                self.over(watched, "full")
            else:
                poll.unregister(descriptor)
                del self._watched[descriptor], self._descriptors[about]
                watched.monitor.close(linger=0)

    def _read_events(self, watched: Watched | None) -> None:
        if watched is None:
            return
        while True:
            try:
                frames = watched.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, value = monitor_event(frames)
            if kind == zmq.EVENT_CONNECTED:
                watched.connected_at = time.monotonic()
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self.over(watched, "not let in", value)
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                is_refusal = value != _EAGAIN and watched.seems_refused
                self.over(watched, "wrong key" if is_refusal else "no answer")
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self.over(watched, "wrong key")
            elif kind in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                was_connected = watched.connected_at is not None
                self.over(watched, "connection ended" if was_connected else "no connection")

    def _look_at_all(self) -> None:
        """End what is overdue, tell what is idle, and note when to look again."""
        now = time.monotonic()
        next_look = now + IDLE_AFTER / 5 if self._watched else math.inf
        for watched in list(self._watched.values()):
            if watched.deadline is not None and now >= watched.deadline:
                if watched.lane.is_open:
                    watched.deadline = None  # just in time: the order to say so is on its way
                else:
                    self.over(watched, "no answer")
            elif watched.deadline is None and watched.is_idle and not self._is_needed(watched.peer):
                self._idle(watched)
            if watched.deadline is not None:
                next_look = min(next_look, watched.deadline)
        # Of many that are late one after the other, several at a time.
        self._next_look = max(next_look, now + _LOOK_PAUSE)
