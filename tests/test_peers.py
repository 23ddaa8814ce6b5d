"""Lanes between processes: greetings in every order, replaced lanes, successors, ends."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import zmq

from flock import keeper
from flock import peers as module
from flock.calls import CallOptions, Calls
from flock.errors import (
    CallError,
    ConnectionLost,
    NodeDownError,
    NodeUnreachable,
    RegistryUnavailable,
    VersionMismatch,
)
from flock.keeper import Watched
from flock.messages import BATCH, BYE, CALL, HELLO, OPEN_CALLS, PROTOCOL, REPLY, TELL
from flock.peers import Identity, Peers, RemotePeer
from flock.wire import Codec, frame_of
from registry.contract import PresenceRecord
from tests.support import eventually
from tests.system.registry_process import presence_record

codec = Codec()


class Side:
    """One process: its peers, and its socket in, whose frames a test may hold back."""

    directory: dict[str, PresenceRecord]

    def __init__(self, name: str, directory: dict[str, PresenceRecord], run: int = 1) -> None:
        self.name = name
        self.directory = directory
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.record = replace(
            presence_record(name, f"{name}-{run}"),
            address=f"tcp://127.0.0.1:{port}",
            public_key="",
            protocol=PROTOCOL,
        )
        directory[name] = self.record
        self.calls = Calls(lambda: name, codec)
        self.over: list[tuple[str, str, bool]] = []
        self.registry_is_away = False
        self.peers = Peers(
            self.context,
            Identity(name, self.record.generation, "node", b"", b""),
            codec,
            self.calls,
            own_address=lambda: self.record.address,
            find_by_key=lambda _, name: self.find(name),
            find_by_name=self.find,
            over=lambda peer, reason, crashed: self.over.append((peer.title, reason, crashed)),
        )
        self.heard: queue.Queue[list[Any]] = queue.Queue()
        self.hellos: queue.Queue[list[Any]] = queue.Queue()
        self._pumping = threading.Event()
        self._thread: threading.Thread | None = None

    def find(self, name: str) -> PresenceRecord | None:
        if self.registry_is_away:
            raise RegistryUnavailable("fake:", "away")
        return self.directory.get(name)

    def pump(self) -> Side:
        """From now on read what comes in, as the reader does."""
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()
        return self

    def _pump(self) -> None:
        while not self._pumping.is_set():
            if not self.socket.poll(20):
                continue
            frame = self.socket.recv_multipart()[1]
            for message in codec.decode(frame)[1]:
                self.take(message)

    def take(self, message: list[Any]) -> None:
        if message[0] == HELLO:
            self.hellos.put(message)
            self.peers.heard_hello(b"", message, lambda _: None)
        else:
            self.heard.put(message)

    def peer(self, other: Side) -> RemotePeer:
        return self.peers.peer_for(self.directory[other.name])

    def call(self, peer: RemotePeer, timeout: float | None = 10.0) -> Any:
        return self.calls.start(peer, "a", "m", (), {}, CallOptions(timeout))

    def next(self) -> list[Any]:
        return self.heard.get(timeout=20)

    def watched(self) -> Watched:
        """Return the one lane that the keeper watches."""
        kept = self.peers._keeper._watched
        [watched] = eventually(lambda: list(kept.values()), within=10.0)
        assert isinstance(watched, Watched)
        return watched

    def die(self) -> None:
        """Close the socket in without a word, as a killed process does."""
        self._stop_pumping()
        self.socket.close()
        self.peers.close()

    def _stop_pumping(self) -> None:
        self._pumping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self._stop_pumping()
        self.calls.close()
        self.peers.close()
        self.socket.close()
        self.context.destroy(linger=0)


Make = Callable[[str], Side]


@pytest.fixture
def make() -> Iterator[Make]:
    directory: dict[str, PresenceRecord] = {}
    made: list[Side] = []

    def new(name: str) -> Side:
        side = Side(name, directory)
        made.append(side)
        return side

    yield new
    for side in made:
        side.close()


def is_open(side: Side, other: Side) -> bool:
    lane = side.peer(other).lane
    return lane is not None and lane.is_open


def both_open(one: Side, two: Side) -> bool:
    return eventually(lambda: is_open(one, two) and is_open(two, one), within=2.5)


# --- greetings -------------------------------------------------------------------


def test_a_call_leaves_once_both_ways_are_open(make: Make) -> None:
    one, two = make("one").pump(), make("two").pump()
    one.call(one.peer(two))

    assert two.next()[0] == CALL
    assert both_open(one, two)
    assert one.peer(two).state == two.peer(one).state == "connected"


def test_both_sides_may_begin_at_once(make: Make) -> None:
    for number in range(15):
        one, two = make(f"one{number}"), make(f"two{number}")
        start = threading.Barrier(2)

        def begin(side: Side, other: Side, start: threading.Barrier = start) -> None:
            start.wait()
            side.call(side.peer(other))

        threads = [threading.Thread(target=begin, args=pair) for pair in ((one, two), (two, one))]
        for thread in threads:
            thread.start()
        one.pump()
        two.pump()
        for thread in threads:
            thread.join()
        assert one.next()[0] == two.next()[0] == CALL
        assert both_open(one, two)


def test_a_greeting_that_meets_a_lane_just_being_opened_is_answered(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make("one"), make("two").pump()
    peer = one.peer(two)
    in_the_middle, go_on = threading.Event(), threading.Event()
    real = Peers._hello

    def slow(self: Peers, peer: RemotePeer, number: int, answered: int) -> bytes:
        message = real(self, peer, number, answered)
        if self is one.peers and not in_the_middle.is_set():
            in_the_middle.set()
            assert go_on.wait(5)
        return message

    monkeypatch.setattr(Peers, "_hello", slow)
    opening = threading.Thread(target=one.peers.open_lane, args=(peer,))
    opening.start()
    assert in_the_middle.wait(5)
    # Now the other side greets, while our greeting is made but not sent.
    two.peers.open_lane(two.peer(one))
    assert one.socket.poll(5000)
    one.pump()
    assert not eventually(lambda: peer.heard_lane, within=0.1)
    go_on.set()
    opening.join()

    assert both_open(one, two)


@pytest.mark.parametrize("seed", range(6))
def test_greetings_open_both_ways_in_whatever_order_they_are_read(make: Make, seed: int) -> None:
    """All messages of both sides wait, and are read one by one in every kind of order."""
    one, two = make("one"), make("two")
    one.peers.open_lane(one.peer(two))
    if seed % 2:
        two.peers.open_lane(two.peer(one))
    turns = itertools.count()

    def read_one() -> bool:
        side = (one, two)[(next(turns) >> (seed // 2)) & 1]
        if side.socket.poll(20):
            for message in codec.decode(side.socket.recv_multipart()[1])[1]:
                side.take(message)
        return is_open(one, two) and is_open(two, one)

    assert eventually(read_one, within=2.5, pause=0)
    assert one.hellos.qsize() + two.hellos.qsize() <= 4


def test_a_late_greeting_of_a_replaced_lane_changes_nothing(make: Make) -> None:
    one, two = make("one"), make("two")
    peer = one.peer(two)
    new = [HELLO, PROTOCOL, two.record.generation, one.record.generation, 7, 0, "two"]
    old = [HELLO, PROTOCOL, two.record.generation, one.record.generation, 3, 1, "two"]
    one.take(new)
    assert peer.heard_lane == 7
    one.take(old)

    assert peer.heard_lane == 7
    assert not is_open(one, two)


def test_who_is_not_listed_is_not_answered(make: Make) -> None:
    one = make("one")
    one.take([HELLO, PROTOCOL, "unknown", "", 1, 0, "stranger"])
    one.directory["forged"] = replace(one.record, name="forged", generation="another")
    one.take([HELLO, PROTOCOL, "claimed", "", 1, 0, "forged"])
    one.registry_is_away = True
    one.take([HELLO, PROTOCOL, "unknown2", "", 1, 0, "stranger"])
    assert not eventually(one.peers.all, within=0.3)


def test_who_greets_again_and_again_is_looked_up_once_at_a_time_and_the_last_one_counts(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make("one"), make("two")
    may_look, looked = threading.Event(), []

    def find(name: str) -> PresenceRecord | None:
        looked.append(name)
        assert may_look.wait(10)
        return one.directory.get(name)

    monkeypatch.setattr(one, "find", find)
    heard: queue.Queue[int] = queue.Queue()

    def greet(lane: int) -> None:
        hello = [HELLO, PROTOCOL, two.record.generation, "", lane, 0, "two"]
        one.peers.heard_hello(b"key", hello, lambda _: heard.put(lane))

    for lane in range(1, 1001):
        greet(lane)
    may_look.set()
    lanes = [heard.get(timeout=5)]
    while lanes[-1] != 1000:
        lanes.append(heard.get(timeout=5))
    assert len(looked) == len(lanes) <= 2


def test_a_peer_that_never_answers_is_unreachable_and_nothing_ran(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "OPEN_WITHIN", 0.3)
    one, silent = make("one").pump(), make("silent")
    future = one.call(one.peer(silent))
    assert future.wait(5)
    error = future.error()

    assert isinstance(error, NodeUnreachable)
    assert error.may_have_run is False
    assert one.record.address in str(error)
    assert one.peer(silent).state == "partitioned"
    assert [kind for kind in _messages(silent) if kind != HELLO] == []


def _messages(side: Side) -> list[int]:
    kinds = []
    while side.socket.poll(200):
        kinds += [message[0] for message in codec.decode(side.socket.recv_multipart()[1])[1]]
    return kinds


# --- records that cannot be used -------------------------------------------------


def test_a_peer_of_another_protocol_is_not_tried(make: Make) -> None:
    one, two = make("one"), make("two")
    one.directory["two"] = replace(two.record, protocol=PROTOCOL + 1, version="9.9")
    with pytest.raises(VersionMismatch, match=r"9\.9.*protocol 2") as caught:
        one.call(one.peer(two))
    assert caught.value.may_have_run is False


def test_a_port_that_cannot_be_is_unreachable_too(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "OPEN_WITHIN", 0.3)
    one, two = make("one"), make("two")
    one.directory["two"] = replace(two.record, address="tcp://127.0.0.1:99999")
    # Some resolvers take it for another port, where nothing listens.
    with pytest.raises((NodeUnreachable, NodeDownError)) as caught:
        one.call(one.peer(two)).get(timeout=5)
    assert caught.value.may_have_run is False


@pytest.mark.parametrize("address", ["nonsense", "tcp://", ""])
def test_an_address_that_makes_no_sense_is_unreachable(make: Make, address: str) -> None:
    one, two = make("one"), make("two")
    one.directory["two"] = replace(two.record, address=address)
    for _ in range(3):
        with pytest.raises(NodeUnreachable):
            one.call(one.peer(two))
    assert one.calls.count() == 0


# --- ends ------------------------------------------------------------------------


def connected(make: Make) -> tuple[Side, Side, Any]:
    one, two = make("one").pump(), make("two").pump()
    future = one.call(one.peer(two))
    assert two.next()[0] == CALL
    assert both_open(one, two)
    return one, two, future


def test_a_dead_peer_fails_what_was_sent_and_is_told_once(make: Make) -> None:
    one, two, future = connected(make)
    two.die()
    assert future.wait(1.0)
    error = future.error()

    assert isinstance(error, NodeDownError)
    assert error.may_have_run is True
    assert one.peers.all() == []
    # Who monitors it is told right after.
    told = eventually(lambda: [(who, crashed) for who, _, crashed in one.over], within=5)
    assert told == [("two", True)]


def test_a_death_is_known_at_once_although_the_registry_is_away(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, future = connected(make)
    asked = threading.Event()
    monkeypatch.setattr(one.peers, "_find_by_name", lambda _: asked.wait(2) and None)
    two.die()
    assert future.wait(1.0)
    asked.set()


def test_a_goodbye_ends_the_calls_and_the_peer(make: Make) -> None:
    one, two, future = connected(make)
    two.peers.say_bye("closed")
    message = one.next()
    assert message == [BYE, "closed"]
    peer = one.peer(two)
    one.peers.heard_bye(peer, message[1])
    one.peers.heard_bye(peer, message[1])

    error = future.error()
    assert isinstance(error, NodeDownError)
    assert "it left: closed" in str(error)
    assert one.over == [("two", "it left: closed", False)]
    with pytest.raises(NodeDownError) as caught:
        one.call(peer)
    assert caught.value.may_have_run is False


def test_a_broken_connection_is_lost_and_the_next_call_opens_anew(make: Make) -> None:
    one, two, future = connected(make)
    peer = one.peer(two)
    first = peer.lane
    watched = one.watched()
    one.peers._keeper.over(watched, "connection ended")
    assert future.wait(10.0)
    error = future.error()
    assert isinstance(error, ConnectionLost)
    assert error.may_have_run is True
    assert peer.state == "partitioned"

    one.call(peer)
    assert two.next()[0] == CALL
    assert peer.state == "connected"
    assert peer.lane is not first


def test_what_is_open_is_asked_for_after_the_peers_lane_was_replaced(make: Make) -> None:
    one, two, future = connected(make)
    watched = two.watched()
    two.peer(one).last_reply = 1e12
    two.peers._keeper.over(watched, "connection ended")

    assert two.next() == [OPEN_CALLS, [future.call_id]]
    assert not future.is_ready()
    assert both_open(one, two)


def test_work_that_never_left_goes_to_the_successor_and_answers_do_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ZeroMQ closes what it listens at a little later; a dead process does at once.
    monkeypatch.setattr(module, "_refuses_connections", lambda _: True)
    one, two = make("one").pump(), make("two")
    peer = one.peer(two)
    ahead = [codec.encode((REPLY, 77, "an answer of the past"))]
    one.peers.open_lane(peer, ahead)
    futures = [one.call(peer) for _ in range(3)]
    one.calls.tell(peer, "a", "m", ("tell",), {}, CallOptions())
    futures.append(one.call(peer))
    heir = Side("two", one.directory, run=2).pump()
    two.socket.close()
    try:
        got = [heir.next() for _ in range(5)]
        assert [message[0] for message in got] == [CALL, CALL, CALL, TELL, CALL]
        assert [message[1] for message in got if message[0] == CALL] == [
            future.call_id for future in futures
        ]
        assert heir.heard.empty()
        successor = one.peer(heir)
        for future in futures:
            assert one.calls.answered(successor, future.call_id, "done")
    finally:
        heir.close()


def test_work_is_failed_rather_than_sent_after_what_came_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_refuses_connections", lambda _: True)
    one, two = make("one").pump(), make("two")
    peer = one.peer(two)
    early = one.call(peer)
    heir = Side("two", one.directory, run=2)
    try:
        one.call(one.peers.peer_for(heir.record))
        two.socket.close()
        assert early.wait(10.0)
        error = early.error()
        assert isinstance(error, NodeDownError)
        assert error.may_have_run is False
    finally:
        heir.close()


def test_a_removed_key_is_told_before_it_is_cut_off(make: Make) -> None:
    one, two, future = connected(make)
    one.peers.key_removed(b"")
    assert two.next()[0] == BYE
    assert isinstance(future.error(), NodeDownError)


def test_no_call_is_told_that_it_did_not_run_and_runs_all_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that dies before it opens, while threads go on calling."""
    monkeypatch.setattr(keeper, "OPEN_WITHIN", 0.05)
    one, two = make("one").pump(), make("two")
    peer = one.peer(two)
    refused: set[int] = set()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                future = one.call(peer)
            except CallError:
                continue
            future.wait(0.3)
            error = future.error()
            if isinstance(error, CallError) and not error.may_have_run:
                refused.add(future.call_id)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(refused), within=30.0, until=lambda count: count > 30) > 30
    monkeypatch.setattr(keeper, "OPEN_WITHIN", 3.0)
    two.pump()
    ran = {two.next()[1] for _ in range(5)}
    stop.set()
    for thread in threads:
        thread.join()
    while not two.heard.empty():
        ran.add(two.heard.get()[1])

    assert ran
    assert not ran & refused


# --- idle, and closing -----------------------------------------------------------


def test_an_idle_lane_is_closed_and_opened_again_by_the_next_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, future = connected(make)
    assert one.calls.answered(one.peer(two), future.call_id, "done")
    first = one.peer(two).lane
    monkeypatch.setattr(keeper, "IDLE_AFTER", 0.05)
    one.peers._keeper.look()

    def idle_closed() -> bool:
        one.peers._keeper.look()
        return one.peer(two).lane is None

    assert eventually(idle_closed, within=10.0)
    monkeypatch.setattr(keeper, "IDLE_AFTER", 300.0)
    one.call(one.peer(two))
    assert two.next()[0] == CALL
    assert one.peer(two).lane is not first


@pytest.mark.parametrize("keeps", ["open call", "serving", "watched"])
def test_a_lane_somebody_needs_is_not_idle(
    make: Make, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    one, two, future = connected(make)
    peer = one.peer(two)
    if keeps != "open call":
        one.calls.answered(peer, future.call_id, "done")
        getattr(peer, keeps).add(1)
    monkeypatch.setattr(keeper, "IDLE_AFTER", 0.01)

    def closed() -> bool:
        one.peers._keeper.look()
        return peer.lane is None

    assert not eventually(closed, within=0.3)


def test_what_meets_the_closing_of_an_idle_lane_is_sent(make: Make) -> None:
    one, two, future = connected(make)
    peer = one.peer(two)
    one.calls.answered(peer, future.call_id, "done")
    lane = peer.lane
    assert lane is not None
    watched = one.watched()
    # The message of a thread that has queued it and not yet sent it.
    late = codec.encode((TELL, "a", "late", [], {}, None, [], None))
    lane._queue.append(late)
    lane.used = -(10**12)
    one.peers._close_idle(watched)

    assert two.next()[:3] == [TELL, "a", "late"]


def test_after_closing_nothing_opens_and_nothing_is_left(make: Make) -> None:
    one, two, _ = connected(make)
    peer = one.peer(two)
    one.calls.close()
    one.peers.close()
    one.peers.close()
    with pytest.raises(CallError, match="closed"):
        one.peers.open_lane(peer)
    one.peers.key_removed(b"")
    one.take([HELLO, PROTOCOL, "x", "", 1, 0, "two"])


def test_a_frame_of_ours_can_be_read_by_its_head() -> None:
    messages = [
        codec.encode((CALL, 5, "a", "m", [b"x" * 100_000], {}, None, [], None)),
        codec.encode((TELL, "a", "m", [], {}, None, [], None)),
        codec.encode((BYE, "x")),
        codec.encode((CALL, 2**40, "a", "m", [], {}, None, [], None)),
    ]
    assert module._call_ids(messages) == [5, 2**40]
    assert len(codec.decode(frame_of(messages, 0))[1]) == 4


class Counted(dict[int, Watched]):
    """Counts how often all lanes are looked at."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()

    def items(self) -> Any:
        self.looks += 1
        return super().items()


def test_one_lane_that_opens_or_ends_has_no_look_taken_at_all_others(make: Make) -> None:
    one = make("one").pump()
    lanes = one.peers._keeper._watched = Counted()
    others = [make(f"other{number}").pump() for number in range(5)]
    for other in others:
        one.call(one.peer(other))
        assert both_open(one, other)
    one.peers.heard_bye(one.peer(others[0]), "closed")
    assert eventually(lambda: len(lanes), within=5, becomes=4) == 4
    assert lanes.looks == 0


@pytest.mark.parametrize("meanwhile", ["connected", "gone"])
def test_late_news_of_an_old_lane_leaves_the_state_as_it_is_now(
    make: Make, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    one, two = make("one").pump(), make("two").pump()
    one.call(one.peer(two))
    assert both_open(one, two)
    peer, old = one.peer(two), one.watched()

    def look(_: str) -> bool:
        if meanwhile == "gone":
            one.peers.heard_bye(peer, "closed")
        else:
            one.call(peer)
            assert eventually(lambda: peer.lane is not None and peer.lane.is_open, within=2.5)
        return False

    monkeypatch.setattr(module, "_refuses_connections", look)
    one.peers._lane_over(old, "connection ended")
    assert peer.state == meanwhile


@pytest.mark.parametrize("call_id", [1, 127, 128, 255, 256, 65_535, 65_536, 2**32, 2**63 - 1])
def test_a_call_is_known_by_its_first_bytes(call_id: int) -> None:
    call = codec.encode((CALL, call_id, "actor", "method", [1], {}, 10.0, (), None))
    batch = codec.encode((BATCH, call_id, "actor", [["method", [], {}]], 10.0, (), None))
    other = codec.encode((CALL, call_id + 1, "actor", "method", [1], {}, 10.0, (), None))
    tell = codec.encode((TELL, "actor", "method", [1], {}, None, (), None))
    heads = module._heads_of(call_id)
    assert [each.startswith(heads) for each in (call, batch, other, tell)] == [
        True,
        True,
        False,
        False,
    ]
