"""Three nodes whose recipes wait, for tests of waits: the runs, and what is seen of them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flock import Flock
from tests.flockctl import Flockctl
from tests.support import eventually

NODES = ("bender0", "bender1", "bender2")
LONG = 45.0
"""Seconds for what takes one at most on a machine that does nothing else."""

DEFAULT = """
execute('begin', command='true')
execute('deed', command='true', action='nothing').under_lock('of a deed').notifies(
    'write', 'log[deed]', 'immediately')
log('deed', action='nothing').wait_while(
    lambda: FlockOfChefs['bender0']['flock_api'].active(), pause=80, timeout=80)
"""
"""The recipe of the nodes' run list: its resources stand ready for notices."""

SLOW = """
execute('nap', command='until [ -e {here}/go ]; do sleep 0.1; done')
"""
"""A run that ends once the file `go` is there."""

ORDER = "FlockOfChefs['bender1']['flock_api'].run_chef(wait=True, override_run_list=['cb'])"
"""A question that orders a run on another node and waits for its end."""


class Kitchens:
    """Runs of given recipes on the nodes."""

    def __init__(self, nodes: Flockctl, fleet: Flock) -> None:
        self.nodes = nodes
        self.fleet = fleet

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
