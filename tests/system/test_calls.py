"""Calls between two real processes, while nothing breaks.

One node runs in another process, one in this one, for all tests of a registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pykka
import pytest

from flock import Flock
from flock.calls import CallOptions
from flock.errors import (
    ActorNotFound,
    BadArguments,
    CallTimeout,
    DeadlockError,
    EncodeError,
    MethodNotFound,
    NameTaken,
    NodeNotFound,
    RemoteError,
    ReplyTooLarge,
    UsageError,
)
from flock.failures import RemoteTraceback
from flock.proxy import ActorProxy, NodeProxy
from tests.support import eventually
from tests.system.flock_process import FlockProcess, Target
from tests.system.ordered_process import OtherSideFailed

# The flock of all tests starts some of its threads when they are first needed.
pytestmark = pytest.mark.leaves("flock-", "actor-", "registry-")

ROUND_TRIP = 1.0
"""Seconds; far more than one round trip takes, far less than any timeout."""

LATE = 2.0
"""Seconds that a timeout may come late on a busy machine; what it ends goes on for ever."""


@dataclass
class Pair:
    """Two nodes: `here` in this process, `there` in another."""

    url: str
    folder: Path
    here: Flock
    process: FlockProcess

    @property
    def there(self) -> NodeProxy:
        return self.here["there"]

    @property
    def target(self) -> ActorProxy:
        return self.here["there"]["target"]

    def gate(self) -> str:
        """Return a new path where no file is: what `work_until` waits for."""
        return str(self.folder / f"gate {secrets.token_hex(4)}")


@pytest.fixture(scope="module", params=["embedded", "zookeeper"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="flk-"))
    url = f"embedded:{folder}/registry"
    if request.param == "zookeeper":
        hosts = request.getfixturevalue("zookeeper_hosts")
        url = f"zookeeper://{hosts}/test-{secrets.token_hex(8)}"
    try:
        with (
            contextlib.closing(FlockProcess("there", url, folder)) as process,
            Flock(name="here", registry=url, state_dir=folder / "here") as here,
        ):
            here.supervise(Target, str(folder / "effects here"), name="target")
            yield Pair(url, folder, here, process)
    finally:
        shutil.rmtree(folder)


# --- the four forms --------------------------------------------------------------


def test_a_call_brings_back_the_value(pair: Pair) -> None:
    assert pair.target.add(1, 2) == 3
    assert pair.target.add(5) == 6
    assert pair.target.add(first=1, second=9) == 10
    assert pair.here["there"]["plain"].add(1, 2) == 3
    assert pair.target.inherited() == "inherited"


def test_a_future_is_a_pykka_future(pair: Pair) -> None:
    future = pair.target.add.future(1, 2)

    assert isinstance(future, pykka.Future)
    assert future.get() == 3
    assert future.get(timeout=1) == 3
    assert pykka.get_all([pair.target.add.future(n, n) for n in range(50)]) == [
        2 * n for n in range(50)
    ]


def test_futures_can_be_derived_from_one_as_in_pykka(pair: Pair) -> None:
    target = pair.target

    assert target.add.future(1, 2).map(lambda value: value * 2).get() == 6
    assert target.echo.future([1, 2, 3]).filter(lambda value: value > 1).get() == [2, 3]
    assert target.add.future(1, 1).join(target.add.future(2, 2)).get() == [2, 4]
    assert target.echo.future([1, 2, 3]).reduce(lambda a, b: a + b).get() == 6


def test_a_deferred_call_runs_and_brings_back_nothing(pair: Pair) -> None:
    word = secrets.token_hex(4)

    assert pair.target.note.defer(word) is None  # type: ignore[func-returns-value]

    assert pair.target.read()[-1] == word


def test_an_awaited_call_leaves_the_loop_free(pair: Pair) -> None:
    async def main() -> tuple[Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        value = await pair.target.promise.future("later", 0.3)
        values = await asyncio.gather(*(pair.target.add.future(n, 0) for n in range(20)))
        ticking.cancel()
        assert values == list(range(20))
        return value, ticks

    value, ticks = asyncio.run(main())
    assert value == "later"
    assert ticks >= 5


def test_many_threads_call_at_once_and_each_gets_its_own_answer(pair: Pair) -> None:
    wrong: list[Any] = []

    def work(start: int) -> None:
        for number in range(start, start + 200):
            answer = pair.target.echo([number, "x" * (number % 50)])
            if answer != [number, "x" * (number % 50)]:
                wrong.append((number, answer))

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_what_one_thread_sends_arrives_in_order_whatever_the_form(pair: Pair) -> None:
    target = pair.here["there"]["other"]
    numbers = itertools.count()
    for _ in range(150):
        for _ in range(7):
            target.note.defer(next(numbers))
        futures = [target.note.future(next(numbers)) for _ in range(5)]
        target.note(next(numbers))
        assert all(future.is_ready() for future in futures)

    assert target.read() == list(range(next(numbers)))


# --- values ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        1.5,
        "Grüße ☃",
        b"\0\xff",
        [1, [2, [3]]],
        {"a": {"b": [1]}, 3: "three", b"k": None},
        datetime(2026, 1, 31, 12, 30, 5, 123456, tzinfo=UTC),
        datetime(2026, 1, 31, 12, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_as_they_went(pair: Pair, value: Any) -> None:
    assert pair.target.echo(value) == value


@pytest.mark.parametrize("size", [64 * 1024, 1024 * 1024, 10 * 1024 * 1024])
def test_large_values_travel_both_ways(pair: Pair, size: int) -> None:
    assert pair.target.size(b"x" * size) == size
    assert len(pair.target.bytes_of(size)) == size


def test_a_value_of_just_the_largest_size_travels(pair: Pair) -> None:
    largest = 16 * 1024 * 1024 - 200
    assert pair.target.size(b"x" * largest) == largest
    assert pair.target.add(1, 1) == 2


def test_a_value_that_is_too_large_is_refused_before_it_is_sent(pair: Pair) -> None:
    with pytest.raises(EncodeError, match="too many"):
        pair.target.size(b"x" * (16 * 1024 * 1024))
    with pytest.raises(ReplyTooLarge, match="too many") as caught:
        pair.target.bytes_of(16 * 1024 * 1024)
    assert caught.value.may_have_run is True
    assert pair.target.add(1, 1) == 2


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"x": [1, socket.socket]}, r"args\[0\]\['x'\]\[1\] is a type"),
        (object(), r"args\[0\] is a object"),
        ({1, 2}, r"args\[0\] is a set"),
        (2**64, r"args\[0\] is an integer of more than 64 bits"),
        ("\ud800", r"args\[0\] is text that is not valid Unicode"),
    ],
    ids=["class", "object", "set", "integer", "text"],
)
def test_a_value_that_cannot_travel_names_its_place_and_nothing_is_sent(
    pair: Pair, value: Any, place: str
) -> None:
    before = pair.process.effects()
    with pytest.raises(EncodeError, match=place) as caught:
        pair.target.work(value)

    assert caught.value.may_have_run is False
    for send in (pair.target.work.future, pair.target.work.defer):
        with pytest.raises(EncodeError, match=place):
            send(value)
    assert pair.target.add(1, 1) == 2
    assert pair.process.effects() == before


def test_a_value_that_holds_itself_is_refused(pair: Pair) -> None:
    endless: list[Any] = []
    endless += [endless, endless]

    with pytest.raises(EncodeError):
        pair.target.echo(endless)


def test_an_answer_that_cannot_travel_says_that_the_method_ran(pair: Pair) -> None:
    before = len(pair.process.effects())
    with pytest.raises(ReplyTooLarge, match="is a lock") as caught:
        pair.target.give_a_socket()

    assert caught.value.may_have_run is True
    assert len(pair.process.effects()) == before + 1


def test_handles_travel_as_arguments_and_come_back(pair: Pair) -> None:
    mine = pair.here["here"]["target"]

    assert pair.target.keep(mine) == mine
    assert pair.target.call_method(mine, "add", 3, 4) == 7
    assert pair.target.echo([{"handle": mine}])[0]["handle"].add(1, 1) == 2
    assert pair.target.name_of(pair.there) == "there inherited"
    assert pair.target.echo(pair.there) == pair.there


# --- what is refused, in one round trip ------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "nothing_of_that_name",
        "hidden",
        "constant",
        "shown",
        "still",
        "of_class",
        "stop",
        "on_start",
        "on_stop",
        "on_failure",
        "on_receive",
        "later",
        "actor_ref",
        "use_daemon_thread",
        "work.__globals__",
    ],
)
def test_a_method_that_is_not_offered_is_refused(pair: Pair, method: str) -> None:
    began = time.monotonic()
    with pytest.raises(MethodNotFound) as caught:
        getattr(pair.target, method)()

    assert time.monotonic() - began < ROUND_TRIP
    assert caught.value.may_have_run is False
    assert pair.target.add(1, 1) == 2


@pytest.mark.parametrize("method", ["_private", "__init__", "__class__", "_leave_trace"])
def test_private_names_are_refused_at_the_proxy_and_at_the_other_end(
    pair: Pair, method: str
) -> None:
    if method != "__init__" and not hasattr(object, method):
        with pytest.raises(MethodNotFound):
            getattr(pair.target, method)

    before = pair.process.effects()
    peer = pair.here.peer("there")
    with pytest.raises(MethodNotFound) as caught:
        pair.here.calls.call(peer, "target", method, ("x",), {}, CallOptions())
    assert caught.value.may_have_run is False
    assert pair.process.effects() == before


def test_a_copy_of_a_proxy_names_the_same_actor(pair: Pair) -> None:
    again = copy.copy(pair.target)

    assert again == pair.target
    assert again.add(1, 1) == 2


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan")])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(pair: Pair, timeout: Any) -> None:
    with pytest.raises(UsageError, match="timeout is"):
        pair.target.options(timeout=timeout)


@pytest.mark.parametrize("odd", [5, None, b"target", ("target",)])
def test_what_is_no_text_names_neither_node_nor_actor(pair: Pair, odd: Any) -> None:
    with pytest.raises(ActorNotFound, match="no actor's name") as caught:
        pair.there[odd]
    assert caught.value.may_have_run is False
    with pytest.raises(NodeNotFound, match="no node's name"):
        pair.here[odd]
    assert odd not in pair.here
    assert odd not in pair.there


def test_the_actors_of_a_node_are_known_without_asking_it(pair: Pair) -> None:
    assert "target" in pair.there
    assert "nobody" not in pair.there
    assert sorted(pair.there) == pair.there.actors()


def test_an_unknown_actor_is_refused_and_says_which_there_are(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(ActorNotFound, match=r"'nobody'.*target") as caught:
        pair.there["nobody"].add(1, 2)

    assert time.monotonic() - began < ROUND_TRIP
    assert caught.value.may_have_run is False


@pytest.mark.parametrize("name", ["nowhere", "a/b", "a b", "x" * 300, ""])
def test_an_unknown_node_is_not_found(pair: Pair, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(NodeNotFound) as caught:
        pair.here[name]

    assert time.monotonic() - began < ROUND_TRIP
    assert caught.value.may_have_run is False
    assert isinstance(caught.value, KeyError)
    assert name not in pair.here
    assert pair.here.get(name) is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"third": 3}), ((1, 2), {"second": 2})],
)
def test_arguments_that_do_not_fit_never_reach_the_actor(
    pair: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    began = time.monotonic()
    with pytest.raises(BadArguments, match=r"target\.add\(first: ") as caught:
        pair.target.add(*args, **kwargs)

    assert time.monotonic() - began < ROUND_TRIP
    assert caught.value.may_have_run is False
    assert isinstance(caught.value, TypeError)


def test_tells_that_do_not_fit_do_not_wear_the_actor_out(pair: Pair) -> None:
    other = pair.here["there"]["other"]
    other.keep("alive")
    for _ in range(20):
        other.add.defer()
        other.nothing.defer()
        pair.there["nobody"].add.defer()

    row = next(row for row in pair.there.describe_actors() if row["name"] == "other")
    assert row["restarts"] == 0
    assert row["state"] == "running"


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 129, "-dash", ""])
def test_a_node_name_that_breaks_the_rule_is_refused_with_the_rule(pair: Pair, name: str) -> None:
    with pytest.raises(UsageError, match="letter or digit"):
        Flock(name=name, registry=pair.url).start()


def test_a_second_node_with_the_name_is_refused_and_told_who_has_it(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(OtherSideFailed, match="NameTaken") as caught:
        FlockProcess("there", pair.url, pair.folder, state_dir=str(pair.folder / "second"))
    assert time.monotonic() - began < 15
    assert str(pair.process.pid) in str(caught.value)
    assert pair.process.address in str(caught.value)

    with pytest.raises(NameTaken, match=str(os.getpid())):
        Flock(name="here", registry=pair.url, state_dir=pair.folder / "third").start()
    assert pair.target.add(1, 1) == 2
    assert pair.process.call("here", "target", "add", 1, 1) == 2


# --- errors ----------------------------------------------------------------------


def test_an_error_arrives_as_its_own_class_with_the_remote_traceback(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"^told to$") as caught:
        pair.target.raise_value_error("told to")

    assert type(caught.value) is ValueError
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "raise_value_error" in str(caught.value.__cause__)


def test_an_error_of_an_unknown_class_arrives_with_its_name(pair: Pair) -> None:
    with pytest.raises(RemoteError, match="OwnError: of my own") as caught:
        pair.target.raise_own_error()

    assert caught.value.type_name == "OwnError"
    assert caught.value.may_have_run is True


def test_sys_exit_in_a_method_ends_neither_actor_nor_process(pair: Pair) -> None:
    with pytest.raises(RemoteError, match="SystemExit: 3"):
        pair.target.leave_python()

    assert pair.target.add(1, 1) == 2
    assert {row["restarts"] for row in pair.there.describe_actors()} == {0}


def test_an_error_passed_on_by_an_actor_does_not_say_that_it_never_ran(pair: Pair) -> None:
    nobody = pair.here["here"]["nobody"]
    with pytest.raises(ActorNotFound) as caught:
        pair.target.call_method(nobody, "add", 1, 1)

    assert caught.value.may_have_run is True


# --- deadlines -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["call", "future", "await"])
def test_a_call_that_takes_too_long_times_out_when_it_said(pair: Pair, form: str) -> None:
    assert pair.here["there"]["other"].add(1, 1) == 2  # the way is open
    slow = pair.here["there"]["other"].options(timeout=0.5)
    gate = pair.gate()
    forms: dict[str, Callable[[], Any]] = {
        "call": lambda: slow.work_until(gate),
        "future": lambda: slow.work_until.future(gate).get(),
        "await": lambda: asyncio.run(_awaited(slow.work_until.future(gate))),
    }
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"there/other\.work_until\(\) within 0\.5 s") as caught:
        forms[form]()

    assert 0.49 <= time.monotonic() - began < 0.5 + LATE
    assert caught.value.may_have_run is True
    assert isinstance(caught.value, TimeoutError)
    Path(gate).touch()
    assert pair.here["there"]["other"].add(1, 1) == 2


async def _awaited(future: Any) -> Any:
    return await future


def test_a_future_nobody_waits_for_ends_at_its_deadline_too(pair: Pair) -> None:
    gate = pair.gate()
    future = pair.here["there"]["other"].options(timeout=0.2).work_until.future(gate)

    assert eventually(future.is_ready, within=0.2 + LATE)
    assert isinstance(future.error(), CallTimeout)
    Path(gate).touch()
    assert pair.here["there"]["other"].add(1, 1) == 2


def test_a_call_whose_deadline_passed_in_the_inbox_is_not_run(pair: Pair) -> None:
    other = pair.here["there"]["other"]
    gate = pair.gate()
    busy = other.work_until.future(gate)
    with pytest.raises(CallTimeout):
        other.options(timeout=0.2).work("too late")

    Path(gate).touch()
    assert busy.get() == "done"
    assert other.add(1, 1) == 2
    assert "late" not in pair.process.effects()


def test_a_promised_answer_lifts_the_default_deadline_only(pair: Pair, monkeypatch: Any) -> None:
    peer = pair.here.peer("there")
    default = CallOptions(timeout=1.0)
    call, future = pair.here.calls.call, pair.here.calls.start

    # The promise itself has to be there in time, on a busy machine too.
    assert call(peer, "target", "promise", ("a", 1.3), {}, default) == "a"
    assert future(peer, "target", "promise", ("b", 1.3), {}, default).get() == "b"
    with pytest.raises(CallTimeout):
        pair.target.options(timeout=0.3).promise("c", 0.8)
    with pytest.raises(CallTimeout):
        pair.target.options(timeout=0.3).promise.future("d", 0.8).get()


def test_the_actor_is_free_while_its_answer_is_promised(pair: Pair) -> None:
    gate = pair.gate()
    future = pair.target.promise_until.future(gate, "later")
    assert pair.target.add(1, 1) == 2
    assert not future.is_ready()
    Path(gate).touch()
    assert future.get() == "later"


def test_pykkas_own_and_derived_futures_are_promises_too(pair: Pair) -> None:
    assert pair.target.promise_of_pykka("from pykka") == "from pykka"
    assert pair.target.promise_of_another(pair.here["there"]["other"], 4) == 50


# --- circles ---------------------------------------------------------------------


def test_a_circle_of_calls_is_refused_at_once_and_named(pair: Pair) -> None:
    mine, there = pair.here["here"]["target"], pair.target
    began = time.monotonic()
    with pytest.raises(DeadlockError, match="here/target -> there/target -> here/target") as caught:
        mine.call_method(there, "call_method", mine, "add", 1, 1)

    assert time.monotonic() - began < ROUND_TRIP
    assert caught.value.chain == ("here/target", "there/target")
    assert mine.add(1, 1) == there.add(1, 1) == 2


def test_an_actor_that_calls_itself_is_refused(pair: Pair) -> None:
    with pytest.raises(DeadlockError, match="there/target -> there/target"):
        pair.target.call_method(pair.target, "add", 1, 1)


def test_a_busy_actor_is_no_deadlock(pair: Pair) -> None:
    other = pair.here["there"]["other"]
    busy = other.work.future("busy", 0.4)

    assert pair.target.call_method(other, "add", 1, 1) == 2
    assert busy.get() == "busy"


# --- who there is ----------------------------------------------------------------


def test_this_node_is_called_by_the_same_rules(pair: Pair) -> None:
    me = pair.here.me
    assert me is not None
    mine = me["target"]

    assert me.name == "here"
    assert me.state == "connected"
    assert mine.add(1, 2) == 3
    assert mine.add.future(1, 2).get() == 3
    assert mine.echo((1, 2)) == [1, 2]
    with pytest.raises(MethodNotFound):
        mine.hidden()
    with pytest.raises(BadArguments):
        mine.add()
    with pytest.raises(ActorNotFound):
        me["nobody"].add(1)
    with pytest.raises(EncodeError):
        mine.echo(object())
    assert mine.promise("later", 0.1) == "later"


def test_a_node_says_which_actors_it_has_and_what_they_offer(pair: Pair) -> None:
    assert {"flock_api", "info", "other", "plain", "target"} <= set(pair.there.actors())
    assert pair.there.ping() is True
    assert pair.there.state == "connected"
    assert pair.there.address == pair.process.address
    offered = pair.there.methods("target")
    assert offered["add"] == ["(first: int, second: int = 1) -> int", ""]
    assert "Leave a trace" in offered["work"][1]
    assert "add" in dir(pair.target)


def test_nodes_are_listed_and_visitors_are_not(pair: Pair) -> None:
    visitor = FlockProcess(None, pair.url, pair.folder)
    try:
        assert visitor.call("there", "target", "add", 1, 2) == 3
        assert visitor.do("names") == ["here", "there"] == list(pair.here)
        assert "there" in pair.here
        assert len(pair.here) == 2
        assert [proxy.add(1, 1) for proxy in pair.here.find("target")] == [2, 2]
    finally:
        visitor.close()


def test_the_default_flock_needs_nothing_but_the_registrys_url(pair: Pair) -> None:
    program = (
        "from flock import FlockOfChefs\n"
        "print(FlockOfChefs['there']['target'].add(1, 2), list(FlockOfChefs), FlockOfChefs.me)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "FLOCK_REGISTRY": pair.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    # An open ZooKeeper is warned about; nothing else is said.
    assert [line for line in done.stderr.splitlines() if " is open: " not in line] == []
    assert done.stdout == "3 ['here', 'there'] None\n"
    assert done.returncode == 0


# --- load ------------------------------------------------------------------------


def test_calls_into_a_full_inbox_are_refused_at_once(pair: Pair) -> None:
    other = pair.here["there"]["other"].options(timeout=60)
    gate = pair.gate()
    busy = other.work_until.future(gate)

    memory = pair.process.do("kept")["kib"]
    futures = [other.add.future(number, 0) for number in range(12_000)]
    refused = eventually(
        lambda: [future for future in futures if future.is_ready()],
        within=60,
        until=lambda ready: len(ready) >= 2000,
    )
    assert len(refused) >= 2000
    assert pair.process.do("kept")["kib"] - memory < 32 * 1024

    assert not busy.is_ready()
    assert {type(future.error()).__name__ for future in refused} == {"OverloadedError"}
    Path(gate).touch()
    assert busy.get() == "done"
    ends = [future.error() for future in futures if future.wait(30)]
    assert len(ends) == 12_000
    ran = [number for number, end in enumerate(ends) if end is None]
    assert 9_000 <= len(ran) <= 10_001
    assert all(end is None or end.may_have_run is False for end in ends)  # type: ignore[attr-defined]
    assert [futures[number].get() for number in ran] == ran


def test_no_call_is_left_open(pair: Pair) -> None:
    assert eventually(pair.here.calls.count, within=5.0, becomes=0) == 0
