"""The other processes we talk to: opening lanes, noticing their end, and saying why.

A lane begins with a HELLO and lets nothing else out before the peer has
answered it on a lane of its own: then both ways are known to be open. A lane
that does not get there within 3 s, or whose connection ends, is over. What was
never given to a connection surely did not run; it is sent to the successor if
the registry names one, else it fails with that news.

The keeper tells what becomes of the connections; what may take time (the
registry, a plain connect to tell a dead process from a cut way) runs on a
small pool, so that one silent peer delays nobody else.
"""

from __future__ import annotations

import contextlib
import logging
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq

from flock.calls import Calls
from flock.errors import (
    CallError,
    ConnectionLost,
    NodeDownError,
    NodeUnreachable,
    NotLetIn,
    RegistryError,
    RegistryUnavailable,
    VersionMismatch,
)
from flock.keeper import EVENTS, Keeper, Watched
from flock.lanes import Flusher, Lane, LaneClosed, lane_socket
from flock.messages import (
    BATCH,
    BYE,
    CALL,
    FIELD_TYPES,
    HELLO,
    MAX_OPEN_CALLS,
    OPEN_CALLS,
    PROTOCOL,
    TELL,
)
from flock.wire import Codec
from registry.contract import PresenceRecord

logger = logging.getLogger(__name__)

_PROBE_WITHIN = 0.5
_FAREWELL_WITHIN = 0.1
_REPLIED_RECENTLY = 30.0
_POOL_THREADS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """This process, as peers know it; keys are Z85, empty without encryption."""

    name: str
    generation: str
    kind: str
    public_key: bytes
    secret_key: bytes


class RemotePeer:
    """One other process, in one run of it, and our lane to it.

    Attributes:
        title: its name.
        generation: which run of it.
        record: its presence record as last read.
        state: `connecting`, `connected`, `partitioned` or `gone`.
        heard_lane: the newest of its lanes that said HELLO, 0 for none.
        serving: calls of it that run here or wait to, and its monitors on our actors.
        watched: numbers of our monitors on it or its actors.
        last_reply: when we last answered it, monotonic seconds.
    """

    def __init__(self, peers: Peers, record: PresenceRecord) -> None:
        """Make it without a lane."""
        self.title = record.name
        self.generation = record.generation
        self.record = record
        self.state = "connecting"
        self.reason = ""
        self.heard_lane = 0
        self.serving: set[int] = set()
        self.watched: set[int] = set()
        self.last_reply = 0.0
        self.lane: Lane | None = None
        self.lock = threading.RLock()
        self._peers = peers

    @property
    def key(self) -> bytes:
        """Its public key, Z85."""
        return self.record.public_key.encode()

    def send(self, message: bytes, urgent: bool, timeout: float | None = None) -> None:
        """Send on our lane to it, opening one if there is none; as `flock.calls.Peer`."""
        lane = self.lane
        if lane is not None:
            try:
                lane.send(message, urgent, timeout)
                return
            except LaneClosed:
                pass
        try:
            self._peers.open_lane(self).send(message, urgent, timeout)
        except LaneClosed:
            raise NodeUnreachable(f"the way to {self.title} broke at once") from None

    def give_up_lane(self) -> None:
        """End our lane to it, which is full; what is open is failed or asked for anew."""
        self._peers.give_up_lane(self)

    def withdraw(self, call_ids: Sequence[int]) -> set[int]:
        """Take back calls that are still queued here; return which: all others may have left."""
        lane = self.lane
        if lane is None:
            return set()
        calls = {head: call_id for call_id in call_ids for head in _heads_of(call_id)}
        return {calls[head] for head in lane.withdraw(calls)}

    def flush(self) -> None:
        """Send what is queued."""
        lane = self.lane
        if lane is not None:
            lane.flush()


Greeting = tuple[bytes, list[Any], Callable[[RemotePeer], None]]
"""A HELLO: the key it came under, the message, and who is told whose it is."""


class Peers:
    """Every process this one has a lane to, or heard from."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        codec: Codec,
        calls: Calls,
        *,
        own_address: Callable[[], str],
        find_by_key: Callable[[bytes, str], PresenceRecord | None],
        find_by_name: Callable[[str], PresenceRecord | None],
        over: Callable[[RemotePeer, str, bool], None],
        replaced: Callable[[RemotePeer], list[int]] = lambda _: [],
    ) -> None:
        """Make it; nothing is opened yet.

        Args:
            context: this process's.
            identity: this process.
            codec: turns messages into bytes.
            calls: whose calls fail when a way breaks.
            own_address: where we can be reached, for error messages.
            find_by_key: from a key, and the name a HELLO gave, to the live
                presence record; asks the registry.
            find_by_name: a fresh look at a name's presence record.
            over: called with a peer that is gone or cannot be reached, the
                reason, and False if it left of its own will.
            replaced: called with a peer that has opened a new lane in place of
                one that was over; returns the numbers of our monitors on it.
        """
        self._context = context
        self._identity = identity
        self._codec = codec
        self._calls = calls
        self._own_address = own_address
        self._find_by_key = find_by_key
        self._find_by_name = find_by_name
        self._over_listener = over
        self._replaced_listener = replaced
        self._by_generation: dict[str, RemotePeer] = {}
        # The last greeting of each who has to be looked up.
        self._greetings: dict[bytes | str, Greeting] = {}
        self._lock = threading.Lock()
        self._lane_numbers = 0
        self._closed = False
        self._flusher = Flusher()
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="flock-peers")
        self._keeper = Keeper(over=self._over, is_needed=self._is_needed, idle=self._idle)

    # --- peers

    def peer_for(self, record: PresenceRecord) -> RemotePeer:
        """Return the peer of a presence record; opens nothing."""
        peer = self._by_generation.get(record.generation)
        if peer is None:
            with self._lock:
                peer = self._by_generation.setdefault(record.generation, RemotePeer(self, record))
        return peer

    def all(self) -> list[RemotePeer]:
        """Return every peer we know."""
        with self._lock:
            return list(self._by_generation.values())

    # --- opening a lane

    def open_lane(self, peer: RemotePeer, first: Sequence[bytes] = ()) -> Lane:
        """Return the peer's lane, made anew if it is over; does not wait for it to open.

        Args:
            peer: whose.
            first: messages that a new lane sends before all others.

        Raises:
            NodeDownError: the peer's process is known to be gone.
            NodeUnreachable: its address makes no sense.
            VersionMismatch: it speaks another version of the protocol.
        """
        with peer.lock:
            if peer.lane is not None and not peer.lane.is_closed:
                return peer.lane
            if self._closed:
                raise CallError("this flock is closed", may_have_run=False)
            if peer.state == "gone":
                raise NodeDownError(f"{peer.title} is gone: {peer.reason}", may_have_run=False)
            if peer.record.protocol != PROTOCOL:
                raise VersionMismatch(
                    f"{peer.title} ({peer.record.version}) speaks protocol "
                    f"{peer.record.protocol}, we speak {PROTOCOL}",
                    may_have_run=False,
                )
            socket = self._socket_to(peer)
            with self._lock:
                self._lane_numbers += 1
                number = self._lane_numbers
            lane = Lane(socket, number, self._flusher, first, self._is_wanted)
            monitor = socket.get_monitor_socket(EVENTS)
            try:
                socket.connect(peer.record.address)
            except zmq.ZMQError as error:
                lane.close()
                monitor.close(linger=0)
                raise NodeUnreachable(
                    f"{peer.record.address} of {peer.title} is no address: {error}"
                ) from None
            peer.lane = lane
            if peer.state != "connected":
                peer.state = "connecting"
            self._keeper.watch(Watched(peer, lane, monitor))
            lane.send_first(self._hello(peer, number, peer.heard_lane))
            return lane

    def _socket_to(self, peer: RemotePeer) -> zmq.Socket[bytes]:
        """Return a new socket for a lane to a peer.

        Raises:
            NodeUnreachable: it has no key, or none that is one; nothing is sent in the clear.
            NotLetIn: it has one, and we have none.
        """
        is_encrypted = bool(self._identity.public_key)
        if is_encrypted and not peer.key:
            raise NodeUnreachable(
                f"{peer.title} is without encryption (crypto = false): it is sent nothing"
            )
        if peer.key and not is_encrypted:
            raise NotLetIn(
                f"{peer.title} lets in nobody without encryption, and this process has "
                "crypto = false"
            )
        try:
            return lane_socket(
                self._context,
                server_key=peer.key if is_encrypted else None,
                own_public_key=self._identity.public_key,
                own_secret_key=self._identity.secret_key,
            )
        except zmq.ZMQError as error:
            raise NodeUnreachable(
                f"the key of {peer.title} in the registry is none: {error}"
            ) from None

    def _is_wanted(self, message: bytes) -> bool:
        """Say whether somebody still waits for the answer to a message, if it is a call."""
        kind, call_id = _head_of(message)
        return kind not in {CALL, BATCH} or self._calls.find(call_id) is not None

    def _hello(self, peer: RemotePeer, number: int, answered: int) -> bytes:
        return self._codec.encode(
            (
                HELLO,
                PROTOCOL,
                self._identity.generation,
                peer.generation,
                number,
                answered,
                self._identity.name,
            )
        )

    # --- what the reader hears

    def heard_hello(
        self, key: bytes, hello: list[Any], heard: Callable[[RemotePeer], None]
    ) -> None:
        """Take a HELLO from a connection; never blocks.

        Args:
            key: the connection's key, Z85; empty without encryption.
            hello: the message.
            heard: called with the peer once it is known who that is.
        """
        generation = hello[2]
        peer = self._by_generation.get(generation)
        if peer is not None and peer.key == key:
            heard(peer)
            self._answer_hello(peer, hello)
        else:
            # One look-up at a time for each, however often he greets.
            who = key or generation
            with self._lock:
                is_first = who not in self._greetings
                self._greetings[who] = (key, hello, heard)
            if is_first:
                self._soon(self._meet, who)

    def _meet(self, who: bytes | str) -> None:
        """Take somebody's last greeting; what he greeted meanwhile is taken after all others'."""
        greeting = self._greetings[who]
        try:
            self._look_up(*greeting)
        finally:
            with self._lock:
                has_news = self._greetings[who] is not greeting
                if not has_news:
                    del self._greetings[who]
            if has_news:
                self._soon(self._meet, who)

    def _look_up(self, key: bytes, hello: list[Any], heard: Callable[[RemotePeer], None]) -> None:
        """Look up who an unknown generation is, and answer it."""
        generation, name = hello[2], hello[6]
        try:
            record = self._find_by_key(key, name)
        except RegistryError as error:
            logger.warning("cannot answer a greeting: %s", error)
            return
        if record is None or record.generation != generation:
            logger.info("a greeting from a process that is not listed is not answered")
            return
        peer = self.peer_for(record)
        heard(peer)
        for other in self.all():
            if other is not peer and other.title == peer.title:
                self._bury(other, f"{peer.title} was started anew")
        try:
            self._answer_hello(peer, hello)
        except CallError as error:
            logger.info("a greeting from %s cannot be answered: %s", peer.title, error)

    def _answer_hello(self, peer: RemotePeer, hello: list[Any]) -> None:
        _, _, _, wanted, number, answered, _ = hello
        # Under the lock, or a lane that another thread opens meanwhile would
        # greet without answering, and none of us would notice.
        with peer.lock:
            heard_before = peer.heard_lane
            if number < heard_before:
                return  # from a lane that was replaced
            peer.heard_lane = number
            lane = peer.lane
            if lane is None or lane.is_closed:
                lane = self.open_lane(peer)  # its HELLO is the answer
            elif number > heard_before:
                lane.send_first(self._hello(peer, lane.number, number))
            if wanted != self._identity.generation:
                return  # it looks for a predecessor; our HELLO tells it so
            opens = answered == lane.number and not lane.is_open
            if opens:
                peer.state = "connected"
                self._keeper.opened(lane)
        if opens:
            lane.open()
        if 0 < heard_before < number:
            self._ask_for_open_calls(peer)

    def _ask_for_open_calls(self, peer: RemotePeer) -> None:
        """Have the peer fail what it does not hold: its news went down with its old lane."""
        ids = self._calls.open_ids(peer) + self._replaced_listener(peer)
        for start in range(0, len(ids), MAX_OPEN_CALLS):
            some = ids[start : start + MAX_OPEN_CALLS]
            peer.send(self._codec.encode((OPEN_CALLS, some)), urgent=True)

    def heard_bye(self, peer: RemotePeer, reason: str) -> None:
        """Note that a peer leaves of its own will."""
        self._bury(peer, f"it left: {reason}", crashed=False)

    # --- the end of a lane

    def _bury(
        self, peer: RemotePeer, reason: str, *, crashed: bool = True, linger: float = 0.0
    ) -> None:
        """Note that a peer's process is gone for good; never blocks."""
        with peer.lock:
            if peer.state == "gone":
                return
            lane, peer.lane = peer.lane, None
            unsent = self._end(lane, linger) if lane is not None else []
            sent = self._sent(peer, unsent)
            peer.state, peer.reason = "gone", reason
        self._tidy_up(peer, sent)
        self._over_listener(peer, reason, crashed)
        if unsent:
            self._soon(self._reroute, peer, unsent)

    def _tidy_up(self, peer: RemotePeer, sent: list[int]) -> None:
        """Forget a peer that is gone, and fail what was sent to it."""
        with self._lock:
            if self._by_generation.get(peer.generation) is peer:
                del self._by_generation[peer.generation]
        self._calls.fail_each(
            sent, lambda label: NodeDownError(f"{label}: {peer.title} is down: {peer.reason}")
        )

    def key_removed(self, key: bytes) -> None:
        """Cut off every peer with this key: the registry does not let it talk any more.

        It is told, or its calls would wait for answers that nobody sends.
        """
        goodbye = self._codec.encode((BYE, "your key was removed from the registry"))
        for peer in self.all():
            if peer.key == key:
                self._say(peer, goodbye)
                self._bury(peer, "its key was removed from the registry", linger=1.0)

    def give_up_lane(self, peer: RemotePeer) -> None:
        """End a peer's lane as if its connection had broken; never blocks."""
        if peer.lane is not None:
            self._keeper.give_up(peer.lane)

    def _over(self, watched: Watched, why: str, status: int) -> None:
        self._soon(self._lane_over, watched, why, status)

    def _lane_over(self, watched: Watched, why: str, status: int = 0) -> None:
        """Deal with a lane whose connection ended or never came; on the pool."""
        peer, lane = watched.peer, watched.lane
        if lane.is_open:
            # Who leaves says so on its own lane, which may arrive behind the end of ours.
            time.sleep(_FAREWELL_WITHIN)
        with peer.lock:
            if lane.is_closed:
                return
            was_open = lane.is_open
            unsent = self._end(lane)
            # While nobody can open the next lane: what is open now and is not
            # unsent was given to this one.
            sent = self._sent(peer, unsent) if was_open else []
            if peer.lane is lane:
                peer.lane = None
        if self._closed:
            return
        if status:
            self._not_let_in(peer, unsent, status)
            return
        refuses = _refuses_connections(peer.record.address)
        if not refuses and was_open:
            # A process that dies closes its sockets one by one.
            time.sleep(_FAREWELL_WITHIN)
            refuses = _refuses_connections(peer.record.address)
        if refuses or (why == "wrong key" and self._successor(peer) is not None):
            reason = (
                f"nothing listens at {peer.record.address} any more"
                if refuses
                else f"another process listens at {peer.record.address} now"
            )
            with peer.lock:
                is_news = peer.state != "gone"
                peer.state, peer.reason = "gone", reason
            self._tidy_up(peer, sent)
            if is_news:
                self._over_listener(peer, reason, True)
            self._reroute(peer, unsent)
            return
        with peer.lock:
            # Looking took its time: another lane may have opened, or the peer said goodbye.
            if peer.lane is None and peer.state != "gone":
                peer.state = "partitioned"
        if was_open:
            reason = f"the connection to {peer.title} ({peer.record.address}) broke"
            self._calls.fail_each(sent, lambda label: ConnectionLost(f"{label}: {reason}"))
            self._fail_unsent(
                unsent, lambda label: ConnectionLost(f"{label}: {reason}", may_have_run=False)
            )
            self._over_listener(peer, "the connection broke", True)
            self._reopen_for_replies(peer)
            return
        side = (
            f"{peer.title} did not answer: it may not reach {self._own_address()}"
            if why == "no answer" and watched.connected_at is not None
            else f"{self._own_address()} cannot reach {peer.record.address} ({why})"
        )
        self._fail_unsent(unsent, lambda label: NodeUnreachable(f"{label}: {side}"))
        self._over_listener(peer, side, True)

    def _not_let_in(self, peer: RemotePeer, unsent: list[bytes], status: int) -> None:
        """Fail what waited for a lane that the peer's admission refused."""
        peer.state = "partitioned"
        if status == _CANNOT_SAY:
            reason = "it cannot look up our key now; try again"
            self._fail_unsent(unsent, lambda _: RegistryUnavailable(f"of {peer.title}", reason))
        else:
            reason = f"{peer.title} does not know our key: the registry has no record of it"
            self._fail_unsent(unsent, lambda label: NotLetIn(f"{label}: {reason}"))
        self._over_listener(peer, reason, True)

    def _successor(self, peer: RemotePeer) -> PresenceRecord | None:
        """Ask the registry whether the name has another generation now."""
        try:
            record = self._find_by_name(peer.title)
        except RegistryError:
            return None
        return record if record is not None and record.generation != peer.generation else None

    def _reroute(self, peer: RemotePeer, unsent: list[bytes]) -> None:
        """Send what never left to the peer's successor, or fail it if there is none."""
        # Answers, and what else belongs to one run of the peer, end with it.
        requests = [message for message in unsent if _head_of(message)[0] in _REQUESTS]
        record = self._successor(peer) if requests else None
        if record is None or not self._resend(requests, record):
            self._fail_unsent(
                requests,
                lambda label: NodeDownError(
                    f"{label}: {peer.title} is down: {peer.reason}", may_have_run=False
                ),
            )

    def _resend(self, requests: list[bytes], record: PresenceRecord) -> bool:
        """Give requests to a successor nobody has sent to yet: order stays; else return False."""
        successor = self.peer_for(record)
        with successor.lock:
            if successor.lane is not None:
                return False
            for call_id in _call_ids(requests):
                self._calls.move(call_id, successor)
            try:
                self.open_lane(successor, requests)
            except CallError as error:
                refused = error
                self._calls.fail_each(_call_ids(requests), lambda _: refused)
        return True

    def _sent(self, peer: RemotePeer, unsent: list[bytes]) -> list[int]:
        """Return the open calls to a peer that were given to a connection."""
        kept = set(_call_ids(unsent))
        return [call_id for call_id in self._calls.open_ids(peer) if call_id not in kept]

    def _fail_unsent(self, unsent: list[bytes], make_error: Callable[[str], Exception]) -> None:
        self._calls.fail_each(_call_ids(unsent), make_error)

    def _reopen_for_replies(self, peer: RemotePeer) -> None:
        """Open a lane again after a break if the peer may wait for answers of ours."""
        recently = time.monotonic() - peer.last_reply < _REPLIED_RECENTLY
        if (peer.serving or recently) and peer.state != "gone":
            try:
                self.open_lane(peer)
            except CallError:
                return

    def _end(self, lane: Lane, linger: float = 0.0) -> list[bytes]:
        unsent = lane.close(linger)
        # The monitor goes after its lane: the keeper forgets it on its own thread.
        self._keeper.forget(lane)
        return unsent

    def _soon(self, work: Callable[..., None], *args: Any) -> None:
        """Have the pool do what may take time; what is left when this closes is dropped."""
        try:
            self._pool.submit(self._guarded, work, *args)
        except RuntimeError:
            if not self._closed:
                raise

    @staticmethod
    def _guarded(work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception:
            # A pool keeps the errors of its work to itself.
            logger.exception("what happened to a peer could not be dealt with")

    def _is_needed(self, peer: RemotePeer) -> bool:
        """Say whether somebody waits for something on the lane to a peer, here or there."""
        return bool(peer.serving or peer.watched or self._calls.open_ids(peer))

    def _idle(self, watched: Watched) -> None:
        self._soon(self._close_idle, watched)

    def _close_idle(self, watched: Watched) -> None:
        with watched.peer.lock:
            if watched.is_idle and not watched.lane.is_closed:
                unsent = self._end(watched.lane)
                if watched.peer.lane is watched.lane:
                    watched.peer.lane = None
                if unsent:
                    self.open_lane(watched.peer, unsent)  # somebody came just now

    # --- leaving

    def say_bye(self, reason: str) -> None:
        """Tell every connected peer that we leave."""
        message = self._codec.encode((BYE, reason))
        for peer in self.all():
            self._say(peer, message)

    @staticmethod
    def _say(peer: RemotePeer, message: bytes) -> None:
        """Send a message if the lane is open, and never mind if it is not."""
        lane = peer.lane
        if lane is not None and lane.is_open:
            with contextlib.suppress(LaneClosed, CallError):
                lane.send(message, urgent=True)

    def close(self, linger: float = 0.0) -> None:
        """Close every lane.

        Args:
            linger: seconds that what was sent may still take to leave.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._flusher.close()
        for peer in self.all():
            with peer.lock:
                lane, peer.lane = peer.lane, None
                if lane is not None:
                    lane.flush()
                    # A lane that never opened holds nothing that anybody waits for.
                    lane.close(linger if lane.is_open else 0.0)
        # After the lanes: their monitors have to be listened to as long as they live.
        self._keeper.close()


_CANNOT_SAY = 500
"""What a peer's admission answers when its registry cannot be asked; 400 is a no."""

_FIXED_ARRAY = 0x90  # and the number of members: how msgpack begins a short array

_REQUESTS = frozenset({CALL, TELL, BATCH})
"""What may go to a successor if it never left: work, not answers or news."""


def _head_of(message: bytes) -> tuple[int, Any]:
    """Return the kind of an encoded message, and its first field, without reading the rest."""
    walker = msgpack.Unpacker(max_buffer_size=len(message))
    walker.feed(message)
    if walker.read_array_header() < 2:
        return walker.unpack(), None
    return walker.unpack(), walker.unpack()


def _heads_of(call_id: int) -> tuple[bytes, ...]:
    """Return with what the encoded CALL or BATCH of this number begins."""
    number = msgpack.packb(call_id)
    return tuple(
        bytes((_FIXED_ARRAY + 1 + len(FIELD_TYPES[kind]), kind)) + number for kind in (CALL, BATCH)
    )


def _call_ids(messages: Iterable[bytes]) -> list[int]:
    """Return the ids of the calls among encoded messages."""
    heads = (_head_of(message) for message in messages)
    return [first for kind, first in heads if kind in {CALL, BATCH}]


def _refuses_connections(address: str) -> bool:
    """Tell a process that is gone from a way that is cut: only the first refuses a connection."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with sockets.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_WITHIN):
            return False
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError, OverflowError):
        return False  # also what is no address at all
