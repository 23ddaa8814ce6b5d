"""What several files of tests between real processes begin with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually
from tests.system.flock_process import FlockProcess, Start
from tests.system.waiting_kitchens import DEFAULT, LONG, NODES, Kitchens

# --- the command ---------------------------------------------------------------


@pytest.fixture
def flockctl(registry_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command, once on each kind of registry."""
    with flockctl_on(registry_url, tmp_path) as command:
        yield command


@pytest.fixture
def alone(embedded_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command on an embedded registry of this test."""
    with flockctl_on(embedded_url, tmp_path) as command:
        yield command


# --- other processes -----------------------------------------------------------


@pytest.fixture
def start(registry_url: str, tmp_path: Path) -> Iterator[Start]:
    """Give what starts other processes; they end with the test."""
    started: list[FlockProcess] = []

    def start_one(name: str | None = "there", **settings: Any) -> FlockProcess:
        process = FlockProcess(name, registry_url, tmp_path, **settings)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.close()


@pytest.fixture
def visitor(registry_url: str) -> Iterator[Flock]:
    """Give a visitor of the flock on that registry."""
    with Flock(registry=registry_url) as flock:
        yield flock


# --- nodes whose recipes wait --------------------------------------------------


@pytest.fixture(scope="module", params=["embedded", "zookeeper"])
def waiting_nodes(request: pytest.FixtureRequest) -> Iterator[Flockctl]:
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


@pytest.fixture
def kitchens(waiting_nodes: Flockctl) -> Iterator[Kitchens]:
    """Give what orders runs on the three nodes; what a test leaves running is cancelled."""
    with Flock(registry=waiting_nodes.url) as fleet:
        yield Kitchens(waiting_nodes, fleet)
        fleet.globals.pop("release", None)
        for name in NODES:
            # What runs, and what may wait behind it.
            cancel = fleet[name]["flock_api"].cancel
            assert eventually(cancel, within=LONG, becomes=None) is None
    for file in waiting_nodes.folder.glob("go*"):
        file.unlink()
