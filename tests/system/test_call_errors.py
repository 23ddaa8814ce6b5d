"""Every error of a call, provoked: what it says of having run is what the other side has seen.

One provocation for each class and each value of `may_have_run` that it can
have; the trace `x` in the other side's file is the effect that is counted.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zookeeper_servers import free_ports

from flock import Flock, errors
from flock.calls import CallOptions
from flock.errors import (
    ActorDead,
    ActorNotFound,
    BadArguments,
    BusyError,
    CallCancelled,
    CallError,
    CallTimeout,
    ConnectionLost,
    DeadlockError,
    EncodeError,
    MethodNotFound,
    NodeDownError,
    NodeNotFound,
    NodeUnreachable,
    NotLetIn,
    OverloadedError,
    RemoteError,
    ReplyTooLarge,
    StaleToken,
    VersionMismatch,
)
from tests.support import eventually
from tests.system.flock_process import FlockProcess
from tests.system.zookeeper_faults import Proxy


class Stage:
    """A visitor here and a node over there, whose trace `x` says that the method has run."""

    def __init__(self, registry_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = registry_url
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.closing: list[Callable[[], None]] = []
        self.there = self.start("there")
        self.visitor = Flock(registry=registry_url).start()
        self.closing.append(self.visitor.close)

    def start(self, name: str, **settings: Any) -> FlockProcess:
        process = FlockProcess(name, self.url, self.folder, **settings)
        self.closing.append(process.close)
        return process

    @property
    def target(self) -> Any:
        return self.visitor["there"]["target"]

    def gate(self) -> str:
        """Return what `work_until` waits for; it is there at the end at the latest."""
        path = self.folder / f"gate {secrets.token_hex(4)}"
        self.closing.append(path.touch)
        return str(path)

    def begun(self, future: Any) -> Any:
        """Return a future once its method has left its trace."""
        assert eventually(lambda: "x" in self.there.effects(), within=30.0)
        return future

    def close(self) -> None:
        while self.closing:
            self.closing.pop()()


@pytest.fixture
def stage(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(registry_url, tmp_path, monkeypatch)
    yield made
    made.close()


def node_not_found(stage: Stage) -> None:
    stage.visitor["nobody"]["target"].work("x")


def actor_not_found(stage: Stage) -> None:
    stage.visitor["there"]["nobody"].work("x")


def method_not_found(stage: Stage) -> None:
    stage.target.walk("x")


def bad_arguments(stage: Stage) -> None:
    stage.target.work("x", 0, "one too many")


def value_that_cannot_travel(stage: Stage) -> None:
    stage.target.work("x", threading.Lock())


def node_down_before(stage: Stage) -> None:
    target = stage.target
    assert target.add(1, 1) == 2
    stage.there.kill()
    with pytest.raises(NodeDownError):
        eventually(lambda: target.add(1, 1), within=10.0, until=lambda _: False)
    target.work("x")


def node_down_during(stage: Stage) -> None:
    future = stage.begun(stage.target.work.future("x", 30))
    stage.there.kill()
    future.get()


def node_unreachable(stage: Stage) -> None:
    stage.there.close()
    # Its session outlives the silence, or it would be down.
    stage.there = stage.start("there", session_timeout=30.0)
    target = stage.target
    stage.there.pause()
    try:
        target.work("x")
    finally:
        stage.there.go_on()


def connection_lost(stage: Stage) -> None:
    (port,) = free_ports(1)
    way = Proxy(f"127.0.0.1:{port}")
    stage.closing.append(way.close)
    stage.there.close()
    stage.there = stage.start(
        "there", listen=f"tcp://127.0.0.1:{port}", advertise=f"tcp://{way.address}"
    )
    future = stage.begun(stage.target.work_until.future(stage.gate(), "x"))
    way.shut()
    future.get()


def timed_out(stage: Stage) -> None:
    assert stage.target.add(1, 1) == 2  # the way is open
    stage.target.options(timeout=1.0).work_until(stage.gate(), "x")


def timed_out_before_it_left(stage: Stage) -> None:
    stage.there.pause()
    try:
        stage.target.options(timeout=0.5).work("x")
    finally:
        stage.there.go_on()


def cancelled_before_it_left(stage: Stage) -> None:
    leaving = Flock(registry=stage.url).start()
    stage.there.pause()
    try:
        future = leaving["there"]["target"].work.future("x")
        leaving.close()
    finally:
        stage.there.go_on()
    future.get()


def cancelled(stage: Stage) -> None:
    leaving = Flock(registry=stage.url).start()
    future = stage.begun(leaving["there"]["target"].work_until.future(stage.gate(), "x"))
    leaving.close()
    future.get()


def flock_is_closed(stage: Stage) -> None:
    leaving = Flock(registry=stage.url).start()
    peer, calls = leaving.peer("there"), leaving.calls
    leaving.close()
    calls.call(peer, "target", "work", ("x",), {}, CallOptions())


def actor_is_over(stage: Stage) -> None:
    target = stage.target
    target.end()
    with pytest.raises(ActorDead):
        eventually(lambda: target.add(1, 1), within=10.0, until=lambda _: False)
    target.work("x")


def actor_crashes_first(stage: Stage) -> None:
    gate = stage.gate()
    stage.target.work_until.defer(gate)
    stage.target.raise_value_error.defer("die of it")
    waiting = stage.target.work.future("x")
    assert stage.visitor["there"].ping()
    Path(gate).touch()
    waiting.get()


def actor_owes_the_answer(stage: Stage) -> None:
    promised = stage.begun(stage.target.work_and_promise.future("x"))
    stage.target.raise_value_error.defer("die of it")
    promised.get()


def overloaded(stage: Stage) -> None:
    gate = stage.gate()
    target = stage.target.options(timeout=60)
    target.work_until.defer(gate)
    filling = []
    for _ in range(11):
        # All before have arrived: what is refused is refused by the inbox, not by a full lane.
        assert stage.visitor["there"].ping(timeout=30.0)
        filling += [target.inherited.future() for _ in range(1000)]
    assert eventually(lambda: any(one.is_ready() for one in filling), within=30.0)
    try:
        target.work("x")
    finally:
        Path(gate).touch()
        assert all(one.wait(60) for one in filling)


def deadlock(stage: Stage) -> None:
    there = stage.visitor["there"]
    target, other = there["target"], there["other"]
    # The actor that makes the last call of the circle is the one that is refused.
    kind, message, may_have_run = target.call_method(other, "end_of_call", target, "work", "x")
    assert kind == "DeadlockError"
    error = DeadlockError(message)
    error.may_have_run = may_have_run
    raise error


def busy(stage: Stage) -> None:
    recipes = stage.folder / "cookbooks" / "busy" / "recipes"
    recipes.mkdir(parents=True)
    gate, trace = stage.folder / "gate", stage.there.effects_file
    stage.closing.append(gate.touch)
    (recipes / "default.py").write_text(
        "from flock.recipe import execute\n"
        f"execute('wait', command='until [ -e {gate} ]; do sleep 0.05; done')\n"
    )
    (recipes / "late.py").write_text(
        f"from flock.recipe import execute\nexecute('late', command='echo x >> {trace}')\n"
    )
    stage.there.close()
    stage.there = stage.start(
        "there", cookbooks=str(stage.folder / "cookbooks"), run_list=["recipe[busy]"]
    )
    api = stage.visitor["there"]["flock_api"]
    ended = [api.run_chef.future(wait=True), api.run_chef.future(wait=True)]
    assert eventually(lambda: len(api.runs()), within=10.0, until=lambda n: n >= 1)
    try:
        api.run_chef(override_run_list=["recipe[busy::late]"])
    finally:
        gate.touch()
        assert [each.get(timeout=30)["state"] for each in ended] == ["ok", "ok"]


def not_let_in(stage: Stage) -> None:
    target = stage.target
    with Flock(registry=stage.url) as operator:
        assert operator.registry.forget_key(stage.visitor.node.identity.name) is True
    with pytest.raises(NotLetIn):
        eventually(lambda: target.add(1, 1), within=5.0, until=lambda _: False)
    target.work("x")


def another_protocol(stage: Stage) -> None:
    stage.monkeypatch.setattr("flock.peers.PROTOCOL", 99)
    stage.target.work("x")


def answer_cannot_travel(stage: Stage) -> None:
    stage.target.work_and_give("x")


def stale_token(stage: Stage) -> None:
    target = stage.target
    with stage.visitor.lock("one at a time") as first:
        old = [stage.visitor.registry.registry_id(), "one at a time", 0, first.token]
        assert target.options(under=old).add(1, 1) == 2
    with stage.visitor.lock("one at a time") as second:
        assert second.token > first.token
        new = [stage.visitor.registry.registry_id(), "one at a time", 0, second.token]
        assert target.options(under=new).add(1, 1) == 2
        target.options(under=old).work("x")


def error_without_a_class_here(stage: Stage) -> None:
    stage.target.raise_own_error("x")


RAN, DID_NOT_RUN = True, False

PROVOCATIONS: list[tuple[type[CallError], Callable[[Stage], None], bool]] = [
    (NodeNotFound, node_not_found, DID_NOT_RUN),
    (ActorNotFound, actor_not_found, DID_NOT_RUN),
    (MethodNotFound, method_not_found, DID_NOT_RUN),
    (BadArguments, bad_arguments, DID_NOT_RUN),
    (EncodeError, value_that_cannot_travel, DID_NOT_RUN),
    (NodeDownError, node_down_before, DID_NOT_RUN),
    (NodeDownError, node_down_during, RAN),
    (NodeUnreachable, node_unreachable, DID_NOT_RUN),
    (ConnectionLost, connection_lost, RAN),
    (CallTimeout, timed_out, RAN),
    (CallTimeout, timed_out_before_it_left, DID_NOT_RUN),
    (CallCancelled, cancelled, RAN),
    (CallCancelled, cancelled_before_it_left, DID_NOT_RUN),
    (CallCancelled, flock_is_closed, DID_NOT_RUN),
    (ActorDead, actor_is_over, DID_NOT_RUN),
    (ActorDead, actor_crashes_first, DID_NOT_RUN),
    (ActorDead, actor_owes_the_answer, RAN),
    (OverloadedError, overloaded, DID_NOT_RUN),
    (DeadlockError, deadlock, DID_NOT_RUN),
    (BusyError, busy, DID_NOT_RUN),
    (NotLetIn, not_let_in, DID_NOT_RUN),
    (VersionMismatch, another_protocol, DID_NOT_RUN),
    (ReplyTooLarge, answer_cannot_travel, RAN),
    (StaleToken, stale_token, DID_NOT_RUN),
    (RemoteError, error_without_a_class_here, RAN),
]


@pytest.mark.parametrize(
    ("kind", "provoke", "has_run"),
    PROVOCATIONS,
    ids=[f"{kind.__name__}-{provoke.__name__}" for kind, provoke, _ in PROVOCATIONS],
)
def test_an_error_says_whether_the_method_may_have_run(
    stage: Stage, kind: type[CallError], provoke: Callable[[Stage], None], has_run: bool
) -> None:
    with pytest.raises(kind) as caught:
        provoke(stage)

    assert type(caught.value) is kind
    assert caught.value.may_have_run is has_run
    stage.close()  # what still ran or waited over there has come to its end
    assert stage.there.effects().count("x") == has_run


def test_every_class_of_error_is_provoked() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, CallError) and value is not CallError
    }
    assert {kind for kind, _, _ in PROVOCATIONS} == classes
