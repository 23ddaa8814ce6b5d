#!/usr/bin/env python3
"""Measure our locks beside kazoo's own, in one run on one local ZooKeeper, as ratios.

Three questions: what taking and giving back a free lock costs, how long a
lock takes from one process to the next that waits, and how many requests a
server gets for a hand-over when few or many wait. Both kinds run in turns, so
that whatever else the machine does meets both; only ratios travel.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from kazoo.client import KazooClient
from zookeeper_servers import ZooKeeperEnsemble

from registry.contract import Lock, LockOwner, RegistrySettings
from registry.zookeeper import ZooKeeperRegistry

LIMITS = {"uncontended": 2.0, "hand-over": 1.3}
"""Largest ratio of ours to kazoo's that is good."""

SESSION_TIMEOUT = 30.0
"""Seconds; so long that no ping falls into a count of requests."""


class Locks(Protocol):
    """One process's way to locks of one kind."""

    def take(self, lockid: str) -> None:
        """Wait for a lock and take it."""

    def give_back(self) -> None:
        """Give back what was taken last."""

    def close(self) -> None:
        """End the session."""


class Ours:
    """Locks of the registry."""

    def __init__(self, hosts: str) -> None:
        settings = RegistrySettings(f"zookeeper://{hosts}/bench", SESSION_TIMEOUT)
        self._registry = ZooKeeperRegistry(settings)
        self._registry.open(10)
        self._held: Lock | None = None

    def take(self, lockid: str) -> None:
        """Wait for a lock and take it."""
        self._held = self._registry.acquire(lockid, LockOwner("bench", "here"), wait=120)

    def give_back(self) -> None:
        """Give back what was taken last."""
        assert self._held is not None
        self._held.release()

    def close(self) -> None:
        """End the session."""
        self._registry.close()


class Theirs:
    """`kazoo.recipe.lock.Lock`."""

    def __init__(self, hosts: str) -> None:
        self._client = KazooClient(hosts, timeout=SESSION_TIMEOUT)
        self._client.start(10)
        self._locks: dict[str, Any] = {}

    def take(self, lockid: str) -> None:
        """Wait for a lock and take it."""
        self._lock = self._locks.get(lockid) or self._client.Lock(f"/theirs/{lockid}", "bench")
        self._locks[lockid] = self._lock
        self._lock.acquire(timeout=120)

    def give_back(self) -> None:
        """Give back what was taken last."""
        self._lock.release()

    def close(self) -> None:
        """End the session."""
        self._client.stop()
        self._client.close()


KINDS: dict[str, Callable[[str], Locks]] = {"ours": Ours, "kazoo": Theirs}


# --- a free lock ----------------------------------------------------------------------


def uncontended(hosts: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of taking and giving back a lock that nobody else wants."""
    locks = {name: make(hosts) for name, make in KINDS.items()}
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    for number in range(rounds + 20):
        for name, mine in locks.items():
            began = time.perf_counter()
            mine.take("free")
            mine.give_back()
            if number >= 20:  # the first ones lay out folders and find their feet
                times[name].append(time.perf_counter() - began)
    for mine in locks.values():
        mine.close()
    return {name: statistics.median(found) for name, found in times.items()}


# --- from one process to the next ------------------------------------------------------


def _partner(kind: str, hosts: str, pipe: Connection) -> None:
    """Take the lock when told, say so, and give it back when told."""
    locks = KINDS[kind](hosts)
    pipe.send("ready")
    while pipe.recv() == "take":
        pipe.send("in line")
        locks.take("passed on")
        pipe.send(time.monotonic())
        pipe.recv()
        locks.give_back()
        pipe.send("given back")
    locks.close()


def hand_over(hosts: str, rounds: int) -> dict[str, float]:
    """Return the median seconds from the giving back in one process to the having in another."""
    context = multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    with contextlib.ExitStack() as stack:
        sides: dict[str, tuple[Locks, Connection]] = {}
        for name, make in KINDS.items():
            here, there = context.Pipe()
            process = context.Process(target=_partner, args=(name, hosts, there), daemon=True)
            process.start()
            stack.callback(process.join, 10)
            stack.callback(here.send, "end")
            mine = make(hosts)
            stack.callback(mine.close)
            here.recv()
            sides[name] = (mine, here)
        for number in range(rounds + 5):
            for name, (mine, pipe) in sides.items():
                mine.take("passed on")
                pipe.send("take")
                pipe.recv()
                time.sleep(0.05)  # until it stands in line and watches
                began = time.monotonic()
                mine.give_back()
                had = pipe.recv()
                if number >= 5:
                    times[name].append(had - began)
                pipe.send("give back")
                pipe.recv()
    return {name: statistics.median(found) for name, found in times.items()}


# --- requests at a hand-over -------------------------------------------------------------


def requests_per_hand_over(ensemble: ZooKeeperEnsemble, waiters: int) -> float:
    """Return how many packets the server gets and sends for one hand-over of ours."""
    server = ensemble.servers[0]
    registry = ZooKeeperRegistry(RegistrySettings(ensemble.url("bench"), SESSION_TIMEOUT))
    registry.open(10)
    lockid = f"crowd{waiters}"

    def stand_in_line(number: int) -> None:
        registry.acquire(lockid, LockOwner(f"waiter{number}", "here"), wait=120).release()

    held = registry.acquire(lockid, LockOwner("first", "here"))
    with ThreadPoolExecutor(waiters) as crowd:
        ends = [crowd.submit(stand_in_line, number) for number in range(waiters)]
        while len(registry.lock_status(lockid).waiting) < waiters:
            time.sleep(0.1)
        time.sleep(0.5)
        before = _packets(server.ask("mntr"))
        held.release()
        for end in ends:
            end.result()
        time.sleep(0.2)
        after = _packets(server.ask("mntr"))
    registry.close()
    return (after - before) / waiters


def _packets(answer: str) -> int:
    found = dict(line.split("\t", 1) for line in answer.splitlines() if "\t" in line)
    return int(found["zk_packets_received"]) + int(found["zk_packets_sent"])


# --- all of it ---------------------------------------------------------------------------


@contextlib.contextmanager
def _servers() -> Iterator[ZooKeeperEnsemble]:
    with (
        tempfile.TemporaryDirectory(prefix="flock-bench-") as folder,
        ZooKeeperEnsemble(Path(folder), 1, dies_with_us=True) as ensemble,
    ):
        yield ensemble


def main() -> int:
    """Measure, print, and say whether all is within the limits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=200, help="pairs of a free lock")
    given = parser.parse_args()
    good = True
    with _servers() as ensemble:
        hosts = ensemble.connection_string
        measured = {
            "uncontended": uncontended(hosts, given.rounds),
            "hand-over": hand_over(hosts, max(20, given.rounds // 4)),
        }
        for name, times in measured.items():
            ratio = times["ours"] / times["kazoo"]
            good = good and ratio <= LIMITS[name]
            print(
                f"{name:12} ours {times['ours'] * 1000:6.2f} ms   kazoo "
                f"{times['kazoo'] * 1000:6.2f} ms   ratio {ratio:.2f} (good: <= {LIMITS[name]})"
            )
        few, many = (requests_per_hand_over(ensemble, count) for count in (5, 50))
        grows = many / few
        good = good and grows <= 1.3
        print(
            f"packets for a hand-over: {few:.1f} with 5 waiters, {many:.1f} with 50"
            f"   ratio {grows:.2f} (good: <= 1.3)"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
