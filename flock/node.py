"""This process as a member of the flock: its socket, its actors, its place in the registry.

Here the parts are put together: keys and admission, the reader, lanes to
peers, the table of open calls, the supervisor and the dispatcher. A visitor is
the same without a name in the directory.
"""

from __future__ import annotations

import errno
import logging
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from flock import __version__
from flock.actor import Actor
from flock.admission import DOMAIN, FAILURES, Admission
from flock.announcer import Announcer
from flock.calls import Calls
from flock.directory import Directory
from flock.dispatch import Dispatcher
from flock.errors import (
    ActorNotFound,
    BadArguments,
    FlockError,
    NodeDownError,
    NodeNotFound,
    UsageError,
)
from flock.failures import error_of
from flock.lanes import lane_socket, monitor_event
from flock.messages import (
    ACCEPTED,
    BATCH,
    BYE,
    CALL,
    DOWN,
    FAIL,
    OPEN_CALLS,
    PROBE,
    PROTOCOL,
    PUBLISH,
    REPLY,
    TELL,
    UNWATCH,
    WATCH,
    Chain,
)
from flock.monitors import Down, Monitors
from flock.peers import Identity, Peers, RemotePeer
from flock.proxy import ActorProxy, points_at
from flock.reader import Connection, Reader
from flock.supervisor import Supervisor
from flock.tokens import Tokens
from flock.topics import Topics
from flock.wire import Codec, MakeHandle, PackHandle, frame_of
from registry.contract import (
    NODE_NAME_RULE,
    KeyRecord,
    NameTaken,
    PresenceRecord,
    Registry,
    SessionState,
    is_node_name,
)
from registry.processes import this_process
from registry.wall_clock import now_text

logger = logging.getLogger(__name__)

_MAX_SOCKETS = 65_536
_VISITOR = "visitor-"  # so begin the names of those that have none of their own
_PROBE_WITHIN = 1.0
_BOOTTIME = time.CLOCK_BOOTTIME
_now = time.clock_gettime


class Local:
    """This process as a peer of itself: same bytes, same rules, no socket."""

    lane = None
    state = "connected"

    def __init__(self, node: Node, codec: Codec) -> None:
        """Make it; `codec` is the node's."""
        self.title = node.identity.name
        self.generation = node.identity.generation
        self.serving: set[int] = set()
        self.watched: set[int] = set()
        self.last_reply = 0.0
        self._node = node
        self._codec = codec
        self._record = KeyRecord(
            public_key=node.identity.public_key.decode(),
            name=node.identity.name,
            kind=node.identity.kind,
            lasting=False,
            generation=node.identity.generation,
        )

    def send(
        self,
        message: bytes,
        urgent: bool,  # noqa: ARG002 - nothing waits here, so there is no hurry,
        timeout: float | None = None,  # noqa: ARG002 - nor a wait for room
    ) -> None:
        """Take a message at once, on this thread."""
        decoded = self._codec.decode(frame_of((message,), 0))[1]
        self._node.take(self, self._record, decoded, 0.0)

    def withdraw(self, call_ids: Sequence[int]) -> set[int]:  # noqa: ARG002 - none waits here
        """Take no call back: all were taken at once."""
        return set()

    def flush(self) -> None:
        """Do nothing: nothing waits here."""


class Node:
    """One process in the flock, node or visitor.

    `open` joins, its announcer lists it; `close` leaves. All of its threads
    are daemons and end with `close`.

    Attributes:
        identity: its name, generation and keys.
        address: where others reach it; empty before `open`.
        environment, roles, recipes: as its entry in the directory shows them.
        announcer: keeps that entry.
        is_closed: True once `close` was called.
        ends_actors: True while it closes and its actors end: they may call others.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        name: str | None,
        listen: str | None = None,
        advertise: str | None = None,
        crypto: bool = True,
        keys: tuple[bytes, bytes] | None = None,
        pack_handle: PackHandle,
        make_handle: MakeHandle,
        name_lost: Callable[[PresenceRecord], None] | None = None,
        rubbish_pause: float = 60.0,
    ) -> None:
        """Make it; nothing is opened yet.

        Args:
            registry: not opened yet; closed with the node.
            name: the node's name; None for a visitor.
            listen: `tcp://HOST:PORT`, `*` for a free port; None for a free
                port where the registry's other processes reach us.
            advertise: the address others are told; None for the one bound.
            crypto: False for benchmarks on loopback.
            keys: public and secret key, Z85, if they are kept; then the key
                record lasts, too.
            pack_handle: tells what a handle points at.
            make_handle: makes a handle of this process.
            name_lost: called if the name belongs to another generation after
                an outage.
            rubbish_pause: seconds that a key which keeps sending rubbish is
                ignored; 0 for never.

        Raises:
            UsageError: a wrong name, wrong keys, or no encryption on more than loopback.
        """
        if name is not None and not is_node_name(name):
            raise UsageError(f"{name!r} cannot be a node's name: {NODE_NAME_RULE}")
        self._process = this_process()
        generation = secrets.token_hex(16)
        self._is_node = name is not None
        title = name or f"{_VISITOR}{self._process.host}-{self._process.pid}-{generation[:6]}"
        if keys is not None and not _are_pair(*keys):
            raise UsageError("keys are a public and a secret key that belong together, Z85, bytes")
        public, secret = keys or (zmq.curve_keypair() if crypto else (b"", b""))
        self.identity = Identity(
            title, generation, "node" if self._is_node else "visitor", public, secret
        )
        self.registry = registry
        self.address = ""
        self.environment = "_default"
        self.roles: tuple[str, ...] = ()
        self.recipes: tuple[str, ...] = ()
        self._started = now_text()
        self._listen = listen
        self._advertise = advertise
        self._crypto = crypto
        self._rubbish_pause = rubbish_pause
        self._keeps_key = keys is not None
        self._codec = Codec(pack_handle, make_handle)
        self._activity: Callable[[], str] = lambda: "idle"
        self.is_closed = False
        self.ends_actors = False
        self.announcer = Announcer(registry, self.presence, self._answers, name_lost)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self.calls = Calls(lambda: self.identity.name, self._codec)
        self.node_name = title
        self.flock: Any = None
        self.supervisor = Supervisor(self, self.announcer.changed)
        self.monitors = Monitors(
            self._codec,
            self.supervisor.absence,
            self.calls.new_number,
        )
        self.supervisor.on_end(self.monitors.actor_over)
        self.topics = Topics(registry, self._codec, title, generation, self.anybody)
        self.directory = Directory(registry, self._presence_changed)
        self.peers_by_name: dict[str, RemotePeer] = {}
        self._visitors: dict[str, RemotePeer] = {}
        self.dispatcher = Dispatcher(
            self.supervisor,
            self._codec,
            {
                "ping": lambda: True,
                "actors": self.supervisor.describe,
                "methods": self._methods_of,
                "counters": self._counters,
                "stack": self.stack,
                "link": self._link,
                "unlink": self._unlink,
            },
            Tokens().check,
        )
        self._local = Local(self, self._codec)

    # --- joining

    def open(self, timeout: float = 2.5) -> None:
        """Join: reach the registry, listen, and let in whom it knows. Lists nothing yet.

        Raises:
            RegistryUnavailable: not reached within `timeout` seconds.
            NameTaken: the key, or the name's kept key, belongs to somebody else.
            UsageError: the address to listen at cannot be used.
        """
        identity = self.identity
        try:
            self.registry.open(timeout)
        except BaseException:
            self._context.destroy(linger=0)  # there is nothing else yet
            raise
        try:
            self._admission = Admission(self._context, self.registry) if self._crypto else None
            self._reader = Reader(
                self._context,
                self._codec,
                known=self._admission.known if self._admission is not None else None,
                heard_hello=self._heard_hello,
                heard=self.take,
                answered=self._answered,
                ignore_for=self._rubbish_pause,
            )
            if self._crypto:
                socket = self._reader.socket
                socket.curve_server = True
                socket.curve_secretkey = identity.secret_key
                socket.curve_publickey = identity.public_key
                socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
                socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self.address = self._bind()
            self._peers = Peers(
                self._context,
                identity,
                self._codec,
                self.calls,
                own_address=lambda: self.address,
                find_by_key=self._find_by_key,
                find_by_name=self.directory.look_again,
                over=self._peer_over,
                replaced=self.monitors.lane_replaced,
            )
            if self._admission is not None:
                self._enter_key()
                failures = self._reader.socket.get_monitor_socket(FAILURES)
                self._admission.start(self._key_removed, failures)
            self._reader.start()
            self.registry.on_state(self._on_session)
        except BaseException:
            self._abandon()
            raise
        self.announcer.start()

    def _on_session(self, state: SessionState) -> None:
        if state is SessionState.CONNECTED:
            self.topics.subscribers.back()

    def _enter_key(self) -> None:
        """Let ourselves in.

        Raises:
            NameTaken: the name has another kept key, or ours belongs to
                another name; says who is there under the name, if anybody is.
        """
        identity = self.identity
        try:
            self.registry.enter_key(
                KeyRecord(
                    public_key=identity.public_key.decode(),
                    name=identity.name,
                    kind=identity.kind,
                    lasting=self._keeps_key,
                    generation=identity.generation,
                )
            )
        except NameTaken as error:
            there = self.registry.presence(identity.name)
            if there is None:
                gone = f"if that machine is gone for good: flockctl forget {identity.name}"
                raise NameTaken(identity.name, f"{error.holder}; {gone}") from None
            raise NameTaken(identity.name, f"{there.whereabouts()} ({error.holder})") from None

    def _abandon(self) -> None:
        """Undo an `open` that failed half way."""
        # The reader before who listens to its monitor: libzmq waits for one that is gone.
        for part in ("_peers", "_reader", "_admission"):
            opened = getattr(self, part, None)
            if opened is not None:
                opened.close()
        self._context.destroy(linger=0)
        self.registry.close()

    def _bind(self) -> str:
        host, port = _host_and_port(self._listen, self.registry.default_host())
        if not self._crypto and host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(f"without encryption only loopback may be listened at, not {host}")
        socket = self._reader.socket
        if ":" in host:
            socket.setsockopt(zmq.IPV6, 1)
        shown = f"[{host}]" if ":" in host else host
        try:
            socket.bind(f"tcp://{shown}:{port}")
        except zmq.ZMQError as error:
            why = str(zmq.strerror(error.errno or 0))
            if error.errno == errno.ENODEV:
                why = "this machine has no such address or interface"
            raise UsageError(f"cannot listen at tcp://{shown}:{port}: {why}") from None
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        if self._advertise:
            given = self._advertise.removeprefix("tcp://")
            return (
                f"tcp://{given}"
                if ":" in given.rpartition("]")[2]
                else (f"tcp://{given}:{bound.rpartition(':')[2]}")
            )
        if host in ("0.0.0.0", "::", "*"):  # noqa: S104 - asked for by the operator
            return f"tcp://{self.registry.default_host()}:{bound.rpartition(':')[2]}"
        return bound

    def presence(self) -> PresenceRecord:
        """Return our own record as others shall read it now."""
        identity, process = self.identity, self._process
        return PresenceRecord(
            name=identity.name,
            generation=identity.generation,
            kind=identity.kind,
            address=self.address,
            public_key=identity.public_key.decode(),
            actors=tuple(self.supervisor.names()),
            host=process.host,
            boot_id=process.boot_id,
            pid_namespace=process.pid_namespace,
            pid=process.pid,
            process_start=process.process_start,
            started=self._started,
            protocol=PROTOCOL,
            version=__version__,
            environment=self.environment,
            roles=self.roles,
            recipes=self.recipes,
            state=self._activity(),
        )

    def set_activity(self, activity: Callable[[], str]) -> None:
        """Say from now on what the node is at: `idle`, `converging` or `acting`."""
        self._activity = activity
        self.announcer.changed()

    def fence_calls(self, fence: Callable[[list[Any]], None]) -> None:
        """Let `fence` refuse calls under a lock that has been somebody else's since.

        Without it the newest tokens are known only since this process began.
        """
        self.dispatcher.fence = fence

    def _answers(self, record: PresenceRecord) -> bool:
        """Say whether the process behind a record is alive: it completes a handshake.

        A stopped process does not, although its kernel still takes connections.
        At an address that is ours now, nobody but us could answer.
        """
        if record.address == self.address:
            return False
        try:
            socket = lane_socket(
                self._context,
                server_key=record.public_key.encode() or None,
                own_public_key=self.identity.public_key,
                own_secret_key=self.identity.secret_key,
            )
        except zmq.ZMQError:
            return False  # nobody answers under a key that is none
        good = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        bad = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
        with socket, socket.get_monitor_socket(good | bad) as monitor:
            try:
                socket.connect(record.address)
                if not monitor.poll(int(_PROBE_WITHIN * 1000)):
                    return False
                event, _ = monitor_event(monitor.recv_multipart())
                return bool(event & good)
            finally:
                # Before the one who listens goes: libzmq would wait for him for ever.
                socket.disable_monitor()

    # --- peers

    def peer(self, name: str) -> Any:
        """Return the peer of a name, asking the registry only if the name is new here.

        A visitor's is returned, too: by a handle its own actors can be called.

        Raises:
            NodeDownError: it was there before, and is not any more.
            NodeNotFound: there is no such node.
            RegistryUnavailable: it is new here, and the registry cannot be asked.
        """
        peer = self.peers_by_name.get(name) or self._visitors.get(name)
        if peer is not None and peer.state != "gone":
            return peer
        if name == self.identity.name:
            return self._local
        if name.startswith(_VISITOR):
            return self.anybody(name)  # not listed; known by a handle it gave away
        record = self.directory.look_again(name) if peer is not None else self.directory.find(name)
        if record is None:
            if peer is not None:
                raise NodeDownError(
                    f"{name} is down: it is not in the registry any more", may_have_run=False
                )
            raise NodeNotFound(f"no node {name!r} in {self.registry.url}")
        # A peer that is gone and still listed is met anew: its entry outlives it
        # by a session timeout, or it is back. A new attempt tells.
        found = self._peers.peer_for(record)
        self.peers_by_name[name] = found
        return found

    def state_of(self, name: str) -> str:
        """Return a node's state as seen from here; asks the registry if nothing is known yet."""
        if name == self.identity.name:
            return "connected"
        peer = self.peers_by_name.get(name)
        listed = self.directory.find(name) is not None
        if peer is None or peer.state == "gone":
            return "connecting" if listed else "gone"
        if peer.state == "connected" and not listed:
            return "unlisted"
        return peer.state

    def _presence_changed(self, name: str) -> None:
        """Send new calls to a name's new generation at once."""
        record = self.directory.known(name)
        peer = self.peers_by_name.get(name)
        if record is not None and peer is not None and record.generation != peer.generation:
            self.peers_by_name[name] = self._peers.peer_for(record)

    def _find_by_key(self, key: bytes, name: str) -> PresenceRecord | None:
        if self._crypto:
            return self.registry.presence_of_key(key.decode())
        return self.registry.presence(name)

    # --- messages in (the reader's thread)

    def _heard_hello(self, connection: Connection, message: list[Any]) -> None:
        def heard(peer: RemotePeer) -> None:
            connection.peer = peer

        self._peers.heard_hello(connection.key, message, heard)

    def take(self, peer: Any, caller: KeyRecord, messages: list[list[Any]], late: float) -> None:
        """Deal with messages of one peer, in order.

        Args:
            peer: who sent them.
            caller: its key record.
            messages: as decoded.
            late: seconds they took longer than messages of this peer need.
        """
        take = self.dispatcher.take
        arrived = _now(_BOOTTIME) - late
        for message in messages:
            kind = message[0]
            try:
                if kind == REPLY:
                    self._answered(peer, message[1], message[2])
                elif kind == CALL:
                    seconds = message[6]
                    take(peer, caller, message, None if seconds is None else arrived + seconds)
                elif kind == TELL:
                    take(peer, caller, message, None)
                else:
                    self._take_rarer(kind, peer, caller, message, arrived)
            except Exception:
                # What came with it in one frame has nothing to do with it.
                logger.exception("a message from %s could not be dealt with", caller.name)

    def _answered(self, peer: Any, call_id: int, value: Any) -> None:
        if not self.calls.answered(peer, call_id, value):
            self._reader.counters.late_answers += 1

    def _take_rarer(
        self, kind: int, peer: Any, caller: KeyRecord, message: list[Any], arrived: float
    ) -> None:
        if kind == FAIL:
            error = error_of(message)
            was_open = self.calls.failed(peer, message[1], error)
            if not was_open and not self.monitors.heard_lost(peer, message[1], str(error)):
                self._reader.counters.late_answers += 1
        elif kind == ACCEPTED:
            self.calls.accepted(peer, message[1])
        elif kind == BATCH:
            seconds = message[4]
            deadline = None if seconds is None else arrived + seconds
            self.dispatcher.take_batch(peer, caller, message, deadline)
        elif kind == PUBLISH:
            self.topics.subscribers.heard(peer, *message[1:])
        elif kind == WATCH:
            self.monitors.heard_watch(peer, message[1], message[2])
        elif kind == UNWATCH:
            self.monitors.heard_unwatch(peer, message[1])
        elif kind == DOWN:
            self.monitors.heard_down(peer, message[1], message[2], message[3])
        elif kind == PROBE:
            self._probed(peer, *message[1:])
        elif kind == OPEN_CALLS:
            self.dispatcher.missing(peer, message[1])
        elif kind == BYE:
            self._peers.heard_bye(peer, message[1])
            self._reader.forget(peer.key, peer.generation)

    def _key_removed(self, key: bytes) -> None:
        """Cut off who had a key that the registry does not know any more, and forget him."""
        self._peers.key_removed(key)
        self._reader.forget_key(key)

    def _peer_over(self, peer: RemotePeer, reason: str, crashed: bool) -> None:
        """Tell everybody who keeps something of a peer that it is gone."""
        self.monitors.peer_over(peer, reason, crashed)
        if peer.state == "gone":
            self.topics.subscribers.peer_over(peer.generation)
            self._reader.forget(peer.key, peer.generation)
            if self._visitors.get(peer.title) is peer:
                self._visitors.pop(peer.title, None)

    # --- circles of waits

    def probe(self, call_id: int, path: Chain) -> None:
        """Ask whoever was called by `call_id` whether he waits, and for whom."""
        self.calls.probe(call_id, path)

    def _probed(self, peer: Any, call_id: int, actor: str, raw: list[Any]) -> None:
        """Follow the wait of whoever has a peer's call; end a circle that closes here."""
        try:
            path: Chain = tuple((str(node), str(name), int(mark)) for node, name, mark in raw)
        except (TypeError, ValueError):
            return  # nothing that could be followed
        # Of a pool one worker has the call: that others are free does not help who called.
        holders = [each for each in self.supervisor.instances(actor) if each.has(peer, call_id)]
        for each in holders:
            waiting_for, link = each.wait()
            if not waiting_for:
                continue  # it is at work
            if link not in path:
                self.calls.probe(waiting_for, (*path, link))
                continue
            circle = path[path.index(link) :]
            # Every member may have asked; one of them alone gives way.
            if link == min(circle):
                self.calls.end_deadlock(waiting_for, circle)
            else:
                # Turned, so that whom it meets next stands first and sees it whole.
                self.calls.probe(waiting_for, circle[1:] + circle[:1])

    # --- links and what a node answers

    def _link(self, actor: str, other: Any) -> bool:
        """Take the far half of a link; say whether that actor can be linked.

        Raises:
            ActorNotFound: there is no such actor.
            ActorDead: it does not run.
        """
        node, name = _actor_of(other)

        def gone(error: FlockError) -> Down:
            return Down(node, name, f"it cannot be watched: {error}", crashed=True)

        if self.supervisor.get(actor) is None:
            raise ActorNotFound(f"no actor {actor!r} at {self.identity.name}")
        instances = [
            each.actor for each in self.supervisor.instances(actor) if isinstance(each.actor, Actor)
        ]
        for instance in instances:
            instance.soon(instance.take_link, other, gone)
        return bool(instances)

    def _unlink(self, actor: str, other: Any) -> bool:
        """Give up the far half of a link."""
        _actor_of(other)
        for each in self.supervisor.instances(actor):
            if isinstance(each.actor, Actor):
                each.actor.soon(each.actor.leave_link, other)
        return True

    def stack(self) -> list[dict[str, Any]]:
        """Say of each running actor what it is doing: method, seconds, inbox, slowest, stack."""
        frames = sys._current_frames()  # noqa: SLF001 - the only way to another thread's stack
        rows = []
        for each in self.supervisor.running():
            frame = frames.get(each.thread.ident or 0)
            rows.append(
                {
                    "name": each.name,
                    "class": type(each.actor).__name__,
                    "busy_with": each.busy_with,
                    "busy_for": each.busy_for,
                    "called_by": each.caller,
                    "waits_for": self.calls.label_of(each.waiting_for),
                    "waiting": each.waiting_count(),
                    "slowest": [list(slow) for slow in each.slowest()],
                    "stack": traceback.format_stack(frame) if frame is not None else [],
                }
            )
        return rows

    def anybody(self, name: str) -> Any:
        """Return the peer of a process by its name, visitors included.

        Raises:
            NodeNotFound: there is none.
            RegistryUnavailable: it is new here, and the registry cannot be asked.
        """
        if name == self.identity.name:
            return self._local
        peer = self._visitors.get(name) or self.peers_by_name.get(name)
        if peer is not None and peer.state != "gone":
            return peer
        record = self.registry.presence(name)
        if record is None:
            self._visitors.pop(name, None)
            raise NodeNotFound(f"no process {name!r} in {self.registry.url}")
        found = self._visitors[name] = self._peers.peer_for(record)
        return found

    def _counters(self) -> dict[str, int]:
        """Answer what was dropped here, and why."""
        return self._reader.counters.as_data() | {
            "expired_calls": self.dispatcher.expired,
            "dropped_tells": self.dispatcher.dropped,
        }

    def _methods_of(self, actor: str) -> dict[str, list[str]]:
        """Answer what an actor offers: signature and docstring by method."""
        hosted = self.supervisor.get(actor)
        if hosted is None:
            return {}
        return {
            name: [str(method.signature), method.documentation()]
            for name, method in sorted(hosted.table.items())
        }

    # --- leaving

    def close(self, linger: float = 2.0) -> None:
        """Leave: stop the actors, say goodbye, leave the directory last. Twice is harmless.

        Args:
            linger: seconds that answers may still take to leave.
        """
        if not self.announcer.close():
            return
        self.is_closed = True
        self.ends_actors = True
        self.supervisor.close()
        self.ends_actors = False
        self.topics.close()
        self.calls.close()
        self._peers.say_bye("closed")
        self.directory.close()
        self._peers.close(linger)
        self._reader.close()
        if self._admission is not None:
            self._admission.close()
        self.registry.close()
        self._context.destroy(linger=int(linger * 1000))


def _actor_of(handle: Any) -> tuple[str, str]:
    """Return node and actor that a handle from the wire points at.

    Raises:
        BadArguments: it is none of an actor; nobody's actor shall stumble over it.
    """
    if not isinstance(handle, ActorProxy):
        raise BadArguments("only actors can be linked")
    node, name = points_at(handle) or ("", "")
    return node, name


def _are_pair(public: Any, secret: Any) -> bool:
    """Say whether two keys are a pair."""
    try:
        return bool(zmq.curve_public(secret) == public)
    except (TypeError, ValueError, zmq.ZMQError):
        return False


def _host_and_port(listen: str | None, default_host: str) -> tuple[str, str]:
    """Split an address to listen at; a missing host or port is filled in."""
    text = (listen or f"tcp://{default_host}:*").removeprefix("tcp://")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port == "*" or port.isdigit()):
        raise UsageError(f"{listen!r} is no address to listen at: write tcp://HOST:PORT")
    return host.strip("[]"), port


def raise_file_limit() -> None:
    """Let this process open as many files as it may: one socket for each peer."""
    import resource  # not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
