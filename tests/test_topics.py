"""What a process keeps of what is published to it, without any network."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import msgpack

from flock.errors import NodeNotFound
from flock.topics import Topics
from flock.wire import Codec


def test_what_nobody_wants_leaves_no_trace() -> None:
    registry: Any = SimpleNamespace(write=lambda *_: None, delete=lambda *_: None)
    topics = Topics(registry, Codec(), "here", "g", lambda _: None)
    peer = SimpleNamespace(generation="other")
    heard: list[Any] = []
    subscription = topics.subscribe("wanted", lambda _, value: heard.append(value))
    tracemalloc.start()
    for number in range(1000):
        topics.heard(peer, f"unwanted {number}", number, 1, "there")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 10_000
    topics.heard(peer, "wanted", 1, 1, "there")
    subscription.cancel()
    topics.close()


def test_who_listens_hears_what_is_sent_to_him_alone_until_he_stops() -> None:
    registry: Any = SimpleNamespace()
    sent: list[Any] = []
    peer = SimpleNamespace(generation="other", send=lambda message, urgent: sent.append(message))
    there = Topics(registry, Codec(), "there", "other", lambda _: peer)
    here = Topics(registry, Codec(), "here", "g", lambda _: None)
    heard: list[Any] = []
    stop = here.listen("steps", lambda who, value: heard.append((who, value)))

    tell = there.teller("here", "steps")
    for step in range(3):
        tell(step)
    for message in sent:
        here.heard(peer, *msgpack.unpackb(message)[1:])
    stop()
    here.heard(peer, "steps", 3, 4, "there")

    assert heard == [("there", 0), ("there", 1), ("there", 2)]


def test_who_is_gone_is_told_nothing_more() -> None:
    asked: list[str] = []

    def peer_of(name: str) -> Any:
        asked.append(name)
        raise NodeNotFound("no process")

    topics = Topics(SimpleNamespace(), Codec(), "here", "g", peer_of)  # type: ignore[arg-type]
    tell = topics.teller("gone", "steps")
    tell(1)
    tell(2)
    assert asked == ["gone"]
