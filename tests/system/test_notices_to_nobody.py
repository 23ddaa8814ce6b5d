"""A notice to a name that nobody ever had is seen, with how long it waits, and can be dropped."""

from __future__ import annotations

from typing import Any

import pytest

from flock.ctl.notice_queues import drop, queued_rows
from flock.errors import BusyError
from flock.extensions import make_registry
from flock.notice import Notice, queue_of
from flock.settings import load_settings
from tests.support import eventually

SENDER = "file('{here}/fubar', content='x').remote_notifies('run', 'execute[x]', node='bneder1')"


def test_a_notice_to_a_name_that_nobody_had_is_seen_and_dropped_by_hand(flockctl):
    flockctl.recipe("default", SENDER)
    sender = flockctl.node("bender0", "--run-list", "cb")
    assert flockctl("run", "bender0").code == 0
    assert sender.says("a notice waits for bneder1, which was never seen: is the name right?")

    listed = flockctl("notices", "--json")
    (row,) = listed.value
    assert (row["from"], row["to"], row["state"]) == ("bender0", "bneder1", "waiting")
    assert row["error"] == "bneder1 was never seen"
    assert 0 <= row["waited"] < 60
    assert "bneder1 was never seen: is the name right?" in listed.err
    assert f"`flockctl notices bneder1 --drop {row['id']}`" in listed.err
    assert "bneder1 was never seen" in flockctl("notices", "bneder1").out

    dropped = flockctl("notices", "bneder1", "--drop", row["id"])

    assert (dropped.code, dropped.out) == (0, "")
    assert dropped.err == f"{row['id']} is dropped: run execute[x], from bender0\n"
    assert flockctl("notices", "--json").value == []

    def dead():
        return flockctl("notices", "bender0", "--dead", "--json").value

    (told,) = eventually(dead, within=10.0)
    assert (told["id"], told["waited"]) == (row["id"], None)
    assert told["error"].startswith("dropped by ")
    again = flockctl("notices", "bneder1", "--drop", row["id"])
    assert (again.code, again.out) == (2, "")
    assert f"no notice '{row['id']}' waits for bneder1 in the registry" in again.err


def test_only_what_waits_for_a_node_that_is_not_up_is_dropped(alone):
    node = alone.node("bender0")
    refused = alone("notices", "bender0", "--drop", "5")
    assert refused.code == 6
    assert refused.err == "flockctl: bender0 is up and deals with its notices itself\n"
    assert alone("notices", "--drop", "5").code == 2
    assert alone("notices", "bender0", "--drop", "5", "--retry", "5").code == 2

    node.close()
    sent = [alone("notify", "bender0", "execute[x]", "run", "--json").value for _ in range(2)]
    listed = alone("notices", "bender0", "--json")
    assert [row["error"] for row in listed.value] == [None, None]
    assert "bender0 is down: only its queue in the registry is seen" in listed.err
    assert alone("notices", "bender0", "--drop", sent[0]["id"]).code == 0
    assert [row["id"] for row in alone("notices", "--json").value] == [sent[1]["id"]]


def test_a_run_of_converge_says_that_its_notice_waits_for_a_stranger(alone):
    alone.recipe("default", SENDER)
    words = ("--name", "fry", "--cookbooks", str(alone.cookbooks), "--run-list", "cb")
    ended = alone("converge", *words)
    assert ended.code == 0
    assert "a notice waits for bneder1, which was never seen" in ended.err


class ComesUp:
    """A registry in which a node comes up right after the first look for it."""

    def __init__(self, registry):
        self._registry = registry
        self._looks = 0

    def presence(self, name):
        self._looks += 1
        return self if self._looks > 1 else None

    def __getattr__(self, name):
        return getattr(self._registry, name)


def test_a_notice_is_not_lost_that_is_dropped_as_its_node_comes_up(registry_url):
    registry = make_registry(load_settings({"registry": registry_url}))
    registry.open()
    try:
        notice = Notice("n1", "bender0", "bender1", "execute[x]", "run", journal="j", number=1)
        registry.append(queue_of("bender1"), notice.as_data(), dedup_id="notice n1 1")

        for _ in range(2):
            up: Any = ComesUp(registry)
            with pytest.raises(BusyError, match="came up just now and deals with it itself"):
                drop(up, "bender1", "n1", "fry@host")

        assert [row["id"] for row in queued_rows(registry, "bender1")] == ["n1"]
        assert list(registry.entries(queue_of("bender0"))) == []
    finally:
        registry.close()
