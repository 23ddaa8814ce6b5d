"""What a process keeps of what is published to it, without any network."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

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
