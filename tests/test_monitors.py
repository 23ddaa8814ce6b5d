"""The table of monitors, without any network."""

from __future__ import annotations

from typing import Any

import pytest

from flock.messages import DOWN
from flock.monitors import Monitors
from flock.wire import Codec, frame_of

codec = Codec()


class Peer:
    """Keeps what it is sent."""

    title = "there"
    generation = "g"

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []

    def send(self, message: bytes, urgent: bool) -> None:
        assert urgent
        self.sent += codec.decode(frame_of([message], 0))[1]


def test_monitors_on_one_actor_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flock.monitors.MAX_WATCHERS", 3)
    monitors = Monitors(codec, lambda _: True)
    peer = Peer()
    for number in range(5):
        monitors.heard_watch(peer, number, "actor")

    too_many = "it has 3 monitors already"
    assert peer.sent == [[DOWN, 3, too_many, True], [DOWN, 4, too_many, True]]
    monitors.actor_over("actor", "it ended", crashed=False)
    assert [message[1] for message in peer.sent[2:]] == [0, 1, 2]


def test_who_comes_while_an_actor_ends_leaves_the_others_their_reason() -> None:
    runs = True
    monitors = Monitors(codec, lambda _: runs)
    peer = Peer()
    monitors.heard_watch(peer, 1, "actor")
    runs = False
    monitors.heard_watch(peer, 2, "actor")
    assert peer.sent == [[DOWN, 2, "there is no such actor", True]]
    monitors.actor_over("actor", "ValueError: told to", crashed=True)
    assert peer.sent[1:] == [[DOWN, 1, "ValueError: told to", True]]
