"""Waits of recipes for other machines, between real processes, on both registries."""

from __future__ import annotations

import re
import signal
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

MANUAL = Path(__file__).parents[2] / "docs" / "waits.md"
NODES = ("bender0", "bender1", "bender2")
NAMED_WITHIN = 5.0
LONG = 45.0
"""Seconds for what takes one at most on a machine that does nothing else."""


DEFAULT = """
execute('begin', command='true')
execute('deed', command='true', action='nothing').under_lock('of a deed').notifies(
    'write', 'log[deed]', 'immediately')
log('deed', action='nothing').wait_while(
    lambda: FlockOfChefs['bender0']['flock_api'].active(), pause=80, timeout=80)
"""


@pytest.fixture(scope="module", params=["embedded", "zookeeper"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Flockctl]:
    """Give three nodes on a registry of either kind; each test brings its own recipes."""
    with tempfile.TemporaryDirectory(prefix="flk-") as folder:
        url = f"embedded:{folder}/registry"
        if request.param == "zookeeper":
            hosts = request.getfixturevalue("zookeeper_hosts")
            url = f"zookeeper://{hosts}/waits-{Path(folder).name}"
        with flockctl_on(url, Path(folder)) as command:
            command.recipe("default", DEFAULT)
            for running in [command.start_node(name, "--run-list", "cb") for name in NODES]:
                assert running.says("READY bender"), running.err
            # The first command of a node starts what ends commands, and that stays.
            assert command("run", *NODES).code == 0
            yield command


SLOW = """
execute('nap', command='until [ -e {here}/go ]; do sleep 0.1; done')
"""


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
        fleet.globals.pop("release", None)
        for name in NODES:
            # What runs, and what may wait behind it.
            cancel = fleet[name]["flock_api"].cancel
            assert eventually(cancel, within=LONG, becomes=None) is None
    for file in nodes.folder.glob("go*"):
        file.unlink()


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
    assert "gave up after 0." in report["error"]
    assert "the last answer was True" in report["error"]


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


def test_three_nodes_in_a_circle_are_named_and_one_of_them_gives_way(kitchens):
    others = dict(zip(NODES, [*NODES[1:], NODES[0]], strict=True))
    runs = {node: kitchens.run(node, others_run(other)) for node, other in others.items()}
    for node in runs:
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended(runs, 20)

    assert sorted(report["state"] for report in reports.values()) == ["failed", "ok", "ok"]
    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    assert all(f"the run of {node}" in failed["error"] for node in NODES)
    assert time.monotonic() - begun < NAMED_WITHIN


def test_a_run_that_waits_for_itself_is_named(kitchens):
    run = kitchens.run(
        "bender0",
        """
        log('later').wait_while(lambda: FlockOfChefs['bender0']['flock_api'].active())
    """,
    )

    report = run.get(timeout=20)

    assert report["state"] == "failed"
    assert "waits for the run of bender0" in report["error"]
    assert report["seconds"] < NAMED_WITHIN


@pytest.mark.parametrize(("on_timeout", "state"), [("skip", "skipped"), ("go_on", "changed")])
def test_a_wait_that_ends_in_a_circle_ends_as_one_whose_time_is_over(kitchens, on_timeout, state):
    question = "lambda: FlockOfChefs['bender0']['flock_api'].active()"
    run = kitchens.run(
        "bender0",
        f"""
        execute('a', command='true').wait_while({question}, on_timeout={on_timeout!r})
    """,
    )

    report = run.get(timeout=20)

    (row,) = report["resources"]
    assert (report["state"], row["state"]) == ("ok", state)
    if state == "skipped":
        assert "these wait for each other" in row["error"]


def test_a_circle_through_a_lock_is_named_and_the_lock_not_had(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        clocker('circle')
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active())
    """,
    )
    second = kitchens.run(
        "bender1",
        f"""
        {TOGETHER}
        clocker('circle', lockwait=80)
        log('guarded').only_if(held('circle'))
    """,
    )
    for node in ("bender0", "bender1"):
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended({"bender0": first, "bender1": second}, 20)

    assert time.monotonic() - begun < NAMED_WITHIN
    failed = [node for node, report in reports.items() if report["state"] == "failed"]
    (row,) = reports["bender1"]["locks"]
    # Whichever wait began last gives way: a lock that is not had fails nobody.
    if failed:
        assert failed == ["bender0"]
        assert (
            "bender1 (lock 'circle') waits for lock 'circle' of bender0"
            in (reports["bender0"]["error"])
        )
        assert row["state"] == "held"
    else:
        assert row["state"] == "not held"
        assert row["holder"]["owner"] == "bender0"
        assert row["waited"] < NAMED_WITHIN


def test_two_locks_taken_crosswise_are_named_and_one_is_given_up(kitchens):
    runs = {
        node: kitchens.run(
            node,
            f"""
            clocker('{mine}')
            {TOGETHER}
            file('{{here}}/{node}', content='x').under_lock('{other}', wait=80)
        """,
        )
        for node, mine, other in (("bender0", "left", "right"), ("bender1", "right", "left"))
    }
    for node in runs:
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended(runs, 20)

    assert time.monotonic() - begun < NAMED_WITHIN
    rows = [report["resources"][-1] for report in reports.values()]
    assert sorted(row["state"] for row in rows) == ["changed", "skipped"]
    (skipped,) = [row for row in rows if row["state"] == "skipped"]
    assert "these wait for each other" in skipped["error"]


def test_a_run_under_a_lock_as_a_whole_is_part_of_a_circle_too(kitchens):
    first = kitchens.run(
        "bender0",
        """
        clocker('whole')
        log('gate').wait_until(lambda: FlockOfChefs['bender1']['flock_api'].active(), pause=80)
        log('later').wait_while(
            lambda: FlockOfChefs['bender1']['flock_api'].active(), on_timeout='go_on')
    """,
    )
    kitchens.waiting("bender0")
    second = kitchens.run("bender1", "log('x')", lock="whole")

    reports = ended({"bender0": first, "bender1": second}, 20)

    assert reports["bender0"]["state"] == "ok"
    if reports["bender1"]["state"] == "failed":
        assert "these wait for each other" in reports["bender1"]["error"]
        assert reports["bender1"]["resources"] == []


ORDER = "FlockOfChefs['bender1']['flock_api'].run_chef(wait=True, override_run_list=['cb'])"


def test_a_recipe_that_waits_for_a_run_it_ordered_is_part_of_a_circle(kitchens):
    # bender1 waits for bender0's run, which then orders a run there and waits for its end.
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('ordered').only_if(lambda: {ORDER})
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    for node in ("bender0", "bender1"):
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended({"bender0": first, "bender1": second}, 20)

    assert time.monotonic() - begun < NAMED_WITHIN
    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    assert "these wait for each other" in failed["error"]
    assert "call bender1/flock_api.run_chef()" in failed["error"]


def test_a_wait_whose_question_orders_a_run_is_part_of_a_circle(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('ordered').wait_until(lambda: {ORDER})
    """,
    )
    second = kitchens.run("bender1", others_run("bender0", on_timeout="skip"))
    for node in ("bender0", "bender1"):
        kitchens.waiting(node)

    kitchens.open("go")
    begun = time.monotonic()
    reports = ended({"bender0": first, "bender1": second}, 20)

    assert time.monotonic() - begun < 2 * NAMED_WITHIN
    said = str(reports)
    assert "these wait for each other" in said


def test_a_long_call_of_a_recipe_is_shown_and_no_circle(kitchens):
    slow = kitchens.run("bender1", SLOW)
    first = kitchens.run(
        "bender0",
        f"""
        log('ordered').only_if(lambda: {ORDER})
    """,
    )
    shown = kitchens.waiting("bender0", until=lambda seen: seen["seconds"] > 3)
    assert shown["wait"] == "call bender1/flock_api.run_chef()"
    assert shown["asks"] == ["run bender1"]
    assert shown["circle"] == ""

    kitchens.open("go")

    reports = ended({"bender0": first, "bender1": slow}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}


@pytest.mark.parametrize("recipe", ["a lock", "a run"])
def test_a_converge_that_is_no_node_sees_its_circle_and_gives_way(kitchens, recipe):
    # Its run holds one lock and waits for bender1's run, or for the lock that this one has.
    waits = {
        "a lock": "clocker('of bender1', lockwait=80)",
        "a run": "log('x').wait_while("
        "lambda: FlockOfChefs['bender1']['flock_api'].active(), on_timeout='go_on')",
    }
    kitchens.nodes.recipe(
        "here",
        f"""
from flock.recipe import clocker
import os
clocker('of the converge')
log('gate').wait_until(lambda: os.path.exists('{{here}}/go'), pause=0.05)
{waits[recipe]}
""",
    )
    state = str(kitchens.folder / "state" / "bender9")
    words = ("--state-dir", state, "--cookbooks", str(kitchens.nodes.cookbooks))
    converge = kitchens.nodes.start(
        "converge", "--name", "bender9", "--run-list", "cb::here", "--json", *words
    )
    held = lambda: kitchens.fleet["bender0"]["locker"].holder("of the converge")  # noqa: E731
    assert eventually(held, within=LONG)
    run = kitchens.run(
        "bender1",
        """
        clocker('of bender1')
        clocker('of the converge', lockwait=80)
    """,
    )
    kitchens.waiting("bender1", until=lambda seen: "of the converge" in seen["wait"])

    kitchens.open("go")
    begun = time.monotonic()
    ended_there = converge.ended()

    assert ended_there.code == 0, ended_there.err
    assert "these wait for each other" in ended_there.err
    assert run.get(timeout=LONG)["state"] == "ok"
    assert time.monotonic() - begun < 2 * NAMED_WITHIN


def test_the_action_of_a_notice_is_part_of_a_circle_too(kitchens):
    run = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        clocker('of a deed', lockwait=80)
    """,
    )
    assert kitchens.nodes("notify", "bender1", "execute[deed]", "run").code == 0
    held = lambda: kitchens.fleet["bender1"]["locker"].holder("of a deed")  # noqa: E731
    assert eventually(held, within=LONG)["owner"] == "bender1"

    kitchens.open("go")
    report = run.get(timeout=20)

    (row,) = report["locks"]
    assert (report["state"], row["state"]) == ("ok", "not held")
    assert row["waited"] < NAMED_WITHIN
    # The action waited for the run that is over now.
    assert eventually(held, within=LONG, becomes=None) is None


# --- and what is none --------------------------------------------------------------


def test_what_something_else_may_end_is_told_and_goes_on(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active()
            and not os.path.exists('{{here}}/go-on'), pause=0.2)
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    for node in ("bender0", "bender1"):
        kitchens.waiting(node)
    kitchens.open("go")
    for node in ("bender0", "bender1"):
        shown = kitchens.waiting(node, until=lambda seen: seen["circle"])
        assert shown["circle"].startswith("these may wait for each other: ")

    kitchens.open("go-on")

    reports = ended({"bender0": first, "bender1": second}, 20)
    assert [report["state"] for report in reports.values()] == ["ok", "ok"]


def test_slow_nodes_and_locks_of_people_are_no_circle(kitchens):
    # bender0 waits for bender1, which works; bender2 for a lock that a command has, and for
    # bender0. Nobody waits for bender2, and bender1 for nobody.
    lock = kitchens.fleet.lock("of people")
    lock.__enter__()
    slow = kitchens.run("bender1", SLOW)
    first = kitchens.run(
        "bender0",
        """
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active())
    """,
    )
    third = kitchens.run(
        "bender2",
        """
        clocker('of people', lockwait=80)
        log('later').wait_while(lambda: FlockOfChefs['bender0']['flock_api'].active())
    """,
    )
    for node in ("bender0", "bender2"):
        kitchens.waiting(node, until=lambda seen: seen["seconds"] > NAMED_WITHIN)
        assert kitchens.status(node)["waiting"]["circle"] == ""
    lock.__exit__(None, None, None)
    kitchens.waiting("bender2", until=lambda seen: seen["resource"] and seen["seconds"] > 2.0)
    assert kitchens.status("bender2")["waiting"]["circle"] == ""

    kitchens.open("go")

    reports = ended({"bender1": slow, "bender0": first, "bender2": third}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}


def test_a_wait_for_either_of_two_is_no_circle_while_one_of_them_works(kitchens):
    slow = kitchens.run("bender2", SLOW.replace("/go ", "/go-on "))
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active()
            and FlockOfChefs['bender2']['flock_api'].active())
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    kitchens.waiting("bender0")
    kitchens.waiting("bender1")
    kitchens.open("go")
    shown = kitchens.waiting("bender0", until=lambda seen: seen["circle"])
    assert "may wait for each other" in shown["circle"]

    kitchens.open("go-on")

    reports = ended({"bender2": slow, "bender0": first, "bender1": second}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}


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
