#!/usr/bin/env python3
"""Measure how long a notice takes: from a sender's change to the receiver's action begun.

Two processes, two nodes, one registry; the journals write durably. A block on
the sender notes the time right after its change and notifies a block on the
receiver, which notes the time when it begins. Both read the machine's one
monotonic clock. Each run is one notice, the next begins when it was done.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from both_registries import both_registries

from flock import Flock

LIMIT = 30.0
"""Milliseconds; the median is to be below, on either registry."""

SENDER = """
import time
from flock.recipe import python_block

def change():
    with open({folder!r} + '/changed', 'a') as file:
        file.write(f'{{time.monotonic()}}\\n')

python_block('change', code=change).remote_notifies('run', 'python_block[act]', node='receiver')
"""

RECEIVER = """
import time
from flock.recipe import python_block

def act():
    print(time.monotonic(), flush=True)

python_block('act', code=act, action='nothing')
"""


def be_receiver(registry: str, folder: Path) -> None:
    """Be the node that acts, until standard input ends."""
    with Flock(
        "receiver", registry, cookbooks=folder, run_list=["receiver"], state_dir=folder / "receiver"
    ):
        print("ready", flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def receiver(registry: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the receiver in a process of its own."""
    with subprocess.Popen(
        [sys.executable, __file__, "--be-receiver", registry, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the receiver did not start")
            yield process
        finally:
            process.stdin.close()


def measure(registry: str, folder: Path, runs: int) -> list[float]:
    """Return the milliseconds of each notice, in order."""
    for name, text in (("sender", SENDER), ("receiver", RECEIVER)):
        recipe = folder / name / "recipes" / "default.py"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(text.format(folder=str(folder)) if name == "sender" else text)
    found: list[float] = []
    with (
        receiver(registry, folder) as process,
        Flock(
            "sender", registry, cookbooks=folder, run_list=["sender"], state_dir=folder / "state"
        ) as flock,
    ):
        assert process.stdout is not None
        api = flock["sender"]["flock_api"]
        for number in range(runs + 3):
            report = api.run_chef(wait=True)
            if len(report["notices"]) != 1:
                raise SystemExit(f"the run told nobody: {report}")
            begun = float(process.stdout.readline())
            changed = float((folder / "changed").read_text().split()[-1])
            if number >= 3:  # the first meet cold caches and a lane that is not open yet
                found.append((begun - changed) * 1000)
            # Nothing of the last notice, as its receipt, is to meet the next.
            time.sleep(0.05)
    return found


def main() -> int:
    """Measure on both registries, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100, help="notices on each registry")
    parser.add_argument("--be-receiver", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_receiver:
        be_receiver(arguments.be_receiver[0], Path(arguments.be_receiver[1]))
        return 0
    worst = 0.0
    print(f"{'registry':<12}{'median ms':>12}{'95 % ms':>12}{'worst ms':>12}   (limit {LIMIT:g})")
    with both_registries() as registries:
        for kind, url, folder in registries:
            times = sorted(measure(url, folder, arguments.runs))
            median = statistics.median(times)
            worst = max(worst, median)
            print(
                f"{kind:<12}{median:>12.1f}{times[int(len(times) * 0.95)]:>12.1f}{times[-1]:>12.1f}"
            )
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
