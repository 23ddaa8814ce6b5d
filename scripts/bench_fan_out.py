#!/usr/bin/env python3
"""Run 50 real nodes on this machine, and one `flockctl run --on '*:*'` over all of them.

On either registry: how long the nodes take to be there, how long the command
takes the first time, when each writes a file, and later, when there is nothing
to do; what a node costs in memory. It fails unless every node is listed exactly
once, and is ok, each time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from both_registries import both_registries

FLOCKCTL = str(Path(sys.executable).with_name("flockctl"))
RECIPE = """
from flock.recipe import file, node

file({folder!r} + '/' + node.name, content='there')
"""


@contextlib.contextmanager
def nodes(folder: Path, names: list[str], environment: dict[str, str]) -> Iterator[list[int]]:
    """Run nodes in processes of their own; gives their pids when all are ready."""
    processes = []
    try:
        for name in names:
            errors = (folder / f"{name}.log").open("w+")
            processes.append(
                subprocess.Popen(
                    [FLOCKCTL, "node", "--name", name, "--state-dir", str(folder / "state" / name)],
                    stdin=subprocess.DEVNULL,
                    stderr=errors,
                    env=environment,
                )
            )
            errors.close()
        deadline = time.monotonic() + 120
        for name, process in zip(names, processes, strict=True):
            while f"READY {name} " not in (folder / f"{name}.log").read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{name} is not ready: {(folder / f'{name}.log').read_text()}")
                time.sleep(0.05)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)


def run(names: list[str], environment: dict[str, str]) -> float:
    """Run all nodes by one command; returns the seconds it took.

    Raises:
        SystemExit: a node is missing, listed twice, or not ok.
    """
    begun = time.perf_counter()
    done = subprocess.run(
        [FLOCKCTL, "run", "--on", "*:*", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    seconds = time.perf_counter() - begun
    rows = json.loads(done.stdout or "[]")
    if done.returncode or [(row["node"], row["state"]) for row in rows] != [
        (name, "ok") for name in names
    ]:
        sys.exit(f"exit code {done.returncode}, {len(rows)} rows: {done.stderr[-3000:]}")
    return seconds


def measure(url: str, folder: Path, count: int, rounds: int) -> tuple[float, float, float, float]:
    """Return seconds until all are there, of the first run, of a later one; MiB of a node."""
    recipe = folder / "cookbooks/cb/recipes/default.py"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE.format(folder=str(folder)))
    environment = {
        **os.environ,
        "FLOCK_CONFIG": "",
        "FLOCK_REGISTRY": url,
        "FLOCK_COOKBOOKS": str(folder / "cookbooks"),
        "FLOCK_RUN_LIST": "cb",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    names = [f"bender{number:03}" for number in range(count)]
    begun = time.perf_counter()
    with nodes(folder, names, environment) as pids:
        ready = time.perf_counter() - begun
        first = run(names, environment)
        later = statistics.median(run(names, environment) for _ in range(rounds))
        memory = statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids)
    return ready, first, later, memory / 2**20


def main() -> None:
    """Measure on both registries and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.nodes} nodes, one command for all; seconds")
    print(f"{'registry':<12}{'ready':>8}{'first run':>11}{'next runs':>11}{'MiB a node':>12}")
    with both_registries() as registries:
        for kind, url, folder in registries:
            ready, first, later, memory = measure(url, folder, options.nodes, options.rounds)
            print(f"{kind:<12}{ready:>8.1f}{first:>11.2f}{later:>11.2f}{memory:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
