"""Waits of recipes for other machines, between real processes, on both registries."""

from __future__ import annotations

import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from flock.node_objects import NodeObjects
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually

pytestmark = pytest.mark.timeout(90)

NODES = ("bender0", "bender1", "bender2")
NAMED_WITHIN = 5.0
LONG = 45.0
"""Seconds for what takes one at most on a machine that does nothing else."""


@pytest.fixture(scope="module", params=["embedded", "zookeeper"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Flockctl]:
    """Give three nodes on a registry of either kind; each test brings its own recipes."""
    with tempfile.TemporaryDirectory(prefix="flk-") as folder:
        url = f"embedded:{folder}/registry"
        if request.param == "zookeeper":
            hosts = request.getfixturevalue("zookeeper_hosts")
            url = f"zookeeper://{hosts}/waits-{Path(folder).name}"
        with flockctl_on(url, Path(folder)) as command:
            command.recipe("default", "execute('begin', command='true')")
            for running in [command.start_node(name, "--run-list", "cb") for name in NODES]:
                assert running.says("READY bender"), running.err
            # The first command of a node starts what ends commands, and that stays.
            assert command("run", *NODES).code == 0
            yield command


class Kitchens:
    """Runs of given recipes on the nodes."""

    def __init__(self, nodes: Flockctl, fleet: Flock) -> None:
        self.nodes = nodes
        self.fleet = fleet
        self.number = 0
        self.reports: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        return self.nodes.folder

    def run(self, node: str, recipe: str, **more: Any) -> Any:
        """Order a run of this recipe; returns the future of its report."""
        name = f"{node}_{time.monotonic_ns()}"
        words = "from flock.recipe import clocker, held\nimport os\n"
        self.nodes.recipe(name, words + textwrap.dedent(recipe))
        api = self.fleet[node]["flock_api"]
        future = api.run_chef.future(wait=True, override_run_list=[f"cb::{name}"], **more)
        assert eventually(lambda: self.status(node)["running"] or future.is_ready(), within=LONG)
        return future

    def status(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.fleet[node]["flock_api"].status()
        return found

    def waiting(
        self, node: str, until: Callable[[Any], object] = lambda seen: seen["last"]
    ) -> dict[str, Any]:
        """Wait until the node's run waits and has had an answer."""
        seen = eventually(
            lambda: self.status(node),
            within=LONG,
            until=lambda seen: not seen["running"] or (seen["waiting"] and until(seen["waiting"])),
        )
        assert seen["waiting"], seen
        return dict(seen["waiting"])

    def open(self, name: str) -> None:
        (self.folder / name).touch()


@pytest.fixture
def kitchens(nodes: Flockctl) -> Iterator[Kitchens]:
    with Flock(registry=nodes.url) as fleet:
        yield Kitchens(nodes, fleet)
        for name in NODES:
            while fleet[name]["flock_api"].cancel() is not None:
                pass
            assert (
                eventually(
                    lambda name=name: fleet[name]["flock_api"].active(), within=LONG, becomes=False
                )
                is False
            )
    for file in nodes.folder.glob("go*"):
        file.unlink()


# --- woken by change ---------------------------------------------------------------


def test_a_wait_for_another_nodes_run_ends_with_that_run_and_not_with_its_pause(kitchens):
    slow = kitchens.run(
        "bender1", "execute('nap', command='until [ -e {here}/go ]; do sleep 0.1; done')"
    )
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

    kitchens.run("bender1", "execute('nap', command='until [ -e {here}/go ]; do sleep 0.1; done')")

    assert waiting.get(timeout=20)["state"] == "ok"
    kitchens.open("go")


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


# --- circles -----------------------------------------------------------------------

TOGETHER = "log('gate').wait_until(lambda: os.path.exists('{here}/go'), pause=0.05)"


def others_run(node: str, **options: Any) -> str:
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"""
{TOGETHER}
log('later').wait_while(lambda: FlockOfChefs['{node}']['flock_api'].active(){more})
"""


def ended(futures: dict[str, Any], within: float) -> dict[str, Any]:
    """Return the reports by node; each must come in time."""
    deadline = time.monotonic() + within
    return {
        node: future.get(timeout=max(0.1, deadline - time.monotonic()))
        for node, future in futures.items()
    }


def test_two_nodes_that_wait_for_each_other_are_named_and_the_younger_wait_ends(kitchens):
    runs = {
        "bender0": kitchens.run("bender0", others_run("bender1")),
        "bender1": kitchens.run("bender1", others_run("bender0")),
    }
    for node in runs:
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended(runs, 20)

    assert sorted(report["state"] for report in reports.values()) == ["failed", "ok"]
    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    for part in (
        "these wait for each other",
        "the run of bender0",
        "the run of bender1",
        "log[later]",
    ):
        assert part in failed["error"]
    assert time.monotonic() - begun < NAMED_WITHIN
