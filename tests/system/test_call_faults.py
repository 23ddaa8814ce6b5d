"""Calls between real processes, when one of them dies, hangs, leaves, or may not talk."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from zookeeper_servers import ZooKeeperEnsemble, free_ports

from flock import Flock
from flock.announcer import Announcer
from flock.doctor import examine_node
from flock.errors import (
    ActorDead,
    CallCancelled,
    CallError,
    FlockError,
    NodeDownError,
    NodeNotFound,
    NodeUnreachable,
    NotLetIn,
    RegistryError,
    RegistryUnavailable,
    UsageError,
)
from flock.messages import CALL, HELLO, PROTOCOL, TELL
from flock.node import Node
from flock.wire import Codec, frame_of
from tests.support import eventually
from tests.system.flock_process import FlockProcess, Start, Target

SOON = 1.0
"""Seconds within which the end of a connection is known."""

SILENCE = 10.0
"""Seconds within which a silent peer fails its calls."""


def error_of(call: Callable[[], Any]) -> Exception:
    """Return what a call raises."""
    with pytest.raises(FlockError) as caught:
        call()
    return caught.value


def key_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


# --- death -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["call", "future", "promise"])
def test_a_node_killed_during_a_call_ends_the_call_within_a_second(
    start: Start, visitor: Flock, form: str
) -> None:
    there = start()
    target = visitor["there"]["target"].options(timeout=60)
    ends: list[tuple[Exception, float]] = []

    def call() -> None:
        forms: dict[str, Callable[[], Any]] = {
            "call": lambda: target.work("begun", 30),
            "future": lambda: target.work.future("begun", 30).get(),
            "promise": target.promise_for_ever,
        }
        error = error_of(forms[form])
        ends.append((error, time.monotonic()))

    thread = threading.Thread(target=call)
    thread.start()
    if form == "promise":
        assert target.add(1, 1) == 2
    else:
        assert eventually(there.effects, within=20.0) == ["begun"]
    killed = time.monotonic()
    there.kill()
    thread.join(5)

    [(error, ended)] = ends
    assert ended - killed < SOON
    assert isinstance(error, NodeDownError)
    assert error.may_have_run is True
    assert "there" in str(error)


def test_calls_to_a_dead_node_fail_at_once_and_surely_did_not_run(
    start: Start, visitor: Flock
) -> None:
    there = start()
    target = visitor["there"]["target"]
    assert target.add(1, 1) == 2
    there.kill()

    for call in (lambda: target.add(1, 1), lambda: target.add.future(1, 1).get()):
        began = time.monotonic()
        error = error_of(call)
        assert time.monotonic() - began < SOON
        assert isinstance(error, NodeDownError)
    last = error_of(lambda: target.add(1, 1))
    assert isinstance(last, NodeDownError)
    assert last.may_have_run is False


def test_a_node_that_died_before_the_first_call_is_down_or_unknown(
    start: Start, visitor: Flock
) -> None:
    there = start()
    target = visitor["there"]["target"]
    there.kill()

    began = time.monotonic()
    error = error_of(lambda: target.work("x"))
    assert time.monotonic() - began < SOON
    assert isinstance(error, NodeDownError | NodeNotFound)
    assert error.may_have_run is False
    assert there.effects() == []


@pytest.mark.parametrize("key", ["kept", "fresh"])
def test_the_same_proxy_reaches_a_node_started_again(
    start: Start, visitor: Flock, key: str
) -> None:
    keys = key_pair() if key == "kept" else None
    first = start(keys=keys)
    target = visitor["there"]["target"]
    assert target.add(1, 1) == 2
    for _ in range(2):
        first.kill()
        second = start(keys=keys)
        assert second.address != first.address

        assert target.add(1, 1) == 2
        assert target.add.future(2, 2).get() == 4
        first = second


def test_the_same_proxy_reaches_a_node_started_again_on_the_same_port(
    start: Start, visitor: Flock
) -> None:
    keys = key_pair()
    # A port that no connection is given while the node is away.
    first = start(keys=keys, listen=f"tcp://127.0.0.1:{free_ports(1)[0]}")
    target = visitor["there"]["target"]
    assert target.add(1, 1) == 2
    first.kill()
    second = start(keys=keys, listen=first.address)

    assert second.address == first.address
    assert target.add(1, 1) == 2


def test_a_call_to_a_node_that_moved_while_nobody_talked_arrives_once(
    start: Start, registry_url: str, visitor: Flock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start()
    target = visitor["there"]["target"]
    assert target.add(1, 1) == 2
    # Nothing of the change is heard, as when the registry is slow to tell.
    monkeypatch.setattr(visitor.node.directory, "_changed", lambda name: None)
    first.kill()
    second = start()
    visitor.peer("there").state = "connected"

    numbers = [target.work.future(str(number)) for number in range(5)]
    assert [future.get() for future in numbers] == ["0", "1", "2", "3", "4"]
    assert second.effects() == ["0", "1", "2", "3", "4"]


def test_the_caller_that_dies_leaves_nothing_behind(
    start: Start, registry_url: str, tmp_path: Path
) -> None:
    with Flock(name="here", registry=registry_url, state_dir=tmp_path / "here") as here:
        here.supervise(Target, name="target")
        there = start()
        there.begin("call", node="here", actor="target", method="promise_for_ever", args=[])
        assert eventually(lambda: here.node.dispatcher.expired == 0, within=1.0)
        mine = here["here"]["target"]
        peer = here.peer("there")
        assert eventually(lambda: len(peer.serving), within=5.0, becomes=1) == 1
        there.kill()

        assert eventually(lambda: peer.state, within=SOON, becomes="gone") == "gone"
        assert mine.add(1, 1) == 2


@pytest.mark.parametrize("comes_back", [False, True], ids=["for good", "and comes back"])
@pytest.mark.parametrize("way", ["leaves", "is killed"])
def test_a_node_that_goes_before_during_or_after_a_call(
    start: Start, visitor: Flock, way: str, comes_back: bool
) -> None:
    moments = ("before", "during", "after")
    there = {moment: start(moment) for moment in moments}
    target = {moment: visitor[moment]["target"] for moment in moments}
    assert target["after"].work("first") == "first"
    # Who leaves may finish it first, who is killed does not.
    seconds = 1.0 if way == "leaves" else 60.0
    begun = target["during"].options(timeout=60).work.future("begun", seconds)
    assert eventually(there["during"].effects, within=20.0, becomes=["begun"]) == ["begun"]

    for process in there.values():
        process.close() if way == "leaves" else process.kill()
    assert begun.wait(30)
    end = begun.error()
    if end is None:
        assert way == "leaves"
    else:
        assert isinstance(end, NodeDownError)
        assert end.may_have_run is True
    if comes_back:
        for moment, process in there.items():
            assert start(moment).address != process.address
            assert target[moment].work("late") == "late"
    else:
        for moment in moments:
            began = time.monotonic()
            error = error_of(lambda moment=moment: target[moment].work("late"))  # type: ignore[misc]
            assert time.monotonic() - began < SOON
            assert isinstance(error, NodeDownError | NodeNotFound)
            assert error.may_have_run is False

    late = ["late"] if comes_back else []
    assert there["before"].effects() == late
    assert there["during"].effects() == ["begun", *late]
    assert there["after"].effects() == ["first", *late]


# --- leaving ---------------------------------------------------------------------


def test_a_node_that_leaves_ends_its_calls_at_once_and_is_gone(
    start: Start, visitor: Flock
) -> None:
    there = start()
    target = visitor["there"]["target"]
    promised = target.options(timeout=60).promise_for_ever.future()
    assert target.add(1, 1) == 2
    began = time.monotonic()
    there.close()
    error = error_of(promised.get)

    assert time.monotonic() - began < 10.0
    assert isinstance(error, NodeDownError)
    assert "left" in str(error)
    gone = error_of(lambda: target.add(1, 1))
    assert isinstance(gone, NodeDownError)
    assert gone.may_have_run is False
    # It has left the registry; that news may come after what it said itself.
    assert eventually(lambda: "there" in visitor, within=5.0, becomes=False) is False
    assert isinstance(error_of(lambda: visitor["there"]), NodeNotFound)


def test_a_flock_that_closes_cancels_its_calls(
    start: Start, registry_url: str, tmp_path: Path
) -> None:
    there = start()
    visitor = Flock(registry=registry_url).start()
    target = visitor["there"]["target"]
    gate = tmp_path / "gate"
    future = target.work_until.future(str(gate), "begun")
    future.wait(0.2)
    assert eventually(there.effects, within=20.0) == ["begun"]
    visitor.close()
    gate.touch()

    error = error_of(future.get)
    assert isinstance(error, CallCancelled)
    assert error.may_have_run is True
    assert isinstance(error_of(lambda: target.add(1, 1)), UsageError)


def test_a_flock_that_a_monitor_closes_is_closed(start: Start, registry_url: str) -> None:
    there = start()
    visitor = Flock(registry=registry_url).start()
    assert visitor["there"]["target"].add(1, 1) == 2
    visitor["there"].monitor(lambda _: visitor.close())
    there.kill()
    with pytest.raises(UsageError, match="closed"):
        eventually(lambda: visitor.node, within=10, until=lambda _: False)


@pytest.mark.parametrize("name", ["here", None])
def test_a_flock_that_could_not_join_joins_at_its_next_use(
    registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def away(_: Announcer) -> None:
        raise RegistryUnavailable(registry_url, "away")

    flock = Flock(name, registry_url, state_dir=tmp_path / "state")
    monkeypatch.setattr(Announcer, "announce", away)
    with pytest.raises(RegistryUnavailable):
        list(flock)
    monkeypatch.undo()
    assert list(flock) == ([name] if name else [])
    flock.close()


@pytest.mark.parametrize(("part", "step"), [(Node, "open"), (Announcer, "_write")])
def test_a_flock_that_a_signals_handler_closes_while_it_joins_is_closed(
    embedded_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any, step: str
) -> None:
    go_on = getattr(part, step)

    def interrupted(*args: Any) -> None:
        flock.close()  # on the thread that joins, as a handler does
        go_on(*args)

    monkeypatch.setattr(part, step, interrupted)
    flock = Flock("there", embedded_url, state_dir=tmp_path / "state")
    with pytest.raises(FlockError, match="closed"):
        flock.start()
    monkeypatch.undo()
    with Flock(registry=embedded_url) as visitor:
        assert list(visitor) == []


def test_an_actor_that_stopped_says_so(start: Start, visitor: Flock) -> None:
    there = start()
    target = visitor["there"]["target"]
    target.end()

    stopped = eventually(
        lambda: type(error_of(lambda: target.add(1, 1))), within=10.0, becomes=ActorDead
    )
    assert stopped is ActorDead
    error = error_of(lambda: target.work("never"))
    assert isinstance(error, ActorDead)
    assert error.may_have_run is False
    assert visitor["there"]["other"].add(1, 1) == 2
    assert there.effects() == []


def test_an_actor_that_crashes_in_a_tell_is_started_anew(start: Start, visitor: Flock) -> None:
    start()
    target = visitor["there"]["target"]
    target.note("kept")
    target.raise_value_error.defer("die of it")

    assert eventually(target.read, within=5.0, becomes=[], ignoring=ActorDead) == []
    row = next(row for row in visitor["there"].describe_actors() if row["name"] == "target")
    assert (row["restarts"], row["error"]) == (1, "ValueError: die of it")


# --- who may talk ----------------------------------------------------------------


def test_a_removed_key_is_cut_off_within_seconds(start: Start, registry_url: str) -> None:
    there = start()
    here = Flock(registry=registry_url).start()
    with here:
        target = here["there"]["target"]
        assert target.work("let in") == "let in"
        with Flock(registry=registry_url) as operator:
            assert operator.registry.forget_key(here.node.identity.name) is True

        refused = eventually(
            lambda: _end_of(lambda: target.add(1, 1)), within=5.0, becomes=NotLetIn
        )
        assert refused is NotLetIn
        began = time.monotonic()
        error = error_of(lambda: target.work("shut out"))
        assert time.monotonic() - began < SOON
        assert isinstance(error, NotLetIn)
        assert error.may_have_run is False
        assert isinstance(error, PermissionError)
    assert there.effects() == ["let", "in"]


def _end_of(call: Callable[[], Any]) -> type[BaseException] | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - its class is what is asked for
        return type(error)
    return None


@pytest.mark.parametrize("client", ["foreign key", "no encryption", "no zeromq"])
def test_a_stranger_gets_nothing(start: Start, visitor: Flock, client: str) -> None:
    there = start()
    codec = Codec()
    greeting = codec.encode((HELLO, PROTOCOL, "forged", "", 1, 0, "forged"))
    order = codec.encode((TELL, "target", "work", ["stranger"], {}, None, [], None))
    call = codec.encode((CALL, 1, "target", "work", ["stranger"], {}, 5.0, [], None))
    frames = [frame_of([message], time.time_ns()) for message in (greeting, order, call)]
    if client == "no zeromq":
        host, _, port = there.address.removeprefix("tcp://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"".join(frames))
            raw.settimeout(20)
            # What ZeroMQ says of itself before it knows who is there, then nothing.
            assert len(_all_from(raw)) <= 64
    else:
        context = zmq.Context()
        with context, context.socket(zmq.DEALER) as stranger:
            stranger.linger = 0
            if client == "foreign key":
                stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                record = visitor["there"].record
                stranger.curve_serverkey = record.public_key.encode()
            monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            stranger.connect(there.address)
            for frame in frames:
                stranger.send(frame)
            assert stranger.poll(1000) == 0
            assert monitor.poll(0) == 0
            stranger.disable_monitor()
            monitor.close()

    assert visitor["there"]["target"].add(1, 1) == 2
    assert there.effects() == []
    said = {
        "foreign key": "refused a key from",
        "no encryption": "refused a connection: it came without encryption",
    }
    if client in said:
        # ZeroMQ tried again and again meanwhile.
        line = said[client]
        assert eventually(lambda: there.said().count(line), within=5.0, becomes=1) == 1
        assert there.said().count("refused a") == 1


def _all_from(raw: socket.socket) -> bytes:
    received = b""
    try:
        while piece := raw.recv(4096):
            received += piece
    except ConnectionResetError:
        return received
    return received


def test_a_node_whose_c_code_hangs_does_not_answer_which_is_no_wrong_key(
    start: Start, visitor: Flock, registry_url: str
) -> None:
    start()
    visitor["there"]["target"].hold_everything.defer(6)
    assert eventually(lambda: not visitor["there"].ping(0.2), 5)  # it is under way
    with Flock(registry=registry_url) as stranger:
        began = time.monotonic()
        error = error_of(stranger["there"]["target"].options(timeout=20).add.future(1).get)
        assert isinstance(error, NodeUnreachable)
        assert error.may_have_run is False
        assert "there did not answer" in str(error)
        assert time.monotonic() - began < 5
        target = stranger["there"]["target"]
        assert eventually(lambda: target.add(1), 10, becomes=2, ignoring=CallError) == 2


def test_a_key_belongs_to_one_name(
    start: Start, registry_url: str, visitor: Flock, tmp_path: Path
) -> None:
    keys = key_pair()
    start(keys=keys)
    copied = Flock(
        name="copy",
        registry=registry_url,
        keys=(keys[0].encode(), keys[1].encode()),
        state_dir=tmp_path / "here",
    )
    with pytest.raises(RegistryError, match="there"):
        copied.start()
    assert visitor["there"]["target"].add(1, 1) == 2


def test_without_encryption_only_loopback_is_listened_at(registry_url: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        Flock(registry=registry_url, crypto=False, listen="tcp://0.0.0.0:*").start()


def test_who_is_without_encryption_and_who_is_not_are_told_so_and_harm_nobody(
    registry_url: str, start: Start, visitor: Flock, tmp_path: Path
) -> None:
    start()
    state = tmp_path / "plain"
    with Flock(name="plain", registry=registry_url, crypto=False, state_dir=state) as plain:
        plain.supervise(Target, name="target")
        refused = error_of(lambda: plain["there"]["target"].add(1))
        assert isinstance(refused, NotLetIn)
        assert "crypto = false" in str(refused)
        unsent = error_of(lambda: visitor["plain"]["target"].add(1))
        assert isinstance(unsent, NodeUnreachable)
        assert "plain is without encryption" in str(unsent)
        assert refused.may_have_run is unsent.may_have_run is False

        # One that cannot be told keeps nobody else from hearing.
        heard: list[Any] = []
        plain.subscribe("news", lambda *_: None)
        visitor.subscribe("news", lambda _, value: heard.append(value))
        assert visitor.publish("news", "all the same") == 1
        assert eventually(lambda: heard, 5) == ["all the same"]

        [*_, way] = examine_node(visitor, "plain")
        assert way.found == "plain is without encryption, the other one is not"


def test_keys_that_are_none_are_told(registry_url: str, visitor: Flock, start: Start) -> None:
    start()
    record = replace(visitor["there"].record, generation="g", public_key="\u00ff" * 40)
    peer = visitor.node._peers.peer_for(record)
    odd = error_of(lambda: peer.send(b"", urgent=True))
    assert isinstance(odd, NodeUnreachable)
    assert "key of there in the registry is none" in str(odd)
    mine, other = zmq.curve_keypair(), zmq.curve_keypair()
    for keys in ((b"x", b"y"), (mine[0], other[1]), ("x" * 40, "y" * 40)):
        with pytest.raises(UsageError, match="keys are a public and a secret key"):
            Flock(registry=registry_url, keys=keys).start()  # type: ignore[arg-type]


def test_without_encryption_calls_work_on_loopback(registry_url: str, start: Start) -> None:
    there = start(crypto=False, listen="tcp://127.0.0.1:*")
    with Flock(registry=registry_url, crypto=False, listen="tcp://127.0.0.1:*") as visitor:
        target = visitor["there"]["target"]
        assert target.add(1, 2) == 3
        assert target.size(b"stop") == 4
        future = target.options(timeout=60).work.future("begun", 30)
        assert eventually(there.effects, within=20.0) == ["begun"]
        there.kill()
        assert isinstance(error_of(future.get), NodeDownError)


# --- the registry away -----------------------------------------------------------


def test_a_killed_node_is_known_to_be_down_while_the_registry_is_away(
    own_zookeeper: ZooKeeperEnsemble, tmp_path: Path
) -> None:
    url = own_zookeeper.url()
    there = FlockProcess("there", url, tmp_path)
    try:
        with Flock(registry=url, session_timeout=4.0) as visitor:
            target = visitor["there"]["target"].options(timeout=60)
            future = target.work.future("begun", 30)
            assert eventually(there.effects, within=20.0) == ["begun"]
            own_zookeeper.servers[0].pause()
            killed = time.monotonic()
            there.kill()
            error = error_of(future.get)
            assert time.monotonic() - killed < SOON
            assert isinstance(error, NodeDownError)
            assert error.may_have_run is True
            own_zookeeper.servers[0].resume()
    finally:
        there.close()
