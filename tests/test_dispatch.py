"""From a message to an actor and back: what is refused, answered, promised, missing."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from flock.actor import Actor
from flock.dispatch import Dispatcher, refuse_unless_allowed
from flock.errors import (
    ActorNotFound,
    BadArguments,
    CallError,
    ConnectionLost,
    MethodNotFound,
    NotLetIn,
    OverloadedError,
    RemoteError,
    ReplyTooLarge,
    StaleToken,
)
from flock.failures import error_of
from flock.future import Future
from flock.messages import ACCEPTED, CALL, FAIL, MAX_CHAIN, MAX_OPEN_CALLS, REPLY, TELL
from flock.supervisor import Supervisor
from flock.wire import Codec, frame_of
from registry.contract import KeyRecord
from tests.test_supervisor import Home

codec = Codec()
NODE = KeyRecord("k" * 40, "caller", "node", lasting=False, generation="g")


class Peer:
    title = "caller"

    def __init__(self) -> None:
        self.serving: set[int] = set()
        self.last_reply = 0.0
        self.sent: queue.Queue[list[Any]] = queue.Queue()
        self.given_up = 0
        self.refuses: CallError | None = None

    def send(self, message: bytes, urgent: bool, timeout: float | None = None) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.sent.put(codec.decode(frame_of((message,), 0))[1][0])

    def give_up_lane(self) -> None:
        self.given_up += 1

    def next(self) -> list[Any]:
        return self.sent.get(timeout=5)

    def error(self) -> Exception:
        message = self.next()
        assert message[0] == FAIL
        return error_of(message)


class Sample(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.promise: Any = None
        self.effects = 0

    def add(self, first: int, second: int = 1) -> int:
        self.effects += 1
        return first + second

    def counted(self) -> int:
        return self.effects

    def give(self, what: str) -> Any:
        return {
            "lock": [1, {"x": object()}],
            "deep": _nested(40),
            "large": b"x" * (17 * 1024 * 1024),
            "evil": Evil(a=1),
        }[what]

    def promise_later(self) -> Any:
        self.promise = self.later()
        return self.promise

    def promise_pykka(self) -> Any:
        future: Any = pykka.ThreadingFuture()
        future.set("from pykka")
        return future

    def promise_derived(self) -> Any:
        future: Any = Future()
        future.set(20)
        return future.map(lambda value: value + 1)

    def keep(self, promise: Any = None) -> Any:
        return self.promise

    def pass_on(self) -> None:
        raise ActorNotFound("another one")

    def fail_oddly(self) -> None:
        error = ValueError("\udcff odd")
        error.large = "x" * (17 * 1024 * 1024)  # type: ignore[attr-defined]
        raise error


class Evil(dict[str, Any]):
    def values(self) -> Any:
        raise RuntimeError("evil")


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def fence(under: list[Any]) -> None:
    if under[3] < 5:
        raise StaleToken("too old")


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(Home())
    supervisor.add("sample", Sample)
    yield supervisor
    supervisor.close()


@pytest.fixture
def dispatcher(supervisor: Supervisor) -> Dispatcher:
    def broken() -> None:
        raise OSError("no disk")

    questions: dict[str, Any] = {
        "ping": lambda: True,
        "twice": lambda number: 2 * number,
        "broken": broken,
    }
    return Dispatcher(supervisor, codec, questions, fence)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def call(
    dispatcher: Dispatcher,
    peer: Peer,
    actor: str,
    method: str,
    *args: Any,
    chain: Any = (),
    under: Any = None,
    caller: KeyRecord = NODE,
    deadline: float | None = None,
    **kwargs: Any,
) -> None:
    message = [CALL, 7, actor, method, list(args), kwargs, 10.0, list(chain), under]
    dispatcher.take(peer, caller, message, deadline)


def test_a_call_is_answered(dispatcher: Dispatcher, peer: Peer) -> None:
    call(dispatcher, peer, "sample", "add", 1, second=2)
    assert peer.next() == [REPLY, 7, 3]
    assert peer.serving == set()
    assert peer.last_reply > 0


def test_a_tell_is_run_and_not_answered(dispatcher: Dispatcher, peer: Peer) -> None:
    dispatcher.take(peer, NODE, [TELL, "sample", "add", [1], {}, None, [], None], None)
    dispatcher.take(peer, NODE, [TELL, "sample", "nothing", [], {}, None, [], None], None)
    dispatcher.take(peer, NODE, [TELL, "nobody", "add", [], {}, None, [], None], None)
    call(dispatcher, peer, "sample", "counted")

    assert peer.next() == [REPLY, 7, 1]
    assert peer.sent.empty()


@pytest.mark.parametrize(
    ("actor", "method", "args", "kind"),
    [
        ("nobody", "add", (1,), ActorNotFound),
        ("sample", "nothing", (), MethodNotFound),
        ("sample", "__init__", (), MethodNotFound),
        ("sample", "on_start", (), MethodNotFound),
        ("sample", "actor_ref", (), MethodNotFound),
        ("sample", "add", (), BadArguments),
        ("sample", "add", (1, 2, 3), BadArguments),
        ("", "nothing", (), MethodNotFound),
        ("", "__class__", (), MethodNotFound),
        ("", "ping", (1,), BadArguments),
    ],
)
def test_what_is_not_offered_is_refused_and_did_not_run(
    dispatcher: Dispatcher, peer: Peer, actor: str, method: str, args: Any, kind: type[CallError]
) -> None:
    call(dispatcher, peer, actor, method, *args)
    error = peer.error()

    assert type(error) is kind
    assert error.may_have_run is False
    assert peer.serving == set()


def test_a_flood_of_tells_that_are_dropped_is_told_in_one_line_a_second(
    dispatcher: Dispatcher,
    peer: Peer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = KeyRecord("k" * 40, "other", "visitor", lasting=False, generation="g")
    tell = [TELL, "nobody", "add", [1], {}, None, [], None]
    monkeypatch.setattr("flock.dispatch._monotonic", lambda: 10.0)
    for _ in range(50):
        dispatcher.take(peer, NODE, tell, None)
    dispatcher.take(peer, other, tell, None)
    monkeypatch.setattr("flock.dispatch._monotonic", lambda: 11.0)
    dispatcher.take(peer, NODE, tell, None)

    why = "no actor 'nobody' here; there are: sample"
    assert [record.getMessage() for record in caplog.records] == [
        f"a tell from {NODE.name} was dropped: {why} (1 dropped so far)",
        f"a tell from other was dropped: {why} (51 dropped so far)",
        f"a tell from {NODE.name} was dropped: {why} (52 dropped so far)",
    ]
    assert dispatcher.dropped == 52


def test_a_node_answers_its_own_questions_at_once(dispatcher: Dispatcher, peer: Peer) -> None:
    call(dispatcher, peer, "", "ping")
    call(dispatcher, peer, "", "twice", 4)
    call(dispatcher, peer, "", "broken")

    assert [peer.next()[2], peer.next()[2]] == [True, 8]
    assert type(peer.error()) is OSError


def test_who_is_neither_node_nor_visitor_may_not_call(dispatcher: Dispatcher, peer: Peer) -> None:
    odd = KeyRecord("k" * 40, "odd", "printer", lasting=False, generation="g")
    call(dispatcher, peer, "nobody at all", "add", caller=odd)
    assert type(peer.error()) is NotLetIn
    refuse_unless_allowed(NODE, "any", "thing")


def test_a_call_under_an_old_token_is_refused(dispatcher: Dispatcher, peer: Peer) -> None:
    call(dispatcher, peer, "sample", "add", 1, under=["r", "lock", 0, 4])
    assert type(peer.error()) is StaleToken
    call(dispatcher, peer, "sample", "add", 1, under=["r", "lock", 0, 5])
    assert peer.next()[2] == 2


@pytest.mark.parametrize("under", [[], ["x"], [None] * 4])
def test_a_lock_that_cannot_be_read_is_answered_with_an_error(
    dispatcher: Dispatcher, peer: Peer, under: list[Any]
) -> None:
    call(dispatcher, peer, "sample", "add", 1, under=under)
    assert isinstance(peer.error(), Exception)


@pytest.mark.parametrize(
    "chain",
    [[1], [[]], [["n", "a"]], [["n", "a", "x"]], [[1, "a", 2]], [["n", "a", 1]] * (MAX_CHAIN + 1)],
)
def test_a_chain_that_cannot_be_read_is_refused(
    dispatcher: Dispatcher, peer: Peer, chain: list[Any]
) -> None:
    call(dispatcher, peer, "sample", "add", 1, chain=chain)
    error = peer.error()
    assert type(error) is CallError
    assert error.may_have_run is False


@pytest.mark.parametrize("what", ["lock", "deep", "large", "evil"])
def test_an_answer_that_cannot_travel_says_that_the_method_ran(
    dispatcher: Dispatcher, peer: Peer, what: str
) -> None:
    call(dispatcher, peer, "sample", "give", what)
    error = peer.error()
    assert type(error) is ReplyTooLarge
    assert error.may_have_run is True
    call(dispatcher, peer, "sample", "add", 1)
    assert peer.next()[2] == 2


def test_an_error_with_parts_that_cannot_travel_arrives_without_them(
    dispatcher: Dispatcher, peer: Peer
) -> None:
    call(dispatcher, peer, "sample", "fail_oddly")
    error = peer.error()
    assert type(error) is ValueError
    assert "odd" in str(error)


def test_an_error_a_method_passes_on_says_that_it_ran(dispatcher: Dispatcher, peer: Peer) -> None:
    call(dispatcher, peer, "sample", "pass_on")
    error = peer.error()
    assert type(error) is ActorNotFound
    assert error.may_have_run is True


def test_a_promise_is_told_and_kept(
    dispatcher: Dispatcher, peer: Peer, supervisor: Supervisor
) -> None:
    call(dispatcher, peer, "sample", "promise_later")
    assert peer.next() == [ACCEPTED, 7]
    assert peer.serving == {7}
    [hosted] = supervisor.instances("sample")
    actor: Any = hosted.actor
    actor.promise.set("kept")
    assert peer.next() == [REPLY, 7, "kept"]
    assert peer.serving == set()

    call(dispatcher, peer, "sample", "promise_later")
    assert peer.next() == [ACCEPTED, 7]
    actor.promise.fail(KeyError("broken"))
    assert type(peer.error()) is KeyError


@pytest.mark.parametrize(
    ("method", "value"), [("promise_pykka", "from pykka"), ("promise_derived", 21)]
)
def test_futures_without_callbacks_are_kept_too(
    dispatcher: Dispatcher, peer: Peer, method: str, value: Any
) -> None:
    call(dispatcher, peer, "sample", method)
    assert peer.next() == [ACCEPTED, 7]
    assert peer.next() == [REPLY, 7, value]


def test_calls_nobody_works_on_are_failed_when_asked_for(
    dispatcher: Dispatcher, peer: Peer
) -> None:
    call(dispatcher, peer, "sample", "promise_later")
    assert peer.next() == [ACCEPTED, 7]
    dispatcher.missing(peer, [7, 8, "x", None, [1]])

    error = peer.error()
    assert type(error) is ConnectionLost
    assert error.may_have_run is True
    assert peer.sent.empty()


def test_only_so_many_are_answered_for(dispatcher: Dispatcher, peer: Peer) -> None:
    dispatcher.missing(peer, list(range(1, 3 * MAX_OPEN_CALLS)))
    assert peer.sent.qsize() == MAX_OPEN_CALLS


def test_an_expired_call_is_counted_and_no_longer_served(
    dispatcher: Dispatcher, peer: Peer
) -> None:
    call(dispatcher, peer, "sample", "add", 1, deadline=0.0)
    call(dispatcher, peer, "sample", "counted")
    assert peer.next()[2] == 0
    assert dispatcher.expired == 1


def test_a_peer_that_reads_no_answers_loses_its_lane(dispatcher: Dispatcher, peer: Peer) -> None:
    peer.refuses = OverloadedError("full")
    call(dispatcher, peer, "", "ping")
    assert peer.given_up == 1
    peer.refuses = CallError("gone")
    call(dispatcher, peer, "", "ping")
    assert peer.given_up == 1


def test_an_unknown_error_class_is_named(dispatcher: Dispatcher, peer: Peer) -> None:
    call(dispatcher, peer, "sample", "keep", promise=1)
    assert peer.next()[2] is None
    assert isinstance(error_of([FAIL, 1, "Odd", "x", True, {}, ""]), RemoteError)
