"""The commands that ask node objects and change them, in real processes."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flock.ctl.names import known_names
from flock.extensions import make_registry
from flock.node_objects import NodeObjects
from flock.notice import queue_of
from flock.settings import load_settings
from flock.subscriptions import FOLDER
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually


@pytest.fixture(scope="module")
def flockctl() -> Iterator[Flockctl]:
    """Give the command where bender0 is up with role web, and bender1 is down."""
    with (
        tempfile.TemporaryDirectory(prefix="flk-") as folder,
        flockctl_on(f"embedded:{folder}/registry", Path(folder)) as command,
    ):
        command.recipe("default", "log('here')")
        command.recipe("more", "file('{here}/more', content='there')")
        roles = command.folder / "roles"
        roles.mkdir()
        (roles / "web.toml").write_text('run_list = ["cb"]\n')
        up = command.start_node("bender0", "--run-list", "role[web]", "--environment", "prod")
        down = command.node("bender1", "--run-list", "cb")
        assert up.says("READY bender0"), up.err
        down.end(signal.SIGTERM)
        yield command


def names(rows: list[dict[str, object]]) -> list[object]:
    return [row["name"] for row in rows]


def test_search_finds_machines_whether_they_are_up_or_not(flockctl):
    ended = flockctl("search", "recipes:cb", "--json")
    assert (ended.code, names(ended.value)) == (0, ["bender0", "bender1"])
    assert ended.value[0] == {
        "name": "bender0",
        "environment": "prod",
        "run_list": ["role[web]"],
        "roles": ["web"],
        "recipes": ["cb::default"],
        "tags": [],
    }
    assert names(flockctl("search", "roles:web AND kernel_name:Linux", "--json").value) == [
        "bender0"
    ]


def test_search_shows_the_attributes_that_were_asked_for(flockctl):
    ended = flockctl("search", "name:bender0", "-a", "kernel.name", "-a", "no.such", "--json")
    assert ended.value[0]["attributes"] == {"kernel.name": "Linux", "no.such": None}
    assert "Linux" in flockctl("search", "name:bender0", "--attribute", "kernel.name").out


def test_a_search_that_finds_nobody_is_an_empty_answer_and_no_error(flockctl):
    ended = flockctl("search", "roles:cache", "--json")
    assert (ended.code, ended.value) == (0, [])
    assert "no node matches" in flockctl("search", "roles:cache").err


def test_what_is_no_query_is_wrong_use_in_one_line(flockctl):
    ended = flockctl("search", "recipes:cb::more")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1


def test_nodes_shows_those_that_a_query_means_and_with_all_those_that_are_down(flockctl):
    assert names(flockctl("nodes", "--json").value) == ["bender0"]
    assert names(flockctl("nodes", "--on", "roles:web", "--json").value) == ["bender0"]
    assert flockctl("nodes", "--on", "NOT roles:web", "--json").value == []
    nobody = flockctl("nodes", "--on", "NOT roles:web")
    assert (nobody.code, nobody.out) == (0, "")
    assert "no node matches 'NOT roles:web'" in nobody.err
    everybody = flockctl("nodes", "--all", "--json").value
    assert [(row["name"], row["state"]) for row in everybody] == [
        ("bender0", "idle"),
        ("bender1", "down"),
    ]
    assert everybody[0].keys() == everybody[1].keys()
    assert everybody[1]["recipes"] == ["cb::default"]
    down = flockctl("nodes", "--all", "--on", "NOT roles:web", "--json")
    assert names(down.value) == ["bender1"]


def test_run_on_a_query_names_every_node_once_and_says_who_is_down(flockctl):
    ended = flockctl("run", "--on", "*:*", "--json")
    assert ended.code == 4
    assert [(row["node"], row["state"]) for row in ended.value] == [
        ("bender0", "ok"),
        ("bender1", "down"),
    ]
    ended = flockctl("run", "--on", "roles:web", "--json")
    assert (ended.code, [row["node"] for row in ended.value]) == (0, ["bender0"])


def test_run_tells_a_node_that_is_down_from_one_that_never_was(flockctl):
    ended = flockctl("run", "bender1", "bender9", "--json")
    assert ended.code == 4
    assert [row["state"] for row in ended.value] == ["down", "not found"]
    assert flockctl("run", "bender9").code == 3


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("run",), 2),
        (("run", "bender0", "--on", "roles:web"), 2),
        (("run", "--on", "roles:cache"), 3),
        (("run", "--on", "roles:"), 2),
        (("nodes", "--on", "roles:"), 2),
        (("run-list", "bender9"), 3),
        (("run-list", "bender9", "add", "cb"), 3),
        (("run-list", "bender1", "add"), 2),
        (("run-list", "bender1", "push", "cb"), 2),
        (("run-list", "bender1", "add", "role[a b]"), 2),
        (("run-list", "bender1", "remove", "cb::none"), 2),
        (("run-list", "two words"), 2),
        (("forget", "bender9"), 3),
        (("forget", "bender0"), 6),
    ],
)
def test_wrong_targets_are_refused_in_one_line(flockctl, words, code):
    ended = flockctl(*words)
    assert (ended.code, ended.out) == (code, "")
    assert len(ended.err.splitlines()) == 1


def test_a_run_list_is_shown_and_changed_and_the_next_run_takes_it_up(flockctl):
    assert flockctl("run-list", "bender0").out == "role[web]\n"
    assert flockctl("run-list", "bender0", "add", "cb::more", "--json").value == [
        "role[web]",
        "cb::more",
    ]
    again = flockctl("run-list", "bender0", "add", "recipe[cb::more]")
    assert (again.code, again.out) == (0, "role[web]\ncb::more\n")
    (row,) = flockctl("run", "bender0", "--json").value
    assert row["report"]["run_list"] == ["role[web]", "cb::more"]
    assert (flockctl.folder / "more").read_text() == "there"
    assert flockctl("run-list", "bender0", "remove", "recipe[cb::more]").out == "role[web]\n"
    assert flockctl("run-list", "bender0", "set", "cb,cb::default", "role[web]").out == (
        "cb\nrole[web]\n"
    )
    assert flockctl("run-list", "bender0", "set", "role[web]").code == 0
    # As the others of this file know it.
    assert flockctl("run", "bender0").code == 0


def test_converge_in_another_state_folder_is_refused_until_the_node_is_forgotten(flockctl):
    cookbooks = str(flockctl.cookbooks)
    words = ("converge", "--name", "moved", "--cookbooks", cookbooks, "--run-list", "cb")
    here = str(flockctl.folder / "here")
    there = str(flockctl.folder / "there")
    assert flockctl(*words, "--state-dir", here).code == 0
    ended = flockctl(*words, "--state-dir", there)
    assert ended.code == 6
    assert here in ended.err
    assert len(ended.err.splitlines()) == 1
    assert flockctl("forget", "moved", "--json").value == {
        "node": "moved",
        "node_object": True,
        "key": False,
        "notices": 0,
        "subscriptions": 0,
    }
    assert flockctl(*words, "--state-dir", there).code == 0
    # The others of this file know two machines.
    assert flockctl("forget", "moved").code == 0


def test_what_waited_for_a_forgotten_node_goes_with_it(flockctl):
    registry = make_registry(load_settings({"registry": flockctl.url}))
    registry.open()
    try:
        registry.append(queue_of("gone"), {"a": "notice"})
        registry.write(f"{FOLDER}/bender0/gone", [])
        registry.write(f"{FOLDER}/bender0/bender1", [])
        ended = flockctl("forget", "gone", "--json")
        assert ended.code == 0
        assert (ended.value["notices"], ended.value["subscriptions"]) == (1, 1)
        assert registry.queue_length(queue_of("gone")) == 0
        assert registry.children(f"{FOLDER}/bender0") == ["bender1"]
    finally:
        registry.close()


def test_a_registry_that_is_away_is_never_an_empty_answer(tmp_path):
    with flockctl_on("zookeeper://127.0.0.1:1/t", tmp_path) as command:
        for words in (("search", "*:*"), ("nodes", "--all"), ("run-list", "bender0")):
            ended = command(*words, "--json")
            assert ended.code == 5
            assert ended.value["error"]["type"] == "RegistryUnavailable"
        assert command("run", "--on", "*:*").code == 5


def test_commands_that_list_nodes_leave_their_names_for_completion(flockctl, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", flockctl.environment["XDG_CACHE_HOME"])
    settings = load_settings({"registry": flockctl.url})
    flockctl("nodes")
    assert {"bender0", "bender1"} <= set(known_names(settings))


def test_a_node_works_through_its_interval_without_a_registry_and_joins_later(
    own_zookeeper, tmp_path
):
    own_zookeeper.servers[0].kill()
    url = f"zookeeper://{own_zookeeper.connection_string}/t"
    with flockctl_on(url, tmp_path) as command:
        command.recipe("default", "node.normal['seen'] = True\nfile('{here}/done', content='x')")
        running = command.start_node("bender0", "--run-list", "cb", "--interval", "1")
        assert eventually((tmp_path / "done").exists, within=40.0), running.err
        own_zookeeper.servers[0].start()
        assert running.says("READY bender0"), running.err
        registry = make_registry(load_settings({"registry": url}))
        registry.open()
        try:
            # What it kept for later is written once it has joined.
            found = eventually(
                lambda: NodeObjects(registry).search("recipes:cb AND seen:true"), within=20.0
            )
            assert [each.name for each in found] == ["bender0"]
        finally:
            registry.close()
        assert running.end(signal.SIGTERM).code == 0
