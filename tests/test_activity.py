"""What a node is at: runs at once, actions of notices once they take their time."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from flock.activity import Activity


@pytest.fixture
def node():
    node = SimpleNamespace(converges=False, acts=False, written=threading.Semaphore(0))
    node.activity = Activity(lambda: node.converges, lambda: node.acts, node.written.release)

    def act(acts):
        node.acts = acts
        node.activity.action_changed()

    node.act = act
    yield node
    act(False)


def test_a_long_action_is_shown_until_it_is_over(node, monkeypatch):
    monkeypatch.setattr("flock.activity._SHOWN_AFTER", 0.1)
    node.act(True)
    assert node.written.acquire(timeout=30)
    assert node.activity.word() == "acting"
    node.converges = True
    assert node.activity.word() == "converging"
    node.converges = False

    node.act(False)

    assert node.activity.word() == "idle"
    assert node.written.acquire(blocking=False)


def test_short_actions_are_not_written_down(node, monkeypatch):
    monkeypatch.setattr("flock.activity._SHOWN_AFTER", 60.0)
    for _ in range(3):
        node.act(True)
        assert node.activity.word() == "idle"
        node.act(False)
    monkeypatch.setattr("flock.activity._SHOWN_AFTER", 0.1)
    node.act(True)
    assert node.written.acquire(timeout=30)
    assert not node.written.acquire(blocking=False)
