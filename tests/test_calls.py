"""The table of open calls: each call ends once, and only by who may end it."""

from __future__ import annotations

import math
import signal
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from flock.calls import CallOptions, Calls
from flock.context import current
from flock.errors import (
    CallCancelled,
    CallError,
    CallTimeout,
    EncodeError,
    NodeDownError,
    OverloadedError,
    UsageError,
)
from flock.messages import CALL, MAX_CHAIN, TELL
from flock.wire import Codec, frame_of
from tests.support import eventually

codec = Codec()


class Peer:
    """Takes what is sent, and may answer at once."""

    title = "there"
    generation = "g"

    def __init__(self, on_send: Callable[[list[Any]], object] = lambda _: None) -> None:
        self.sent: list[list[Any]] = []
        self.keeps = False  # what is sent stays in its queue
        self.on_send = on_send
        self.timeouts: list[float | None] = []
        self.flushed = 0
        self.withdrawals: list[list[int]] = []

    def send(self, message: bytes, urgent: bool, timeout: float | None = None) -> None:
        [decoded] = codec.decode(frame_of((message,), 0))[1]
        self.sent.append(decoded)
        self.timeouts.append(timeout)
        self.on_send(decoded)

    def withdraw(self, call_ids: Sequence[int]) -> set[int]:
        self.withdrawals.append(list(call_ids))
        return set(call_ids) if self.keeps else set()

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls(lambda: "here", codec)
    yield calls
    calls.close()


def future_of(calls: Calls, peer: Peer, timeout: float | None = 10.0, **more: Any) -> Any:
    return calls.start(peer, "actor", "method", (1,), {}, CallOptions(timeout, **more))


def test_an_answer_that_is_faster_than_the_caller_is_not_missed(calls: Calls) -> None:
    peer = Peer(lambda message: calls.answered(peer, message[1], "fast"))

    assert calls.call(peer, "a", "m", (), {}, CallOptions()) == "fast"
    assert calls.count() == 0


def test_what_is_sent_carries_everything(calls: Calls) -> None:
    peer = Peer(lambda message: message[0] == CALL and calls.answered(peer, message[1], 1))
    calls.call(peer, "a", "m", (1, 2), {"k": 3}, CallOptions(timeout=5, under=["r", "l", 0, 9]))
    calls.tell(peer, "a", "m", (1,), {}, CallOptions(timeout=7))

    assert peer.sent[0] == [CALL, 1, "a", "m", [1, 2], {"k": 3}, 5, [], ["r", "l", 0, 9]]
    assert peer.sent[1] == [TELL, "a", "m", [1], {}, None, [], None]
    assert peer.timeouts == [None, 7]


def test_a_tell_without_a_timeout_waits_for_room_as_long_as_it_takes(calls: Calls) -> None:
    peer = Peer()
    calls.tell(peer, "a", "m", (), {}, CallOptions(timeout=None))
    assert peer.timeouts == [float("inf")]


def test_only_the_peer_that_was_asked_may_answer(calls: Calls) -> None:
    peer, stranger = Peer(), Peer()
    future = future_of(calls, peer)
    [message] = peer.sent

    assert calls.answered(stranger, message[1], "forged") is False
    assert calls.failed(stranger, message[1], ValueError("forged")) is False
    calls.accepted(stranger, message[1])
    assert future.is_lifted is False
    assert calls.answered(peer, 999, "of nobody") is False
    assert calls.answered(peer, message[1], "true") is True
    assert calls.answered(peer, message[1], "twice") is False
    assert future.get() == "true"


def test_forged_answers_never_make_a_true_one_or_a_timeout_get_lost(calls: Calls) -> None:
    peer, stranger = Peer(), Peer()
    stop = threading.Event()

    def forge() -> None:
        while not stop.is_set():
            for call_id in calls.open_ids(peer):
                calls.answered(stranger, call_id, "forged")

    thread = threading.Thread(target=forge)
    thread.start()
    try:
        for number in range(100):
            future = future_of(calls, peer)
            assert calls.answered(peer, peer.sent[-1][1], number) is True
            assert future.get(timeout=1) == number
            with pytest.raises(CallTimeout):
                calls.call(peer, "a", "m", (), {}, CallOptions(timeout=0.001))
    finally:
        stop.set()
        thread.join()


def test_an_error_ends_a_call(calls: Calls) -> None:
    peer = Peer(lambda message: calls.failed(peer, message[1], ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        calls.call(peer, "a", "m", (), {}, CallOptions())


@pytest.mark.parametrize("error", [OverloadedError("full"), NodeDownError("gone")])
def test_what_could_not_be_sent_is_not_left_open(calls: Calls, error: CallError) -> None:
    def refuse(_: list[Any]) -> None:
        raise error

    with pytest.raises(type(error)):
        calls.call(Peer(refuse), "a", "m", (), {}, CallOptions())
    assert calls.count() == 0


def test_a_value_that_cannot_travel_is_never_sent(calls: Calls) -> None:
    peer = Peer()
    for send in (calls.call, calls.start, calls.tell):
        with pytest.raises(EncodeError, match=r"args\[0\]"):
            send(peer, "a", "m", (object(),), {}, CallOptions())
    assert peer.sent == []
    assert calls.count() == 0


def test_a_call_times_out_when_it_said_and_says_which(calls: Calls) -> None:
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"there/a\.m\(\) within 0\.1 s") as caught:
        calls.call(Peer(), "a", "m", (), {}, CallOptions(timeout=0.1))
    assert 0.09 < time.monotonic() - began < 2.0
    assert caught.value.may_have_run is True
    assert calls.count() == 0


def test_a_future_nobody_waits_for_times_out(calls: Calls) -> None:
    futures = [future_of(calls, Peer(), timeout=0.05 * n) for n in (1, 2, 3)]
    assert eventually(lambda: [f.is_ready() for f in futures], within=10, becomes=[True] * 3)
    assert {type(future.error()) for future in futures} == {CallTimeout}
    late = future_of(calls, Peer(), timeout=0.05)
    assert eventually(late.is_ready, within=10)


def test_calls_that_are_overdue_together_are_taken_back_in_one_step(calls: Calls) -> None:
    peer = Peer()
    peer.keeps = True
    futures = [future_of(calls, peer, timeout=0.2) for _ in range(100)]
    assert eventually(lambda: all(each.is_ready() for each in futures), within=5)
    assert not any(each.error().may_have_run for each in futures)
    assert sum(map(len, peer.withdrawals)) == 100
    # A slow machine may have made some so late that they were due a tick or two after others.
    assert len(peer.withdrawals) < 10


@pytest.mark.parametrize("timeout", [-0.1, 0, math.nan, "5", True])
def test_what_is_no_timeout_is_refused_before_anything_is_called(timeout: Any) -> None:
    with pytest.raises(UsageError, match="wanted is a number of seconds above 0"):
        CallOptions(timeout)


def test_a_timeout_without_end_is_none(calls: Calls) -> None:
    peer = Peer(lambda message: calls.answered(peer, message[1], message[6]))
    assert calls.call(peer, "a", "m", (), {}, CallOptions(math.inf, explicit=True)) is None
    assert CallOptions(1e12, explicit=True) == CallOptions(None)


def test_a_promise_lifts_a_default_deadline_and_no_explicit_one(calls: Calls) -> None:
    peer = Peer(lambda message: calls.accepted(peer, message[1]))
    lifted = future_of(calls, peer, timeout=0.05)
    explicit = future_of(calls, peer, timeout=0.1, explicit=True)

    assert eventually(explicit.is_ready, within=10)
    assert isinstance(explicit.error(), CallTimeout)
    assert not lifted.is_ready()
    assert calls.answered(peer, lifted.call_id, "in the end")
    assert lifted.get() == "in the end"


def test_a_synchronous_call_that_was_promised_waits_on(calls: Calls) -> None:
    def promise(message: list[Any]) -> None:
        calls.accepted(peer, message[1])
        timer = threading.Timer(0.2, calls.answered, (peer, message[1], "later"))
        timer.start()

    peer = Peer(promise)
    assert calls.call(peer, "a", "m", (), {}, CallOptions(timeout=0.05)) == "later"
    with pytest.raises(CallTimeout):
        calls.call(peer, "a", "m", (), {}, CallOptions(timeout=0.05, explicit=True))


def test_calls_are_failed_one_by_one(calls: Calls) -> None:
    peer, other = Peer(), Peer()
    futures = [future_of(calls, peer) for _ in range(3)]
    kept = future_of(calls, other)
    ids = calls.open_ids(peer)
    calls.fail_each(ids[:2], lambda label: NodeDownError(f"{label} is down"))

    assert [future.is_ready() for future in futures] == [True, True, False]
    assert "there/actor.method()" in str(futures[0].error())
    calls.fail_each(ids, lambda label: NodeDownError("second"))
    assert "second" in str(futures[2].error())
    assert "second" not in str(futures[0].error())
    assert not kept.is_ready()


def test_a_call_that_moved_is_answered_by_the_successor(calls: Calls) -> None:
    peer, successor = Peer(), Peer()
    future = future_of(calls, peer)
    calls.move(future.call_id, successor)

    assert calls.open_ids(peer) == []
    assert calls.answered(peer, future.call_id, "old") is False
    assert calls.answered(successor, future.call_id, "new") is True


def test_closing_cancels_what_is_open_and_refuses_what_comes() -> None:
    calls = Calls(lambda: "here", codec)
    peer = Peer()
    future = future_of(calls, peer)
    calls.close()

    error = future.error()
    assert isinstance(error, CallCancelled)
    assert error.may_have_run is True
    for send in (calls.call, calls.start, calls.tell):
        with pytest.raises(CallCancelled) as caught:
            send(peer, "a", "m", (), {}, CallOptions())
        assert caught.value.may_have_run is False
    assert len(peer.sent) == 1


def test_waiting_sends_what_is_queued_first(calls: Calls) -> None:
    peer = Peer()
    future = future_of(calls, peer)
    assert peer.flushed == 0
    future.wait(0)
    assert peer.flushed == 1


def test_a_value_that_comes_while_a_wait_begins_is_not_missed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    future = future_of(calls, peer)
    make = future._until_set

    def late() -> Any:
        assert calls.answered(peer, future.call_id, "value")
        return make()

    monkeypatch.setattr(future, "_until_set", late)

    assert future.wait(5)
    assert future.get() == "value"


def test_two_who_begin_to_wait_at_once_are_both_woken(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    future = future_of(calls, peer)
    made: list[int] = []
    second = threading.Event()

    def slow() -> Any:
        made.append(1)
        if len(made) > 1:
            second.set()
        second.wait(0.2)  # as long as another could come in between
        return allocate_lock()

    monkeypatch.setattr("flock.future._allocate_lock", slow)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(future.get(timeout=5))) for _ in "ab"]
    for thread in threads:
        thread.start()
    assert eventually(lambda: future._unset, within=5)
    assert calls.answered(peer, future.call_id, "value")
    for thread in threads:
        thread.join()

    assert (got, len(made)) == (["value"] * 2, 1)


@pytest.mark.parametrize("is_promised", [False, True])
def test_a_call_whose_wait_is_interrupted_goes_on_as_one_nobody_waits_for(
    calls: Calls, is_promised: bool
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def on_send(message: list[Any]) -> None:
        if is_promised:
            calls.accepted(peer, message[1])
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    peer = Peer(on_send)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            calls.call(peer, "a", "m", (), {}, CallOptions(timeout=1.5))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert calls.count() == 1

    if is_promised:
        assert calls.answered(peer, 1, "for nobody")
    assert eventually(calls.count, within=5, becomes=0) == 0


class Waiter:
    """Stands for an actor's thread."""

    name = "me"
    caller = ""

    def begin_wait(self, call_id: int) -> None: ...

    def probe(self, call_id: int) -> None: ...

    def end_wait(self, call_id: int) -> None: ...


@pytest.fixture
def as_actor() -> Iterator[None]:
    current.actor = Waiter()
    yield
    current.actor = None
    current.chain = ()


def test_calls_of_an_actor_carry_the_chain_that_led_to_them(calls: Calls, as_actor: None) -> None:
    peer = Peer()
    current.chain = (("far", "b", 3),)
    future = future_of(calls, peer)
    calls.tell(peer, "a", "m", (), {}, CallOptions())

    assert peer.sent[0][7] == [["far", "b", 3], ["here", "me", future.call_id]]
    assert peer.sent[1][6] == [["far", "b", 3], ["here", "me", 0]]


def test_a_chain_has_a_longest_length(calls: Calls, as_actor: None) -> None:
    current.chain = (("far", "b", 3),) * MAX_CHAIN
    with pytest.raises(CallError, match="chain") as caught:
        future_of(calls, Peer())
    assert caught.value.may_have_run is False
