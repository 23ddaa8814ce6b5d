"""`flock.Actor`: a Pykka actor that may be called from other nodes.

Any `pykka.ThreadingActor` can be registered under a name; this base adds a
faster inbox and future, and answers that come later. What others may call is
a table made when the actor is registered, from the class alone: every public
method, nothing inherited from Pykka or `object`, no property, nothing marked
`@internal`. Dispatch looks names up in that table and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import pykka

from flock.context import current
from flock.errors import ActorDead, FlockError, NodeDownError, NodeNotFound, UsageError
from flock.future import Future
from flock.timers import Timer, clock

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

PROXY_WORDS = frozenset({"options", "batch", "monitor", "link", "unlink"})
"""What the proxy itself answers to: an actor's method may not be called so."""

_RUN_NOTHING = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)
_INTERNAL_MARK = "_flock_internal"
_FEW_BELONGINGS = 100


def internal(method: F) -> F:
    """Hide a public method from other nodes; actors of this process reach it by reference."""
    setattr(method, _INTERNAL_MARK, True)
    return method


class LinkedActorDied(FlockError):
    """An actor that this one is linked to crashed, and this one with it."""


class SelfMessage(NamedTuple):
    """Something for the actor to do on its own thread, in turn with its calls."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Cancellable(Protocol):
    """What ends with `cancel`, or by itself."""

    @property
    def is_over(self) -> bool:
        """True once it has ended."""

    def cancel(self) -> None:
        """End it; twice is harmless."""


class Watch:
    """A monitor that an actor has set; what it says waits in the actor's inbox for its turn.

    Once it was cancelled that is not said any more.
    """

    def __init__(self, other: Any, soon: Callable[..., None], told: Callable[[Any], Any]) -> None:
        """Set it.

        Args:
            other: a proxy of an actor or a node.
            soon: has something run on the actor's thread.
            told: called there with a `flock.monitors.Down`.

        Raises:
            CallError: there is no way there; nothing was set.
        """
        self._told = told
        self._is_over = False
        self._monitor: Cancellable = other.monitor(lambda down: soon(self._tell, down))

    @property
    def is_over(self) -> bool:
        """True once it was cancelled, or has told."""
        return self._is_over

    def cancel(self) -> None:
        """End it."""
        self._is_over = True
        self._monitor.cancel()

    def _tell(self, down: Any) -> None:
        if not self._is_over:
            self._is_over = True
            self._told(down)


class Home(Protocol):
    """Where a registered actor lives."""

    @property
    def name(self) -> str:
        """The name it is registered under."""

    @property
    def flock(self) -> Any:
        """The `Flock` it is registered in."""


class Actor(pykka.ThreadingActor):
    """Base of actors that are called from other nodes.

    An exception in a call goes to the caller and the actor lives; one in a
    tell, or in `on_start`, kills it, and its supervisor starts it anew. A
    method may return a future (`self.later()`): the answer is sent when that
    resolves, and the actor is free meanwhile.

    What is asked for with `after`, `every`, `subscribe`, `monitor` and `link`
    arrives on the actor's own thread, in turn with its calls, and is gone with
    the actor. A subclass that overrides `on_receive` passes on what is not its.
    """

    use_daemon_thread: ClassVar[bool] = True
    survives_tells: ClassVar[bool] = False
    """True keeps the actor alive (and logs) when a tell raises."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What a stock or site actor is made with, by keyword: `flock`, `kitchen`."""

    traps_exits: ClassVar[bool] = False
    """True calls `on_exit` when a linked actor is gone, instead of crashing with it."""

    _home: Home | None = None
    _belongings: list[Cancellable] | None = None
    _look_through_at = _FEW_BELONGINGS
    _has_moved_out = False
    _links: dict[Any, Watch] | None = None
    _promised: set[Future[Any]] | None = None

    @staticmethod
    def _create_actor_inbox() -> Any:
        return queue.SimpleQueue()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return Future()

    # --- where it is

    @property
    def flock(self) -> Any:
        """The `Flock` this actor is registered in."""
        return self._at_home().flock

    @property
    def me(self) -> Any:
        """This actor as a proxy, to be passed to others."""
        home = self._at_home()
        return home.flock.me_or_visitor()[home.name]

    @property
    def caller(self) -> str:
        """Name of the node or visitor whose call this thread works on; empty for none."""
        return current.actor.caller if current.actor is not None else ""

    def _at_home(self) -> Home:
        if self._home is None:
            raise UsageError(f"{type(self).__name__} is not registered: use Flock.supervise")
        return self._home

    def move_in(self, home: Home) -> None:
        """Note where the actor lives; whoever runs it calls this before it starts."""
        self._home = home

    def move_out(self) -> None:
        """End everything the actor asked for; whoever runs it calls this when it is over."""
        self._has_moved_out = True
        belongings, self._belongings = self._belongings or [], None
        links, self._links = self._links or {}, None
        for each in (*belongings, *links.values()):
            each.cancel()
        clock.discard([each for each in belongings if isinstance(each, Timer)])

    # --- answers and messages to itself

    def later(self) -> Future[Any]:
        """Make a future to return as the answer, to be set from any thread when it is known.

        If the actor is over before, whoever waits gets `ActorDead`; what sets
        it afterwards raises `queue.Full`, as setting it twice does.
        """
        answer: Future[Any] = Future()
        promised = self._promised
        if promised is None:
            promised = self._promised = set()
        promised.add(answer)
        answer.on_ready(promised.discard)
        return answer

    def break_promises(self, reason: str) -> None:
        """Fail every answer still owed; whoever runs the actor calls this when it is over."""
        for answer in list(self._promised or ()):
            with contextlib.suppress(queue.Full):  # set just now
                answer.fail(ActorDead(f"the actor ended before it answered: {reason}"))

    def on_receive(self, message: Any) -> Any:
        """Do what the actor asked itself to do; anything else as Pykka does."""
        if isinstance(message, SelfMessage):
            return message.function(*message.args, **message.kwargs)
        return super().on_receive(message)

    def soon(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have a method of this actor run on its thread, behind what waits already."""
        try:
            self.actor_ref.tell(SelfMessage(method, args, kwargs))
        except pykka.ActorDeadError:
            logger.debug("%s is over and does no more", self)

    def _own(self, thing: Any) -> Any:
        belongings = self._belongings if self._belongings is not None else []
        belongings.append(thing)
        if len(belongings) > self._look_through_at:
            belongings = [each for each in belongings if not each.is_over]
            self._look_through_at = max(_FEW_BELONGINGS, 2 * len(belongings))
        self._belongings = belongings
        if self._has_moved_out:
            thing.cancel()  # asked for on another thread, too late
        return thing

    # --- time

    def after(self, seconds: float, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Timer:
        """Have a method of this actor run once, `seconds` from now; returns what cancels it."""

        @functools.wraps(method)
        def run(timer: Timer) -> None:
            if not timer.is_cancelled:  # nor was it while this waited in the inbox
                timer.cancel()
                method(*args, **kwargs)

        def due(timer: Timer) -> None:
            self.soon(run, timer)

        timer: Timer = self._own(clock.start(seconds, due))
        return timer

    def every(
        self, interval: float, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Timer:
        """Have a method run every `interval` seconds, the first time after one of them.

        A time that comes while the last one still waits, or runs, is left out.
        """
        waits = False

        @functools.wraps(method)
        def run(timer: Timer) -> None:
            nonlocal waits
            try:
                if not timer.is_cancelled:
                    method(*args, **kwargs)
            finally:
                waits = False

        def due(timer: Timer) -> None:
            nonlocal waits
            if not waits:
                waits = True
                self.soon(run, timer)

        timer: Timer = self._own(clock.start(interval, due, interval))
        return timer

    # --- topics

    def publish(self, topic: str, value: Any) -> int:
        """Send a value to everybody in the flock who subscribed to a topic."""
        sent: int = self.flock.publish(topic, value)
        return sent

    def subscribe(self, topic: str, method: Callable[[str, Any], Any]) -> Cancellable:
        """Have `method(publisher, value)` run for what is published on a topic.

        Of what waits for a busy actor one message lies in its inbox and a bounded
        number beside it; where more came, `value` is a `flock.topics.Gap`.
        """
        subscription: Cancellable = self._own(self.flock.subscribe(topic, method, run=self.soon))
        return subscription

    # --- the end of others

    def monitor(self, other: Any, method: Callable[[Any], Any]) -> Cancellable:
        """Have `method(down)` run once when another actor, or a node, is gone.

        Args:
            other: a proxy of an actor or a node.
            method: takes a `flock.monitors.Down`.
        """
        watch: Cancellable = self._own(Watch(other, self.soon, method))
        return watch

    def link(self, other: Any) -> None:
        """Share the fate of another actor: when one crashes, so does the other.

        With `traps_exits` this one is told by `on_exit` instead.

        Args:
            other: a proxy of an actor on any node.
        """
        is_new = other not in (self._links or {})
        self.join_link(other)
        try:
            self.flock.link_back(other, self._at_home().name)
        except BaseException:
            if is_new:
                self.leave_link(other)  # there is no half of a link
            raise

    def join_link(self, other: Any) -> None:
        """Take the near half of a link."""
        links = self._links if self._links is not None else {}
        self._links = links
        if other not in links:
            links[other] = Watch(other, self.soon, lambda down: self._linked_is_gone(other, down))

    def take_link(self, other: Any, gone: Callable[[FlockError], Any]) -> None:
        """Take the far half of a link, or hear that the other is gone already.

        Args:
            other: a proxy of the actor that asked for it.
            gone: makes a `flock.monitors.Down` of why it cannot be watched.
        """
        try:
            self.join_link(other)
        except FlockError as error:
            self._hear_of_end(gone(error))

    def unlink(self, other: Any) -> None:
        """End a link, on both sides; harmless if there is none, or the other is gone.

        Raises:
            CallError: the other could not be told; this side is ended.
        """
        self.leave_link(other)
        with contextlib.suppress(NodeDownError, NodeNotFound):  # what is gone has no half
            self.flock.unlink_back(other, self._at_home().name)

    def leave_link(self, other: Any) -> None:
        """Give up the near half of a link."""
        link = (self._links or {}).pop(other, None)
        if link is not None:
            link.cancel()

    def _linked_is_gone(self, other: Any, down: Any) -> None:
        if self._links is not None and self._links.pop(other, None) is not None:
            self._hear_of_end(down)

    def _hear_of_end(self, down: Any) -> None:
        if self.traps_exits:
            self.on_exit(down)
        elif down.crashed:
            raise LinkedActorDied(f"{down.node}/{down.actor} is gone: {down.reason}")

    def on_exit(self, down: Any) -> None:
        """Take the news that a linked actor is gone; for classes with `traps_exits`.

        Args:
            down: a `flock.monitors.Down`.
        """


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of an actor's table: a name others may call, and how it is called.

    Attributes:
        name: the name.
        function: the class's own function.
        signature: without `self`.
        required, most: so many positional arguments, and no keywords, always fit.
    """

    name: str
    function: FunctionType
    signature: inspect.Signature
    required: int
    most: int

    def misfit(self, args: list[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Say how the arguments do not fit the signature; None if they do."""
        if not kwargs and self.required <= len(args) <= self.most:
            return None
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return f"{self.name}{self.signature}: {error}"
        return None

    def documentation(self) -> str:
        """Return the method's docstring, empty if it has none."""
        return inspect.getdoc(self.function) or ""


def method_table(actor_class: type[pykka.Actor]) -> dict[str, Method]:
    """List what other nodes may call on an actor class.

    Raises:
        UsageError: a public method has a name that the proxy keeps for itself, or
            is a coroutine or generator: calling it would run nothing of it.
    """
    hidden = {name for base in (Actor, pykka.ThreadingActor, object) for name in dir(base)}
    for name in PROXY_WORDS:
        function = inspect.getattr_static(actor_class, name, None)
        is_own = isinstance(function, FunctionType) and function is not vars(Actor).get(name)
        if is_own and not getattr(function, _INTERNAL_MARK, False):
            raise UsageError(
                f"{actor_class.__name__}.{name}: a proxy keeps the names "
                f"{', '.join(sorted(PROXY_WORDS))} for itself; rename it or mark it internal"
            )
    table: dict[str, Method] = {}
    for name in dir(actor_class):
        if name.startswith("_") or name in hidden:
            continue
        function = inspect.getattr_static(actor_class, name)
        if not isinstance(function, FunctionType) or getattr(function, _INTERNAL_MARK, False):
            continue
        if any(is_kind(function) for is_kind in _RUN_NOTHING):
            raise UsageError(
                f"{actor_class.__name__}.{name} is a coroutine or a generator, of which a call "
                "runs nothing; answer with a list, or with `self.later()`, or mark it internal"
            )
        table[name] = _method(name, function)
    return table


class _Annotation(str):
    """An annotation that was never evaluated, shown as it was written: without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _shown(annotation: Any) -> Any:
    return _Annotation(annotation) if isinstance(annotation, str) else annotation


def _method(name: str, function: FunctionType) -> Method:
    whole = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_shown(parameter.annotation))
        for parameter in list(whole.parameters.values())[1:]
    ]
    signature = whole.replace(
        parameters=parameters, return_annotation=_shown(whole.return_annotation)
    )
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keyword_needed = any(
        p.kind is p.KEYWORD_ONLY and p.default is inspect.Parameter.empty for p in parameters
    )
    required = sum(1 for p in positional if p.default is inspect.Parameter.empty)
    most = 1_000_000 if takes_rest else len(positional)
    if keyword_needed:
        required, most = 1, 0  # no call without keywords fits: always bind
    return Method(name, function, signature, required, most)
