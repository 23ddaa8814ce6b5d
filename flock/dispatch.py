"""From a message to an actor, and from the actor's answer to a message.

One function decides whether a caller may call, before any actor is looked up.
The method's name is looked up in the actor's table and nowhere else, and the
arguments are bound to its signature before they reach the inbox, so that no
caller can wear an actor out with calls that do not fit. Every refusal is
answered in one round trip.

An actor's name that is empty means the node itself: a few questions that are
answered at once, on the reader's thread.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pykka

from flock.actor import Method
from flock.errors import (
    ActorNotFound,
    BadArguments,
    CallError,
    ConnectionLost,
    EncodeError,
    MethodNotFound,
    NotLetIn,
    OverloadedError,
    ReplyTooLarge,
)
from flock.failures import fail_message
from flock.future import Future
from flock.hosting import Invocation
from flock.messages import ACCEPTED, CALL, MAX_CHAIN, MAX_OPEN_CALLS, REPLY, Chain
from flock.supervisor import Supervisor
from flock.wire import SCALAR_TYPES, Codec
from registry.contract import KeyRecord

logger = logging.getLogger(__name__)

_PAUSE_OF_NEWS = 1.0  # seconds between two lines about tells dropped for one reason
_MAX_FLOODS = 1_000
_monotonic = time.monotonic


class Dispatcher:
    """Hands calls to a node's actors and sends their answers.

    Attributes:
        expired: calls that were not run because their deadline had passed.
        dropped: tells that were not run, for whatever reason.
        fence: refuses a call whose lock has been somebody else's since.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        codec: Codec,
        questions: dict[str, Callable[..., Any]],
        fence: Callable[[list[Any]], None],
    ) -> None:
        """Make it.

        Args:
            supervisor: the node's actors.
            codec: turns answers into bytes.
            questions: what the node itself answers, by method name.
            fence: takes the lock that a call is under; raises `StaleToken`.
        """
        self.fence = fence
        self._supervisor = supervisor
        self._codec = codec
        self._questions = questions
        self.expired = 0
        self.dropped = 0
        # When a sender's next tell that is dropped for such an error is logged again.
        self._next_news: dict[tuple[str, type[Exception]], float] = {}

    # --- calls in

    def take(
        self, peer: Any, caller: KeyRecord, message: list[Any], deadline: float | None
    ) -> None:
        """Deliver a CALL or TELL; refusals of calls are answered, of tells logged.

        Args:
            peer: where it came from, and where the answer goes.
            caller: who that is, by its key.
            message: as decoded.
            deadline: `CLOCK_BOOTTIME` seconds, None for none.
        """
        if message[0] == CALL:
            _, call_id, actor, method, args, kwargs, _, chain, under = message
            peer.serving.add(call_id)
        else:
            _, actor, method, args, kwargs, _, chain, under = message
            call_id = 0
        try:
            refuse_unless_allowed(caller, actor, method)
            if under is not None:
                self.fence(under)
            if not actor:
                self._answer_question(peer, call_id, method, args, kwargs)
                return
            target = self._supervisor.get(actor) or self._no_target(actor)
            entry = target.table.get(method)
            # What fits by its number alone is seen at once.
            if entry is None or kwargs or not entry.required <= len(args) <= entry.most:
                entry = _fitting(actor, target.table, method, args, kwargs)
            links = _chain_of(chain) if chain else ()
            target.deliver(Invocation(self, peer, call_id, entry, args, kwargs, deadline, links))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller hears of it
            if call_id:
                self.reply_failure(peer, call_id, error)
            else:
                self._note_dropped(caller, error)

    def take_batch(
        self, peer: Any, caller: KeyRecord, message: list[Any], deadline: float | None
    ) -> None:
        """Deliver a BATCH: its calls run as one, and each has an outcome of its own."""
        _, call_id, actor, calls, _, chain, under = message
        peer.serving.add(call_id)
        try:
            refuse_unless_allowed(caller, actor, "batch")
            if under is not None:
                self.fence(under)
            target = self._supervisor.get(actor) or self._no_target(actor)
            table = target.table
            for each in calls:
                well_formed = isinstance(each, list) and [type(part) for part in each] == [
                    str,
                    list,
                    dict,
                ]
                if not well_formed:
                    raise BadArguments("a batch is a list of [method, args, kwargs]")

            def run_all(this: Any) -> _Outcomes:
                return _Outcomes(_outcome(this, actor, table, *each) for each in calls)

            whole = Method(f"batch of {len(calls)}", cast("Any", run_all), _NO_ARGUMENTS, 0, 0)
            links = _chain_of(chain) if chain else ()
            target.deliver(Invocation(self, peer, call_id, whole, [], {}, deadline, links))
        except CallError as error:
            self.reply_failure(peer, call_id, error)

    def _note_dropped(self, caller: KeyRecord, error: Exception) -> None:
        """Count a tell that is not run, and log it; of a flood one line a second."""
        self.dropped += 1
        flood, now = (caller.name, type(error)), _monotonic()
        if now < self._next_news.get(flood, 0.0):
            return
        if len(self._next_news) >= _MAX_FLOODS:
            self._next_news.clear()
        self._next_news[flood] = now + _PAUSE_OF_NEWS
        logger.warning(
            "a tell from %s was dropped: %s (%d dropped so far)", caller.name, error, self.dropped
        )

    def _no_target(self, actor: str) -> NoReturn:
        there = ", ".join(self._supervisor.names()) or "none"
        raise ActorNotFound(f"no actor {actor!r} here; there are: {there}")

    def _answer_question(
        self, peer: Any, call_id: int, method: str, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        question = self._questions.get(method)
        if question is None:
            raise MethodNotFound(f"a node answers no question {method!r}")
        try:
            value = question(*args, **kwargs)
        except CallError:
            raise
        except TypeError as error:
            raise BadArguments(f"{method}: {error}") from None
        except Exception as error:  # noqa: BLE001 - it is answered, as a method's would be
            self.reply_failure(peer, call_id, error, has_run=True)
            return
        self._send_reply(peer, call_id, value, True)

    # --- answers out

    def answer(self, invocation: Invocation, value: Any, more_wait: bool) -> None:
        """Send a method's value, or promise it if it comes later."""
        if isinstance(value, pykka.Future):
            self._answer_later(invocation, value)
        else:
            self._send_reply(invocation.peer, invocation.call_id, value, not more_wait)

    def fail(self, invocation: Invocation, error: BaseException) -> None:
        """Send the error that a method raised."""
        self.reply_failure(invocation.peer, invocation.call_id, error, has_run=True)

    def refuse(self, invocation: Invocation, error: CallError) -> None:
        """Send the reason why a method was not begun."""
        self.reply_failure(invocation.peer, invocation.call_id, error)

    def skipped(self, invocation: Invocation) -> None:
        """Note that the caller's deadline passed before the method began."""
        self.expired += 1
        invocation.peer.serving.discard(invocation.call_id)

    def _send_reply(self, peer: Any, call_id: int, value: Any, urgent: bool) -> None:
        try:
            message = self._codec.encode((REPLY, call_id, value))
            if type(value) not in SCALAR_TYPES:
                # After it was encoded: what nests without end was refused by that.
                self._codec.check_value(value, "the answer")
        except Exception as error:  # noqa: BLE001 - a value may be of any class, with any code
            if type(value) is _Outcomes:
                self._send_reply(peer, call_id, [self._that_travels(each) for each in value], True)
                return
            self.reply_failure(peer, call_id, ReplyTooLarge(f"the method ran, but {error}"))
        else:
            self._send(peer, call_id, message, urgent)

    def _that_travels(self, outcome: list[Any]) -> list[Any]:
        """Return an outcome of a batch, or why it cannot travel: the others can."""
        try:
            self._codec.encode((REPLY, 0, outcome[0] if len(outcome) == 1 else outcome))
            self._codec.check_value(outcome, "the answer")
        except Exception as error:  # noqa: BLE001 - as for any answer
            if len(outcome) == 1:
                why = ReplyTooLarge(f"the method ran, but {error}")
                return list(fail_message(0, why, has_run=True)[2:])
            name, text, may_have_run, _, trace = outcome
            return [name, text, may_have_run, {}, trace]  # as of any error: name and text can
        return outcome

    def reply_failure(
        self, peer: Any, call_id: int, error: BaseException, *, has_run: bool = False
    ) -> None:
        """Send an error instead of a value; `has_run` says that the method raised it."""
        try:
            message = self._codec.encode(fail_message(call_id, error, has_run=has_run))
        except EncodeError:
            # One of its fields cannot travel; its name and text can.
            bare = fail_message(call_id, error, has_run=has_run, with_fields=False)
            message = self._codec.encode(bare)
        self._send(peer, call_id, message, True)

    def _send(self, peer: Any, call_id: int, message: bytes, urgent: bool) -> None:
        peer.serving.discard(call_id)
        peer.last_reply = _monotonic()
        try:
            peer.send(message, urgent)
        except OverloadedError:
            # Nothing may wait for ever: a new lane makes the caller ask what
            # became of its calls, and hear that this answer is lost.
            logger.warning("%s does not read its answers: its lane is given up", peer.title)
            peer.give_up_lane()
        except CallError as error:
            # Nobody is left to hear it: the caller was, or will be, told that
            # the way broke.
            logger.info("an answer to %s was lost: %s", peer.title, error)

    def _answer_later(self, invocation: Invocation, promised: pykka.Future[Any]) -> None:
        """Tell the caller that its answer comes later, and send it when it is there."""
        peer = invocation.peer
        try:
            peer.send(self._codec.encode((ACCEPTED, invocation.call_id)), urgent=True)
        except CallError as error:
            logger.info("a promise to %s was lost: %s", peer.title, error)
        if isinstance(promised, Future) and not promised.is_derived:
            promised.on_ready(lambda _: self._settle(invocation, promised))
        else:
            # Pykka's own futures, and derived ones, have no callback: a thread has to wait.
            threading.Thread(
                target=self._settle,
                args=(invocation, promised),
                name=f"later-{invocation.method.name}",
                daemon=True,
            ).start()

    def _settle(self, invocation: Invocation, promised: pykka.Future[Any]) -> None:
        try:
            value = promised.get()
        except BaseException as error:  # noqa: BLE001 - it goes to the caller
            self.fail(invocation, error)
        else:
            self._send_reply(invocation.peer, invocation.call_id, value, True)

    def missing(self, peer: Any, ids: list[Any]) -> None:
        """Fail those of a peer's open calls that nobody works on here any more."""
        for call_id in ids[:MAX_OPEN_CALLS]:
            if isinstance(call_id, int) and call_id not in peer.serving:
                lost = ConnectionLost("the answer went down with the connection")
                self.reply_failure(peer, call_id, lost)


def _fitting(
    actor: str, table: dict[str, Method], method: str, args: list[Any], kwargs: dict[str, Any]
) -> Method:
    """Return the table's entry for a call; raise if there is none or the arguments do not fit."""
    entry = table.get(method)
    if entry is None:
        there = ", ".join(sorted(table)) or "none"
        raise MethodNotFound(f"actor {actor!r} offers no method {method!r}, but: {there}")
    misfit = entry.misfit(args, kwargs)
    if misfit is not None:
        raise BadArguments(f"{actor}.{misfit}")
    return entry


class _Outcomes(list[list[Any]]):
    """What became of the calls of a batch."""


def _outcome(
    this: Any,
    actor: str,
    table: dict[str, Method],
    method: str,
    args: list[Any],
    kwargs: dict[str, Any],
) -> list[Any]:
    """Run one call of a batch: `[value]`, or the fields of a FAIL message."""
    try:
        entry = _fitting(actor, table, method, args, kwargs)
    except CallError as error:
        return list(fail_message(0, error)[2:])
    try:
        value = entry.function(this, *args, **kwargs)
        if isinstance(value, pykka.Future):
            raise BadArguments(f"{actor}.{method} answers later and cannot be part of a batch")
    except BaseException as error:  # noqa: BLE001 - it goes to the caller
        return list(fail_message(0, error, has_run=True)[2:])
    return [value]


_NO_ARGUMENTS = inspect.Signature()


def refuse_unless_allowed(caller: KeyRecord, actor: str, method: str) -> None:
    """Decide whether this caller may call this: the one place where that is decided.

    Whoever the registry lets in may call what an actor offers; a key that
    names neither a node nor a visitor may not.

    Raises:
        NotLetIn: it may not.
    """
    if caller.kind not in ("node", "visitor"):
        raise NotLetIn(f"{caller.name!r} is a {caller.kind!r} and may not call {actor}.{method}")


def _chain_of(raw: list[Any]) -> Chain:
    chain = tuple(tuple(link) for link in raw if isinstance(link, list))
    well_formed = len(chain) == len(raw) <= MAX_CHAIN and all(
        len(link) == 3
        and isinstance(link[0], str)
        and isinstance(link[1], str)
        and isinstance(link[2], int)
        for link in chain
    )
    if not well_formed:
        raise CallError("a chain of calls that cannot be read", may_have_run=False)
    return chain
