"""The one socket in: who said what, on which lane, and what is dropped."""

from __future__ import annotations

import contextlib
import gc
import itertools
import queue
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, cast

import pytest
import zmq

from flock.admission import DOMAIN, Admission
from flock.messages import BYE, FRAME_HEADER, HELLO, PROTOCOL, REPLY, ROUTE_BYTES, ROUTE_MARK
from flock.reader import Connection, Reader
from flock.wire import Codec, frame_of
from registry.contract import KeyRecord, Registry
from tests.support import eventually
from tests.test_admission import FakeRegistry

codec = Codec()


class Desk:
    """A reader and what it hands on; each peer is named by its generation."""

    def __init__(self, registry: FakeRegistry | None = None, ignore_for: float = 60.0) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.heard: queue.Queue[tuple[str, list[Any], float]] = queue.Queue()
        self.hellos: queue.Queue[list[Any]] = queue.Queue()
        self.registry = registry
        self.admission: Admission | None = None
        if registry is not None:
            self.admission = Admission(self.context, cast("Registry", registry))
            self.admission.start(lambda _: None)
        self.reader = Reader(
            self.context,
            codec,
            known=self.admission.known if self.admission is not None else None,
            heard_hello=self.heard_hello,
            heard=self.take,
            answered=self.take_answer,
            ignore_for=ignore_for,
        )
        self.keys: tuple[bytes, bytes] | None = None
        if registry is not None:
            self.keys = zmq.curve_keypair()
            self.reader.socket.curve_server = True
            self.reader.socket.curve_secretkey = self.keys[1]
            self.reader.socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            self.reader.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.port = self.reader.socket.bind_to_random_port("tcp://127.0.0.1")
        self.reader.start()
        self.clients: list[Any] = []

    def heard_hello(self, connection: Connection, hello: list[Any]) -> None:
        connection.peer = connection.generation
        self.hellos.put(hello)

    def take(self, peer: Any, caller: KeyRecord, messages: list[list[Any]], late: float) -> None:
        for message in messages:
            if message == [REPLY, 0, "raise"]:
                raise RuntimeError("told to")
            self.heard.put((peer, message, late))

    def take_answer(self, peer: Any, call_id: int, value: Any) -> None:
        self.heard.put((peer, [REPLY, call_id, value], 0.0))

    def new_key(self, name: str = "visitor") -> tuple[bytes, bytes]:
        """Return a pair of keys that the registry lets in under this name."""
        assert self.registry is not None
        keys = zmq.curve_keypair()
        self.registry.enter(keys[0], name=name)
        return keys

    def remove_key(self, keys: tuple[bytes, bytes]) -> None:
        assert self.registry is not None
        self.registry.remove(keys[0])

    def client(self, keys: tuple[bytes, bytes] | None = None, route: bytes | None = None) -> Any:
        """Connect; `route` gives the connection a routing id, as our lanes have one."""
        client = self.context.socket(zmq.DEALER)
        client.linger = 0
        if route is not None:
            client.setsockopt(zmq.ROUTING_ID, route)
        if self.keys is not None:
            client.curve_serverkey = self.keys[0]
            client.curve_publickey, client.curve_secretkey = keys or zmq.curve_keypair()
        client.connect(f"tcp://127.0.0.1:{self.port}")
        self.clients.append(client)
        return client

    def next(self) -> tuple[str, list[Any]]:
        return self.heard.get(timeout=20)[:2]

    def wait_for(self, counter: str, value: int) -> int:
        return eventually(
            lambda: self.reader.counters.as_data()[counter], within=20.0, becomes=value
        )

    def close(self) -> None:
        self.reader.close()
        if self.admission is not None:
            self.admission.close()
        for client in self.clients:
            client.close()
        self.context.destroy(linger=0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture
def guarded() -> Iterator[Desk]:
    """A desk behind encryption, with a registry that says whom it lets in."""
    desk = Desk(FakeRegistry())
    yield desk
    desk.close()


def hello(generation: str, lane: int = 1, protocol: int = PROTOCOL) -> bytes:
    return frame_of([codec.encode((HELLO, protocol, generation, "", lane, 0, "name"))], 0)


def reply(value: Any, stamp: int | None = None) -> bytes:
    stamp = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if stamp is None else stamp
    return frame_of([codec.encode((REPLY, 1, value))], stamp)


def test_what_comes_after_a_greeting_is_handed_on_with_who_sent_it(desk: Desk) -> None:
    one, two = desk.client(), desk.client()
    one.send(hello("g1"))
    two.send(hello("g2"))
    one.send(reply("a"))
    two.send(reply("b"))

    assert sorted([desk.next(), desk.next()]) == [("g1", [REPLY, 1, "a"]), ("g2", [REPLY, 1, "b"])]


def test_what_comes_before_a_greeting_is_dropped_and_counted(desk: Desk) -> None:
    client = desk.client()
    client.send(reply("early"))
    assert desk.wait_for("before_hello", 1) == 1
    client.send(hello("g"))
    client.send(reply("now"))
    assert desk.next()[1][2] == "now"


def test_a_greeting_may_share_a_frame_with_what_follows(desk: Desk) -> None:
    client = desk.client()
    messages = [(HELLO, PROTOCOL, "g", "", 1, 0, "name"), (REPLY, 1, "a"), (REPLY, 2, "b")]
    client.send(frame_of([codec.encode(message) for message in messages], 0))
    assert [desk.next()[1][2], desk.next()[1][2]] == ["a", "b"]


def test_a_newer_lane_supersedes_an_older_one_but_for_its_goodbye(desk: Desk) -> None:
    old, new = desk.client(), desk.client()
    old.send(hello("g", lane=1))
    old.send(reply("first"))
    assert desk.next()[1][2] == "first"
    new.send(hello("g", lane=2))
    new.send(reply("second"))
    assert desk.next()[1][2] == "second"
    old.send(reply("late"))
    assert desk.wait_for("superseded", 1) == 1
    old.send(frame_of([codec.encode((BYE, "left"))], 0))
    assert desk.next()[1] == [BYE, "left"]
    old.send(hello("g", lane=1))
    old.send(reply("later still"))
    assert desk.wait_for("superseded", 2) == 2
    new.send(reply("third"))
    assert desk.next()[1][2] == "third"
    assert desk.hellos.qsize() == 2


def connections() -> int:
    gc.collect()
    return sum(isinstance(each, Connection) for each in gc.get_objects())


def test_lanes_that_were_replaced_are_kept_for_their_goodbye_and_not_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.reader._MAX_SUPERSEDED", 5)
    before = connections()
    for lane in range(1, 21):
        desk.client().send(hello("g", lane))
        assert desk.hellos.get(timeout=20)[4] == lane
    desk.clients[-2].send(frame_of([codec.encode((BYE, "left"))], 0))

    assert desk.next()[1] == [BYE, "left"]
    assert connections() - before == 6


def test_of_a_key_that_is_known_no_longer_nothing_is_kept(guarded: Desk) -> None:
    keys = guarded.new_key()
    before = connections()
    guarded.client(keys).send(hello("never listed"))
    guarded.hellos.get(timeout=20)
    assert connections() == before + 1
    guarded.reader.forget_key(keys[0])
    assert connections() == before


def test_nobody_can_supersede_the_lanes_of_another_key(guarded: Desk) -> None:
    honest, rogue = guarded.new_key("honest"), guarded.new_key("rogue")
    one, two = guarded.client(honest), guarded.client(rogue)
    one.send(hello("honest", lane=1))
    one.send(reply("a"))
    assert guarded.next()[1][2] == "a"
    two.send(hello("honest", lane=2**60))
    two.send(reply("b"))
    assert guarded.next()[1][2] == "b"
    one.send(reply("c"))
    assert guarded.next() == ("honest", [REPLY, 1, "c"])
    assert guarded.reader.counters.superseded == 0


def test_a_key_that_keeps_sending_rubbish_is_ignored_for_a_while_and_others_are_not() -> None:
    with contextlib.closing(Desk(FakeRegistry(), ignore_for=2.0)) as desk:
        honest, rogue = desk.new_key("honest"), desk.new_key("rogue")
        one, two = desk.client(honest), desk.client(rogue)
        one.send(hello("honest"))
        two.send(hello("rogue"))
        for _ in range(11):
            two.send(b"rubbish")
        two.send(reply("unheard"))
        assert desk.wait_for("ignored", 1) == 1
        one.send(reply("heard"))
        assert desk.next() == ("honest", [REPLY, 1, "heard"])

        def heard_again() -> bool:
            two.send(reply("forgiven"))
            return not desk.heard.empty()

        assert eventually(heard_again, within=20.0, pause=0.1)


def test_a_key_that_is_known_no_longer_is_heard_no_longer(guarded: Desk) -> None:
    keys = guarded.new_key()
    client = guarded.client(keys)
    client.send(hello("g"))
    client.send(reply("a"))
    assert guarded.next()[1][2] == "a"
    guarded.remove_key(keys)
    client.send(reply("b"))
    assert guarded.wait_for("unknown_keys", 1) == 1
    assert guarded.heard.empty()


def test_a_connection_cannot_change_who_it_is(desk: Desk) -> None:
    client = desk.client()
    client.send(hello("g1"))
    client.send(hello("g2"))
    client.send(reply("still g1"))

    assert desk.next() == ("g1", [REPLY, 1, "still g1"])
    assert desk.reader.counters.bad_frames == 1


def test_rubbish_is_counted_and_the_next_frame_read(desk: Desk) -> None:
    client = desk.client()
    client.send(hello("g"))
    rng = random.Random(1)
    for number in range(500):
        client.send(rng.randbytes(rng.randrange(0, 200)))
        client.send(FRAME_HEADER.pack(PROTOCOL, 0) + rng.randbytes(rng.randrange(0, 200)))
        client.send(FRAME_HEADER.pack(PROTOCOL + 1, 0) + b"\x90")
        client.send_multipart([b"a", b"b", b"c"])
        client.send(reply(number))
    assert [desk.next()[1][2] for _ in range(500)] == list(range(500))
    assert desk.reader.counters.bad_frames == 2000


def lane_route() -> bytes:
    return ROUTE_MARK + secrets.token_bytes(ROUTE_BYTES - 1)


def test_a_lane_is_known_by_its_secret_routing_id_and_any_other_is_asked_who_it_is(
    desk: Desk,
) -> None:
    route = lane_route()
    lane, stranger = desk.client(route=route), desk.client(route=b"\xffshort")
    for client, name in ((lane, "lane"), (stranger, "stranger")):
        client.send(hello(name))
        client.send(reply("first"))
        assert desk.next() == (name, [REPLY, 1, "first"])
    assert list(desk.reader._trusted) == [route]


def test_a_key_that_is_removed_silences_a_known_lane_at_once_and_it_can_come_back(
    guarded: Desk,
) -> None:
    keys, route = guarded.new_key(), lane_route()
    lane = guarded.client(keys, route)
    lane.send(hello("g"))
    lane.send(reply("a"))
    assert guarded.next()[1][2] == "a"
    assert route in guarded.reader._trusted
    guarded.remove_key(keys)
    lane.send(reply("b"))
    assert guarded.wait_for("unknown_keys", 1) == 1
    assert guarded.heard.empty()
    assert not guarded.reader._trusted


def test_a_lane_of_one_key_does_not_speak_for_another_that_takes_its_routing_id_later(
    guarded: Desk,
) -> None:
    honest, rogue = guarded.new_key("honest"), guarded.new_key("rogue")
    # What libzmq makes up itself can be guessed: such an id stands for nobody.
    guessable = b"\x02" + b"0" * (ROUTE_BYTES - 1)
    one = guarded.client(honest, guessable)
    one.send(hello("honest"))
    one.send(reply("a"))
    assert guarded.next() == ("honest", [REPLY, 1, "a"])
    one.close()

    def is_free() -> bool:
        two = guarded.client(rogue, guessable)
        two.send(hello("rogue"))
        two.send(reply("b"))
        return bool(eventually(lambda: not guarded.heard.empty(), within=1.0))

    assert eventually(is_free, within=20.0)
    assert guarded.next() == ("rogue", [REPLY, 1, "b"])


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_a_lane_that_sends_parts_too_many_harms_nobody_else(desk: Desk, parts: int) -> None:
    route = lane_route()
    rogue, honest = desk.client(route=route), desk.client(route=lane_route())
    rogue.send(hello("rogue"))
    honest.send(hello("honest"))
    honest.send(reply("before"))
    assert desk.next() == ("honest", [REPLY, 1, "before"])
    rng = random.Random(parts)
    for number in range(200):
        # Also its own routing id, where another's frame would be looked for behind it.
        rogue.send_multipart([rng.choice([b"x", route, reply("rogue")]) for _ in range(parts)])
        honest.send(reply(number))

    heard = (desk.next() for _ in iter(int, 1))
    of_the_honest = (message[2] for peer, message in heard if peer == "honest")
    assert list(itertools.islice(of_the_honest, 200)) == list(range(200))
    assert desk.reader.counters.bad_frames > 0


def let_in(guarded: Desk, name: str, route: bytes | None = None) -> Any:
    """Connect with a key of its own, as a lane does."""
    client = guarded.client(guarded.new_key(name), route or lane_route())
    client.send(hello(name))
    client.send(reply("first"))
    assert guarded.next() == (name, [REPLY, 1, "first"])
    return client


def test_a_key_that_is_ignored_takes_no_frame_of_anybody_with_it(guarded: Desk) -> None:
    route = lane_route()
    rogue, honest = let_in(guarded, "rogue", route), let_in(guarded, "honest")
    for _ in range(11):
        rogue.send(b"rubbish")
    assert guarded.wait_for("bad_frames", 11) == 11
    for number in range(200):
        # The last part looks like the beginning of another message.
        rogue.send_multipart([b"x", route])
        honest.send(reply(number))
    assert [guarded.next()[1][2] for _ in range(200)] == list(range(200))


def test_a_part_too_many_takes_no_greeting_of_a_new_lane_with_it(guarded: Desk) -> None:
    route = lane_route()
    rogue = let_in(guarded, "rogue", route)
    for number in range(5):
        rogue.send_multipart([reply("of the rogue"), route])
        assert guarded.next()[0] == "rogue"
        let_in(guarded, f"honest {number}")


def test_a_part_too_many_does_not_hold_up_the_end(guarded: Desk) -> None:
    route = lane_route()
    let_in(guarded, "rogue", route).send_multipart([reply("last words"), route])
    assert guarded.next()[1][2] == "last words"
    closing = threading.Thread(target=guarded.reader.close, daemon=True)
    closing.start()
    closing.join(5.0)
    assert not closing.is_alive()


def test_nobody_drives_out_the_connections_of_another_key(
    guarded: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.reader._MAX_CONNECTIONS", 50)
    monkeypatch.setattr("flock.reader._MAX_OF_ONE_KEY", 5)
    honest, rogue = let_in(guarded, "honest"), let_in(guarded, "rogue")
    for number in range(100):
        # The second and the third part look like a new connection and what it says first.
        rogue.send_multipart([reply(number), lane_route(), hello(f"g{number}")])
    honest.send(reply("still here"))
    heard = (guarded.next() for _ in range(102))
    of_the_honest = (message[2] for peer, message in heard if peer == "honest")
    assert next(of_the_honest) == "still here"
    assert len(guarded.reader._connections) <= 1 + 5
    assert len(guarded.reader._newest) <= 1 + 5


def test_a_lane_that_greets_again_and_again_takes_no_goodbye_from_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.reader._MAX_SUPERSEDED", 5)
    leaving, rogue = [desk.client() for _ in range(2)], [desk.client() for _ in range(2)]
    for generation, lanes in (("leaving", leaving), ("rogue", rogue)):
        for number, lane in enumerate(lanes, 1):
            lane.send(hello(generation, number))
            desk.hellos.get(timeout=20)
    for _ in range(10):
        rogue[0].send(hello("rogue", 1))
    rogue[0].send(reply("dropped"))
    assert desk.wait_for("superseded", 1) == 1
    leaving[0].send(frame_of([codec.encode((BYE, "left"))], 0))
    assert desk.next() == ("leaving", [BYE, "left"])


def test_rubbish_in_the_frame_that_makes_a_lane_known_has_it_ignored_too(guarded: Desk) -> None:
    rogue = guarded.client(guarded.new_key("rogue"), lane_route())
    greetings = [(HELLO, PROTOCOL, "g", "", 1, 0, "name")]
    greetings += [(HELLO, PROTOCOL, "another", "", 1, 0, "name")] * 11
    rogue.send(frame_of([codec.encode(each) for each in greetings], 0))
    rogue.send(reply("unheard"))
    assert guarded.wait_for("ignored", 1) == 1
    assert guarded.heard.empty()


def test_one_message_that_cannot_be_dealt_with_does_not_end_the_reading(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    client = desk.client()
    client.send(hello("g"))
    client.send(frame_of([codec.encode((REPLY, 0, "raise"))], 0))
    client.send(reply("after"))
    assert desk.next()[1][2] == "after"
    assert "could not be dealt with" in caplog.text


def test_only_this_process_can_stop_it(desk: Desk) -> None:
    client = desk.client()
    client.send(b"stop")
    client.send(hello("g"))
    client.send(reply("goes on"))
    assert desk.next()[1][2] == "goes on"


def test_a_frame_that_was_held_up_is_known_to_be_late(desk: Desk) -> None:
    client = desk.client()
    client.send(hello("g"))
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    client.send(reply("a", now))
    client.send(reply("b", now - 15_000_000_000))
    late = {message[2]: late for _, message, late in (desk.heard.get(timeout=20) for _ in "ab")}
    # The greeting's stamp of 0 is slower than any, so `a` sets the pace.
    assert late["a"] < 0.5
    assert 14.0 < late["b"] < 16.0


def test_lateness_needs_no_common_clock_and_follows_a_slow_drift() -> None:
    connection = Connection(b"", b"")
    assert connection.late_by(1_000_000.0, 5.0) == 0
    assert connection.late_by(1_000_001.0, 6.0) == 0
    assert connection.late_by(1_000_001.0, 6.5) == 0.5
    assert connection.late_by(1_000_100.0, 120.0) == 15.0
    assert connection.late_by(1_000_115.0, 120.0) == 0


def test_what_is_kept_of_a_peer_can_be_forgotten(desk: Desk) -> None:
    clients = [desk.client() for _ in range(3)]
    for lane, client in enumerate(clients, 1):
        client.send(hello("g", lane=lane))
        client.send(reply(lane))
        desk.next()
    assert len(desk.reader._connections) == 3
    desk.reader.forget(b"", "g")
    assert desk.reader._connections == {}
    assert desk.reader._newest == {}
    clients[2].send(reply("nobody knows me"))
    assert desk.wait_for("before_hello", 1) == 1


def test_connections_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flock.reader._MAX_CONNECTIONS", 5)
    for number in range(12):
        client = desk.client()
        client.send(hello(f"g{number}"))
        client.send(reply(number))
        desk.next()
    assert len(desk.reader._connections) == 5
    assert len(desk.reader._newest) <= 6


class NeverCopied(OrderedDict[bytes, Connection]):
    """A table of connections that nobody looks through as a whole: it may be large."""

    def copy(self) -> Any:
        raise AssertionError("all connections were looked at")


def test_of_many_connections_one_comes_or_goes_without_a_look_at_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.reader._MAX_CONNECTIONS", 5)
    desk.reader._connections = NeverCopied()
    for number in range(12):
        client = desk.client()
        client.send(hello(f"g{number}"))
        client.send(reply(number))
        desk.next()
    desk.reader.forget(b"", "g11")
    desk.reader.forget_key(b"")
    left = [each.generation for each in desk.reader._connections.values()]
    assert left == ["g7", "g8", "g9", "g10"]


def test_closing_twice_or_unstarted_is_harmless() -> None:
    context: zmq.Context[Any] = zmq.Context()
    reader = Reader(
        context,
        codec,
        known=None,
        heard_hello=lambda *_: None,
        heard=lambda *_: None,
        answered=lambda *_: None,
    )
    reader.close()
    context.destroy(linger=0)
