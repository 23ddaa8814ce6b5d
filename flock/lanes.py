"""A lane: the one-way pipe from this process to one peer.

A lane is a send-only DEALER socket. Any thread sends on it, under its lock;
answers come back on the peer's own lane. Messages that need not leave at once
are queued, and whoever holds the lock sends all that is queued as one frame.
No message waits for company longer than for the send in front of it.

A lane connects once and never again: libzmq would hand what was queued for a
dead process to its successor on the same port. When the connection ends the
lane is over; what was never given to it is returned, so that it can be said
that it surely did not run.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from queue import SimpleQueue
from typing import Any

import zmq

from flock.errors import OverloadedError
from flock.messages import ARRAY_OF_ONE, HEADER_OF_ONE, PROTOCOL, ROUTE_BYTES, ROUTE_MARK
from flock.wire import frame_of

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
"""Messages that a lane queues before it refuses more."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of large messages that a lane queues before it refuses more."""

_LARGE = 4096  # smaller messages are bounded by their number alone
_FRAME_MESSAGES = 64
_FRAME_BYTES = 64 * 1024
_COPIED_BYTES = 256 * 1024  # `_SEND_HIGH_WATER` of these are less than `MAX_BYTES`
_SEND_HIGH_WATER = 128  # frames; each is small, or tracked by its own
_STALLED_PAUSE = 0.005

_NOBLOCK = int(zmq.NOBLOCK)
_BOOTTIME = time.CLOCK_BOOTTIME
_now_ns = time.clock_gettime_ns
_pack_head = HEADER_OF_ONE.pack


class LaneClosed(Exception):
    """The lane is over; nothing was sent."""


class Lane:
    """One connection's worth of messages to one peer.

    Attributes:
        number: grows with every lane this process opens.
        used: `CLOCK_BOOTTIME` nanoseconds when something was last sent.

    Args:
        socket: a DEALER, set up and not yet connected.
        number: grows with every lane this process opens.
        flusher: sends what nobody else sent.
        first: messages that go before all others.
        is_wanted: asked of a message that had to wait, for the lane to open or
            for room, before it is sent: nobody may wait for it any more.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        number: int,
        flusher: Flusher,
        first: Iterable[bytes] = (),
        is_wanted: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """Wrap a socket; `open` lets messages out."""
        self.number = number
        self.used = _now_ns(_BOOTTIME)
        self._socket = socket
        # pyzmq's own wrapper around it only looks after what we never use.
        self._send = super(zmq.Socket, socket).send
        self._flusher = flusher
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque(first)
        self._is_open = False
        self._is_closed = False
        self._is_stalled = False
        self._is_wanted = is_wanted
        self._has_waited = True  # what comes before it is open
        self._wants_flush = False
        self._first: bytes | None = None  # the last HELLO that had to wait
        self._large_lock = threading.Lock()
        self._large_bytes = sum(len(each) for each in self._queue if len(each) >= _LARGE)
        self._in_flight: list[tuple[Any, int]] = []

    @property
    def is_open(self) -> bool:
        """True between the peer's answer to our HELLO and the end of the connection."""
        return self._is_open and not self._is_closed

    @property
    def is_closed(self) -> bool:
        """True once the lane is over."""
        return self._is_closed

    @property
    def idle_for(self) -> float:
        """Seconds since something was sent."""
        return (_now_ns(_BOOTTIME) - self.used) * 1e-9

    def send_first(self, message: bytes) -> None:
        """Send a message before, and whether or not, the lane is open: a HELLO."""
        with self._lock:
            if not self._is_closed:
                frame = frame_of((message,), _now_ns(_BOOTTIME))
                try:
                    self._send(frame, _NOBLOCK)
                except zmq.Again:
                    if self._queue and self._queue[0] is self._first:
                        self._queue.popleft()  # this one says the same, and later news
                    self._first = message
                    self._queue.appendleft(message)
                    self._is_stalled = self._has_waited = True
                    self._flusher.wake(self)
        # Who came while the lock was ours left its message to us.
        self.flush()

    def open(self) -> None:
        """Let queued messages out: the peer has answered, both ways are known to be open."""
        self._is_open = True
        self.flush()

    def send(self, message: bytes, urgent: bool, timeout: float | None = None) -> None:
        """Queue a message; send it at once, with all in front of it, if `urgent`.

        Raises:
            LaneClosed: the lane is over.
            OverloadedError: it is full, and stayed so for `timeout` seconds.
        """
        queue = self._queue
        if (
            urgent
            and not queue
            and self._is_open
            and not self._is_stalled
            and len(message) < _LARGE
            and self._lock.acquire(False)
        ):
            # The short way of most calls and answers: nothing waits, nobody sends.
            is_sent = False
            try:
                # Looked at under the lock: nobody is overtaken, no closed socket used.
                if not queue and not self._is_closed:
                    self.used = now = _now_ns(_BOOTTIME)
                    self._send(_pack_head(PROTOCOL, now, ARRAY_OF_ONE) + message, _NOBLOCK)
                    is_sent = True
            except zmq.Again:
                pass  # the long way finds out again, and waits
            finally:
                self._lock.release()
            if queue:
                self.flush()  # who came meanwhile left theirs to us
            if is_sent:
                return
        if len(queue) >= MAX_MESSAGES or self._large_bytes >= MAX_BYTES:
            self._wait_for_room(timeout)
        if len(message) >= _LARGE:
            with self._large_lock:
                self._large_bytes += len(message)
        queue.append(message)
        if self._is_closed:
            self._take_back(message)
            return
        if urgent or len(queue) >= _FRAME_MESSAGES:
            self.flush()
        elif not self._wants_flush:
            self._wants_flush = True
            self._flusher.wake(self)

    def _take_back(self, message: bytes) -> None:
        """Undo a send that met the end of the lane, unless `close` returns the message itself."""
        try:
            self._queue.remove(message)
        except ValueError:
            return
        raise LaneClosed

    def _wait_for_room(self, timeout: float | None) -> None:
        deadline = time.monotonic() + (timeout or 0.0)
        while len(self._queue) >= MAX_MESSAGES or self._large_bytes >= MAX_BYTES:
            if self._is_closed:
                raise LaneClosed
            if timeout is None or time.monotonic() >= deadline:
                raise OverloadedError(
                    f"{len(self._queue)} messages wait already for a peer that does not read them"
                )
            time.sleep(_STALLED_PAUSE)

    def flush(self) -> None:
        """Send all that is queued, unless another thread is at it: it then sends ours too."""
        while self._queue and self._is_open and not self._is_closed and not self._is_stalled:
            if not self._lock.acquire(blocking=False):
                return  # the holder looks at the queue again after its release
            try:
                self._send_queued()
            finally:
                self._lock.release()

    def _send_queued(self) -> None:
        """Send frame after frame until the queue is empty or the socket is full; lock held."""
        queue = self._queue
        self.used = _now_ns(_BOOTTIME)
        while queue and not self._is_closed:
            batch = [queue.popleft() for _ in range(min(len(queue), _FRAME_MESSAGES))]
            size = sum(map(len, batch))
            while size > _FRAME_BYTES and len(batch) > 1:
                size -= len(batch[-1])
                queue.appendleft(batch.pop())
            if self._has_waited and not self._all_wanted(batch):
                continue
            frame = frame_of(batch, _now_ns(_BOOTTIME))
            try:
                if size <= _COPIED_BYTES:
                    self._send(frame, _NOBLOCK)
                else:
                    self._send_large(frame)
            except zmq.Again:
                queue.extendleft(reversed(batch))
                self._is_stalled = self._has_waited = True
                self._flusher.wake(self)
                return
            if size >= _LARGE:
                self._make_room(batch)
        self._has_waited = False

    def _all_wanted(self, batch: list[bytes]) -> bool:
        """Say whether all of a batch is to be sent; if not, what is goes back to the queue.

        Its frame bears the time when it is sent: what waited here would look
        as if it had all of its seconds left.
        """
        wanted = [message for message in batch if self._is_wanted(message)]
        if len(wanted) == len(batch):
            return True
        self._make_room(batch)
        self._make_room(wanted, -1)
        self._queue.extendleft(reversed(wanted))
        return False

    def _make_room(self, batch: list[bytes], sign: int = 1) -> None:
        """Count large messages as gone."""
        with self._large_lock:
            self._large_bytes -= sign * sum(len(each) for each in batch if len(each) >= _LARGE)

    def _send_large(self, frame: bytes) -> None:
        """Send a large frame, with at most `MAX_BYTES` of them inside libzmq at a time."""
        self._in_flight = [each for each in self._in_flight if not each[0].done]
        if sum(size for _, size in self._in_flight) + len(frame) > MAX_BYTES:
            raise zmq.Again
        tracker = self._socket.send(frame, zmq.NOBLOCK, copy=False, track=True)
        self._in_flight.append((tracker, len(frame)))

    def withdraw(self, heads: Collection[bytes]) -> set[bytes]:
        """Take back the messages that begin with one of `heads`, none of which begins another.

        Returns:
            The heads of those that were still queued; the others may have left.
        """
        lengths = sorted(set(map(len, heads)))
        withdrawn: dict[bytes, bytes] = {}
        kept: list[bytes] = []
        with self._lock:
            if self._is_closed:
                return set()  # `close` returns them
            queue = self._queue
            while queue:  # others append meanwhile
                message = queue.popleft()
                head = next((message[:n] for n in lengths if message[:n] in heads), None)
                if head is None:
                    kept.append(message)
                else:
                    withdrawn[head] = message
            queue.extendleft(reversed(kept))
            self._make_room(list(withdrawn.values()))
        self.flush()  # who came while the lock was ours left its message to us
        return set(withdrawn)

    def flush_stalled(self) -> bool:
        """Try again after the socket was full; return whether it still is. For the flusher."""
        self._wants_flush = False
        self._is_stalled = False
        self.flush()
        return self._is_stalled and not self._is_closed

    def close(self, linger: float = 0.0) -> list[bytes]:
        """End the lane and return the messages that were never given to the connection.

        Args:
            linger: seconds that libzmq may go on sending what it was given.
        """
        with self._lock:
            if self._is_closed:
                return []
            self._is_closed = True
            # While somebody still listens to the monitor: libzmq waits for ever,
            # on the thread that serves every socket, to tell one that is gone.
            self._socket.disable_monitor()
            self._socket.close(linger=int(linger * 1000))
        unsent = []
        while self._queue:
            unsent.append(self._queue.popleft())
        return unsent


class Flusher:
    """The thread that sends what was queued on lanes and what a full socket left."""

    def __init__(self) -> None:
        """Make it without a thread: many commands never queue anything."""
        self._woken: SimpleQueue[Lane | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._is_closed = False

    def wake(self, lane: Lane) -> None:
        """Have `lane` flushed soon."""
        self._woken.put(lane)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="flock-flusher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        stalled: set[Lane] = set()
        while True:
            lanes = set(stalled)
            if stalled:
                # A send-only socket has no event for "room again" that a thread
                # may wait for outside the lane's lock, hence the short pause.
                time.sleep(_STALLED_PAUSE)
            else:
                lane = self._woken.get()
                if lane is None:
                    return
                lanes.add(lane)
            while not self._woken.empty():
                lane = self._woken.get()
                if lane is None:
                    return
                lanes.add(lane)
            stalled = {lane for lane in lanes if self._is_still_stalled(lane)}

    def _is_still_stalled(self, lane: Lane) -> bool:
        try:
            return lane.flush_stalled()
        except Exception:
            # One broken lane must not end the work for all others.
            logger.exception("what was queued for a peer could not be sent")
            return False

    def close(self) -> None:
        """Stop the thread; lanes are closed by their owners."""
        with self._starting:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._woken.put(None)
            thread.join()


def monitor_event(frames: list[bytes]) -> tuple[int, int]:
    """Return what a socket's monitor tells: an event of libzmq and its value.

    Read by ourselves: pyzmq's module for it imports asyncio, a tenth of what
    every command takes to start. Source: zmq_socket_monitor(3).
    """
    event, value = struct.unpack("=Hi", frames[0])
    return event, value


def lane_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    *,
    server_key: bytes | None,
    own_public_key: bytes,
    own_secret_key: bytes,
) -> zmq.Socket[bytes]:
    """Make a lane's DEALER: one connection, heartbeats, no waiting for what is dead.

    Args:
        context: this process's.
        server_key: the peer's public key; None sends in the clear.
        own_public_key: ours, Z85.
        own_secret_key: ours, Z85.

    Raises:
        zmq.ZMQError: one of the keys is none.
    """
    socket = context.socket(zmq.DEALER)
    # Known to nobody but the two ends: see `flock.reader`.
    socket.setsockopt(zmq.ROUTING_ID, ROUTE_MARK + secrets.token_bytes(ROUTE_BYTES - 1))
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 6000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 3000)
    if server_key is not None:
        try:
            socket.curve_serverkey = server_key
            socket.curve_publickey = own_public_key
            socket.curve_secretkey = own_secret_key
        except zmq.ZMQError:
            socket.close()
            raise
    return socket
