#!/usr/bin/env python3
"""Many mice: 10 nodes with 100 actors each, all called from one place.

    python examples/massive.py [--nodes 10] [--actors 100]

Each node is a process of its own, on an embedded registry in a temporary
folder. Every actor is called once by name, each of its calls a future, and
every answer is counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import flock


class Worker(flock.Actor):
    """Knows its name and counts its calls."""

    def __init__(self, title: str) -> None:
        """Take a name."""
        super().__init__()
        self._title = title
        self._calls = 0

    def work(self, number: int) -> list[object]:
        """Say who worked, on what, for the how-manieth time."""
        self._calls += 1
        return [self._title, number, self._calls]


def serve(name: str, registry: str, actors: int) -> None:
    """Be one node until standard input ends."""
    with flock.Flock(name=name, registry=registry) as fleet:
        for number in range(actors):
            fleet.supervise(Worker, f"{name}/{number}", name=f"worker{number}")
        print("ready", flush=True)
        sys.stdin.read()


def main() -> int:
    """Start the nodes, call all actors, and stop the nodes."""
    parser = argparse.ArgumentParser(description="Many nodes with many actors each.")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--actors", type=int, default=100)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "REGISTRY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1], options.actors)
        return 0
    with tempfile.TemporaryDirectory(prefix="flock-massive-") as folder:
        return call_all(f"embedded:{folder}/registry", options.nodes, options.actors)


def call_all(registry: str, nodes: int, actors: int) -> int:
    """Return 0 if every actor of every node answered once, as itself."""
    command = [sys.executable, __file__, "--actors", str(actors), "--serve"]
    processes = [
        subprocess.Popen(
            [*command, f"mouse{number}", registry],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(nodes)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        with flock.Flock(registry=registry) as fleet:
            started = time.monotonic()
            answers = {
                (node, number): fleet[node][f"worker{number}"].work.future(number)
                for node in fleet
                for number in range(actors)
            }
            right = sum(
                answer.get() == [f"{node}/{number}", number, 1]
                for (node, number), answer in answers.items()
            )
            took = time.monotonic() - started
        print(f"{right} of {nodes * actors} actors on {nodes} nodes answered in {took:.2f} s")
        return 0 if right == nodes * actors else 1
    finally:
        for process in processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.wait(20)
            process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
