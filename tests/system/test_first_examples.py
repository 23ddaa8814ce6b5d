"""What the project was made for, as its first manual showed it: two nodes, in real processes.

Each recipe here is one of the manual's examples in its Python form; only the
paths are the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flock import Flock
from tests.flockctl import Flockctl
from tests.support import eventually

WITHIN = 40.0

NOTIFIES = """
file('{here}/fubar', content='foobar').remote_notifies(
    'run', 'execute[kill all humans]', node='bender1')
"""
NOTIFIED = """
execute('kill all humans', command='echo done >> {here}/humans', action='nothing')
"""
PUBLISHES = """
execute('kill all humans', command='echo done >> {here}/humans')
"""
SUBSCRIBES = """
file('{here}/fubar2', content='foobar', action='nothing').remote_subscribes(
    'create', 'execute[kill all humans]', node='bender0')
"""
BUSY = """
execute('work', command='touch {here}/working; until test -e {here}/enough; do sleep 0.05; done')
"""
WAITS_UNTIL = """
file('{here}/fubar', content='foobar').wait_until(
    lambda: FlockOfChefs['bender0']['flock_api'].active(), pause=0.1)
"""
WAITS_WHILE = """
file('{here}/later', content='x').wait_while(
    lambda: FlockOfChefs['bender0']['flock_api'].active(), timeout=300, pause=0.1)
"""


@pytest.fixture
def fleet(flockctl: Flockctl) -> Iterator[Flock]:
    """Give the flock as a script sees it."""
    with Flock(registry=flockctl.url) as fleet:
        yield fleet


def begin(flockctl: Flockctl, **recipes: str) -> None:
    """Start a node for each recipe; it has it as its run list."""
    nodes = []
    for name, recipe in recipes.items():
        flockctl.recipe(name, recipe)
        nodes.append(flockctl.start_node(name, "--run-list", f"cb::{name}"))
    for name, node in zip(recipes, nodes, strict=True):
        assert node.says(f"READY {name} "), node.err


def test_a_run_is_triggered_on_another_machine(flockctl, fleet):
    begin(flockctl, bender0="file('{here}/' + node.name, content=node['kernel']['release'])")

    ordered = fleet["bender0"]["flock_api"].run_chef()

    assert ordered["state"] in {"queued", "running"}
    api = fleet["bender0"]["flock_api"]
    assert eventually(api.active, WITHIN, becomes=False) is False
    release = fleet["bender0"]["flock_api"].node("kernel.release")
    assert (flockctl.folder / "bender0").read_text() == release
    assert api.last_run()["run_id"] == ordered["run_id"]


def test_a_file_that_changed_runs_a_command_on_another_machine(flockctl, fleet):
    begin(flockctl, bender0=NOTIFIES, bender1=NOTIFIED)

    for _ in range(2):  # the second run changes nothing, so tells nobody
        assert fleet["bender0"]["flock_api"].run_chef(wait=True)["state"] == "ok"

    humans = flockctl.folder / "humans"
    assert eventually(humans.exists, WITHIN)
    assert eventually(fleet["bender1"]["resource_manager"].notices, WITHIN, becomes=[]) == []
    assert humans.read_text() == "done\n"


def test_a_file_is_made_when_a_command_ran_on_another_machine(flockctl, fleet):
    begin(flockctl, bender1=SUBSCRIBES, bender0=PUBLISHES)
    assert eventually(fleet["bender0"]["resource_manager"].subscriptions, WITHIN)
    fubar2 = flockctl.folder / "fubar2"
    assert fleet["bender1"]["flock_api"].run_chef(wait=True)["state"] == "ok"
    assert not fubar2.exists(), "its action is nothing until it is told"

    assert fleet["bender0"]["flock_api"].run_chef(wait=True)["state"] == "ok"

    assert eventually(fubar2.exists, WITHIN)
    assert fubar2.read_text() == "foobar"


def test_a_machine_waits_until_another_one_converges(flockctl, fleet):
    begin(flockctl, bender0=BUSY, bender1=WAITS_UNTIL)
    waiting = fleet["bender1"]["flock_api"].run_chef.future(wait=True)
    status = fleet["bender1"]["flock_api"].status
    assert eventually(lambda: status()["waiting"], WITHIN)
    assert not (flockctl.folder / "fubar").exists()

    fleet["bender0"]["flock_api"].run_chef()

    assert waiting.get(timeout=WITHIN)["state"] == "ok"
    assert (flockctl.folder / "fubar").read_text() == "foobar"
    assert fleet["bender0"]["flock_api"].active(), "it went on as soon as the other was at work"
    (flockctl.folder / "enough").touch()
    assert eventually(fleet["bender0"]["flock_api"].active, WITHIN, becomes=False) is False


def test_a_machine_waits_while_another_one_converges(flockctl, fleet):
    begin(flockctl, bender0=BUSY, bender1=WAITS_WHILE)
    fleet["bender0"]["flock_api"].run_chef()
    assert eventually((flockctl.folder / "working").exists, WITHIN)
    waiting = fleet["bender1"]["flock_api"].run_chef.future(wait=True)
    status = fleet["bender1"]["flock_api"].status
    assert eventually(lambda: status()["waiting"], WITHIN)
    assert not (flockctl.folder / "later").exists()

    (flockctl.folder / "enough").touch()

    assert waiting.get(timeout=WITHIN)["state"] == "ok"
    assert (flockctl.folder / "later").read_text() == "x"
