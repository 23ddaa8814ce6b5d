"""Waits of recipes for other machines, between real processes, on both registries."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flock import Flock
from flock.node_objects import NodeObjects
from registry.contract import RegistryUnavailable
from tests.flockctl import flockctl_on
from tests.support import eventually
from tests.system.waiting_kitchens import LONG, ORDER, SLOW, Kitchens

MANUAL = Path(__file__).parents[2] / "docs" / "waits.md"


# --- woken by change ---------------------------------------------------------------


def test_a_wait_for_another_nodes_run_ends_with_that_run_and_not_with_its_pause(kitchens):
    slow = kitchens.run("bender1", SLOW)
    waiting = kitchens.run(
        "bender0",
        """
        log('later').wait_while(
            lambda: FlockOfChefs['bender1']['flock_api'].active(), pause=80, timeout=80)
    """,
    )
    shown = kitchens.waiting("bender0")
    assert shown["resource"] == "log[later]"
    assert shown["last"] == "True"
    assert "run bender1" in shown["asks"]
    assert shown["circle"] == ""

    kitchens.open("go")

    assert slow.get(timeout=LONG)["state"] == "ok"
    assert waiting.get(timeout=20)["state"] == "ok"


def test_a_wait_for_the_beginning_of_a_run_ends_when_it_begins(kitchens):
    waiting = kitchens.run(
        "bender0",
        """
        log('later').wait_until(
            lambda: FlockOfChefs['bender1']['flock_api'].active(), pause=80, timeout=80)
    """,
    )
    kitchens.waiting("bender0")

    kitchens.run("bender1", SLOW)

    assert waiting.get(timeout=20)["state"] == "ok"
    kitchens.open("go")


def test_a_node_tells_of_each_change_of_its_runs_once(kitchens):
    api = kitchens.fleet["bender0"]["flock_api"]
    first = api.change.future()
    slow = kitchens.run("bender0", SLOW)
    number = first.get(timeout=LONG)
    assert api.change(number - 1) >= number

    later = api.change.future(number)
    kitchens.open("go")
    assert slow.get(timeout=LONG)["state"] == "ok"
    assert later.get(timeout=LONG) > number


def set_global(fleet: Flock) -> None:
    fleet.globals["release"] = "1.4"


def release(fleet: Flock) -> None:
    assert fleet["bender1"]["locker"].release("web")


def change_node_object(fleet: Flock) -> None:
    NodeObjects(fleet.registry).change_run_list("bender2", lambda items: [*items, "recipe[moon]"])


CHANGES: dict[str, tuple[str, Callable[[Flock], None]]] = {
    "global": ("FlockOfChefs.globals.get('release') == '1.4'", set_global),
    "lock": ("not FlockOfChefs['bender1']['locker'].holder('web')", release),
    "node object": ("FlockOfChefs.search('run_list:*moon*')", change_node_object),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_wait_is_woken_by_a_change_in_the_registry(kitchens, what):
    question, change = CHANGES[what]
    kitchens.fleet["bender1"]["locker"].acquire("web")
    waiting = kitchens.run(
        "bender0",
        f"""
        log('later').wait_until(lambda: {question}, pause=80, timeout=80)
    """,
    )
    kitchens.waiting("bender0")

    change(kitchens.fleet)

    assert waiting.get(timeout=20)["state"] == "ok"
    kitchens.fleet["bender1"]["locker"].release("web")


def test_a_wait_is_woken_when_a_node_comes(kitchens, tmp_path):
    waiting = kitchens.run(
        "bender0",
        """
        log('later').wait_until(lambda: 'bender7' in FlockOfChefs, pause=80, timeout=80)
    """,
    )
    kitchens.waiting("bender0")

    with Flock(name="bender7", registry=kitchens.nodes.url, state_dir=tmp_path / "7"):
        assert waiting.get(timeout=20)["state"] == "ok"


def test_what_nobody_can_watch_is_asked_again_after_the_pause(kitchens):
    waiting = kitchens.run(
        "bender0",
        """
        log('later').wait_until(lambda: os.path.exists('{here}/go'), pause=0.1)
    """,
    )
    assert kitchens.waiting("bender0")["asks"] == []

    kitchens.open("go")

    assert waiting.get(timeout=20)["state"] == "ok"


def test_the_manuals_recipe_waits_for_what_it_says(kitchens):
    (example,) = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.S)
    slow = kitchens.run("bender1", SLOW)
    run = kitchens.run("bender0", example.replace("/srv", "{here}"))
    assert "wait_while" in kitchens.waiting("bender0")["wait"]

    kitchens.open("go")
    assert slow.get(timeout=LONG)["state"] == "ok"
    kitchens.waiting("bender0", until=lambda seen: "wait_until" in seen["wait"])
    kitchens.fleet.globals["release"] = "1.4"

    report = run.get(timeout=LONG)
    assert [row["state"] for row in report["resources"]] == ["changed"] * 3


# --- without an answer -------------------------------------------------------------


def test_a_wait_outlives_the_node_it_asks_and_goes_on_with_its_successor(kitchens):
    nodes = kitchens.nodes
    other = nodes.node("bender8", "--run-list", "cb")
    waiting = kitchens.run(
        "bender0",
        """
        log('later').wait_until(
            lambda: FlockOfChefs['bender8']['flock_api'].active(), pause=1, timeout=80)
        log('not later').wait_while(
            lambda: FlockOfChefs['bender8']['flock_api'].active(), pause=80, timeout=80)
    """,
    )
    assert kitchens.waiting("bender0")["last"] == "False"

    other.end(signal.SIGKILL)
    shown = kitchens.waiting("bender0", until=lambda seen: "bender8" in seen["last"])
    assert shown["wait"].startswith("wait_until")

    successor = nodes.node("bender8", "--run-list", "cb")
    slow = kitchens.run("bender8", SLOW)
    kitchens.waiting("bender0", until=lambda seen: "wait_while" in seen["wait"])
    kitchens.open("go")
    assert slow.get(timeout=LONG)["state"] == "ok"
    assert waiting.get(timeout=20)["state"] == "ok"
    successor.end(signal.SIGKILL)


def test_a_wait_outlives_an_outage_of_the_registry(own_zookeeper, tmp_path):
    url = f"zookeeper://{own_zookeeper.connection_string}/waits"
    with flockctl_on(url, tmp_path) as nodes, Flock(registry=url) as fleet:
        nodes.recipe(
            "default",
            """
            log('later').wait_until(
                lambda: FlockOfChefs.globals.get('release') == '1.4', pause=0.5, timeout=80)
        """,
        )
        nodes.node("bender0", "--run-list", "cb")
        kitchens = Kitchens(nodes, fleet)
        run = fleet["bender0"]["flock_api"].run_chef.future(wait=True)
        kitchens.waiting("bender0")

        own_zookeeper.servers[0].kill()
        shown = kitchens.waiting("bender0", until=lambda seen: "cannot be reached" in seen["last"])
        assert shown["circle"] == ""
        own_zookeeper.servers[0].start()
        own_zookeeper.wait_until_serving()

        kitchens.waiting("bender0", until=lambda seen: seen["last"] == "False")
        # This process may be back a moment after that one.
        assert eventually(fleet.registry.node_names, LONG, ignoring=RegistryUnavailable)
        fleet.globals["release"] = "1.4"
        assert run.get(timeout=20)["state"] == "ok"


# --- shown -------------------------------------------------------------------------


def test_flockctl_run_tells_what_is_waited_for_and_the_last_answer(kitchens):
    kitchens.nodes.recipe(
        "shown",
        """
        import os
        log('later').wait_until(lambda: os.path.exists('{here}/go'), pause=0.1)
    """,
    )
    run = kitchens.nodes.start("run", "bender0", "--override-run-list", "cb::shown")
    assert run.says("log[later], waits: wait_until <lambda> (", within=LONG)
    assert run.says("/cb/recipes/shown.py:4): False", within=LONG)

    kitchens.open("go")

    assert run.ended().code == 0


def test_the_wait_for_a_lock_tells_who_has_it_before_any_resource_is_looked_at(kitchens):
    with kitchens.fleet.lock("whole"):
        run = kitchens.nodes.start("run", "bender0", "--override-run-list", "cb", "--lock", "whole")
        assert run.says("has begun, waits: lock 'whole': ", within=LONG)
        shown = kitchens.waiting("bender0")
        assert "since" in shown["last"]
        assert shown["asks"] == ["lock whole"]

    assert run.ended().code == 0


def test_a_wait_that_is_over_names_itself_and_the_last_answer(kitchens):
    run = kitchens.run(
        "bender0",
        """
        log('later').wait_while(lambda: 'bender1' in FlockOfChefs, pause=0.1, timeout=0.5)
    """,
    )

    report = run.get(timeout=LONG)

    assert "log[later]" in report["error"]
    assert "wait_while <lambda> (" in report["error"]
    gave_up = re.search(r"gave up after (\S+) s", report["error"])
    assert gave_up is not None
    assert 0.5 <= float(gave_up[1]) < 20
    assert "the last answer was True" in report["error"]


# --- cancelled ---------------------------------------------------------------------

STUCK = {
    "a wait": "log('x').wait_until(lambda: False, pause=80)",
    "a lock": "clocker('of somebody', lockwait=80)",
    "a call": f"log('x').only_if(lambda: {ORDER})",
    "a question": f"log('x').wait_until(lambda: {ORDER}, pause=80)",
}


@pytest.mark.parametrize("recipe", STUCK.values(), ids=STUCK)
def test_a_run_that_waits_is_cancelled_within_seconds(kitchens, recipe):
    slow = kitchens.run("bender1", SLOW)
    with kitchens.fleet.lock("of somebody"):
        run = kitchens.run("bender0", recipe)
        kitchens.waiting("bender0", until=lambda seen: seen["wait"])

        begun = time.monotonic()
        assert kitchens.fleet["bender0"]["flock_api"].cancel(reason="enough")
        report = run.get(timeout=20)

    assert time.monotonic() - begun < 5.0
    assert report["state"] == "cancelled"
    assert "enough" in report["error"]
    kitchens.open("go")
    assert slow.get(timeout=LONG)["state"] == "ok"
