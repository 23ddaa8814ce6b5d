"""Lanes: order, coalescing, fullness, and the end of one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from flock import lanes
from flock.errors import OverloadedError
from flock.lanes import Flusher, Lane, LaneClosed, lane_socket
from flock.messages import REPLY
from flock.wire import Codec
from tests.support import eventually

codec = Codec()


def message(value: Any) -> bytes:
    return codec.encode((REPLY, 1, value))


class Far:
    """The other end of a lane."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.rcvhwm = 10
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"

    def frames(self, within: float = 10.0, count: int = 1_000_000) -> list[list[Any]]:
        """Return the values of each frame that comes; ends when nothing more does."""
        got: list[list[Any]] = []
        while len(got) < count and self.socket.poll(int(within * 1000)):
            frame = self.socket.recv_multipart()[1]
            got.append([each[2] for each in codec.decode(frame)[1]])
            within = min(within, 1.0)
        return got

    def values(self, count: int) -> list[Any]:
        got: list[Any] = []
        while len(got) < count and self.socket.poll(10_000):
            got += [each[2] for each in codec.decode(self.socket.recv_multipart()[1])[1]]
        return got


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def flusher() -> Iterator[Flusher]:
    flusher = Flusher()
    yield flusher
    flusher.close()


@pytest.fixture
def far(context: zmq.Context[Any]) -> Iterator[Far]:
    far = Far(context)
    yield far
    far.socket.close()


@pytest.fixture
def new_lane(
    context: zmq.Context[Any], flusher: Flusher, far: Far
) -> Iterator[Callable[..., Lane]]:
    made: list[Lane] = []

    def new(first: Any = (), *, is_open: bool = True, **more: Any) -> Lane:
        socket = lane_socket(context, server_key=None, own_public_key=b"", own_secret_key=b"")
        lane = Lane(socket, len(made) + 1, flusher, first, **more)
        made.append(lane)
        socket.connect(far.address)
        if is_open:
            lane.open()
        return lane

    yield new
    for lane in made:
        lane.close()


NewLane = Callable[..., Lane]


def test_an_urgent_message_leaves_at_once_with_all_before_it(new_lane: NewLane, far: Far) -> None:
    lane = new_lane(is_open=False)
    for number in range(5):
        lane.send(message(number), urgent=False)
    lane.open()
    lane.send(message(5), urgent=True)

    assert [value for frame in far.frames() for value in frame] == list(range(6))


def test_what_nobody_sends_the_flusher_sends(new_lane: NewLane, far: Far) -> None:
    new_lane().send(message("alone"), urgent=False)
    assert far.values(1) == ["alone"]


def test_nothing_but_a_greeting_leaves_before_it_is_open(new_lane: NewLane, far: Far) -> None:
    lane = new_lane(is_open=False)
    lane.send(message("call"), urgent=True)
    lane.send_first(message("hello"))
    assert not lane.is_open
    assert far.frames(within=0.5) == [["hello"]]

    lane.open()
    assert far.values(1) == ["call"]


def test_what_is_withdrawn_is_not_sent_and_what_has_left_is_not_withdrawn(
    new_lane: NewLane, far: Far
) -> None:
    lane = new_lane(is_open=False, is_wanted=lambda _: True)
    large = message(b"x" * 10_000)
    for each in (message("a"), large, message("b"), message("c")):
        lane.send(each, urgent=True)
    assert lane.withdraw({message("nobody's"), message("b"), large}) == {message("b"), large}
    assert lane.withdraw({large}) == set()
    assert lane._large_bytes == 0
    lane.open()
    assert far.values(2) == ["a", "c"]
    assert lane.withdraw({message("a"), message("c")}) == set()


def test_what_a_lane_begins_with_goes_first(new_lane: NewLane, far: Far) -> None:
    lane = new_lane([message("a"), message("b")], is_open=False)
    lane.send(message("c"), urgent=True)
    lane.open()

    assert far.values(3) == ["a", "b", "c"]


def test_messages_travel_together_and_in_order(new_lane: NewLane, far: Far) -> None:
    lane = new_lane(is_open=False)
    for number in range(1000):
        lane.send(message(number), urgent=False)
    lane.open()
    frames = far.frames()

    assert [value for frame in frames for value in frame] == list(range(1000))
    assert len(frames) < 1000 / 20
    assert max(map(len, frames)) <= 64


def test_a_frame_is_no_larger_than_it_has_to_be(new_lane: NewLane, far: Far) -> None:
    lane = new_lane(is_open=False)
    for number in range(40):
        lane.send(message([number, b"x" * 10_000]), urgent=False)
    lane.open()
    frames = far.frames()

    assert [value[0] for frame in frames for value in frame] == list(range(40))
    assert {len(frame) for frame in frames[:-1]} == {6}  # 64 KiB hold no more of them


def test_large_messages_travel_alone_and_keep_their_place(new_lane: NewLane, far: Far) -> None:
    lane = new_lane(is_open=False)
    sizes = [10, 200_000, 10, 10, 70_000, 3_000_000, 10]
    for size in sizes:
        lane.send(message(b"x" * size), urgent=False)
    lane.open()

    assert [len(value) for value in far.values(len(sizes))] == sizes
    assert lane._large_bytes == 0


def test_what_each_thread_sends_keeps_its_order(new_lane: NewLane, far: Far) -> None:
    lane = new_lane()
    got: list[Any] = []

    def send(name: int) -> None:
        for number in range(2000):
            lane.send(message([name, number]), urgent=number % 7 == 0, timeout=30)

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    got = far.values(8000)
    for thread in threads:
        thread.join(5)

    assert len(got) == 8000
    for name in range(4):
        assert [number for who, number in got if who == name] == list(range(2000))


def test_no_urgent_message_is_left_lying_by_a_greeting(new_lane: NewLane, far: Far) -> None:
    lane = new_lane()
    stop = threading.Event()

    def greet() -> None:
        while not stop.wait(0.0002):
            lane.send_first(message("hello"))

    thread = threading.Thread(target=greet)
    thread.start()
    try:
        for number in range(500):
            lane.send(message(number), urgent=True)
            value: Any = "hello"
            while value == "hello":
                [value] = far.values(1)
            assert value == number
    finally:
        stop.set()
        thread.join()


def test_a_lane_that_is_full_refuses_calls_at_once(
    new_lane: NewLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_MESSAGES", 100)
    lane = new_lane(is_open=False)
    for number in range(100):
        lane.send(message(number), urgent=False)

    began = time.monotonic()
    with pytest.raises(OverloadedError) as caught:
        lane.send(message(100), urgent=True)
    assert time.monotonic() - began < 2.0
    assert caught.value.may_have_run is False


def test_a_tell_waits_for_room_up_to_its_timeout(
    new_lane: NewLane, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_MESSAGES", 10)
    lane = new_lane(is_open=False)
    for number in range(10):
        lane.send(message(number), urgent=False)

    began = time.monotonic()
    with pytest.raises(OverloadedError):
        lane.send(message("late"), urgent=False, timeout=0.2)
    assert 0.15 < time.monotonic() - began < 5.0

    opener = threading.Timer(0.1, lane.open)
    opener.start()
    lane.send(message(10), urgent=False, timeout=5)
    opener.join()
    assert far.values(11) == list(range(11))


def test_large_messages_are_bounded_by_their_bytes(
    new_lane: NewLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_BYTES", 100_000)
    lane = new_lane(is_open=False)
    lane.send(message(b"x" * 60_000), urgent=False)
    lane.send(message(b"x" * 60_000), urgent=False)
    with pytest.raises(OverloadedError):
        lane.send(message(b"small"), urgent=False)


def test_a_peer_that_does_not_read_fills_the_lane_and_gets_all_when_it_does(
    new_lane: NewLane, far: Far
) -> None:
    lane = new_lane()
    sent = 0

    def flood() -> None:
        nonlocal sent
        while sent < 2_000_000:
            lane.send(message([sent, b"x" * 900]), urgent=True)
            sent += 1

    with pytest.raises(OverloadedError):
        flood()
    lane.send_first(message([-1]))
    assert lane.is_open
    assert sorted(value[0] for value in far.values(sent + 1)) == list(range(-1, sent))


def test_what_others_left_to_a_sender_who_is_refused_is_sent_all_the_same(
    new_lane: NewLane, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.lanes.MAX_BYTES", 10_000)
    lane: Any = new_lane()
    send = lane._send

    def full_just_now(*_: Any) -> None:
        lane._send = send
        for number in range(2):  # as another thread does while this one is sending
            lane.send(message(str(number) * 5000), urgent=True)
        raise zmq.Again

    lane._send = full_just_now
    with contextlib.suppress(OverloadedError):
        lane.send(message("small"), urgent=True)
    assert far.values(2)[:2] == ["0" * 5000, "1" * 5000]


def test_of_many_greetings_that_have_to_wait_the_last_is_kept(new_lane: NewLane, far: Far) -> None:
    lane: Any = new_lane()
    send = lane._send

    def full(*_: Any) -> None:
        raise zmq.Again

    lane._send = full
    for number in range(1000):
        lane.send_first(message(number))
    assert len(lane._queue) <= 1
    lane._send = send
    assert far.values(1) == [999]


def test_what_had_to_wait_and_is_wanted_no_longer_is_not_sent(new_lane: NewLane, far: Far) -> None:
    unwanted = {message(number) for number in range(0, 200, 3)} | {message("x" * 5000)}
    lane = new_lane(is_open=False, is_wanted=lambda each: each not in unwanted)
    for number in range(200):
        lane.send(message(number), urgent=False)
    lane.send(message("x" * 5000), urgent=False)
    lane.open()

    assert far.values(133) == [number for number in range(200) if number % 3]
    lane.send(message(0), urgent=True)  # this one need not wait, and is not asked about
    assert far.values(1) == [0]
    assert lane._large_bytes == 0


def test_closing_returns_what_was_never_sent(new_lane: NewLane) -> None:
    lane = new_lane(is_open=False)
    lane.send(message("a"), urgent=True)
    lane.send(message("b"), urgent=False)

    assert [msgpack.unpackb(each)[2] for each in lane.close()] == ["a", "b"]
    assert lane.is_closed
    assert not lane.is_open
    assert lane.close() == []
    for urgent in (True, False):
        with pytest.raises(LaneClosed):
            lane.send(message("c"), urgent=urgent)
    lane.send_first(message("late greeting"))
    lane.flush()


def test_every_message_that_meets_the_end_is_sent_returned_or_refused(
    new_lane: NewLane, far: Far
) -> None:
    for _ in range(20):
        lane = new_lane()
        refused: list[int] = []
        accepted: list[int] = []

        def send(
            start: int, lane: Lane = lane, refused: Any = refused, accepted: Any = accepted
        ) -> None:
            for number in range(start, start + 200):
                try:
                    lane.send(message(number), urgent=False, timeout=1)
                    accepted.append(number)
                except LaneClosed:
                    refused.append(number)

        threads = [threading.Thread(target=send, args=(n * 200,)) for n in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.002)
        unsent = [msgpack.unpackb(each)[2] for each in lane.close(linger=10.0)]
        for thread in threads:
            thread.join()
        arrived = far.values(600 - len(unsent) - len(refused))

        assert sorted([*arrived, *unsent, *refused]) == list(range(600))
        assert not set(refused) & set(accepted)


def test_a_closed_flusher_starts_no_thread(new_lane: NewLane) -> None:
    flusher = Flusher()
    flusher.close()
    flusher.wake(new_lane())
    assert flusher._thread is None


def test_a_broken_lane_does_not_end_the_flusher(
    new_lane: NewLane, far: Far, flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Lane):
        def flush_stalled(self) -> bool:
            raise zmq.ZMQError(zmq.ENOTSOCK)

    good = new_lane()
    broken = Broken.__new__(Broken)
    flusher.wake(broken)
    assert eventually(lambda: "could not be sent" in caplog.text, within=10.0)
    good.send(message("still"), urgent=False)
    assert far.values(1) == ["still"]
