"""The caller's side of a call: its number, its deadline, and the answer that comes or does not.

A call is sent at most once and never repeated by us. Every call ends: with the
answer, with the error from over there, at its deadline, or when the way to the
peer breaks. Whoever takes a call out of the table of open calls decides how it
ends, so it ends once.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pykka

from flock.context import current
from flock.errors import (
    CallCancelled,
    CallError,
    CallTimeout,
    DeadlockError,
    EncodeError,
    UsageError,
)
from flock.future import Future
from flock.messages import BATCH, CALL, MAX_CHAIN, PROBE, TELL, Chain
from flock.wire import Codec

logger = logging.getLogger(__name__)

_TICK = 0.05
"""Seconds between two looks for deadlines that nobody waits at."""


class Peer(Protocol):
    """One process we send to, whichever way leads there."""

    @property
    def title(self) -> str:
        """Its name, for messages."""

    @property
    def generation(self) -> str:
        """Which run of it this is."""

    def send(self, message: bytes, urgent: bool, timeout: float | None = None) -> None:
        """Send one encoded message.

        Args:
            message: as `Codec.encode` made it.
            urgent: send now, with all that was queued before; else it may wait
                for the send in front of it.
            timeout: seconds to wait for room when the lane is full; None
                refuses at once.

        Raises:
            OverloadedError: the lane is full.
            CallError: there is no way there; surely not sent.
        """

    def withdraw(self, call_ids: Sequence[int]) -> set[int]:
        """Take back calls that are still queued; return which: all others may have left."""

    def flush(self) -> None:
        """Send what is queued."""


@dataclass(slots=True)
class CallOptions:
    """How calls of one proxy are made.

    Attributes:
        timeout: seconds until `CallTimeout`; None, or more than a thread can
            wait, for no deadline.
        explicit: True if the caller asked for this timeout: it then also
            bounds answers that were promised for later.
        under: the lock the call is under, [registry id, lock, slot, token].

    Raises:
        UsageError: the timeout is no number of seconds above 0.
    """

    timeout: float | None = 10.0
    explicit: bool = False
    under: list[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no timeout before a call is under way."""
        timeout: Any = self.timeout
        if timeout is None:
            return
        is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not is_number or not timeout > 0:  # as NaN is not, either
            raise UsageError(
                f"timeout is {timeout!r}; wanted is a number of seconds above 0, or None"
            )
        if timeout > threading.TIMEOUT_MAX:
            self.timeout, self.explicit = None, False


class CallFuture(Future[Any]):
    """The future of one call, and what is known of the call until it has an answer.

    What is derived from it (`map` and its kin) is a plain future: Pykka makes
    it without arguments, and it stands for no call.
    """

    deadline: float | None = None
    """Monotonic seconds at which the watchman ends it; None if nobody but its caller does."""

    is_lifted = False
    """True once the answer was promised for later and no deadline holds any more."""

    def __init__(
        self,
        call_id: int,
        peer: Peer,
        actor: str,
        method: str,
        options: CallOptions,
        is_urgent: bool,
    ) -> None:
        """Note what the caller waits for, and whether the call leaves at once."""
        if is_urgent:
            super().__init__()
        else:
            # Without the lock of `Future.__init__`: most answers are there before anybody
            # waits, and the table of open calls sees to it that a call ends once.
            self.is_queued = True
        self.call_id = call_id
        self.peer = peer
        self.actor = actor
        self.method = method
        self.options = options

    def before_wait(self) -> None:
        """Send what still lies in the lane's queue: the call may be there."""
        self.peer.flush()

    @property
    def label(self) -> str:
        """The call, for messages: `bender0/flock_api.active()`."""
        return f"{self.peer.title}/{self.actor or 'node'}.{self.method}()"

    def timed_out(self, *, never_left: bool) -> CallTimeout:
        """Return the error for a deadline that passed."""
        return CallTimeout(self.label, self.options.timeout or 0.0, may_have_run=not never_left)

    def cancelled(self, *, never_left: bool) -> CallCancelled:
        """Return the error for a flock that was closed."""
        why = f"{self.label}: this flock was closed"
        return CallCancelled(why, may_have_run=not never_left)

    def _as_plain(self) -> Future[Any]:
        plain: Future[Any] = Future()
        plain.set_get_hook(lambda timeout: self.get(timeout=timeout))
        return plain

    def filter(self, func: Callable[[Any], bool]) -> pykka.Future[Any]:
        """Derive a future of those of its values for which `func` is true."""
        return self._as_plain().filter(func)

    def join(self, *futures: pykka.Future[Any]) -> pykka.Future[Any]:
        """Derive a future of the list of its value and those of `futures`."""
        return self._as_plain().join(*futures)

    def map(self, func: Callable[[Any], Any]) -> pykka.Future[Any]:
        """Derive a future of what `func` makes of its value."""
        return self._as_plain().map(func)

    def reduce(self, func: Callable[[Any, Any], Any], *args: Any) -> pykka.Future[Any]:
        """Derive a future of what `func` reduces its values to."""
        return self._as_plain().reduce(func, *args)


class Calls:
    """All calls of this process that have no answer yet.

    Any thread may call; answers come in on the reader's thread.
    """

    def __init__(self, node_name: Callable[[], str], codec: Codec) -> None:
        """Make an empty table.

        Args:
            node_name: this process's name, for the chains of calls.
            codec: turns calls into bytes.
        """
        self._node_name = node_name
        self._codec = codec
        self._ids = itertools.count(1)
        self._open: dict[int, CallFuture] = {}
        self._timed = threading.Event()
        self._is_timing = False
        self._closed = False
        self._closing = threading.Event()
        self._watchman: threading.Thread | None = None
        self._watchman_lock = threading.Lock()

    # --- making calls

    def call(
        self,
        peer: Peer,
        actor: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Call a method and wait for its answer.

        Raises:
            CallError: no value came back; its `may_have_run` says whether the
                method may have run.
            Exception: what the method raised.
        """
        future = self.start(peer, actor, method, args, kwargs, options, True)
        try:
            is_late = not future.wait(options.timeout)
        except BaseException:
            # Given up, by Ctrl-C, say: it goes on as one that nobody waits for.
            if options.timeout is not None:
                self._watch(future, options.timeout)
            raise
        # A promise of a later answer may have lifted the deadline meanwhile.
        if is_late and not future.is_lifted and self._open.pop(future.call_id, None) is not None:
            raise future.timed_out(never_left=bool(peer.withdraw([future.call_id])))
        return future.get()

    def start(
        self,
        peer: Peer,
        actor: str,
        method: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: CallOptions,
        is_waited_for: bool = False,
        kind: int = CALL,
    ) -> CallFuture:
        """Send a CALL, or a BATCH, and return the future of its answer at once.

        Args:
            peer: the node.
            actor: the actor.
            method: its name; of a BATCH what messages call it.
            args: the arguments; of a BATCH `[method, args, kwargs]` of each call.
            kwargs: the keywords; of a BATCH none.
            options: how it is made.
            is_waited_for: this thread waits at once, so the call leaves at once
                and nobody else need watch its deadline.
            kind: CALL or BATCH.

        Raises:
            CallError: it could not be sent; whatever happens later comes out
                of the future.
        """
        call_id = next(self._ids)
        timeout = options.timeout
        chain = self._chain(call_id) if current.actor is not None or current.chain else ()
        if kind == CALL:
            message = self._codec.encode(
                (CALL, call_id, actor, method, args, kwargs, timeout, chain, options.under)
            )
            # After it was encoded: what nests without end was refused by that.
            self._codec.check_arguments(args, kwargs)
        else:
            message = self._codec.encode(
                (BATCH, call_id, actor, args, timeout, chain, options.under)
            )
        is_urgent = is_waited_for or kind == BATCH
        future = CallFuture(call_id, peer, actor, method, options, is_urgent)
        if timeout is not None and not is_waited_for:
            # Set before it is sent: a promise of a later answer may lift it at once.
            future.deadline = time.monotonic() + timeout
        # In the table before it is sent: the answer can be faster than we are.
        self._open[call_id] = future
        try:
            if self._closed:
                raise CallCancelled(f"{future.label}: this flock is closed", may_have_run=False)
            peer.send(message, is_urgent)
        except BaseException:
            self._open.pop(call_id, None)
            raise
        if not (is_waited_for or self._is_timing or timeout is None):
            self._watch_deadlines()
        return future

    def tell(
        self,
        peer: Peer,
        actor: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> None:
        """Have a method run, without an answer.

        Blocks up to the options' timeout while the lane is full; without a
        timeout for as long as it takes.

        Raises:
            OverloadedError: it stayed full.
            CallError: there is no way there; surely not sent.
        """
        message = self._codec.encode(
            (TELL, actor, method, args, kwargs, None, self._chain(0), options.under)
        )
        self._codec.check_arguments(args, kwargs)
        if self._closed:
            raise CallCancelled(f"{peer.title}: this flock is closed", may_have_run=False)
        timeout = math.inf if options.timeout is None else options.timeout
        peer.send(message, False, timeout)

    def _chain(self, call_id: int) -> tuple[Any, ...]:
        actor = current.actor
        chain = current.chain
        if actor is None and not chain:
            return ()
        name = actor.name if actor is not None else ""
        if len(chain) >= MAX_CHAIN:
            raise CallError(f"a chain of more than {MAX_CHAIN} calls", may_have_run=False)
        return (*chain, (self._node_name(), name, call_id))

    def batch(
        self, peer: Peer, actor: str, calls: list[list[Any]], options: CallOptions
    ) -> Future[Any]:
        """Send many calls to one actor as one message; return the future of their outcomes.

        Args:
            peer: the node.
            actor: the actor.
            calls: `[method, args, kwargs]` of each.
            options: for the batch as a whole.
        """
        for number, (_, args, kwargs) in enumerate(calls):
            try:
                self._codec.check_arguments(args, kwargs)
            except EncodeError as error:
                raise EncodeError(f"call {number}: {error}") from None
        title = f"batch of {len(calls)}"
        return self.start(peer, actor, title, calls, {}, options, kind=BATCH)

    def probe(self, call_id: int, path: Chain) -> None:
        """Ask whoever works on a call of ours whether he waits, and for whom."""
        call = self._open.get(call_id)
        if call is None or call.is_lifted or len(path) > MAX_CHAIN:
            return
        try:
            call.peer.send(self._codec.encode((PROBE, call_id, call.actor, path)), urgent=True)
        except CallError as error:
            logger.debug("a probe was not sent: %s", error)

    def end_deadlock(self, call_id: int, circle: Chain) -> None:
        """Fail a call of ours that was found to be part of a circle of waits."""
        call = self._open.pop(call_id, None)
        if call is not None:
            names = [f"{node}/{actor or 'caller'}" for node, actor, _ in circle]
            error = DeadlockError(
                f"these calls wait for each other for ever: {' -> '.join([*names, names[0]])}",
                names,
            )
            error.may_have_run = True
            call.fail(error)

    # --- answers

    def answered(self, peer: Peer, call_id: int, value: Any) -> bool:
        """Give a call its value; False if that peer was not asked, or nobody waits any more."""
        call = self._open.get(call_id)
        if call is None or call.peer is not peer or self._open.pop(call_id, None) is None:
            return False
        call.set(value)
        return True

    def failed(self, peer: Peer, call_id: int, error: BaseException) -> bool:
        """Give a call its error; False as for `answered`."""
        call = self._open.get(call_id)
        if call is None or call.peer is not peer or self._open.pop(call_id, None) is None:
            return False
        call.fail(error)
        return True

    def accepted(self, peer: Peer, call_id: int) -> None:
        """Note that the answer was promised for later: lifts a default deadline."""
        call = self._open.get(call_id)
        if call is not None and call.peer is peer and not call.options.explicit:
            call.is_lifted = True
            call.deadline = None

    # --- when the way breaks

    def move(self, call_id: int, peer: Peer) -> None:
        """Note that a call that never left goes to another peer, its first one's successor."""
        call = self._open.get(call_id)
        if call is not None:
            call.peer = peer

    def open_ids(self, peer: Peer) -> list[int]:
        """Return the calls to a peer that have no answer."""
        return [call_id for call_id, call in self._snapshot() if call.peer is peer]

    def _snapshot(self) -> Iterable[tuple[int, CallFuture]]:
        # Not `list(items())`: that makes an object for each, which may let other
        # threads change the table in the middle.
        return self._open.copy().items()

    def fail_each(self, call_ids: Iterable[int], make_error: Callable[[str], Exception]) -> None:
        """Fail calls that still have no answer.

        Args:
            call_ids: which.
            make_error: from the call's label.
        """
        for call_id in call_ids:
            call = self._open.pop(call_id, None)
            if call is not None:
                call.fail(make_error(call.label))

    def close(self) -> None:
        """Fail everything that is open; calls made later fail at once."""
        self._closed = True
        self._closing.set()
        self._timed.set()
        self._end(list(self._open), CallFuture.cancelled)
        with self._watchman_lock:
            watchman = self._watchman
        if watchman is not None and watchman is not threading.current_thread():
            watchman.join()

    def _end(self, call_ids: Iterable[int], error: Callable[..., CallError]) -> None:
        """Fail calls, and take back those that have not left.

        Args:
            call_ids: which; those that have an answer by now are left out.
            error: makes it from a call and `never_left`.
        """
        by_peer: dict[Peer, list[CallFuture]] = {}
        for call_id in call_ids:
            call = self._open.pop(call_id, None)
            if call is not None:
                by_peer.setdefault(call.peer, []).append(call)
        for peer, calls in by_peer.items():
            # All at once: each time means a look at all that is queued.
            withdrawn = peer.withdraw([call.call_id for call in calls])
            for call in calls:
                call.fail(error(call, never_left=call.call_id in withdrawn))

    def new_number(self) -> int:
        """Return a number that no call of this process has, nor will have: for a monitor."""
        return next(self._ids)

    def label_of(self, call_id: int) -> str | None:
        """Return what an open call of ours is, for messages; None if there is no such call."""
        call = self._open.get(call_id)
        return None if call is None else call.label

    def find(self, call_id: int) -> CallFuture | None:
        """Return an open call of ours, None if there is no such call."""
        return self._open.get(call_id)

    def count(self) -> int:
        """Return how many calls have no answer yet."""
        return len(self._open)

    # --- deadlines of futures

    def _watch(self, call: CallFuture, seconds: float) -> None:
        """Have a call end at a deadline that its thread does not wait for any more."""
        call.deadline = time.monotonic() + seconds
        if call.is_lifted:
            call.deadline = None  # promised for later, perhaps at this moment
        else:
            self._watch_deadlines()

    def _watch_deadlines(self) -> None:
        """See to it that futures nobody waits for end at their deadline, too."""
        self._is_timing = True
        self._timed.set()
        if self._watchman is None:
            with self._watchman_lock:
                if not self._has_watchman() and not self._closed:
                    self._watchman = threading.Thread(
                        target=self._end_overdue, name="flock-deadlines", daemon=True
                    )
                    self._watchman.start()

    def _has_watchman(self) -> bool:
        return self._watchman is not None

    def _end_overdue(self) -> None:
        while not self._closing.is_set():
            self._timed.wait()
            self._timed.clear()
            self._is_timing = False
            # Sleeps on `_timed` again only when no call with a deadline is open.
            while self._open and not self._closing.is_set():
                now = time.monotonic()
                deadlines = [
                    (call.deadline, call_id)
                    for call_id, call in self._snapshot()
                    if call.deadline is not None
                ]
                if not deadlines:
                    break
                overdue = [call_id for deadline, call_id in deadlines if now >= deadline]
                self._end(overdue, CallFuture.timed_out)
                self._closing.wait(_TICK)
