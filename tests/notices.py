"""Nodes that tell each other things, for tests: begun in a moment, killed at any step."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flock.faults import VARIABLE

ROOT = Path(__file__).parents[1]
BEGUN_WITHIN = 30.0
ANSWERED_WITHIN = 30.0

WORDS = "from flock.recipe import execute, file, log, node"


class Died(Exception):
    """The node is dead."""


class NodeProcess:
    """A node in a process of its own."""

    def __init__(self, connection: socket.socket, wanted: dict[str, Any]) -> None:
        self.name: str = wanted["name"]
        self._connection = connection
        self._buffer = b""
        self._say(wanted)
        self.pid: int = self._answer(BEGUN_WITHIN)["pid"]
        self._pidfd = os.pidfd_open(self.pid)

    def begun(self) -> NodeProcess:
        """Wait until it has joined; `Died` if it did not come so far."""
        assert self._answer(BEGUN_WITHIN) == {"ready": True}
        return self

    def run(self) -> dict[str, Any]:
        """Converge and return the report; `Died` if the node dies meanwhile."""
        return self.ask({"run": True})

    def call(self, node: str, actor: str, method: str, **arguments: Any) -> Any:
        """Call an actor from this node."""
        return self.ask({"call": [node, actor, method, arguments]})["value"]

    def notices(self, **arguments: Any) -> list[dict[str, Any]]:
        """Return what its resource manager says."""
        found: list[dict[str, Any]] = self.call(
            self.name, "resource_manager", "notices", **arguments
        )
        return found

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self._say(order)
        return self._answer(ANSWERED_WITHIN)

    def leave(self) -> None:
        """Have it leave, and wait until it is gone."""
        with contextlib.suppress(Died):
            self.ask({"leave": True})
        assert self.is_dead(within=20.0)
        self.close()

    def kill(self) -> None:
        """End it at once."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        assert self.is_dead(within=20.0)
        self.close()

    def is_dead(self, within: float = 0.0) -> bool:
        """Wait up to `within` seconds for its end; say whether that came."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def close(self) -> None:
        """Let go what is held of it."""
        self._connection.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _say(self, order: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            raise Died(self.name) from None

    def _answer(self, within: float) -> dict[str, Any]:
        deadline = time.monotonic() + within
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if hasattr(self, "_pidfd"):
            poll.register(self._pidfd, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.name} did not answer within {within:g} s")
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if self._connection.fileno() not in ready:
                if ready:
                    raise Died(self.name)
                continue
            try:
                some = self._connection.recv(65536)
            except OSError:
                some = b""
            if not some:
                raise Died(self.name)
            self._buffer += some
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Fleet:
    """Nodes of one test on one registry, each with cookbooks and a state folder of its own.

    `{here}` in a recipe stands for the test's folder.
    """

    def __init__(self, folder: Path, registry: str, nursery: str) -> None:
        self.folder = folder
        self.registry = registry
        self._nursery = nursery
        self.nodes: list[NodeProcess] = []

    def recipe(self, node: str, text: str) -> None:
        """Write the one recipe of a node."""
        path = self.folder / node / "cookbooks" / "cb" / "recipes" / "default.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = textwrap.dedent(text).replace("{here}", str(self.folder))
        path.write_text(f"{WORDS}\n{text}")

    def write(self, node: str, path: str, text: str) -> None:
        """Write a file beside a node's cookbooks."""
        target = self.folder / node / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def begin(self, name: str, fault: str = "", log: str = "ERROR", **settings: Any) -> NodeProcess:
        """Begin a node and return at once.

        Args:
            name: the node's.
            fault: `STEP:N`, where it is to die.
            log: what it says on standard error.
            settings: more of its settings.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._nursery)
        state = self.folder / name / "state"
        node = NodeProcess(
            connection,
            {
                "name": name,
                "registry": self.registry,
                "environment": {VARIABLE: fault},
                "log": log,
                "settings": {
                    "cookbooks": str(self.folder / name / "cookbooks"),
                    "run_list": ["cb"],
                    "state_dir": str(state),
                    "session_timeout": 4,
                    "stop_timeout": 5,
                    **settings,
                },
            },
        )
        self.nodes.append(node)
        return node

    def node(self, name: str, fault: str = "", **settings: Any) -> NodeProcess:
        """Begin a node and wait until it has joined."""
        return self.begin(name, fault, **settings).begun()

    def lines(self, path: str) -> list[str]:
        """Return the lines of a file of the test's folder; none if it is not there."""
        try:
            return (self.folder / path).read_text().split()
        except FileNotFoundError:
            return []

    def receipts(self, node: str) -> list[dict[str, Any]]:
        """Return the receipts in a node's journal."""
        journal = self.folder / node / "state" / "journal.sqlite3"
        connection = sqlite3.connect(journal, timeout=5)
        try:
            found = connection.execute(
                "SELECT notice, state, starts, mark, error FROM notices_in ORDER BY place"
            ).fetchall()
        finally:
            connection.close()
        return [
            json.loads(notice) | {"state": state, "starts": starts, "mark": mark, "error": error}
            for notice, state, starts, mark, error in found
        ]

    def close(self) -> None:
        """Kill what still lives."""
        for node in self.nodes:
            node.kill()


@contextlib.contextmanager
def nursery(folder: Path) -> Iterator[str]:
    """Run the process that nodes are forked from; gives the path of its socket."""
    path = str(folder / "nursery")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.system.notice_process", path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield path
        finally:
            process.kill()
