"""Every fault that the doctor names, provoked."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_acl, make_digest_acl

import actors.info
from flock import Flock
from flock.doctor import Finding, clock, examine_node, file_limit, own_key, versions
from flock.extensions import make_registry
from flock.messages import PROTOCOL
from flock.settings import load_settings
from tests.flockctl import Ended, flockctl_on


@pytest.fixture
def fleet(registry_url: str, short_path: Path) -> Iterator[Flock]:
    with Flock("bender0", registry_url, state_dir=short_path / "state") as node:
        yield node


@pytest.fixture
def visitor(registry_url: str, fleet: Flock) -> Iterator[Flock]:
    with Flock(registry=registry_url) as joined:
        yield joined


def wrong(ended: Ended) -> list[dict[str, Any]]:
    return [row for row in ended.value if not row["ok"]]


def finding(findings: Any, part: str) -> Finding:
    found: Finding = next(each for each in findings if part in each.check)
    return found


# --- all is well ---------------------------------------------------------------


def test_all_is_ok_where_nothing_is_wrong(flockctl, fleet):
    ended = flockctl("doctor", "bender0", "--json")
    assert (ended.code, wrong(ended), ended.err) == (0, [], "")
    assert [row["check"] for row in ended.value] == [
        "settings",
        "registry reachable",
        "registry writable",
        "file limit",
        "own key",
        "bender0 listed",
        "bender0 version",
        "open both ways to bender0",
        "bender0 clock",
        "bender0 file limit",
    ]
    assert {tuple(row) for row in ended.value} == {("check", "ok", "found", "mend")}
    shown = flockctl("doctor")
    assert shown.code == 0
    assert [line[:5] for line in shown.out.splitlines()] == ["ok   "] * 5


def test_looking_leaves_nothing_behind(flockctl, registry_url):
    assert flockctl("doctor").code == 0
    registry = make_registry(load_settings({"registry": registry_url}))
    registry.open()
    assert registry.children("doctor") == []
    registry.close()


# --- the registry --------------------------------------------------------------


def test_a_wrong_setting_is_named_with_its_place(tmp_path):
    with flockctl_on(f"embedded:{tmp_path}/r", tmp_path) as command:
        ended = command("doctor", "--json", FLOCK_TIMEOUT="soon")
    assert ended.code == 2
    assert [row["check"] for row in ended.value] == ["settings"]
    assert "FLOCK_TIMEOUT" in ended.value[0]["found"]


def test_a_registry_that_is_not_there_is_the_one_thing_said(tmp_path):
    with flockctl_on("zookeeper://127.0.0.1:1/t", tmp_path) as command:
        ended = command("doctor", "bender0", "--json")
    assert ended.code == 5
    assert [row["check"] for row in ended.value] == ["settings", "registry reachable"]
    assert "127.0.0.1:1" in ended.value[1]["found"]
    assert "FLOCK_REGISTRY" in ended.value[1]["mend"]


def test_a_wrong_password_is_told_from_a_registry_that_is_away(zookeeper_hosts, tmp_path):
    root = f"doctor-{time.time_ns()}"
    with Flock(registry=f"zookeeper://fry:right@{zookeeper_hosts}/{root}") as fleet:
        assert list(fleet) == []
    with flockctl_on(f"zookeeper://fry:wrong@{zookeeper_hosts}/{root}", tmp_path) as command:
        ended = command("doctor", "--json")
    assert ended.code == 7
    assert "password" in wrong(ended)[0]["mend"]
    assert "wrong@" not in ended.out


def test_a_registry_that_can_be_read_only_is_not_writable(zookeeper_hosts, tmp_path):
    root = f"doctor-{time.time_ns()}"
    with Flock(registry=f"zookeeper://fry:right@{zookeeper_hosts}/{root}") as fleet:
        fleet.globals["something"] = 1
    client = KazooClient(hosts=zookeeper_hosts, auth_data=[("digest", "fry:right")])
    client.start()
    all_of_ours = make_digest_acl("fry", "right", all=True)

    def set_below(path: str, permissions: list[Any]) -> None:
        for child in client.get_children(path):
            set_below(f"{path}/{child}", permissions)
        client.set_acls(path, permissions)

    try:
        set_below(f"/{root}", [all_of_ours, make_acl("world", "anyone", read=True)])
        with flockctl_on(f"zookeeper://{zookeeper_hosts}/{root}", tmp_path) as command:
            ended = command("doctor", "--json")
        assert ended.code == 7
        (row,) = wrong(ended)
        assert row["check"] in ("registry writable", "registry reachable")
        assert ended.value[-1] == row
        assert row["mend"]
    finally:
        set_below(f"/{root}", OPEN_ACL_UNSAFE)
        client.stop()
        client.close()


# --- this machine --------------------------------------------------------------


@pytest.mark.parametrize("limit", [14, 22, 150])
def test_too_few_files_are_named_with_the_number_that_is_needed(flockctl, limit):
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "flock", "doctor", "--json"],
        env=flockctl.environment,
        cwd=flockctl.folder,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    rows = [row for row in json.loads(done.stdout) if not row["ok"]]
    assert [row["check"] for row in rows][:1] == ["file limit"]
    assert f"{limit} files, 200 are needed" in rows[0]["found"]
    assert "LimitNOFILE=400" in rows[0]["mend"]
    assert done.returncode != 0


def test_an_address_that_is_not_ours_is_named(flockctl):
    ended = flockctl("doctor", "--listen", "tcp://203.0.113.1:*", "--json")
    assert ended.code == 2
    assert wrong(ended)[0]["check"] == "joining"
    assert "--listen" in wrong(ended)[0]["mend"]


def test_an_interface_that_is_not_here_is_named(alone):
    ended = alone("doctor", "--listen", "tcp://nosuch0:5000", "--json")
    (row,) = wrong(ended)
    assert row["found"] == (
        "cannot listen at tcp://nosuch0:5000: this machine has no such address or interface"
    )
    assert row["mend"] == "is --listen an address of this machine, and its port free?"


def test_a_key_that_the_registry_lost_is_named_here_and_on_the_way(visitor):
    assert own_key(visitor).ok
    visitor.registry.forget_key(visitor.node.identity.name)
    here = own_key(visitor)
    assert (here.code, here.ok) == (7, False)
    way = finding(examine_node(visitor, "bender0"), "open both ways")
    assert (way.code, "key" in way.mend) == (7, True)


# --- the way to a node ---------------------------------------------------------


def test_a_node_that_never_was_and_one_that_is_down_are_told_apart(flockctl, fleet):
    never = flockctl("doctor", "bender9", "--json")
    assert (never.code, wrong(never)[0]["found"]) == (3, "nothing is known of it")
    fleet.close()
    down = flockctl("doctor", "bender0", "--json")
    assert down.code == 4
    assert "flockctl node --name bender0" in wrong(down)[0]["mend"]
    assert flockctl("doctor", "two words").code == 2


def test_a_node_that_cannot_be_connected_to_is_named_with_its_address(visitor, fleet):
    presence = dataclasses.replace(fleet.node.presence(), address="tcp://127.0.0.1:1")
    fleet.registry.announce(presence)
    findings = list(examine_node(visitor, "bender0"))
    way = findings[-1]
    assert way.check == "open both ways to bender0"
    assert not way.ok
    assert "tcp://127.0.0.1:1 cannot be connected to" in way.mend
    assert "refused" in way.mend.lower()


def test_a_way_back_that_is_closed_is_told_from_the_way_there(flockctl, fleet):
    ended = flockctl("doctor", "bender0", "--advertise", "tcp://127.0.0.1:1", "--json")
    assert ended.code == 4
    (row,) = wrong(ended)
    assert row["check"] == "open both ways to bender0"
    assert "the way back to tcp://127.0.0.1:1 is not" in row["mend"]


def test_another_version_is_named_and_another_protocol_ends_the_talk(fleet):
    presence = fleet.node.presence()
    assert versions(presence).ok
    other = versions(dataclasses.replace(presence, version="9.9"))
    assert (other.code, "9.9 there" in other.found) == (1, True)
    foreign = versions(dataclasses.replace(presence, protocol=PROTOCOL + 1))
    assert (foreign.code, str(PROTOCOL + 1) in foreign.found) == (4, True)


def test_a_node_of_another_version_is_found_from_its_entry(visitor, fleet):
    fleet.registry.announce(dataclasses.replace(fleet.node.presence(), version="9.9"))
    found = [each for each in examine_node(visitor, "bender0") if not each.ok]
    assert [each.check for each in found] == ["bender0 version"]


def test_a_clock_that_is_wrong_is_named_with_its_difference(visitor, monkeypatch):
    monkeypatch.setattr(actors.info, "_clock", lambda: time.time() - 90)
    found = finding(examine_node(visitor, "bender0"), "clock")
    assert (found.code, found.ok) == (1, False)
    assert "behind ours" in found.found
    assert "NTP" in found.mend


@pytest.mark.parametrize(
    ("there", "is_ok"), [(100.0, True), (103.0, True), (97.9, False), (108.1, False), (105.5, True)]
)
def test_the_time_of_the_question_itself_is_no_difference(there, is_ok):
    assert clock("clock", there, before=100.0, after=106.0).ok is is_ok


def test_a_difference_is_never_said_to_be_none_at_all():
    assert clock("clock", 100.0, before=100.0, after=100.01).found == "differs by 0.1 s at most"


def test_a_node_that_runs_out_of_files_is_named(visitor, monkeypatch):
    monkeypatch.setattr(actors.info, "_files_limit", lambda: 100)
    found = finding(examine_node(visitor, "bender0"), "bender0 file limit")
    assert (found.code, "100 files" in found.found) == (1, True)
    assert "LimitNOFILE" in found.mend


def test_enough_files_are_enough():
    assert file_limit("files", 200, 200, "1 node").ok
    assert not file_limit("files", 199, 200, "1 node").ok
