"""The table of monitors, without any network."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from flock.messages import DOWN, WATCH
from flock.monitors import Down, Monitors
from flock.wire import Codec, frame_of

codec = Codec()


class Peer:
    """Keeps what it is sent."""

    title = "there"
    generation = "g"

    state = "connected"

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.serving: set[int] = set()
        self.watched: set[int] = set()

    def send(self, message: bytes, urgent: bool) -> None:
        assert urgent
        self.sent += codec.decode(frame_of([message], 0))[1]


def test_monitors_on_one_actor_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flock.monitors.MAX_WATCHERS", 3)
    monitors = Monitors(codec, lambda _: None, count(1).__next__)
    peer = Peer()
    for number in range(5):
        monitors.heard_watch(peer, number, "actor")

    too_many = "it has 3 monitors already"
    assert peer.sent == [[DOWN, 3, too_many, True], [DOWN, 4, too_many, True]]
    monitors.actor_over("actor", "it ended", crashed=False)
    assert [message[1] for message in peer.sent[2:]] == [0, 1, 2]


def test_who_comes_while_an_actor_ends_leaves_the_others_their_reason() -> None:
    runs, numbers = True, count(1).__next__
    monitors = Monitors(codec, lambda _: None if runs else ("it was stopped", False), numbers)
    peer = Peer()
    monitors.heard_watch(peer, 1, "actor")
    runs = False
    monitors.heard_watch(peer, 2, "actor")
    assert peer.sent == [[DOWN, 2, "it was stopped", False]]
    monitors.actor_over("actor", "ValueError: told to", crashed=True)
    assert peer.sent[1:] == [[DOWN, 1, "ValueError: told to", True]]


def test_news_that_went_down_with_the_way_back_is_told_as_its_end() -> None:
    there, us = Monitors(codec, lambda _: None, count(1).__next__), Peer()
    here, them = Monitors(codec, lambda _: None, count(1).__next__), Peer()
    news: list[Down] = []
    here.watch(them, "held", news.append)
    lost = here.watch(them, "ended", news.append)
    here.watch(them, "", news.append)  # the node's own end they cannot forget
    assert [message[0] for message in them.sent] == [WATCH] * 3
    for _, number, actor in them.sent:
        there.heard_watch(us, number, actor)
    there.actor_over("ended", "it ended", crashed=False)  # and nobody here hears of it

    asked = here.lane_replaced(them)
    assert asked == [1, lost.number]
    [missing] = [number for number in asked if number not in us.serving]
    assert here.heard_lost(them, missing, "it went down")
    assert not here.heard_lost(them, missing, "it went down")
    assert news == [Down("there", "ended", "it went down", True)]


def test_what_a_peer_watched_is_kept_until_it_has_a_new_lane() -> None:
    monitors, peer = Monitors(codec, lambda _: None, count(1).__next__), Peer()
    monitors.heard_watch(peer, 1, "actor")
    peer.state = "partitioned"
    monitors.peer_over(peer, "the connection broke", crashed=True)
    assert peer.serving == {1}
    monitors.lane_replaced(peer)
    assert peer.serving == set()
    monitors.heard_watch(peer, 2, "actor")
    monitors.actor_over("actor", "it ended", crashed=False)
    assert peer.sent == [[DOWN, 2, "it ended", False]]
    assert peer.serving == set()
