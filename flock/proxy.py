"""What people hold: a node by its name, an actor on it, a method of that.

Making one asks nobody. A proxy stands for a name, not for a process: it works
again, without a new look-up, when the node comes back at another address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any, Protocol

from flock.actor import PROXY_WORDS, Actor
from flock.batch import Batch
from flock.calls import CallOptions, Calls
from flock.context import current
from flock.errors import (
    ActorNotFound,
    CallError,
    EncodeError,
    MethodNotFound,
    RegistryError,
    UsageError,
)
from flock.future import Future
from flock.monitors import Down, Monitor
from registry.contract import Lock, LockLost, LockState, PresenceRecord, Registry
from registry.readings import note, takes_notes


class Runtime(Protocol):
    """What proxies need of the process they live in."""

    @property
    def calls(self) -> Calls:
        """Makes calls."""

    @property
    def registry(self) -> Registry:
        """The registry, open."""

    def peer(self, name: str) -> Any:
        """Return the peer of a node's name; raise `NodeNotFound` if there is none."""

    def route(self, name: str) -> tuple[Calls, Any]:
        """Return what makes calls, and the peer of a node's name."""

    def state_of(self, name: str) -> str:
        """Return a node's state as seen from here."""

    def record_of(self, name: str) -> PresenceRecord:
        """Return a node's presence record; raise `NodeNotFound` if there is none."""

    def watch(self, node: str, actor: str, callback: Callable[[Down], None]) -> Monitor:
        """Have `callback` told when an actor, or the node itself, is gone."""


class MethodProxy:
    """A method of an actor, ready to be called.

    Calling it waits for the answer; `future` returns at once with a
    `pykka.Future` that can be awaited; `defer` sends and forgets.
    """

    __slots__ = ("_actor", "_name", "_node", "_options", "_runtime")

    _notes_readings = True

    def __init__(
        self, runtime: Runtime, node: str, actor: str, name: str, options: CallOptions
    ) -> None:
        """Name a method; asks nobody."""
        self._runtime = runtime
        self._node = node
        self._actor = actor
        self._name = name
        self._options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method and wait for its answer.

        Raises:
            CallError: no value came back; `may_have_run` says whether calling
                again is safe.
            Exception: what the method raised.
        """
        if takes_notes():
            note_call(self._node, self._actor, self._name, args)
        calls, peer = self._runtime.route(self._node)
        return calls.call(peer, self._actor, self._name, args, kwargs, self._options)

    def future(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the method and return the future of its answer; every error comes out of it.

        Only arguments that cannot travel raise here.
        """
        if takes_notes():
            note_call(self._node, self._actor, self._name, args)
        try:
            calls, peer = self._runtime.route(self._node)
            return calls.start(peer, self._actor, self._name, args, kwargs, self._options)
        except EncodeError:
            raise
        except (CallError, RegistryError) as error:
            failed: Future[Any] = Future()
            failed.fail(error)
            return failed

    def defer(self, *args: Any, **kwargs: Any) -> None:
        """Have the method run and forget about it.

        Blocks up to the timeout while the way there is full.

        Raises:
            CallError: it surely was not sent.
        """
        runtime = self._runtime
        peer = runtime.peer(self._node)
        runtime.calls.tell(peer, self._actor, self._name, args, kwargs, self._options)

    def __repr__(self) -> str:
        """Show what is called where."""
        return f"<method {self._node}/{self._actor}.{self._name}>"


class ActorProxy:
    """An actor on a node, by both names; its methods are attributes.

    `options` is the proxy's own word. A handle may be passed as an argument.
    """

    _notes_readings = True

    def __init__(self, runtime: Runtime, node: str, actor: str, options: CallOptions) -> None:
        """Name an actor; asks nobody."""
        self._flock_runtime = runtime
        self._flock_node = node
        self._flock_actor = actor
        self._flock_options = options

    def __getattr__(self, name: str) -> MethodProxy:
        """Return a method; whether it exists is known when it is called."""
        if name.startswith("_"):
            # A copy that is being made has no names yet, and is asked for some of these.
            actor = self.__dict__.get("_flock_actor", "the actor")
            raise MethodNotFound(f"{actor}.{name}: names that begin with '_' are never offered")
        method = MethodProxy(
            self._flock_runtime, self._flock_node, self._flock_actor, name, self._flock_options
        )
        # The next use finds it without coming here.
        self.__dict__[name] = method
        return method

    def options(
        self,
        *,
        timeout: float | EllipsisType | None = ...,
        under: Lock | list[Any] | EllipsisType | None = ...,
    ) -> ActorProxy:
        """Return a proxy of the same actor whose calls are made otherwise.

        Args:
            timeout: seconds until `CallTimeout`, also for an answer that is
                promised for later; None for no deadline.
            under: a lock that the calls are under, as `FlockOfChefs.lock`
                gives it, or `[registry id, lock, slot, token]`; the other side
                refuses a token older than one it has seen.

        Raises:
            LockLost: the lock is not ours any more.
            UsageError: the timeout is no number of seconds above 0.
        """
        changed = self._flock_options
        if not isinstance(timeout, EllipsisType):
            changed = replace(changed, timeout=timeout, explicit=timeout is not None)
        if isinstance(under, Lock):
            if under.state() in {LockState.LOST, LockState.RELEASED}:
                raise LockLost(under.lockid, "it is not ours any more; nothing was called")
            registry_id = self._flock_runtime.registry.registry_id()
            under = [registry_id, under.lockid, under.slot, under.token]
        if not isinstance(under, EllipsisType):
            changed = replace(changed, under=under)
        return ActorProxy(self._flock_runtime, self._flock_node, self._flock_actor, changed)

    def batch(self) -> Batch:
        """Gather many calls of this actor and send them as one message; see `flock.batch`."""
        note("actor", f"{self._flock_node}/{self._flock_actor}")

        def send(calls: list[list[Any]]) -> Future[Any]:
            runtime = self._flock_runtime
            peer = runtime.peer(self._flock_node)
            return runtime.calls.batch(peer, self._flock_actor, calls, self._flock_options)

        return Batch(send)

    def monitor(self, callback: Callable[[Down], None]) -> Monitor:
        """Have `callback(down)` called once when this actor's instance is gone, and why.

        Args:
            callback: takes a `flock.monitors.Down`, on a thread of the
                runtime; must be short. An actor uses `self.monitor` instead,
                which calls it on the actor's own thread.

        Raises:
            CallError: there is no way there; nothing was set.
        """
        return self._flock_runtime.watch(self._flock_node, self._flock_actor, callback)

    def link(self) -> None:
        """Have the actor that runs this share the fate of the proxy's actor.

        Raises:
            UsageError: this is not the thread of a registered `flock.Actor`.
        """
        _running_actor().link(self)

    def unlink(self) -> None:
        """End such a link."""
        _running_actor().unlink(self)

    def __eq__(self, other: object) -> bool:
        """Equal proxies name the same actor of the same node."""
        if not isinstance(other, ActorProxy):
            return NotImplemented
        mine = (self._flock_node, self._flock_actor)
        return mine == (other._flock_node, other._flock_actor)

    def __hash__(self) -> int:
        """Hash by both names."""
        return hash((self._flock_node, self._flock_actor))

    def __repr__(self) -> str:
        """Show both names."""
        return f"<actor {self._flock_node}/{self._flock_actor}>"

    def __dir__(self) -> list[str]:
        """List the actor's methods, for completion; empty if the node does not answer."""
        try:
            offered = NodeProxy(self._flock_runtime, self._flock_node, self._flock_options).methods(
                self._flock_actor
            )
        except CallError:
            offered = {}
        return sorted({*offered, *PROXY_WORDS})


def _running_actor() -> Actor:
    hosted = current.actor
    actor = getattr(hosted, "actor", None)
    if not isinstance(actor, Actor):
        raise UsageError("only a registered flock.Actor links itself, in a method of its own")
    return actor


class NodeProxy:
    """A node by its name; index it by an actor's name."""

    _notes_readings = True

    def __init__(self, runtime: Runtime, name: str, options: CallOptions) -> None:
        """Name a node; asks nobody."""
        self._runtime = runtime
        self._name = name
        self._options = options
        self._actors: dict[str, ActorProxy] = {}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    def __getitem__(self, actor: str) -> ActorProxy:
        """Return an actor by name; whether it exists is known when it is called.

        Raises:
            ActorNotFound: that is no text, and so no actor's name.
        """
        proxy = self._actors.get(actor)
        if proxy is None:
            if not isinstance(actor, str):
                raise ActorNotFound(f"{actor!r:.80} is no actor's name, which is text")
            proxy = ActorProxy(self._runtime, self._name, actor, self._options)
            self._actors[actor] = proxy
        return proxy

    def __contains__(self, actor: object) -> bool:
        """Say whether the node has an actor of this name, as the registry knows it.

        Raises:
            NodeNotFound: there is no such node.
            RegistryUnavailable: that cannot be known.
        """
        return actor in self.record.actors

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of its actors, as the registry knows them; raises as `in` does."""
        return iter(self.record.actors)

    def actors(self) -> list[str]:
        """Return the names of the node's actors, asking the node.

        Raises:
            CallError: it did not answer.
        """
        return [row["name"] for row in self.describe_actors()]

    def describe_actors(self) -> list[dict[str, Any]]:
        """Return name, class, state, inbox depth, methods and restarts of each actor."""
        rows: list[dict[str, Any]] = self._ask("actors")
        return rows

    def methods(self, actor: str) -> dict[str, Sequence[str]]:
        """Return what an actor offers: `[signature, docstring]` by method."""
        offered: dict[str, Sequence[str]] = self._ask("methods", actor)
        return offered

    def stack(self) -> list[dict[str, Any]]:
        """Return what each of the node's actors is doing; see `flock.node.Node.stack`."""
        rows: list[dict[str, Any]] = self._ask("stack")
        return rows

    def monitor(self, callback: Callable[[Down], None]) -> Monitor:
        """Have `callback(down)` called once when the node is gone or cannot be reached.

        Args:
            callback: takes a `flock.monitors.Down`, on a thread of the
                runtime; must be short.
        """
        return self._runtime.watch(self._name, "", callback)

    def ping(self, timeout: float = 1.0) -> bool:
        """Say whether the node answers within `timeout` seconds.

        Raises:
            NodeNotFound: there is no such node.
            RegistryUnavailable: that cannot be known.
        """
        note("actor", f"{self._name}/")
        peer = self._runtime.peer(self._name)
        options = CallOptions(timeout=timeout, explicit=True)
        try:
            return bool(self._runtime.calls.call(peer, "", "ping", (), {}, options))
        except CallError:
            return False

    @property
    def state(self) -> str:
        """How the node stands, as seen from here.

        `connecting`, `connected`, `unlisted` (not in the registry any more,
        still talking), `partitioned` (there is no way to it) or `gone`.
        """
        return self._runtime.state_of(self._name)

    @property
    def record(self) -> PresenceRecord:
        """What the registry says of the node; `NodeNotFound` if nothing."""
        return self._runtime.record_of(self._name)

    @property
    def address(self) -> str:
        """Where it is reached, `tcp://HOST:PORT`."""
        return self.record.address

    @property
    def generation(self) -> str:
        """Which run of it is there."""
        return self.record.generation

    def _ask(self, question: str, *args: Any) -> Any:
        note("actor", f"{self._name}/")
        peer = self._runtime.peer(self._name)
        return self._runtime.calls.call(peer, "", question, args, {}, self._options)

    def __eq__(self, other: object) -> bool:
        """Equal proxies name the same node."""
        return self._name == other._name if isinstance(other, NodeProxy) else NotImplemented

    def __hash__(self) -> int:
        """Hash by name."""
        return hash(self._name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<node {self._name}>"


_SAY_THE_RUN = frozenset({"active", "status", "last_run", "runs", "run"})
_CHANGE_WITH_RUNS = frozenset({"node", "node_hash"})
_SAY_THE_LOCK = frozenset({"holder", "holders", "waiting"})


def note_call(node: str, actor: str, method: str, args: Sequence[Any]) -> None:
    """Note what a call reads: `run` of a node, a `lock`, or else the `actor`.

    What stock actors say of runs and locks is told by whoever changes it, so
    it can be watched; what other actors say cannot.
    """
    if actor == "flock_api" and method in _SAY_THE_RUN:
        note("run", node)
        return
    if actor == "flock_api" and method in _CHANGE_WITH_RUNS:
        note("run", node)
    elif actor == "locker" and method in _SAY_THE_LOCK and len(args) == 1:
        note("lock", str(args[0]))
        return
    note("actor", f"{node}/{actor}")


def offered_by(actor: ActorProxy, timeout: float) -> dict[str, Sequence[str]]:
    """Return `[signature, docstring]` by method, asking the actor's node.

    Raises:
        CallError: it did not answer within `timeout` seconds.
    """
    asking = replace(actor._flock_options, timeout=timeout, explicit=True)  # noqa: SLF001 - see below
    node = NodeProxy(actor._flock_runtime, actor._flock_node, asking)  # noqa: SLF001
    return node.methods(actor._flock_actor)  # noqa: SLF001 - its methods own all other names


def method_of(value: Any) -> tuple[ActorProxy, str] | None:
    """Return the actor and the name of a method, None for anything else."""
    if not isinstance(value, MethodProxy):
        return None
    actor = ActorProxy(value._runtime, value._node, value._actor, value._options)  # noqa: SLF001 - all that it has
    return actor, value._name  # noqa: SLF001 - its public names would be the caller's


def points_at(value: Any) -> Sequence[str] | None:
    """Say what a handle points at, for the wire: `[node]` or `[node, actor]`."""
    if isinstance(value, ActorProxy):
        return [value._flock_node, value._flock_actor]  # noqa: SLF001 - its methods own all other names
    if isinstance(value, NodeProxy):
        return [value.name]
    return None


def handle_maker(runtime: Callable[[], Runtime], options: Callable[[], CallOptions]) -> Any:
    """Return what makes handles of this process from what the wire says."""

    def make(parts: Sequence[str]) -> NodeProxy | ActorProxy:
        if len(parts) == 1:
            return NodeProxy(runtime(), parts[0], options())
        return ActorProxy(runtime(), parts[0], parts[1], options())

    return make
