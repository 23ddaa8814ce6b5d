"""A node's entry in the directory while the registry is away."""

from __future__ import annotations

import logging
import time

import pytest

from flock import announcer
from flock.announcer import Announcer
from flock.errors import RegistryUnavailable
from tests.support import eventually
from tests.system.registry_process import presence_record


class Away:
    """A registry that counts who asks it, and answers nobody until it is back."""

    def __init__(self):
        self.tries = 0
        self.is_back = False

    def announce(self, record, **_):
        self.tries += 1
        if not self.is_back:
            raise RegistryUnavailable("zookeeper://zk1/flock", "no connection to any server")

    def was_tried(self, times):
        return lambda: self.tries >= times


@pytest.fixture
def registry():
    return Away()


def test_many_changes_during_an_outage_are_tried_again_as_one(registry, monkeypatch, caplog):
    monkeypatch.setattr(announcer, "_TRY_AGAIN", 0.1)
    caplog.set_level(logging.INFO)
    registry.is_back = True
    entry = Announcer(registry, lambda: presence_record("bender0"), lambda _: True, None)
    entry.start()
    entry.announce()
    registry.is_back = False
    for number in range(2, 12):
        entry.changed()
        assert eventually(registry.was_tried(number), within=5)

    before, began = registry.tries, time.monotonic()
    assert eventually(registry.was_tried(before + 3), within=5)
    assert registry.tries - before <= (time.monotonic() - began) / 0.1 + 2
    assert len(caplog.messages) == 1

    registry.is_back = True
    tries = registry.tries
    assert eventually(lambda: registry.tries, within=5, becomes=tries + 1) == tries + 1
    assert entry.close()
