"""Running one named actor: its thread, its inbox, what it waits for.

A named actor runs on a thread of ours instead of Pykka's own loop, for three
reasons: `sys.exit` in one method must not stop every actor of the process, the
thread must know on whose behalf it works, and an answer should leave together
with others when more calls wait. What Pykka promises otherwise holds: tells
and asks by reference, `on_start`, `on_stop`, `on_failure`, one message at a
time.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pykka
from pykka.messages import _ActorStop

from flock.actor import Actor, Method, SelfMessage
from flock.context import current
from flock.errors import ActorDead, CallError, DeadlockError, OverloadedError
from flock.messages import Chain, Link

logger = logging.getLogger(__name__)

MAX_INBOX = 10_000
"""Calls that wait in an actor's inbox before more are refused."""

_SLOW = 0.001  # seconds; quicker calls are not worth to be kept among the slowest
_KEPT_SLOWEST = 5
_MARK_BITS = 63  # what msgpack carries as a number that is not negative
_BOOTTIME = time.CLOCK_BOOTTIME
_boottime_now = time.clock_gettime


class Answerer(Protocol):
    """Sends what became of a call."""

    def answer(self, invocation: Invocation, value: Any, more_wait: bool) -> None:
        """Send the method's value; `more_wait` says that more answers come soon."""

    def fail(self, invocation: Invocation, error: BaseException) -> None:
        """Send the error that the method raised."""

    def refuse(self, invocation: Invocation, error: CallError) -> None:
        """Send the reason why the method was not begun."""

    def skipped(self, invocation: Invocation) -> None:
        """Note that the deadline passed before the method began; it is not run."""


class Invocation:
    """One call or tell on its way through an actor.

    Attributes:
        peer: where it came from.
        call_id: its number there; 0 for a tell, which wants no answer.
        deadline: `CLOCK_BOOTTIME` seconds after which it must not start; None for never.
        chain: the calls that led here.
    """

    __slots__ = ("answerer", "args", "call_id", "chain", "deadline", "kwargs", "method", "peer")

    def __init__(
        self,
        answerer: Answerer,
        peer: Any,
        call_id: int,
        method: Method,
        args: list[Any],
        kwargs: dict[str, Any],
        deadline: float | None,
        chain: Chain,
    ) -> None:
        """Note the call."""
        self.answerer = answerer
        self.peer = peer
        self.call_id = call_id
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.deadline = deadline
        self.chain = chain


class Surroundings(Protocol):
    """The node that actors run on."""

    @property
    def node_name(self) -> str:
        """Its name, as chains of calls carry it."""

    @property
    def flock(self) -> Any:
        """The `Flock` they are registered in; None for a node on its own."""

    def probe(self, call_id: int, path: Chain) -> None:
        """Ask whoever was called by `call_id` whether he waits, and for whom."""


class HostedActor:
    """One instance of a named actor and the thread it runs on.

    It is also the `WaitingActor` of its thread: it knows which call it waits
    for, so that a call that leads back to it can be refused instead of waiting
    for ever.

    Attributes:
        is_over: True once the instance takes no more calls.
    """

    def __init__(
        self,
        name: str,
        actor: pykka.Actor,
        table: dict[str, Method],
        ended: Callable[[HostedActor, BaseException | None], None],
        place: Surroundings,
    ) -> None:
        """Wrap an actor that is made and not started.

        Args:
            name: the name it is registered under.
            actor: the instance.
            table: what others may call.
            ended: called on the actor's thread when it is over, with the error
                if it crashed.
            place: the node it runs on.
        """
        self.name = name
        self.surroundings = place
        self.actor = actor
        self.table = table
        self.is_over = False
        self._invocation: Invocation | None = None
        self._own_work: str | None = None
        self._began = 0.0
        self._slowest: list[tuple[float, str]] = []
        self._ended = ended
        self._waiting_for = 0
        self._marked, self._mark = 0, 0
        self._chained: dict[int, Invocation] = {}
        self._chained_lock = threading.Lock()
        self._survives_tells = isinstance(actor, Actor) and actor.survives_tells
        self.thread = threading.Thread(target=self._run, name=f"actor-{name}", daemon=True)

    @property
    def busy_with(self) -> str | None:
        """The method that runs now, called or by the actor's own will; None if none does."""
        invocation = self._invocation
        return self._own_work if invocation is None else invocation.method.name

    @property
    def busy_for(self) -> float:
        """Seconds that the method of `busy_with` has been running; 0 if none does."""
        return _boottime_now(_BOOTTIME) - self._began if self.busy_with is not None else 0.0

    @property
    def waiting_for(self) -> int:
        """The call that this actor's thread waits for; 0 if it waits for none."""
        return self._waiting_for

    def slowest(self) -> list[tuple[float, str]]:
        """Return the slowest calls of this instance, `(seconds, method)`, the slowest first."""
        return list(self._slowest)

    def _note_slow(self, took: float, method: str) -> None:
        if len(self._slowest) < _KEPT_SLOWEST or took > self._slowest[-1][0]:
            self._slowest = sorted([*self._slowest, (took, method)], reverse=True)[:_KEPT_SLOWEST]

    def stop(self) -> None:
        """Ask the actor to end after the message it works on; what waits behind is failed."""
        try:
            _ = self.actor.actor_ref.stop(block=False)  # the thread's end is the answer
        except pykka.ActorDeadError:
            return

    @property
    def caller(self) -> str:
        """Name of the node or visitor whose call is worked on; empty for none."""
        invocation = self._invocation
        return "" if invocation is None else invocation.peer.title

    @property
    def flock(self) -> Any:
        """The `Flock` it is registered in."""
        return self.surroundings.flock

    def start(self) -> None:
        """Begin to take calls."""
        if isinstance(self.actor, Actor):
            self.actor.move_in(self)
        pykka.ActorRegistry.register(self.actor.actor_ref)
        self.thread.start()

    def load(self) -> int:
        """Return how much there is to do: what waits, and what is worked on."""
        return self.waiting_count() + (self.busy_with is not None)

    def waiting_count(self) -> int:
        """Return how many messages wait in the inbox."""
        inbox: Any = self.actor.actor_inbox
        return int(inbox.qsize())

    # --- taking calls (the reader's thread)

    def deliver(self, invocation: Invocation) -> None:
        """Put a call into the inbox.

        Raises:
            ActorDead: the actor is over; it did not run.
            OverloadedError: the inbox is full.
            DeadlockError: the actor waits for a call of the invocation's own chain.
        """
        inbox: Any = self.actor.actor_inbox
        if self.is_over:
            raise ActorDead(f"actor {self.name!r} has stopped", may_have_run=False)
        if inbox.qsize() >= MAX_INBOX:
            raise OverloadedError(f"{MAX_INBOX} calls wait already for actor {self.name!r}")
        if invocation.chain:
            self._note_chain(invocation)
        inbox.put(invocation)
        if self.is_over:
            self._drain()  # type: ignore[unreachable] # the actor's own thread says so meanwhile

    def _note_chain(self, invocation: Invocation) -> None:
        with self._chained_lock:
            if self._waiting_for and invocation.call_id:
                self._refuse_circle(self._waiting_for, invocation.chain)
            self._chained[id(invocation)] = invocation

    def has(self, peer: Any, call_id: int) -> bool:
        """Say whether a call that an actor of a peer made is worked on or waits here."""
        at_work = self._invocation
        if at_work is not None and at_work.call_id == call_id and at_work.peer is peer:
            return True
        with self._chained_lock:
            return any(
                each.call_id == call_id and each.peer is peer for each in self._chained.values()
            )

    # --- waiting for other actors (the actor's own thread)

    def begin_wait(self, call_id: int) -> None:
        """Note that this thread waits for a call, and refuse those in the inbox that need us."""
        refused: list[tuple[Invocation, DeadlockError]] = []
        with self._chained_lock:
            self._waiting_for = call_id
            for invocation in list(self._chained.values()):
                try:
                    self._refuse_circle(call_id, invocation.chain)
                except DeadlockError as error:
                    if invocation.call_id:
                        del self._chained[id(invocation)]
                        invocation.deadline = 0.0  # it still lies in the inbox: do not start it
                        refused.append((invocation, error))
        for invocation, refusal in refused:
            invocation.answerer.refuse(invocation, refusal)

    def probe(self, call_id: int) -> None:
        """Look whether the call waited for waits, over other actors, for this one."""
        waiting_for, link = self.wait()
        if waiting_for == call_id:
            self.surroundings.probe(call_id, (link,))

    def wait(self) -> tuple[int, Link]:
        """Return the call that is waited for, 0 for none, and the link of it in a probe's path.

        In a probe the third part is a number made up for this wait: the call's
        own can be guessed, and nobody shall make up a circle and end a wait by it.
        """
        with self._chained_lock:
            waiting_for = self._waiting_for
            if self._marked != waiting_for:
                self._marked, self._mark = waiting_for, secrets.randbits(_MARK_BITS)
            return waiting_for, (self.surroundings.node_name, self.name, self._mark)

    def end_wait(self, call_id: int) -> None:
        """Note that the wait is over."""
        if self._waiting_for == call_id:
            self._waiting_for = 0

    def _refuse_circle(self, waiting_for: int, chain: Chain) -> None:
        """Raise `DeadlockError` if `chain` holds the call that this actor waits for."""
        if any(
            tuple(link) == (self.surroundings.node_name, self.name, waiting_for) for link in chain
        ):
            circle = [f"{node}/{actor or 'caller'}" for node, actor, _ in chain]
            path = " -> ".join([*circle, f"{self.surroundings.node_name}/{self.name}"])
            raise DeadlockError(f"these calls would wait for each other for ever: {path}", circle)

    # --- the actor's thread

    def _run(self) -> None:
        current.actor = self
        actor, inbox = self.actor, self.actor.actor_inbox
        crash: BaseException | None = None
        self._began, self._own_work = _boottime_now(_BOOTTIME), "on_start"
        try:
            actor.on_start()
        except BaseException as error:
            logger.exception("actor %r failed in on_start", self.name)
            crash = error
            self._stop_flags()
        self._own_work = None
        while not actor.actor_stopped.is_set():
            item: Any = inbox.get()
            try:
                handle = self._invoke if type(item) is Invocation else self._pykka_message
                crash = handle(item)
            except BaseException as error:
                # Nothing of the actor's own gets here; whatever does must not
                # end the thread without anybody's knowing.
                logger.exception("actor %r could not give an answer", self.name)
                crash = error
            if crash is not None:
                self._stop_flags()
                self._tell_failure(crash)
        self.is_over = True
        self._drain()
        if isinstance(actor, Actor):
            try:
                actor.move_out()
            except Exception:
                # Whatever it is: who waits for this end, the supervisor first, must hear of it.
                logger.exception("actor %r could not end all it had asked for", self.name)
        current.actor = None
        self._ended(self, crash)

    def _invoke(self, invocation: Invocation) -> BaseException | None:
        """Run one call; return the error if the actor must die of it."""
        if invocation.chain:
            with self._chained_lock:
                self._chained.pop(id(invocation), None)
            current.chain = invocation.chain
        deadline = invocation.deadline
        self._began = began = _boottime_now(_BOOTTIME)
        if deadline is not None and began >= deadline:
            current.chain = ()
            invocation.answerer.skipped(invocation)
            return None
        method = invocation.method
        self._invocation = invocation
        try:
            value = method.function(self.actor, *invocation.args, **invocation.kwargs)
        except BaseException as error:
            # Also what is no Exception: one actor's sys.exit is not the end of all.
            if invocation.call_id:
                invocation.answerer.fail(invocation, error)
                return None
            logger.exception("actor %r: %s failed in a tell", self.name, method.name)
            return None if self._survives_tells else error
        else:
            if invocation.call_id:
                inbox: Any = self.actor.actor_inbox
                invocation.answerer.answer(invocation, value, not inbox.empty())
            return None
        finally:
            self._invocation = None
            took = _boottime_now(_BOOTTIME) - began
            if took > _SLOW:
                self._note_slow(took, method.name)
            if invocation.chain:
                current.chain = ()

    def _pykka_message(self, envelope: Any) -> BaseException | None:
        """Handle what came by an actor reference, by Pykka's own rules."""
        self._began, self._own_work = _boottime_now(_BOOTTIME), _named(envelope.message)
        try:
            response = self.actor._handle_receive(envelope.message)  # noqa: SLF001 - see above
        except BaseException as error:
            if envelope.reply_to is not None:
                envelope.reply_to.set_exception((type(error), error, error.__traceback__))
                return None
            logger.exception("actor %r failed in a tell", self.name)
            return None if self._survives_tells else error
        finally:
            self._own_work = None
        if envelope.reply_to is not None:
            envelope.reply_to.set(response)
        return None

    def _tell_failure(self, error: BaseException) -> None:
        try:
            self.actor.on_failure(type(error), error, error.__traceback__)
        except BaseException:
            logger.exception("actor %r failed in on_failure", self.name)

    def _stop_flags(self) -> None:
        pykka.ActorRegistry.unregister(self.actor.actor_ref)
        self.actor.actor_stopped.set()

    def _drain(self) -> None:
        """Fail what still lies in the inbox of an actor that is over."""
        inbox: Any = self.actor.actor_inbox
        while True:
            try:
                # Without waiting: another thread may drain it, too.
                item: Any = inbox.get_nowait()
            except queue.Empty:
                return
            error = ActorDead(
                f"actor {self.name!r} stopped before the call began", may_have_run=False
            )
            if type(item) is Invocation:
                if item.call_id:
                    item.answerer.refuse(item, error)
            elif item.reply_to is not None:
                if isinstance(item.message, _ActorStop):
                    item.reply_to.set(None)
                else:
                    dead = pykka.ActorDeadError(str(error))
                    item.reply_to.set_exception((type(dead), dead, None))


def _named(message: Any) -> str:
    """Return what an actor is at that works on a message which is no call of ours."""
    if isinstance(message, _ActorStop):
        return "on_stop"
    if isinstance(message, SelfMessage):
        return str(getattr(message.function, "__name__", "a message"))
    path = getattr(message, "attr_path", None)  # of Pykka's own proxies
    return ".".join(path) if path else "a message"
