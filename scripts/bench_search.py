#!/usr/bin/env python3
"""Measure how long names, find and search take over many nodes in a ZooKeeper, and how each grows.

A ZooKeeper of its own is filled with so many nodes: presence records, and node
objects whose attributes are the facts of this machine and as much again as
asked for. Each question is asked by one visitor several times; the median
counts, and its growth against the smallest number of nodes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from zookeeper_servers import ZooKeeperEnsemble

from flock import Flock
from flock.converge.facts import collect
from flock.node import Node
from flock.search import parse
from registry.contract import MAX_DOCUMENT_BYTES, MAX_RECORD_BYTES
from registry.records import encode, quote, to_plain

ROOT = "/bench"
IN_FLIGHT = 200


@dataclass(frozen=True)
class Question:
    """What is measured: its name, how it is asked, and how many answers it must have."""

    name: str
    ask: Callable[[Flock], int]
    expected: Callable[[int], int]


def tenth(count: int) -> int:
    """Return how many of so many nodes have the role web."""
    return len(range(0, count, 10))


QUESTIONS = (
    Question("names: list(FlockOfChefs)", lambda flock: len(list(flock)), lambda count: count),
    Question("nodes: every presence", lambda flock: len(flock.nodes()), lambda count: count),
    Question("find('web')", lambda flock: len(flock.find("web")), tenth),
    Question(
        "search('name:n00001') heads", lambda flock: len(flock.search("name:n00001")), lambda _: 1
    ),
    Question("search('roles:web') heads", lambda flock: len(flock.search("roles:web")), tenth),
    Question(
        "search('roles:web AND kernel_name:Linux') tenth of bodies",
        lambda flock: len(flock.search("roles:web AND kernel_name:Linux")),
        tenth,
    ),
    Question(
        "search('kernel_name:Linux') every body",
        lambda flock: len(flock.search("kernel_name:Linux")),
        lambda count: count,
    ),
)


def documents(record: Any, count: int, body_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Return what stands in the registry for so many nodes: paths and bytes."""
    facts = collect()
    random.seed(1)
    for number in range(count):
        name = f"n{number:05}"
        is_web = number % 10 == 0
        roles = ["base", "web"] if is_web else ["base", "db"]
        actors = ("flock_api", "info", "web") if is_web else ("flock_api", "info")
        ours = replace(record, name=name, generation=f"{number:032x}", actors=actors)
        yield f"presence/{name}", encode(to_plain(ours), name, MAX_RECORD_BYTES)
        yield f"nodes/{name}~{quote(ours.generation)}", b""
        head = {
            "name": name,
            "run_list": [f"role[{role}]" for role in roles],
            "roles": roles,
            "recipes": [f"{role}::default" for role in (*roles, "ntp", "users", "ssh")],
            "environment": "prod",
            "tags": [f"rack{number % 40}"],
            "home": {"folder_id": f"{number:032x}", "machine": "", "host": name, "path": "/var"},
        }
        more = {
            f"item{item}": "".join(random.choices(string.ascii_lowercase, k=40))  # noqa: S311 - no secret
            for item in range(body_bytes // 50)
        }
        body = {"normal": {}, "attributes": {**facts, "hostname": name, "more": more}}
        base = b"\0\0\0\0"
        folder = "documents/node-objects"
        yield f"{folder}/heads/{name}", base + encode(head, name, MAX_DOCUMENT_BYTES)
        yield f"{folder}/bodies/{name}", base + encode(body, name, MAX_DOCUMENT_BYTES)


def fill(hosts: str, pairs: Iterator[tuple[str, bytes]]) -> dict[str, int]:
    """Write into ZooKeeper, many at once; returns the bytes by kind."""
    client = KazooClient(hosts=hosts)
    client.start()
    sizes: dict[str, int] = {}
    try:
        for folder in ("heads", "bodies"):
            client.ensure_path(f"{ROOT}/documents/node-objects/{folder}")
        under_way: list[Any] = []
        for path, data in pairs:
            kind = path.split("/")[-2]
            sizes[kind] = sizes.get(kind, 0) + len(data)
            under_way.append(client.create_async(f"{ROOT}/{path}", data))
            if len(under_way) >= IN_FLIGHT:
                for each in under_way:
                    each.get(timeout=30)
                under_way.clear()
        for each in under_way:
            each.get(timeout=30)
    finally:
        client.stop()
        client.close()
    return sizes


def measure(count: int, body_bytes: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each question over so many nodes."""
    with (
        tempfile.TemporaryDirectory(prefix="flock-bench-") as folder,
        ZooKeeperEnsemble(Path(folder), 1, dies_with_us=True) as ensemble,
        Flock(registry=f"zookeeper://{ensemble.connection_string}{ROOT}") as flock,
    ):
        mine: Node = flock.node
        pairs = documents(replace(mine.presence(), kind="node"), count, body_bytes)
        sizes = fill(ensemble.connection_string, pairs)
        print(
            f"{count} nodes: a presence has {sizes['presence'] // count} bytes, "
            f"a head {sizes['heads'] // count}, a body {sizes['bodies'] // count}, compressed"
        )
        medians = {}
        for question in QUESTIONS:
            took = []
            for _ in range(rounds):
                began = time.perf_counter()
                found = question.ask(flock)
                took.append(time.perf_counter() - began)
                assert found == question.expected(count), (question.name, found)
            medians[question.name] = statistics.median(took)
    return medians


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", default="100,1000,5000", help="numbers of nodes")
    parser.add_argument("--body", type=int, default=10_000, help="bytes of attributes more")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    parse("a:b")  # what is loaded once is not what is measured
    counts = [int(count) for count in options.nodes.split(",")]
    results = {count: measure(count, options.body, options.rounds) for count in counts}
    first = counts[0]
    print(
        f"\n{'seconds, median (and how often the first)':58}" + "".join(f"{n:>22}" for n in counts)
    )
    for question in QUESTIONS:
        cells = [
            f"{results[count][question.name]:.4f}"
            f" ({results[count][question.name] / results[first][question.name]:.1f} times)"
            for count in counts
        ]
        print(f"{question.name:58}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
