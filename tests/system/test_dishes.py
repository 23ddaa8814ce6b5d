"""Dishes in a real node, on both registries: washed by the node itself, and from afar."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path
from typing import Any

from flock.converge.attributes import with_values
from flock.extensions import make_registry
from flock.journal import Journal
from flock.node_objects import NodeObjects
from flock.object_keeper import ObjectKeeper, home_of
from flock.settings import load_settings
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually

FIELDS = ["name", "recipe", "wash_recipe", "sink", "state", "washed_at"]


def write_cookbooks(command: Flockctl) -> None:
    """Write a daemon's cookbook with its own dish, and another one that stays."""
    recipes = command.cookbooks / "app" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "daemon.py").write_text(
        "from flock.recipe import dishes_dish, file\n"
        "dishes_dish('app::daemon', wash_recipe='app::wash')\n"
        f"file('{command.folder}/daemon', content='on')\n"
    )
    (recipes / "wash.py").write_text(
        f"from flock.recipe import execute\nexecute('echo off >> {command.folder}/daemon')\n"
    )
    command.recipe("default", "log('stays')")


def dishes(command: Flockctl) -> list[dict[str, Any]]:
    """Return the rows of bender0."""
    ended = command("dishes", "bender0", "--json")
    assert ended.code == 0, ended.err
    rows: list[dict[str, Any]] = ended.value
    return rows


def start_with_daemon(command: Flockctl, **variables: str) -> Any:
    """Start bender0 and converge it once with the daemon in its run list."""
    write_cookbooks(command)
    node = command.node("bender0", "--run-list", "app::daemon,cb", **variables)
    ended = command("run", "bender0")
    assert ended.code == 0, ended.err
    (row,) = dishes(command)
    assert list(row) == FIELDS
    assert row == {
        "name": "app::daemon",
        "recipe": "app::daemon",
        "wash_recipe": "app::wash",
        "sink": "default",
        "state": "clean",
        "washed_at": None,
    }
    return node


def take_daemon_away(command: Flockctl) -> None:
    """Take the recipe off the run list, and its cookbook off the machine."""
    assert command("run-list", "bender0", "remove", "app::daemon").code == 0
    shutil.rmtree(command.cookbooks / "app")


def test_the_node_washes_by_itself_when_recipe_and_cookbook_are_gone(flockctl):
    node = start_with_daemon(flockctl)
    take_daemon_away(flockctl)

    run = flockctl("run", "bender0", "--json").value[0]["report"]

    assert (run["state"], run["recipes"]) == ("ok", ["cb::default"])
    assert eventually(lambda: dishes(flockctl)[0]["state"] == "washed", within=30.0), node.err
    washed_at = dishes(flockctl)[0]["washed_at"]
    # It is washed before that run has come to its end.
    heads = eventually(
        lambda: flockctl("runs", "bender0", "--json").value,
        within=30.0,
        until=lambda heads: heads[0]["state"] == "ok",
    )
    assert heads[0]["asked_by"] == f"sink after run {run['run_id']}"
    report = flockctl("runs", "bender0", heads[0]["run_id"], "--json").value
    assert (report["state"], report["recipes"]) == ("ok", ["app::wash"])
    assert [row["resource"].partition("[")[0] for row in report["resources"]] == [
        "dishes_sink",
        "execute",
        "dishes_dish",
    ]
    again = flockctl("wash", "bender0", "--json").value
    assert [row["state"] for row in again["resources"]] == ["unchanged"]
    assert (flockctl.folder / "daemon").read_text() == "onoff\n"
    # The node object knows, whether the node is up or not.
    assert node.end(signal.SIGTERM).code == 0
    (row,) = flockctl("dishes", "--on", "name:bender0", "--json").value
    assert (row["node"], row["state"], row["washed_at"]) == ("bender0", "washed", washed_at)
    assert "washed" in flockctl("dishes", "bender0").out


def test_an_override_run_list_is_for_one_run_and_cleans_nothing_up(alone):
    write_cookbooks(alone)
    alone.recipe("sink", "from flock.recipe import dishes_sink\ndishes_sink('default')\n")
    fry = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks))
    assert alone(*fry, "--run-list", "app::daemon,cb::sink").code == 0

    for items in ("cb::sink", "cb,cb::sink"):
        report = alone(*fry, "--override-run-list", items, "--json").value
        assert (report["state"], report["run_list"]) == ("ok", items.split(","))
        sink = report["resources"][-1]
        assert sink["state"] == "skipped"
        assert sink["error"].startswith("an override run list says nothing")
    # A run list beside it is what the machine is not either.
    assert alone(*fry, "--run-list", "cb", "--override-run-list", "cb::sink").code == 0
    assert (alone.folder / "daemon").read_text() == "on"
    assert alone("run-list", "fry", "--json").value == ["app::daemon", "cb::sink"]

    report = alone(*fry, "--json").value
    assert report["run_list"] == ["app::daemon", "cb::sink"]
    assert {row["state"] for row in report["resources"]} == {"unchanged"}


def test_without_auto_wash_dishes_stay_dirty_until_somebody_washes_them(flockctl):
    node = start_with_daemon(flockctl, FLOCK_AUTO_WASH="false")
    take_daemon_away(flockctl)
    assert flockctl("run", "bender0").code == 0
    assert dishes(flockctl)[0]["state"] == "dirty"
    assert len(flockctl("runs", "bender0", "--json").value) == 2

    assert "wash app::daemon: include app::wash" in flockctl("wash", "bender0", "--why-run").out
    assert dishes(flockctl)[0]["state"] == "dirty"
    other = flockctl("wash", "bender0", "other")
    assert (other.code, other.out) == (0, "")
    assert "bender0: no dish is in sink 'other'; its sinks are: default" in other.err
    ended = flockctl("wash", "bender0")

    assert ended.code == 0, ended.err
    assert "washed app::daemon by app::wash" in ended.out
    assert dishes(flockctl)[0]["state"] == "washed"
    assert (flockctl.folder / "daemon").read_text() == "onoff\n"
    assert node.end(signal.SIGTERM).code == 0


SLOW = "touch {here}/at_it; while [ ! -e {here}/go ]; do sleep 0.05; done"


def write_slow_recipe(command: Flockctl, name: str, text: str) -> None:
    """Write `cb::NAME`, which then waits until the file `go` is there."""
    words = "from flock.recipe import dishes_dish\n"
    command.recipe(name, f"{words}{text}\nexecute('{SLOW}')")


def at_it(command: Flockctl) -> bool:
    """Wait until a slow recipe waits."""
    return bool(eventually((command.folder / "at_it").exists, within=30.0))


def test_a_record_stands_in_the_registry_at_once_and_outlives_a_kill_in_the_run(flockctl):
    write_cookbooks(flockctl)
    write_slow_recipe(flockctl, "dish", "dishes_dish('app::daemon', wash_recipe='app::wash')")
    node = flockctl.node("bender0", "--run-list", "cb::dish,app::daemon")
    assert flockctl("run", "bender0", "--no-wait").code == 0
    assert at_it(flockctl)

    assert [row["name"] for row in dishes(flockctl)] == ["app::daemon"]
    node.process.kill()
    node.ended()
    shutil.rmtree(flockctl.cookbooks / "app")
    again = flockctl.node("bender0", "--run-list", "cb")
    assert flockctl("run", "bender0").code == 0

    assert eventually(lambda: dishes(flockctl)[0]["state"] == "washed", within=30.0), again.err
    assert (flockctl.folder / "daemon").read_text() == "off\n"


def test_what_could_not_be_washed_after_its_run_is_washed_after_the_next_one(flockctl):
    node = start_with_daemon(flockctl)
    take_daemon_away(flockctl)
    write_slow_recipe(flockctl, "default", "")
    write_slow_recipe(flockctl, "other", "")
    override = ("run_chef", 'override_run_list=["cb::other"]', "wait=true", "--json")
    assert flockctl("run", "bender0", "--no-wait").code == 0
    assert at_it(flockctl)
    queued = flockctl.start("call", "bender0", "flock_api", *override)
    status = ("call", "bender0", "flock_api", "status", "--json")
    assert eventually(lambda: flockctl(*status).value["queued"], within=30.0)

    (flockctl.folder / "go").touch()

    assert queued.ended().value["state"] == "ok"
    assert eventually(lambda: dishes(flockctl)[0]["state"] == "washed", within=30.0), node.err


def test_dishes_are_used_and_washed_during_an_outage_and_the_registry_hears_of_it(
    embedded_url, tmp_path
):
    folder = Path(embedded_url.removeprefix("embedded:"))
    with flockctl_on(embedded_url, tmp_path) as command:
        write_cookbooks(command)
        node = command.node("bender0", "--run-list", "cb", "--interval", "1")
        folder.rename(folder.with_name("away"))

        # Its recipe is nowhere: the node washes it at once, from what its journal knows.
        word = "from flock.recipe import dishes_dish\n"
        command.recipe("default", f"{word}dishes_dish('late', wash_recipe='app::wash')")

        assert eventually((tmp_path / "daemon").exists, within=30.0), node.err
        folder.with_name("away").rename(folder)
        assert eventually(
            lambda: [(row["name"], row["state"]) for row in dishes(command)],
            within=30.0,
            becomes=[("late::default", "washed")],
            pause=0.5,
        ) == [("late::default", "washed")], node.err
        assert node.end(signal.SIGTERM).code == 0
        assert (tmp_path / "daemon").read_text() == "off\n"


def test_wrong_use_and_who_is_not_there_are_told_apart(flockctl):
    assert flockctl("dishes").code == 2
    assert flockctl("dishes", "bender0", "--on", "name:bender0").code == 2
    assert flockctl("dishes", "bender0").code == 3
    assert flockctl("wash", "bender0").code == 3
    flockctl.recipe("default", "log('no dishes')")
    flockctl.node("bender0", "--run-list", "cb")
    none = flockctl("dishes", "bender0", "--json")
    assert (none.code, none.out) == (0, "[]\n")


def test_a_wash_that_failed_is_told_with_the_reason_and_the_mend_and_tried_again(flockctl):
    node = start_with_daemon(flockctl)
    wash = flockctl.cookbooks / "app" / "recipes" / "wash.py"
    good = wash.read_text()
    wash.write_text("from flock.recipe import execute\nexecute('exit 3')\n")
    assert flockctl("run-list", "bender0", "remove", "app::daemon").code == 0

    assert flockctl("run", "bender0").code == 0, "the run itself is good"

    assert eventually(lambda: dishes(flockctl)[0]["state"] == "wash failed", within=30.0), node.err
    told = flockctl("dishes", "bender0")
    assert told.code == 0 and "wash failed" in told.out
    (line,) = told.err.splitlines()
    assert line.startswith("bender0: app::daemon was not washed: ") and "exit code 3" in line
    assert line.endswith("`flockctl wash bender0 default` tries again")
    failed = flockctl("wash", "bender0", "--json")
    assert (failed.code, failed.value["state"]) == (1, "failed")
    wash.write_text(good)
    assert flockctl("run", "bender0").code == 0
    assert eventually(lambda: dishes(flockctl)[0]["state"] == "washed", within=30.0), node.err


def test_a_command_that_converges_never_washes_by_itself(flockctl):
    write_cookbooks(flockctl)
    state = str(flockctl.folder / "state")
    options = ("--name", "bender0", "--state-dir", state, "--cookbooks", str(flockctl.cookbooks))
    assert flockctl("converge", *options, "--run-list", "app::daemon,cb").code == 0

    assert flockctl("converge", *options, "--run-list", "cb").code == 0

    assert dishes(flockctl)[0]["state"] == "dirty"
    assert (flockctl.folder / "daemon").read_text() == "on"


def test_a_record_written_in_a_run_takes_back_nothing_that_others_wrote_meanwhile(
    registry_url, short_path
):
    registry = make_registry(load_settings({"registry": registry_url}))
    registry.open()
    with contextlib.closing(registry), contextlib.closing(Journal(short_path / "j")) as journal:
        keeper = ObjectKeeper("bender0", short_path, journal, registry)
        keeper.claim(["cb"])
        lists: dict[str, Any] = {key: [] for key in ("run_list", "roles", "recipes", "tags")}
        whole = lists | {"name": "bender0", "environment": "_default", "attributes": {}}
        keeper.save(whole | {"normal": {"theirs": "old"}})
        ours = keeper.normal_attributes()
        objects, home = NodeObjects(registry), home_of(short_path, journal)
        objects.save(whole | {"normal": {"theirs": "new"}}, home, base={"theirs": "old"})

        def note(normal):
            return with_values(normal, ("dishes", "dish"), {"x": {"sink": "s"}})

        keeper.change_normal(whole | {"normal": ours}, note)

        found = objects.read("bender0")
        assert found is not None
        assert found.normal == {"theirs": "new", "dishes": {"dish": {"x": {"sink": "s"}}}}
        ours["dishes"] = {"dish": {}}  # tossed, and the run ends
        keeper.save(whole | {"normal": ours})
        found = objects.read("bender0")
        assert found is not None
        assert found.normal == {"theirs": "new", "dishes": {"dish": {}}}
        keeper.close()
