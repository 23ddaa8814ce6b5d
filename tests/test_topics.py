"""What a process keeps of what is published to it, without any network."""

from __future__ import annotations

import threading
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from flock.errors import NodeDownError, NodeNotFound, RegistryUnavailable
from flock.topic_subscribers import MAX_WAITING, topic_path
from flock.topics import Gap, Topics
from flock.wire import Codec
from tests.support import eventually


def quiet_registry() -> Any:
    return SimpleNamespace(write=lambda *_: None, delete=lambda *_: None, read=lambda _: None)


def test_what_nobody_wants_leaves_no_trace() -> None:
    topics = Topics(quiet_registry(), Codec(), "here", "g", lambda _: None)
    peer = SimpleNamespace(generation="other")
    heard: list[Any] = []
    subscription = topics.subscribers.subscribe("wanted", lambda _, value: heard.append(value))
    tracemalloc.start()
    for number in range(1000):
        topics.subscribers.heard(peer, f"unwanted {number}", number, 1, "there")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 20_000  # of a thousand
    topics.subscribers.heard(peer, "wanted", 1, 1, "there")
    subscription.cancel()
    topics.close()


def test_who_listens_hears_what_is_sent_to_him_alone_until_he_stops() -> None:
    registry = quiet_registry()
    sent: list[Any] = []
    peer = SimpleNamespace(generation="other", send=lambda message, urgent: sent.append(message))
    there = Topics(registry, Codec(), "there", "other", lambda _: peer)
    here = Topics(registry, Codec(), "here", "g", lambda _: None)
    heard: list[Any] = []
    stop = here.subscribers.listen("steps", lambda who, value: heard.append((who, value)))

    tell = there.publisher.teller("here", "steps")
    for step in range(3):
        tell(step)
    for message in sent:
        here.subscribers.heard(peer, *msgpack.unpackb(message)[1:])
    stop()
    here.subscribers.heard(peer, "steps", 3, 4, "there")
    here.close()

    assert heard == [("there", 0), ("there", 1), ("there", 2)]


def test_who_is_gone_is_told_nothing_more() -> None:
    asked: list[str] = []

    def peer_of(name: str) -> Any:
        asked.append(name)
        raise NodeNotFound("no process")

    topics = Topics(SimpleNamespace(), Codec(), "here", "g", peer_of)  # type: ignore[arg-type]
    tell = topics.publisher.teller("gone", "steps")
    tell(1)
    tell(2)
    assert asked == ["gone"]


class Directory:
    """Who subscribed, and who is there."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.here: dict[str, Any] = {}
        self.away = False
        self.changed: Any = None
        self.sent: list[tuple[str, Any]] = []
        self.watched: list[str] = []

    def children(self, path: str) -> list[str]:
        if self.away:
            raise RegistryUnavailable("registry", "away")
        return list(self.names)

    def watch_children(self, path: str, changed: Any) -> Any:
        self.changed = changed
        self.watched.append(path)
        return lambda: self.watched.remove(path)

    def delete(self, path: str) -> None:
        self.names.remove(path.rpartition("/")[2])

    def peer_of(self, name: str) -> Any:
        if self.away:
            raise RegistryUnavailable("registry", "away")
        if name not in self.here:
            raise NodeNotFound(name)
        return SimpleNamespace(send=lambda message, urgent: self.send(name, message))

    def send(self, name: str, message: bytes) -> None:
        if name not in self.here:
            raise NodeDownError(name, may_have_run=False)
        self.sent.append((name, msgpack.unpackb(message)[2]))


def test_a_channel_finds_who_wants_it_prunes_the_dead_and_knows_them_when_they_are_back() -> None:
    there = Directory()
    topics = Topics(there, Codec(), "here", "g", there.peer_of)  # type: ignore[arg-type]
    publish = topics.publisher.channel("steps")
    publish("nobody hears it")
    there.names, there.here = ["fry", "bender"], {"fry": 1, "bender": 1}
    there.changed()

    def heard(value: str) -> set[str]:
        publish(value)
        return {name for name, said in there.sent if said == value}

    assert eventually(lambda: heard("a"), within=5, becomes={"fry", "bender"}) == {"fry", "bender"}

    del there.here["bender"]
    publish("b")
    assert eventually(lambda: there.names, within=5, becomes=["fry"]) == ["fry"]
    there.names, there.here["bender"] = ["fry", "bender"], 1
    there.changed()

    assert eventually(lambda: heard("c"), within=5, becomes={"fry", "bender"}) == {"fry", "bender"}
    topics.close()


def test_a_channel_asks_no_registry_when_something_is_published() -> None:
    there = Directory()
    there.names, there.here = ["fry"], {"fry": 1}
    topics = Topics(there, Codec(), "here", "g", there.peer_of)  # type: ignore[arg-type]
    publish = topics.publisher.channel("steps")
    publish("a")
    there.children = None  # type: ignore[assignment, method-assign]
    publish("b")
    assert there.sent == [("fry", "a"), ("fry", "b")]
    topics.close()


def test_what_was_missed_is_told_of_each_publisher_though_nobody_publishes_again() -> None:
    topics = Topics(quiet_registry(), Codec(), "here", "g", lambda _: None)
    heard: list[Any] = []
    first, go_on = threading.Event(), threading.Event()

    def slow(publisher: str, value: Any) -> None:
        heard.append((publisher, value))
        first.set()
        go_on.wait(20)

    subscription = topics.subscribers.subscribe("flood", slow)
    topics.subscribers.deliver("flood", "fry", 0)
    assert first.wait(5)
    for _ in range(MAX_WAITING + 3):
        topics.subscribers.deliver("flood", "fry", 1)
    topics.subscribers.deliver("flood", "bender", 2)
    go_on.set()

    expected = [("fry", Gap(3)), ("bender", Gap(1))]
    assert eventually(lambda: heard[1 + MAX_WAITING :], 10, becomes=expected) == expected
    subscription.cancel()


def test_who_subscribes_anew_missed_nothing_of_what_came_before() -> None:
    topics = Topics(quiet_registry(), Codec(), "here", "g", lambda _: None)
    peer = SimpleNamespace(generation="other")
    heard: list[Any] = []

    def take(_: str, value: Any) -> None:
        heard.append(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flock.topic_subscribers.Subscription.put", lambda _, *told: take(*told))
        subscription = topics.subscribers.subscribe("news", take)
        topics.subscribers.heard(peer, "news", "first", 1, "there")
        subscription.cancel()
        topics.subscribers.heard(peer, "news", "late", 2, "there")
        topics.subscribers.subscribe("news", take)
        topics.subscribers.heard(peer, "news", "anew", 3, "there")
        topics.subscribers.heard(peer, "news", "after a loss", 5, "there")
    topics.close()
    assert heard == ["first", "anew", Gap(1), "after a loss"]


def test_who_subscribes_while_another_one_leaves_is_listed() -> None:
    begun, go_on = threading.Event(), threading.Event()
    listed: set[str] = set()

    def delete(path: str, version: int | None = None) -> None:
        begun.set()
        go_on.wait(10)
        listed.discard(path)

    registry: Any = quiet_registry()
    registry.write, registry.delete = lambda path, _: listed.add(path), delete
    topics = Topics(registry, Codec(), "here", "g", lambda _: None)
    first = topics.subscribers.subscribe("news", lambda *_: None)
    leaving = threading.Thread(target=first.cancel)
    leaving.start()
    assert begun.wait(5)
    coming = threading.Thread(target=topics.subscribers.subscribe, args=("news", lambda *_: None))
    coming.start()
    coming.join(0.1)
    go_on.set()
    leaving.join(5)
    coming.join(5)
    assert listed == {"topics/news/here"}
    topics.close()


class DawdlingCodec(Codec):
    """Lets other threads go first before every second message."""

    def encode(self, message: tuple[Any, ...]) -> bytes:
        if message[3] % 2:
            time.sleep(0.001)
        return super().encode(message)


def test_what_many_threads_publish_leaves_in_the_order_of_its_numbers() -> None:
    there = Directory()
    there.names = ["fry"]
    numbers: list[int] = []
    peer = SimpleNamespace(send=lambda message, urgent: numbers.append(msgpack.unpackb(message)[3]))
    topics = Topics(there, DawdlingCodec(), "here", "g", lambda _: peer)  # type: ignore[arg-type]

    def publish() -> None:
        for number in range(20):
            topics.publisher.publish("news", number)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == list(range(1, 81))
    topics.close()


def test_who_cannot_be_looked_up_in_an_outage_keeps_nobody_else_from_hearing() -> None:
    there = Directory()
    there.names, there.here = ["bender", "fry"], {"fry": 1}
    away = True

    def peer_of(name: str) -> Any:
        if name == "bender" and away:
            raise RegistryUnavailable("registry", "away")
        return SimpleNamespace(
            send=lambda message, urgent: numbers.append((name, msgpack.unpackb(message)[3]))
        )

    numbers: list[tuple[str, int]] = []
    topics = Topics(there, Codec(), "here", "g", peer_of)  # type: ignore[arg-type]
    assert topics.publisher.publish("news", "during") == 1
    away = False
    assert topics.publisher.publish("news", "after") == 2
    # The second number tells him that he missed one.
    assert numbers == [("fry", 1), ("bender", 2), ("fry", 2)]
    topics.close()


def test_of_many_topics_only_those_published_on_last_are_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flock.topic_publisher._MAX_AUDIENCES", 3)
    there = Directory()
    there.names, there.here = ["fry"], {"fry": 1}
    topics = Topics(there, Codec(), "here", "g", there.peer_of)  # type: ignore[arg-type]
    channel = topics.publisher.channel("steps")
    for number in range(10):
        topics.publisher.publish(f"job {number}", number)
        topics.publisher.publish("job 0", "again")
    assert sorted(there.watched) == [
        topic_path(topic) for topic in ("job 0", "job 8", "job 9", "steps")
    ]
    assert topics.publisher.publish("job 1", "still there") == 1
    channel("and this")
    assert there.sent[-2:] == [("fry", "still there"), ("fry", "and this")]
    topics.close()
    assert there.watched == []
