"""What actors promise beside calls, between two nodes: time, topics, ends, groups, pools."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest
from zookeeper_servers import free_ports

from flock import Actor, Flock
from flock.batch import Batch
from flock.calls import CallOptions
from flock.errors import (
    ActorDead,
    ActorNotFound,
    BadArguments,
    CallError,
    DeadlockError,
    EncodeError,
    NodeNotFound,
    ReplyTooLarge,
    UsageError,
)
from flock.future import Future
from flock.messages import PROBE
from flock.monitors import Down
from flock.proxy import ActorProxy
from flock.topics import Gap
from flock.wire import Codec
from registry.contract import SessionState
from tests.support import eventually
from tests.system.zookeeper_faults import Proxy


class Notebook(Actor):
    """Notes what happens to it, and does what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []
        self.timers: list[Any] = []

    def add(self, first: int, second: int) -> int:
        return first + second

    def note(self, what: Any) -> None:
        self.notes.append(what)

    def give_no_value(self) -> Any:
        return object()

    def fail_with_a_number_too_large(self) -> None:
        raise ValueError(2**70)

    def read(self) -> list[Any]:
        return self.notes

    def boom(self) -> None:
        raise ValueError("told to")

    def note_later(self, seconds: float, what: str) -> None:
        self.after(seconds, self.note, what)

    def cancel_late(self, other: Any, meeting: str) -> None:
        """Cancel a timer and a monitor whose news wait in the inbox already."""
        timer = self.after(0.01, self.note, "the timer")
        watch, link = self.monitor(other, self.saw), other
        self.link(link)
        other.boom.defer()
        inbox: Any = self.actor_inbox
        assert eventually(inbox.qsize, 10, becomes=3) == 3
        timer.cancel()
        watch.cancel()
        self.unlink(link)
        self.note(meeting)

    def hold_later(self, meeting: str) -> None:
        self.after(0.0, self.hold, meeting)

    def note_often(self, interval: float, what: str) -> None:
        self.timers.append(self.every(interval, self.note, what))

    def end_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()

    def listen(self, topic: str) -> None:
        self.subscribe(topic, self.heard)

    def heard(self, publisher: str, value: Any) -> None:
        self.notes.append([publisher, value])

    def watch(self, other: Any) -> None:
        self.monitor(other, self.saw)

    def saw(self, down: Down) -> None:
        self.notes.append([down.node, down.actor, down.crashed, down.reason])

    def tie(self, other: Any) -> None:
        self.link(other)

    def untie(self, other: Any) -> None:
        self.unlink(other)

    def call_after_meeting(self, other: Any, meeting: str) -> Any:
        wait_for_both(meeting)
        return other.options(timeout=60).add(1, 1)

    def have_called_after_meeting(self, other: Any, third: Any, meeting: str) -> Any:
        return other.options(timeout=20).call_after_meeting(third, meeting)

    def call_other(self, other: Any, number: int) -> int:
        return int(other.add(number, 1))

    def call_along(self, way: list[Any]) -> str:
        return str(way[0].call_along(way[1:])) if way else "the end"

    def hold(self, meeting: str) -> str:
        wait_for_both(meeting)
        return self.actor_urn

    def ask_to_hold(self, other: Any, meeting: str) -> str:
        return str(other.options(timeout=60).hold(meeting))

    def who(self) -> str:
        return self.actor_urn


class Plain(pykka.ThreadingActor):
    """An actor that knows nothing of us."""


class Stillborn(Notebook):
    """Crashes each time it is started."""

    def on_start(self) -> None:
        raise RuntimeError("not today")


class Farewell(Notebook):
    """Tells others of its end."""

    def __init__(self, heir: Any) -> None:
        super().__init__()
        self.heir = heir

    def on_stop(self) -> None:
        self.heir.note("called")
        self.publish("ends", "published")
        self.flock.globals["will"] = self.flock.me.name


class Survivor(Notebook):
    """Is told of the end of what it is linked to."""

    traps_exits = True

    def on_exit(self, down: Down) -> None:
        self.notes.append(["exit", down.actor, down.crashed])


_meetings: dict[str, threading.Barrier] = {}


def wait_for_both(meeting: str) -> None:
    """Wait until a second one is here."""
    _meetings.setdefault(meeting, threading.Barrier(2)).wait(60)


def node(name: str, registry: str, folder: Path) -> Flock:
    """Make a node that keeps its state below `folder`."""
    return Flock(name=name, registry=registry, state_dir=folder / name)


@pytest.fixture
def pair(registry_url: str, tmp_path: Path) -> Iterator[tuple[Flock, Flock]]:
    with (
        node("here", registry_url, tmp_path) as here,
        node("there", registry_url, tmp_path) as there,
    ):
        yield here, there


def test_after_and_every_run_on_the_actor_and_end_with_a_cancel(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    book = here["there"]["book"]
    book.note_later(0.05, "once")
    book.note_often(0.02, "tick")

    assert eventually(lambda: book.read().count("tick"), 5, until=lambda n: n >= 3) >= 3
    assert eventually(lambda: book.read().count("once"), 5, becomes=1) == 1
    book.end_timers()
    ticks = book.read().count("tick")
    book.note_later(0.2, "later")
    assert eventually(lambda: book.read()[-1], 5, becomes="later") == "later"
    assert book.read().count("tick") == ticks


def test_what_is_published_reaches_subscribers_on_other_nodes(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    there_book = here["there"]["book"]
    there_book.listen("weather")
    heard: list[Any] = []
    subscription = here.subscribe(
        "weather", lambda publisher, value: heard.append((publisher, value))
    )

    assert here.publish("weather", {"sun": True}) == 2
    assert eventually(there_book.read, 5) == [["here", {"sun": True}]]
    assert eventually(lambda: heard, 5) == [("here", {"sun": True})]

    subscription.cancel()
    assert eventually(lambda: here.publish("weather", 2), 5, becomes=1) == 1
    assert heard == [("here", {"sun": True})]


def test_a_slow_subscriber_is_told_how_much_it_missed(embedded_url: str) -> None:
    with Flock(registry=embedded_url) as fleet:
        heard: list[Any] = []
        first, go_on = threading.Event(), threading.Event()

        def slow(_: str, value: Any) -> None:
            heard.append(value)
            first.set()
            go_on.wait(20)

        subscription = fleet.subscribe("flood", slow)
        fleet.publish("flood", 0)
        assert first.wait(5)
        for number in range(1, 1501):
            fleet.publish("flood", number)
        go_on.set()
        assert eventually(lambda: heard[1001:], 10, becomes=[Gap(500)]) == [Gap(500)]
        fleet.publish("flood", "last")
        assert eventually(lambda: heard[-1], 5, becomes="last") == "last"
        assert len(heard) == 1003
        subscription.cancel()


def test_a_slow_actor_keeps_little_of_what_is_published_and_is_told_how_much_it_missed(
    pair: tuple[Flock, Flock],
) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    book = here["there"]["book"]
    book.listen("flood")
    held = book.options(timeout=60).hold.future("the flood is over")
    [instance] = there.node.supervisor.instances("book")
    for number in range(3000):
        here.publish("flood", number)
    assert here["there"].ping(60)  # what was sent before has arrived

    assert instance.waiting_count() < 5
    wait_for_both("the flood is over")
    held.get(timeout=60)
    actor: Any = instance.actor

    def counted() -> int:
        return sum(value.missed if isinstance(value, Gap) else 1 for _, value in actor.notes)

    assert eventually(counted, 10, becomes=3000) == 3000
    assert any(isinstance(value, Gap) for _, value in actor.notes)


def test_a_dead_subscriber_is_pruned(registry_url: str, tmp_path: Path) -> None:
    with node("here", registry_url, tmp_path) as here:
        here.registry.write("topics/news/nobody", "a generation that is gone")
        assert here.publish("news", 1) == 0
        assert here.registry.children("topics/news") == []


def test_a_subscriber_of_an_earlier_run_is_pruned(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    here.registry.write("topics/news/there", "an earlier run")
    assert here.publish("news", 1) == 1
    assert eventually(lambda: here.registry.children("topics/news"), 5, becomes=[]) == []
    assert eventually(lambda: here.publish("news", 2), 5, becomes=0) == 0

    heard: list[Any] = []
    subscription = there.subscribe("news", lambda _, value: heard.append(value))
    assert eventually(lambda: here.publish("news", 3), 5, becomes=1) == 1
    assert eventually(lambda: heard, 5) == [3]
    subscription.cancel()


def test_a_monitor_tells_once_why_an_actor_is_gone(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    news: list[Down] = []
    here["there"]["book"].monitor(news.append)
    here["there"]["book"].boom.defer()

    assert eventually(lambda: news, 5) == [Down("there", "book", "ValueError: told to", True)]
    assert eventually(here["there"]["book"].read, 5, until=lambda _: True, ignoring=ActorDead) == []
    here["there"]["book"].boom.defer()
    eventually(lambda: here["there"].describe_actors()[0]["restarts"], 5, becomes=2)
    assert len(news) == 1


def test_a_monitor_of_an_actor_that_is_not_there_fires_at_once(pair: tuple[Flock, Flock]) -> None:
    here, _ = pair
    news: list[Down] = []
    here["there"]["nobody"].monitor(news.append)
    assert eventually(lambda: news, 5)[0].reason == "there is no such actor"


def test_a_monitor_that_was_cancelled_says_nothing(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    news: list[Down] = []
    second: list[Down] = []
    here["there"]["book"].monitor(news.append).cancel()
    here["there"]["book"].monitor(second.append)
    here["there"]["book"].boom.defer()
    assert eventually(lambda: second, 5)
    assert news == []


def test_what_waits_in_the_inbox_when_it_is_cancelled_is_not_begun(
    pair: tuple[Flock, Flock],
) -> None:
    here, there = pair
    here.supervise(Notebook, name="one")
    there.supervise(Notebook, name="two")
    one = here["here"]["one"]
    one.options(timeout=20).cancel_late(here["there"]["two"], "all cancelled")
    assert one.read() == ["all cancelled"]


def test_a_link_to_who_is_gone_ends_without_an_error(registry_url: str, tmp_path: Path) -> None:
    with node("here", registry_url, tmp_path) as here:
        here.supervise(Survivor, name="survivor")
        with node("there", registry_url, tmp_path) as there:
            there.supervise(Notebook, name="book")
            book = here["there"]["book"]
            here["here"]["survivor"].tie(book)
        eventually(lambda: "there" not in here, 10)
        here["here"]["survivor"].untie(book)


def test_an_actor_may_call_others_as_its_node_leaves(registry_url: str, tmp_path: Path) -> None:
    with node("here", registry_url, tmp_path) as here:
        here.supervise(Notebook, name="heir")
        heir = here["here"]["heir"]
        heir.listen("ends")
        with node("there", registry_url, tmp_path) as there:
            there.supervise(Farewell, there["here"]["heir"], name="farewell")
        expected = ["called", ["there", "published"]]
        assert eventually(heir.read, 5, becomes=expected) == expected
        assert here.globals["will"] == "there"
        with pytest.raises(UsageError, match="closed"):
            there["here"]


def test_the_stack_shows_what_an_actor_does_of_its_own_will(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    _meetings["own will"] = threading.Barrier(2)
    here["there"]["book"].hold_later("own will")

    def row() -> dict[str, Any]:
        return next(each for each in here["there"].stack() if each["name"] == "book")

    busy = eventually(row, 5, until=lambda each: each["busy_with"] == "hold")
    assert busy["busy_with"] == "hold" and busy["busy_for"] > 0
    assert "wait_for_both" in "".join(busy["stack"])
    wait_for_both("own will")
    assert eventually(row, 5, until=lambda each: each["busy_with"] is None)["busy_for"] == 0


def test_an_actor_that_is_not_there_cannot_be_linked(pair: tuple[Flock, Flock]) -> None:
    here, _ = pair
    here.supervise(Notebook, name="one")
    with pytest.raises(ActorNotFound, match="no actor 'nobody' at there"):
        here["here"]["one"].tie(here["there"]["nobody"])
    assert here["here"]["one"].read() == []


def test_a_subscriber_that_was_taken_for_dead_hears_again(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    there["there"]["book"].listen("news")
    here.registry.delete("topics/news/there")  # as a publisher does while it is not listed
    assert here.publish("news", "unheard") == 0
    there.node._on_session(SessionState.CONNECTED)
    assert eventually(lambda: here.publish("news", "heard"), 5, becomes=1) == 1
    assert eventually(there["there"]["book"].read, 5)[0] == ["here", "heard"]


def test_what_is_published_is_each_subscribers_own(pair: tuple[Flock, Flock]) -> None:
    here, _ = pair
    heard: list[Any] = []

    def change(_: str, value: Any) -> None:
        value["numbers"].append(2)
        heard.append(value)

    for _ in range(2):
        here.subscribe("news", change)
    news = {"numbers": [1], "pair": (1, 2)}
    here.publish("news", news)
    assert eventually(lambda: len(heard), 5, becomes=2) == 2
    assert heard == [{"numbers": [1, 2], "pair": [1, 2]}] * 2
    assert news == {"numbers": [1], "pair": (1, 2)}


def test_a_topic_is_any_text(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    book = there["there"]["book"]
    topics = ["", "/", "a//b", "a", "a/there", "..", "50%", "ü" * 200]
    for topic in topics:
        book.listen(topic)
    for topic in topics:
        assert here.publish(topic, topic) == 1
    expected = [["here", topic] for topic in topics]
    assert eventually(book.read, 5, becomes=expected) == expected
    for odd in (5, None, b"news"):
        with pytest.raises(UsageError, match="a topic is text"):
            here.publish(odd, 1)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(UsageError, match="a topic is text"):
            here.subscribe(odd, print)  # type: ignore[arg-type]


def test_an_actor_keeps_nothing_of_monitors_and_timers_that_are_over(
    pair: tuple[Flock, Flock],
) -> None:
    here, _ = pair
    here.supervise(Notebook, name="book")
    [instance] = here.node.supervisor.instances("book")
    actor: Any = instance.actor
    for number in range(1, 11):
        for _ in range(25):
            actor.after(60.0, actor.add, 1, 1).cancel()
            actor.monitor(here["there"]["nobody"], actor.saw)
        assert eventually(lambda: len(actor.notes), 10, becomes=25 * number) == 25 * number
    assert len(actor._belongings) < 150


def test_a_node_that_leaves_is_told_to_who_monitors_it(registry_url: str, tmp_path: Path) -> None:
    with node("here", registry_url, tmp_path) as here:
        here.supervise(Notebook, name="book")
        there = node("there", registry_url, tmp_path).start()
        here["here"]["book"].watch(here["there"])
        assert here["there"].ping(5)
        there.close()
        assert eventually(here["here"]["book"].read, 5) == [["there", "", False, "it left: closed"]]


def test_a_killed_node_is_told_to_who_monitors_its_actor(registry_url: str, tmp_path: Path) -> None:
    process = node_process("victim", registry_url, tmp_path)
    with node("here", registry_url, tmp_path) as here:
        news: list[Down] = []
        here["victim"]["book"].monitor(news.append)
        assert here["victim"]["book"].add(1, 1) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert eventually(lambda: news, 5)[0].crashed
    close(process)


def test_a_monitor_outlives_a_break_of_the_way_back_alone(
    registry_url: str, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    proxy = Proxy(address)
    here = Flock(
        registry=registry_url, listen=f"tcp://{address}", advertise=f"tcp://{proxy.address}"
    )
    with here, node("there", registry_url, tmp_path) as there:
        there.supervise(Notebook, name="book")
        book = here["there"]["book"]
        news: list[Down] = []
        book.monitor(news.append)
        assert book.add(1, 1) == 2
        [to_us] = there.node._peers.all()
        broken = to_us.lane
        proxy.shut()
        proxy.reopen()
        assert eventually(lambda: to_us.lane not in (None, broken), 20)
        assert news == []

        book.boom.defer()
        told = [Down("there", "book", "ValueError: told to", True)]
        assert eventually(lambda: news, 5) == told
    proxy.close()


def test_linked_actors_crash_together_and_one_that_traps_exits_is_told(
    pair: tuple[Flock, Flock],
) -> None:
    here, there = pair
    here.supervise(Notebook, name="mortal")
    here.supervise(Survivor, name="survivor")
    there.supervise(Notebook, name="book")
    mortal, survivor, book = here["here"]["mortal"], here["here"]["survivor"], here["there"]["book"]
    mortal.tie(book)
    survivor.tie(book)
    mortal.note("mine")
    book.boom.defer()

    assert eventually(survivor.read, 5) == [["exit", "book", True]]
    assert eventually(mortal.read, 5, becomes=[], ignoring=ActorDead) == []


def test_a_link_works_both_ways_until_it_is_ended(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    here.supervise(Notebook, name="one")
    there.supervise(Notebook, name="two")
    one, two = here["here"]["one"], here["there"]["two"]
    one.tie(two)
    two.note("before")
    eventually(lambda: links_of(there, "two"), 5)
    one.boom.defer()
    assert eventually(two.read, 5, becomes=[], ignoring=ActorDead) == []

    assert eventually(lambda: one.tie(two) is None, 5, ignoring=ActorDead)
    eventually(lambda: links_of(there, "two"), 5)
    one.untie(two)
    eventually(lambda: not links_of(there, "two"), 5)
    two.note("still here")
    one.boom.defer()
    assert eventually(lambda: one.read() == [], 5, ignoring=ActorDead)
    assert two.read() == ["still here"]


def test_an_actor_of_a_visitor_is_called_and_linked_by_its_handle(
    registry_url: str, pair: tuple[Flock, Flock]
) -> None:
    here, there = pair
    there.supervise(Survivor, name="survivor")
    there.supervise(Notebook, name="book")
    here["there"]["book"].note("still the first")
    with Flock(registry=registry_url) as visitor:
        visitor.supervise(Notebook, name="guest")
        guest = visitor.me_or_visitor()["guest"]
        guest.tie(visitor["there"]["survivor"])
        guest.tie(visitor["there"]["book"])
        assert here["there"]["book"].call_other(guest, 20) == 21
    told = [["exit", "guest", False]]
    assert eventually(here["there"]["survivor"].read, 5, becomes=told) == told
    assert here["there"]["book"].read() == ["still the first"]


def test_what_is_no_actor_is_refused_as_a_link_and_harms_nobody(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    book = here["there"]["book"]
    book.note("still the first")
    peer, options = here.peer("there"), CallOptions()
    for odd in (5, None, here["here"]):
        with pytest.raises(BadArguments, match="only actors"):
            here.calls.call(peer, "", "link", ("book", odd), {}, options)
    assert book.read() == ["still the first"]


def test_a_link_to_who_is_gone_already_is_told_as_his_end(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Survivor, name="survivor")
    late = ActorProxy(here, "nobody-of-that-name", "guest", CallOptions())
    peer, options = here.peer("there"), CallOptions()
    assert here.calls.call(peer, "", "link", ("survivor", late), {}, options)
    told = [["exit", "guest", True]]
    assert eventually(here["there"]["survivor"].read, 5, becomes=told) == told


def test_there_is_no_half_of_a_link(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Plain, name="plain")
    here.supervise(Survivor, name="survivor")
    survivor = here["here"]["survivor"]
    with pytest.raises(UsageError, match="cannot be linked"):
        survivor.tie(here["there"]["plain"])
    there.node.supervisor.remove("plain")
    assert here["there"].ping(5)  # news of its end would be here before
    assert survivor.read() == []


def test_only_a_registered_actor_can_link(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    with pytest.raises(UsageError, match=r"only a registered flock\.Actor"):
        here["there"]["book"].link()


def test_one_for_all_starts_all_anew_and_rest_for_one_those_after(embedded_url: str) -> None:
    with Flock(name="here", registry=embedded_url) as here:
        for strategy, expected in (
            ("one_for_all", [[], [], []]),
            ("rest_for_one", ["kept", [], []]),
            ("one_for_one", ["kept", [], "kept"]),
        ):
            group = here.group(strategy)  # type: ignore[arg-type]  # a test's loop
            names = [f"{strategy}-{number}" for number in range(3)]
            for name in names:
                group.supervise(Notebook, name=name)
                here["here"][name].note("kept")
            here["here"][names[1]].boom.defer()

            def notes(names: list[str] = names) -> list[Any]:
                read = [here["here"][name].read() for name in names]
                return [each[0] if each else [] for each in read]

            assert eventually(notes, 10, becomes=expected, ignoring=ActorDead) == expected


def test_a_group_that_crashes_too_often_is_given_up(embedded_url: str) -> None:
    with Flock(name="here", registry=embedded_url) as here:
        group = here.group(max_restarts=1, within=60)
        group.supervise(Notebook, name="book")
        book = here["here"]["book"]
        book.boom.defer()
        assert eventually(book.read, 5, becomes=[], ignoring=ActorDead) == []
        book.boom.defer()

        def state() -> str:
            rows = {row["name"]: row["state"] for row in here["here"].describe_actors()}
            return str(rows["book"])

        assert eventually(state, 10, becomes="given up") == "given up"
        with pytest.raises(ActorDead, match="given up"):
            book.read()


def test_an_actor_that_never_starts_is_given_up_and_its_node_lives_and_says_so(
    embedded_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        node("here", embedded_url, tmp_path) as here,
        node("there", embedded_url, tmp_path) as there,
    ):
        there.supervise(Notebook, name="book")
        there.supervise(Stillborn, name="stillborn")

        def row() -> dict[str, Any]:
            rows = here["there"].describe_actors()
            return next(row for row in rows if row["name"] == "stillborn")

        # Five pauses that double from 0.1: it is over after 3 s.
        assert eventually(lambda: row()["state"], within=15, becomes="given up") == "given up"
        assert row()["error"] == "RuntimeError: not today"
        with pytest.raises(ActorDead, match="given up") as caught:
            here["there"]["stillborn"].who()
        assert caught.value.may_have_run is False
        assert "'stillborn'" in caplog.text
        assert "given up" in caplog.text
        assert here["there"]["book"].read() == []


def test_a_pool_spreads_calls_over_its_actors(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.pool(Notebook, 2, name="crew")
    crew = here["there"]["crew"]
    # Each call holds its worker until the other is there, too.
    held = [crew.hold.future("pool") for _ in range(2)]
    assert len({each.get(timeout=10) for each in held}) == 2
    listed = there.registry.presence
    assert eventually(lambda: "crew" in (found.actors if (found := listed("there")) else ()), 5)
    there.node.supervisor.remove("crew")
    assert "crew" not in here["there"].actors()


def test_a_batch_is_one_message_and_each_call_has_its_own_end(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    batch = here["there"]["book"].batch()
    for number in range(1000):
        batch.add(number, 1)
    batch.boom()
    batch.add(1)
    batch.nothing_like_it()
    results = batch()

    assert list(results[:1000]) == list(range(1, 1001))
    assert isinstance(results.error(1000), ValueError)
    assert isinstance(results.error(1001), BadArguments)
    assert sorted(results.errors()) == [1000, 1001, 1002]
    with pytest.raises(ValueError, match="told to"):
        results[1000]


def test_what_cannot_travel_of_a_batch_leaves_the_others_their_answers(
    pair: tuple[Flock, Flock],
) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    batch = here["there"]["book"].batch()
    batch.add(1, 1)
    batch.give_no_value()
    batch.fail_with_a_number_too_large()
    batch.add(2, 2)
    results = batch()

    assert [results[0], results[3]] == [2, 4]
    assert list(map(type, results.errors().values())) == [ReplyTooLarge, ValueError]
    no_value = results.error(1)
    assert isinstance(no_value, ReplyTooLarge)
    assert no_value.may_have_run is True
    assert "the value is a object" in str(no_value)
    assert str(2**70) in str(results.error(2))


def test_an_error_of_a_batch_comes_out_of_its_future(pair: tuple[Flock, Flock]) -> None:
    here, _ = pair
    batch = ActorProxy(here, "nobody", "book", CallOptions()).batch()
    batch.add(1, 1)
    failed = batch.future()
    with pytest.raises(NodeNotFound):
        failed.get(timeout=5)
    batch = here["there"]["book"].batch()
    batch.add(1, object())
    with pytest.raises(EncodeError, match="object"):
        _ = batch.future()


@pytest.mark.parametrize("answer", [None, 7, "ab", [], [[1], [2], [3]]])
def test_an_answer_that_is_none_to_a_batch_is_an_error(answer: Any) -> None:
    sent: Future[Any] = Future()
    batch = Batch(lambda _: sent)
    batch.add(1, 1)
    batch.add(2, 2)
    results = batch.future()
    sent.set(answer)
    with pytest.raises(CallError, match="none to these calls"):
        results.get(timeout=5)


def test_two_chains_of_calls_that_cross_are_named(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    here.supervise(Notebook, name="one")
    there.supervise(Notebook, name="two")
    one, two = here["here"]["one"], here["there"]["two"]
    first = one.call_after_meeting.future(two, "cross")
    second = two.call_after_meeting.future(there["here"]["one"], "cross")

    ends = [outcome(first), outcome(second)]

    assert any(isinstance(end, DeadlockError) for end in ends)
    circle = next(end for end in ends if isinstance(end, DeadlockError))
    assert "here/one" in str(circle)
    assert "there/two" in str(circle)
    # One gave way, so the other got its answer.
    assert 2 in ends or all(isinstance(end, DeadlockError) for end in ends)


def test_a_circle_over_any_number_of_nodes_is_refused_at_once_and_named(
    embedded_url: str, tmp_path: Path
) -> None:
    names = ["n1", "n2", "n3", "n4"]
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(node(name, embedded_url, tmp_path)) for name in names]
        for each in nodes:
            each.supervise(Notebook, name="a")
        proxies = [nodes[0][name]["a"] for name in names]

        began = time.monotonic()
        with pytest.raises(DeadlockError) as caught:
            proxies[0].call_along([*proxies[1:], proxies[0]])
        assert time.monotonic() - began < 5.0
        assert "n1/a -> n2/a -> n3/a -> n4/a -> n1/a" in str(caught.value)
        # Without the circle the same way is no deadlock.
        assert proxies[0].call_along(proxies[1:]) == "the end"


def test_a_pool_is_part_of_a_circle_once_every_worker_waits(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.pool(Notebook, 2, name="crew")
    crew = here["there"]["crew"]

    assert crew.call_along([crew]) == "the end"  # one waits, the other is free
    began = time.monotonic()
    with pytest.raises(DeadlockError) as caught:
        crew.call_along([crew, crew])
    assert time.monotonic() - began < 5.0
    assert "there/crew" in str(caught.value)
    assert crew.call_along([crew]) == "the end"


def test_a_free_worker_of_a_pool_does_not_hide_a_circle(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    here.supervise(Notebook, name="one")
    here.pool(Notebook, 2, name="pool")
    there.supervise(Notebook, name="two")
    one, pool, two = here["here"]["one"], here["here"]["pool"], here["there"]["two"]
    # one -> a worker of the pool -> two -> one, while the other worker does nothing.
    began = time.monotonic()
    futures = [
        one.options(timeout=20).have_called_after_meeting.future(pool, two, "free worker"),
        two.options(timeout=20).call_after_meeting.future(one, "free worker"),
    ]
    ends = [outcome(future) for future in futures]
    assert time.monotonic() - began < 10
    [refused] = [end for end in ends if isinstance(end, DeadlockError)]
    assert set(refused.chain) == {"here/one", "here/pool/1", "there/two"}
    assert [end for end in ends if end is not refused] == [2]


def test_three_chains_of_calls_that_cross_are_named(embedded_url: str, tmp_path: Path) -> None:
    names = ["n1", "n2", "n3"]
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(node(name, embedded_url, tmp_path)) for name in names]
        for each in nodes:
            each.supervise(Notebook, name="a")
        proxies = [nodes[0][name]["a"] for name in names]
        _meetings["three"] = threading.Barrier(3)
        futures = [
            proxy.call_after_meeting.future(proxies[(number + 1) % 3], "three")
            for number, proxy in enumerate(proxies)
        ]
        ends = [outcome(future) for future in futures]

        circles = [end for end in ends if isinstance(end, DeadlockError)]
        assert circles
        for name in names:
            assert f"{name}/a" in str(circles[0])
        # One gave way, so those who waited for it got their answers.
        assert 2 in ends or len(circles) == 3


def test_nobody_ends_a_wait_by_making_up_a_circle(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    here.supervise(Notebook, name="holder")
    there.supervise(Notebook, name="waiter")
    asked = here["there"]["waiter"].ask_to_hold.future(here["here"]["holder"], "made up")
    [waiter] = there.node.supervisor.instances("waiter")
    assert eventually(lambda: waiter.waiting_for, within=5.0)
    peer, codec = here.node.peer("there"), Codec()
    # Numbers of calls grow by one: whoever is called can guess those of others.
    for number in range(1, waiter.waiting_for + 50):
        forged = (PROBE, 1, "waiter", [["there", "waiter", number]])
        peer.send(codec.encode(forged), urgent=True)
    peer.send(codec.encode((PROBE, 1, "waiter", ["rubbish", 7, [[]]])), urgent=True)

    assert here["there"].ping(timeout=5.0)  # all of it was read
    assert not asked.is_ready()
    wait_for_both("made up")
    assert isinstance(asked.get(timeout=5), str)


def links_of(fleet: Flock, name: str) -> dict[Any, Any]:
    """Return what an actor is linked to."""
    (hosted,) = fleet.node.supervisor.instances(name)
    assert isinstance(hosted.actor, Actor)
    return hosted.actor._links or {}


def outcome(future: Any) -> Any:
    try:
        return future.get(timeout=60)
    except DeadlockError as error:
        return error


def test_the_stack_says_what_each_actor_is_doing(pair: tuple[Flock, Flock]) -> None:
    here, there = pair
    there.supervise(Notebook, name="book")
    held = here["there"]["book"].hold.future("stack")

    def row() -> dict[str, Any]:
        return next(each for each in here["there"].stack() if each["name"] == "book")

    assert eventually(row, 5, until=lambda each: each["busy_with"] == "hold")["called_by"] == "here"
    assert any("wait_for_both" in line for line in row()["stack"])
    wait_for_both("stack")
    held.get(timeout=5)


def node_process(name: str, registry: str, folder: Path) -> subprocess.Popen[str]:
    """Start a node with a notebook in a process of its own; return when it is ready."""
    process = subprocess.Popen(
        [sys.executable, __file__, name, registry, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    process.wait(30)


def serve(name: str, registry: str, folder: Path) -> None:
    with node(name, registry, folder) as fleet:
        fleet.supervise(Notebook, name="book")
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
