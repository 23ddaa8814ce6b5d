"""`Flock`: the whole flock as one value; `FlockOfChefs`: this process's default one.

Index it by a node's name, and that by an actor's. A `Flock` with a name is a
node that others see and call; without one it is a visitor that only asks. Any
thread may use it. Joining happens with `start`, on entering it as a context
manager, or with its first use.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import pykka

from flock.calls import CallOptions, Calls
from flock.context import current
from flock.errors import CallError, NameTaken, NodeNotFound, UsageError
from flock.extensions import make_registry
from flock.globals import Globals
from flock.monitors import Down, Monitor
from flock.node import Node, raise_file_limit
from flock.node_objects import NodeObject, NodeObjects
from flock.proxy import ActorProxy, NodeProxy, handle_maker, points_at
from flock.settings import Settings, load_settings
from flock.signals import handle
from flock.stack_dump import dump_at_sigusr1
from flock.supervisor import MAX_RESTARTS, RESTART_WINDOW, Group, Strategy
from flock.topics import Run, Subscription
from registry.contract import Lock, LockLost, LockOwner, LockState, PresenceRecord, Registry
from registry.readings import note

logger = logging.getLogger(__name__)

_LEAVING = "flock-leaving"
_RUNTIME_THREADS = ("flock-", "registry-")
"""So begin the names of the threads that end with a flock."""

_FURNISHER = "flock.boot"
"""Puts the stock actors into a node; loaded by name, since it stands above this floor."""


class Flock:
    """The nodes of one registry, and this process among them.

    Args:
        name: this node's name; None makes a visitor, whatever the settings say.
        registry: `embedded:DIR` or `zookeeper://host:port[,…]/root`.
        keys: public and secret key to use, Z85; None makes new ones.
        settings: any other setting by its name (`listen`, `advertise`,
            `crypto`, `state_dir`, `environment`, `cookbooks`, `run_list`,
            `timeout`, …); those not given come from the environment and the
            settings file.

    Attributes:
        join_within: seconds that joining waits for the registry.
    """

    _notes_readings = True
    join_within: float = 2.5

    def __init__(
        self,
        name: str | None = None,
        registry: str | None = None,
        *,
        keys: tuple[bytes, bytes] | None = None,
        **settings: Any,
    ) -> None:
        """Note what was asked for; nothing is opened or read yet."""
        self._arguments: dict[str, Any] = {"name": name, "registry": registry, **settings}
        self._keys = keys
        self._lock = threading.RLock()
        self._node: Node | None = None
        self._settings: Settings | None = None
        self._closed = False
        self._stopped = threading.Event()
        self._lost: PresenceRecord | None = None
        self._proxies: dict[str, NodeProxy] = {}
        self._options = CallOptions()
        self._before_close: list[Callable[[], None]] = []
        self._is_the_parents = False
        _of_this_process.add(self)

    # --- joining and leaving

    def start(self, name: str | None = None, registry: str | None = None, **settings: Any) -> Self:
        """Join the flock now; what is given here goes before what was given when it was made.

        Raises:
            RegistryUnavailable: the registry does not answer.
            NameTaken: a live process has this name.
            SettingsError: a setting is wrong.
            UsageError: it was started before.
        """
        with self._lock:
            if self._node is not None or self._closed:
                self._refuse_if_the_parents()
                raise UsageError("this flock was started already")
            given = {"name": name, "registry": registry, **settings}
            self._arguments.update(
                {key: value for key, value in given.items() if value is not None}
            )
            self._join()
        return self

    def _join(self) -> Node:
        """Open the node; the lock is held."""
        arguments = dict(self._arguments)
        name = arguments.pop("name")
        loaded = load_settings(
            {key: value for key, value in arguments.items() if value is not None}
            | ({"name": name} if name is not None else {})
        )
        raise_file_limit()
        node = Node(
            make_registry(loaded),
            name=name,
            listen=loaded.listen,
            advertise=loaded.advertise,
            crypto=loaded.crypto,
            keys=self._keys,
            pack_handle=points_at,
            make_handle=handle_maker(lambda: self, lambda: self._options),
            name_lost=self._on_name_lost,
            rubbish_pause=loaded.rubbish_pause,
        )
        self._options = CallOptions(timeout=loaded.timeout)
        node.flock = self
        node.open(self.join_within)
        self._node, self._settings = node, loaded
        try:
            if name is not None:
                node.announcer.refuse_taken_name()
                # Stock actors first: who is listed answers.
                import_module(_FURNISHER).furnish(self)
            node.announcer.announce()
            if self._closed:
                # By who handles a signal, on this thread: the lock is no bar to it.
                raise UsageError("this flock was closed while it joined")
        except BaseException:
            # Not closed for good: what is away now may be there at the next use.
            self._node = None
            self._take_down(node)
            raise
        return node

    def close(self) -> None:
        """Leave: let what runs come to its end, tell the others, leave the directory last.

        Twice is harmless; what is used afterwards raises. On a thread of the
        runtime (in a monitor's callback, say) it only begins: that thread ends with it.
        """
        here = threading.current_thread().name
        if here.startswith(_RUNTIME_THREADS) and here != _LEAVING:
            threading.Thread(target=self.close, name=_LEAVING, daemon=True).start()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            node = self._node
        self._take_down(node)
        self._stopped.set()

    def _take_down(self, node: Node | None) -> None:
        hooks, self._before_close = self._before_close[::-1], []
        for hook in hooks:
            try:
                hook()
            except Exception:
                logger.exception("something did not close cleanly")
        if node is not None:
            node.close()

    def before_close(self, hook: Callable[[], None]) -> None:
        """Have `hook` called first thing when this flock closes; the last one added goes first."""
        self._before_close.append(hook)

    def __enter__(self) -> Self:
        """Join, if that has not happened yet."""
        self._joined()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave."""
        self.close()

    def serve_forever(self) -> None:
        """Wait until this flock is closed, or SIGTERM or SIGINT comes; then leave.

        SIGUSR1 logs what each actor is doing.

        Raises:
            NameTaken: after an outage the name belonged to another process.
        """
        self._joined()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handle(number, lambda *_: self._stopped.set())
            dump_at_sigusr1(self.node.stack)
        # A process that is stopped and goes on may take a signal on any thread; Python handles
        # it when the main one wakes.
        while not self._stopped.wait(1.0):
            pass
        self.close()
        if self._lost is not None:
            raise NameTaken(self._lost.name, self._lost.whereabouts())

    def _on_name_lost(self, holder: PresenceRecord) -> None:
        logger.error("the name %s now belongs to %s: leaving", holder.name, holder.whereabouts())
        self._lost = holder
        # On a thread of its own: this one belongs to the registry that is to be closed.
        threading.Thread(target=self.close, name=_LEAVING, daemon=True).start()

    def _joined(self) -> Node:
        """Return this process as a member, joining if need be.

        While the flock closes that is still so for its actors, which may call
        others as they end.
        """
        node = self._node
        if node is None:
            with self._lock:
                if self._closed:
                    self._refuse_if_the_parents()
                    raise UsageError("this flock is closed")
                node = self._node or self._join()
        elif self._closed and not (node.ends_actors and current.actor is not None):
            raise UsageError("this flock is closed")
        return node

    # --- forks

    def leave_to_the_parent(self) -> None:
        """Let go of everything, in a child that was forked: its sockets and threads are not here.

        A visitor joins anew with its next use here. A node stays with the parent:
        there are not two processes of one name.
        """
        # Locks may have been held by threads that are not here.
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._before_close = []
        node, self._node = self._node, None
        if node is not None:
            _left_to_parents.append(node)
            if node.identity.kind == "node":
                self._closed = self._is_the_parents = True

    def _refuse_if_the_parents(self) -> None:
        if self._is_the_parents:
            raise UsageError(
                "this flock belongs to the process that this one was forked from: "
                "make a new flock.Flock here"
            )

    # --- what there is

    def __getitem__(self, name: str) -> NodeProxy:
        """Return a live node by name.

        Raises:
            NodeNotFound: there is no such node.
            RegistryUnavailable: that cannot be known now.
        """
        node = self._joined()
        if not isinstance(name, str):
            raise NodeNotFound(f"{name!r:.80} is no node's name, which is text")
        note("presence", name)
        if name != node.identity.name and node.directory.find(name) is None:
            raise NodeNotFound(f"no node {name!r} in {node.registry.url}")
        return self._proxy(name)

    def _proxy(self, name: str) -> NodeProxy:
        proxy = self._proxies.get(name)
        if proxy is None:
            proxy = self._proxies.setdefault(name, NodeProxy(self, name, self._options))
        return proxy

    def get(self, name: str) -> NodeProxy | None:
        """Return a live node by name, None if there is no such node.

        Raises:
            RegistryUnavailable: that cannot be known now.
        """
        try:
            return self[name]
        except NodeNotFound:
            return None

    def __contains__(self, name: object) -> bool:
        """Say whether a live node has this name."""
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the live nodes, sorted."""
        return iter(self._joined().registry.node_names())

    def __len__(self) -> int:
        """Count the live nodes."""
        return len(self._joined().registry.node_names())

    @property
    def me(self) -> NodeProxy | None:
        """This node; None for a visitor."""
        node = self._joined()
        return self._proxy(node.identity.name) if node.identity.kind == "node" else None

    def nodes(self) -> list[PresenceRecord]:
        """Return the presence records of all live nodes, sorted by name."""
        return self._joined().registry.presences()

    def find(self, actor: str) -> list[ActorProxy]:
        """Return the actor of this name on every live node that has it, this one included."""
        return [
            self._proxy(record.name)[actor] for record in self.nodes() if actor in record.actors
        ]

    def search(self, query: str) -> list[NodeObject]:
        """Return the node objects of all machines that a query means, up or down, sorted by name.

        Args:
            query: as in Chef, `roles:web AND chef_environment:prod`; see
                `flock.search`.

        Returns:
            Node objects; `.node` is the node itself, to be called.

        Raises:
            UsageError: it is no query.
            RegistryUnavailable: that cannot be known now.
        """
        return NodeObjects(self.registry, self._proxy).search(query)

    @property
    def globals(self) -> Globals:
        """Values that the whole flock shares: `FlockOfChefs.globals['release'] = '1.4'`."""
        return Globals(self.registry)

    # --- this node's own actors

    def supervise(
        self, actor_class: type[pykka.Actor], *args: Any, name: str, **kwargs: Any
    ) -> pykka.ActorRef[Any]:
        """Start an actor under a name, callable from every node, and keep it running.

        Args:
            actor_class: any `pykka.ThreadingActor`, better a `flock.Actor`.
            args: given to the class, again at each restart.
            name: what others call it by.
            kwargs: given to the class.

        Raises:
            UsageError: the name is taken here, or the class cannot be called remotely.
        """
        return self._joined().supervisor.add(name, lambda: actor_class(*args, **kwargs))

    def pool(
        self, actor_class: type[pykka.Actor], size: int, *args: Any, name: str, **kwargs: Any
    ) -> ActorProxy:
        """Start `size` actors behind one name; each call goes to the one with least to do.

        Args:
            actor_class: as for `supervise`.
            size: how many, 1 or more.
            args: given to each.
            name: what the pool is called by.
            kwargs: given to each.

        Returns:
            The pool's proxy.
        """
        self._joined().supervisor.add_pool(name, lambda: actor_class(*args, **kwargs), size)
        return self.me_or_visitor()[name]

    def group(
        self,
        strategy: Strategy = "one_for_one",
        *,
        max_restarts: int = MAX_RESTARTS,
        within: float = RESTART_WINDOW,
    ) -> Group:
        """Make a group of actors that share their fate; add to it with its `supervise`.

        Args:
            strategy: who is started anew with a crashed actor: `one_for_one`,
                `one_for_all`, or `rest_for_one` (it and those added later).
            max_restarts: crashes within `within` seconds before all are given up.
            within: seconds.
        """
        return Group(self._joined().supervisor, strategy, max_restarts, within)

    # --- topics

    def publish(self, topic: str, value: Any) -> int:
        """Send a value to everybody in the flock who subscribed to a topic; waits for nobody.

        Returns:
            To how many processes it was sent.
        """
        return self._joined().topics.publisher.publish(topic, value)

    def subscribe(
        self, topic: str, callback: Callable[[str, Any], None], *, run: Run | None = None
    ) -> Subscription:
        """Have `callback(publisher, value)` called with what is published on a topic.

        Args:
            topic: any text.
            callback: called with one value after the other; a `flock.topics.Gap`
                stands where some were lost.
            run: has the callback run, one value a turn; None for a thread of the
                subscription.

        Returns:
            The subscription; `cancel` ends it.
        """
        return self._joined().topics.subscribers.subscribe(topic, callback, run)

    # --- locks

    def lock(
        self,
        lockid: str,
        *,
        wait: float | None = 60.0,
        slots: int = 1,
        reason: str = "",
        group: str = "",
    ) -> HeldLock:
        """Take a lock over the whole flock, as a context manager.

        What it gives has a `token` that only ever grows, and `held`, to be
        asked before each effect.

        Args:
            lockid: any text.
            wait: seconds, 0 for "now or not", None for as long as it takes.
            slots: how many may hold it at a time.
            reason: for people who look at who holds it.
            group: those of one group take one slot together.
        """
        note("lock taken", lockid)
        return HeldLock(self, lockid, wait, slots, reason, group)

    # --- for proxies and for what is built on this (`flock.proxy.Runtime`)

    @property
    def calls(self) -> Calls:
        """Makes calls."""
        return self._joined().calls

    def peer(self, name: str) -> Any:
        """Return the peer of a node's name."""
        return self._joined().peer(name)

    def route(self, name: str) -> tuple[Calls, Any]:
        """Return what makes calls, and the peer of a node's name: one step on every call's way."""
        node = self._node
        if node is None or self._closed:
            node = self._joined()
        peer = node.peers_by_name.get(name)
        if peer is None or peer.state == "gone":
            peer = node.peer(name)
        return node.calls, peer

    def state_of(self, name: str) -> str:
        """Return a node's state as seen from here."""
        note("way", name)
        return self._joined().state_of(name)

    def record_of(self, name: str) -> PresenceRecord:
        """Return a node's presence record."""
        note("presence", name)
        node = self._joined()
        if name == node.identity.name:
            return node.presence()
        record = node.directory.find(name)
        if record is None:
            raise NodeNotFound(f"no node {name!r} in {node.registry.url}")
        return record

    def watch(self, node: str, actor: str, callback: Callable[[Down], None]) -> Monitor:
        """Have `callback` told when an actor, or the node itself, is gone."""
        me = self._joined()
        return me.monitors.watch(me.peer(node), actor, callback)

    def me_or_visitor(self) -> NodeProxy:
        """Return this process as a node, also if it is a visitor: its own actors are there."""
        return self._proxy(self._joined().identity.name)

    def link_back(self, other: ActorProxy, actor: str) -> None:
        """Have another actor take its half of a link to an actor of ours."""
        self._ask_about_link("link", other, actor)

    def unlink_back(self, other: ActorProxy, actor: str) -> None:
        """Have another actor give up its half of a link."""
        self._ask_about_link("unlink", other, actor)

    def _ask_about_link(self, question: str, other: ActorProxy, actor: str) -> None:
        node, name = points_at(other) or ("", "")
        peer, mine = self.peer(node), self.me_or_visitor()[actor]
        if not self.calls.call(peer, "", question, (name, mine), {}, self._options):
            raise UsageError(f"{node}/{name} is no flock.Actor and cannot be linked")

    @property
    def registry(self) -> Registry:
        """The registry, open."""
        return self._joined().registry

    @property
    def node(self) -> Node:
        """This process as a member."""
        return self._joined()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        self._joined()
        if self._settings is None:
            raise UsageError("this flock has no settings yet")
        return self._settings

    def __repr__(self) -> str:
        """Say who this is, without joining for it."""
        if self._node is None or self._closed:
            return "<flock, closed>" if self._closed else "<flock, not joined yet>"
        return f"<flock {self._node.registry.url} as {self._node.identity.name}>"


class HeldLock:
    """A lock of the flock, taken on entering and released on leaving."""

    def __init__(
        self,
        flock: Flock,
        lockid: str,
        wait: float | None,
        slots: int,
        reason: str,
        group: str,
    ) -> None:
        """Note what is wanted; nothing is asked for yet."""
        self._flock = flock
        self._lockid = lockid
        self._wait = wait
        self._slots = slots
        self._reason = reason
        self._group = group
        self._held: Lock | None = None

    def __enter__(self) -> Lock:
        """Take the lock.

        Raises:
            LockTimeout: it was not free in time.
            RegistryUnavailable: it could not be asked for.
        """
        me = self._flock.node
        presence = me.presence()
        owner = LockOwner(
            owner=presence.name, host=presence.host, reason=self._reason, group=self._group
        )
        self._held = self._flock.registry.acquire(
            self._lockid, owner, wait=self._wait, slots=self._slots
        )
        return self._held

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it; an outage does not hold this up.

        Raises:
            LockLost: it was lost before, so that what was done last may have
                met the next holder; not if something else was raised inside.
        """
        held, self._held = self._held, None
        if held is None:
            return
        was_lost = held.state() is LockState.LOST
        held.release()
        if was_lost and error is None:
            raise LockLost(self._lockid, "it was lost while it was in use")


_of_this_process: weakref.WeakSet[Flock] = weakref.WeakSet()
_left_to_parents: list[Node] = []
"""Kept, so that nothing of theirs is taken apart in a child, where it must not be touched."""


def _leave_all_to_the_parent() -> None:
    for flock in list(_of_this_process):
        flock.leave_to_the_parent()


os.register_at_fork(after_in_child=_leave_all_to_the_parent)

FlockOfChefs = Flock()
"""This process's default flock: a visitor from its first use, unless `start` was called before."""


def _leave_at_exit() -> None:
    try:
        FlockOfChefs.close()
    except CallError:
        logger.debug("the default flock did not close cleanly")


atexit.register(_leave_at_exit)
