"""The one socket in: a ROUTER that every peer's lane leads to, and the thread that reads it.

Nobody else touches that socket. For each connection the reader keeps who is at
the other end (by its key), which of the peer's lanes it is, and how its clock
stands to ours. What is malformed is counted and dropped; a key that keeps
sending rubbish is ignored for a while.

Who sent a frame is asked of libzmq for the first frames of a connection. From
then on the connection's routing id stands for its key: a lane's is random, and
only its two ends know it, so nobody else can speak under it. Frames under any
other id, or of a key that is ignored, are looked at closely each time. Asking
libzmq for a frame's key, and whether more parts follow, takes longer than all
else that is done to it; so parts too many are found by what they lead to, and
reading falls in again at the next message, whoever sent it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import zmq

from flock.messages import BYE, HELLO, MAX_FRAME_BYTES, PROTOCOL, REPLY, ROUTE_BYTES, ROUTE_MARK
from flock.wire import BadFrame, Codec, WrongProtocol
from registry.contract import KeyRecord

logger = logging.getLogger(__name__)

_STOP = "inproc://flock.reader.stop"
_STOP_WORD = b"stop"
_BUCKET = 60.0  # seconds; the clock offset is the smallest of this and the last bucket
_MAX_BAD = 10  # bad frames of one key within `_BAD_WINDOW` before it is ignored
_BAD_WINDOW = 60.0
_MAX_CONNECTIONS = 100_000
_MAX_OF_ONE_KEY = 100  # connections: a process has one lane here, and those it replaced
_MAX_SUPERSEDED = 1_000  # connections kept for the goodbye that may still come on them
_ENCRYPTION_BYTES = 256  # more than CURVE adds to a frame

_BOOTTIME = time.CLOCK_BOOTTIME
_now = time.clock_gettime

Lookup = Callable[[bytes], "KeyRecord | None"]


class Connection:
    """One connection into the ROUTER, as its frames have shown it.

    Attributes:
        key: the key at the other end, Z85; empty without encryption.
        generation: as its HELLO said; empty before.
        lane: the peer's number of this lane.
        peer: whom answers go to; None until that is known.
        is_superseded: the peer has opened a newer lane.
        route: the routing id its frames come under.
    """

    __slots__ = (
        "_last",
        "_offset",
        "_since",
        "generation",
        "is_superseded",
        "key",
        "lane",
        "peer",
        "route",
    )

    def __init__(self, key: bytes, route: bytes) -> None:
        """Begin with a connection that has said nothing."""
        self.key = key
        self.route = route
        self.generation = ""
        self.lane = 0
        self.peer: Any = None
        self.is_superseded = False
        self._offset = math.inf
        self._last = math.inf
        self._since = 0.0

    def late_by(self, sent: float, arrived: float) -> float:
        """Return how much longer a frame took than the fastest of the last minutes, in seconds.

        No two clocks need agree: only the difference between differences counts.
        """
        offset = arrived - sent
        if arrived - self._since > _BUCKET:
            self._last, self._offset, self._since = self._offset, offset, arrived
        elif offset < self._offset:
            self._offset = offset
        return offset - min(self._offset, self._last)


class Counters:
    """What was dropped, and why, since the process began."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.frames = 0
        self.bad_frames = 0
        self.unknown_keys = 0
        self.ignored = 0
        self.before_hello = 0
        self.superseded = 0
        self.late_answers = 0

    def as_data(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(vars(self))


class Reader:
    """Reads the ROUTER and hands every message on, on its one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        codec: Codec,
        *,
        known: Lookup | None,
        heard_hello: Callable[[Connection, list[Any]], None],
        heard: Callable[[Any, KeyRecord, list[list[Any]], float], None],
        answered: Callable[[Any, int, Any], None],
        ignore_for: float = 60.0,
    ) -> None:
        """Make the socket; `bind` gives it an address, `start` begins to read.

        Args:
            context: this process's.
            codec: turns bytes into messages.
            known: from a key to its record if it may talk; None without
                encryption.
            heard_hello: takes a HELLO of our protocol.
            heard: takes any other messages of one peer, with the caller's
                record and the frame's lateness in seconds.
            answered: takes peer, call id and value of a REPLY that came alone.
            ignore_for: seconds a key that sends rubbish is ignored; 0 for never.
        """
        self.counters = Counters()
        self._context = context
        self._codec = codec
        self._has_keys = known is not None
        self._known: Lookup = known if known is not None else {b"": _ANYBODY}.get
        self._heard_hello = heard_hello
        self._heard = heard
        self._answered = answered
        self._ignore_for = ignore_for
        # Ordered: of a plain dict the first one is found behind all that were taken out.
        self._connections: OrderedDict[bytes, Connection] = OrderedDict()
        # The same by key, the oldest first, if there are keys.
        self._of_key: dict[bytes, dict[bytes, Connection]] = {}
        # Those of them whose routing id stands for their key.
        self._trusted: dict[bytes, Connection] = {}
        self._last_key = b""
        # By key, too: a generation is what its HELLO says, and nobody may
        # supersede the lanes of another.
        self._newest: dict[tuple[bytes, str], Connection] = {}
        self._superseded: deque[bytes] = deque()
        self._bad: dict[bytes, list[float]] = {}
        self._ignored: dict[bytes, float] = {}
        self._thread: threading.Thread | None = None
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _ENCRYPTION_BYTES)
        self.socket.setsockopt(zmq.RCVHWM, 1000)
        self.socket.setsockopt(zmq.BACKLOG, 1024)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)

    def start(self) -> None:
        """Begin to read."""
        self.socket.bind(_STOP)
        self._thread = threading.Thread(target=self._read, name="flock-reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._thread is None:
            self.socket.close()
            return
        with self._context.socket(zmq.DEALER) as stop:
            stop.linger = 1000
            stop.connect(_STOP)
            stop.send(_STOP_WORD)
            self._thread.join()

    def _read(self) -> None:
        socket = self.socket
        receive = socket.recv
        trusted = self._trusted
        with socket:
            while True:
                route = receive()
                try:
                    connection = trusted.get(route)
                    if connection is None:
                        if self._take_any(route) is _END:
                            return
                    else:
                        body = receive()
                        if (
                            not self._take(connection, body)
                            and self._fall_in(connection.key, body) is _END
                        ):
                            return
                except Exception:
                    # One odd frame must not end reading for everybody.
                    logger.exception("a frame could not be dealt with")

    def _take(self, connection: Connection, body: bytes) -> bool:
        """Take a frame of a connection that is known; False if it was not taken."""
        self.counters.frames += 1
        self._last_key = key = connection.key
        caller = self._known(key)
        if caller is None:
            self.counters.unknown_keys += 1
            self._drop(connection.route)
            return False
        try:
            stamp, messages = self._codec.decode(body)
        except BadFrame as error:
            self._offence(key, caller, error)
            return False
        message = messages[0]
        kind = message[0]
        if kind == REPLY and len(messages) == 1:
            # By far the most frequent, and what it says has no deadline.
            self._answered(connection.peer, message[1], message[2])
            return True
        late = connection.late_by(stamp * 1e-9, _now(_BOOTTIME))
        if kind == HELLO:
            self._take_closely(connection, caller, messages, late)
        else:
            self._heard(connection.peer, caller, messages, late)
        return True

    def _fall_in(self, key: bytes, body: bytes) -> Any:
        """See that the next message is read from its beginning; `_END` if one said to stop.

        Args:
            key: whose lane's routing id stood before `body`.
            body: what was not taken. If that id was a part too many of a
                message of theirs, it is the id that somebody else's begins with.
        """
        socket = self.socket
        if not socket.rcvmore:
            return None
        frame = socket.recv(copy=False)
        if self._has_keys and _key_of(frame) == key:
            while frame.more:
                frame = socket.recv(copy=False)
            return None
        return self._take_from(body, frame)

    def _take_any(self, route: bytes) -> Any:
        """Take a frame under an id that stands for nobody yet; `_END` if it says to stop."""
        if not self.socket.rcvmore:
            # The last part of a message of which only the first two are looked at.
            self.counters.frames += 1
            sender = self._known(self._last_key)
            if sender is not None:
                self._offence(self._last_key, sender, BadFrame("a frame too many"))
            return None
        return self._take_from(route, self.socket.recv(copy=False))

    def _take_from(self, route: bytes, frame: zmq.Frame) -> Any:
        """Take a frame whose key is asked of libzmq; `_END` if it says to stop."""
        socket = self.socket
        more = 0
        last = frame
        while last.more:
            last = socket.recv(copy=False)  # our frames stand alone: an offence
            more += 1
        counters = self.counters
        counters.frames += 1
        connection = self._connections.get(route)
        if not self._has_keys:
            key = b""
            if len(frame) == len(_STOP_WORD) and frame.bytes == _STOP_WORD and _is_local(frame):
                return _END
        else:
            asked = _key_of(frame)
            if asked is None:
                # Only a socket of this process comes without a key.
                return _END if frame.bytes == _STOP_WORD else None
            key = asked
        caller = self._known(key)
        if caller is None:
            counters.unknown_keys += 1
            self._drop(route)
            return None
        self._last_key = key
        if self._ignored and self._is_ignored(key):
            counters.ignored += 1
            return None
        if connection is None or connection.key != key:
            connection = self._enter(key, route)
        try:
            if more:
                raise BadFrame(f"{more} frames too many")
            stamp, messages = self._codec.decode(frame.bytes)
        except BadFrame as error:
            self._offence(key, caller, error)
            return None
        late = connection.late_by(stamp * 1e-9, _now(_BOOTTIME))
        self._take_closely(connection, caller, messages, late)
        if connection.peer is not None and not connection.is_superseded:
            self._trust(connection)
        return None

    def _trust(self, connection: Connection) -> None:
        """Let a connection's routing id stand for its key from now on, if nobody can guess it."""
        route = connection.route
        is_secret = len(route) == ROUTE_BYTES and route.startswith(ROUTE_MARK)
        if is_secret and connection.key not in self._ignored:
            self._trusted[route] = connection
            if self._connections.get(route) is not connection:
                self._trusted.pop(route, None)  # forgotten meanwhile, on another thread

    def _enter(self, key: bytes, route: bytes) -> Connection:
        """Begin with a connection; ROUTER does not say when one ends, so old ones make room."""
        self._drop(route)  # of another key, gone since
        connection = self._connections[route] = Connection(key, route)
        if self._has_keys:
            of_key = self._of_key.setdefault(key, {})
            of_key[route] = connection
            # Its own: nobody may drive out the connections of others.
            if len(of_key) > _MAX_OF_ONE_KEY:
                self._drop_oldest(of_key)
        if len(self._connections) > _MAX_CONNECTIONS:
            self._drop_oldest(self._connections)
        return connection

    def _drop_oldest(self, connections: dict[bytes, Connection]) -> None:
        oldest = None
        while oldest is None:
            try:
                oldest = connections.get(next(iter(connections)))
            except StopIteration:
                return  # all were forgotten meanwhile, on another thread
            except (RuntimeError, KeyError):
                continue  # one was, between two steps of looking
        self._drop(oldest.route)
        identity = (oldest.key, oldest.generation)
        if self._newest.get(identity) is oldest:
            self._newest.pop(identity, None)

    def _drop(self, route: bytes) -> None:
        """Forget a connection; any thread may."""
        connection = self._connections.pop(route, None)
        self._trusted.pop(route, None)
        if connection is not None:
            self._of_key.get(connection.key, {}).pop(route, None)

    def _take_closely(
        self, connection: Connection, caller: KeyRecord, messages: list[list[Any]], late: float
    ) -> None:
        """Take what comes from a connection that has to say who it is, or is superseded."""
        for message in messages:
            if message[0] == HELLO:
                self._hello(connection, caller, message)
            elif connection.peer is None:
                self.counters.before_hello += 1
            elif connection.is_superseded and message[0] != BYE:
                self.counters.superseded += 1
            else:
                self._heard(connection.peer, caller, [message], late)

    def _hello(self, connection: Connection, caller: KeyRecord, message: list[Any]) -> None:
        protocol, generation, number = message[1], message[2], message[4]
        if protocol != PROTOCOL or not generation or number <= 0:
            self._offence(connection.key, caller, BadFrame(f"a greeting in protocol {protocol}"))
            return
        if connection.generation and connection.generation != generation:
            self._offence(connection.key, caller, BadFrame("a connection that changes its name"))
            return
        connection.generation = generation
        connection.lane = max(connection.lane, number)
        newest = self._newest.setdefault((connection.key, generation), connection)
        if newest is not connection:
            if newest.lane > connection.lane:
                self._supersede(connection)
                return  # late news from a lane that was replaced
            self._supersede(newest)
            self._newest[connection.key, generation] = connection
        self._heard_hello(connection, message)

    def _supersede(self, connection: Connection) -> None:
        """Take no more from a connection but a goodbye, and that not for ever."""
        if connection.is_superseded:
            return  # it greets once more
        connection.is_superseded = True
        self._trusted.pop(connection.route, None)
        self._superseded.append(connection.route)
        if len(self._superseded) > _MAX_SUPERSEDED:
            oldest = self._connections.get(self._superseded.popleft())
            if oldest is not None and oldest.is_superseded:
                self._drop(oldest.route)

    def forget(self, key: bytes, generation: str) -> None:
        """Drop what is kept of a peer that is gone; may be called from any thread."""
        newest = self._newest.pop((key, generation), None)
        if newest is not None:
            self._drop(newest.route)
        for route in self._superseded.copy():
            connection = self._connections.get(route)
            if (
                connection is not None
                and connection.key == key
                and connection.generation == generation
            ):
                self._drop(route)

    def forget_key(self, key: bytes) -> None:
        """Drop what is kept of a key that is known no longer; may be called from any thread."""
        for route, connection in self._of_key.pop(key, {}).copy().items():
            self._drop(route)
            self._newest.pop((key, connection.generation), None)
        self._bad.pop(key, None)
        self._ignored.pop(key, None)

    # --- rubbish

    def _offence(self, key: bytes, caller: KeyRecord, error: BadFrame) -> None:
        self.counters.bad_frames += 1
        now = time.monotonic()
        recent = [when for when in self._bad.get(key, ()) if now - when < _BAD_WINDOW]
        recent.append(now)
        self._bad[key] = recent[-_MAX_BAD - 1 :]
        if len(recent) == 1 or isinstance(error, WrongProtocol):
            logger.warning("dropped a frame from %s: %s", caller.name, error)
        if len(recent) > _MAX_BAD and self._ignore_for and key:
            self._ignored[key] = now + self._ignore_for
            self._bad.pop(key, None)
            # Whose frames are not read for a while are not trusted to be frames either.
            for route, connection in self._trusted.copy().items():
                if connection.key == key:
                    self._trusted.pop(route, None)
            logger.error(
                "%s keeps sending rubbish and is ignored for %g s", caller.name, self._ignore_for
            )

    def _is_ignored(self, key: bytes) -> bool:
        until = self._ignored.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        self._ignored.pop(key, None)  # or it was forgotten meanwhile, on another thread
        return False


_END = object()
_ANYBODY = KeyRecord(public_key="", name="anybody", kind="node", lasting=False, generation="")


def _key_of(frame: zmq.Frame) -> bytes | None:
    """Return the key that a frame came under, Z85; None if without one."""
    try:
        return str(frame.get("User-Id")).encode()
    except (zmq.ZMQError, AttributeError):
        return None


def _is_local(frame: zmq.Frame) -> bool:
    """Say whether a frame came over `inproc`: only a network peer has an address."""
    try:
        return not frame.get("Peer-Address")
    except zmq.ZMQError:
        return True
