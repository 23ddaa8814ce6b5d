#!/usr/bin/env python3
"""Measure our calls against the limit (raw pyzmq) and against other libraries, in one run.

Needs the extra `bench`; `make bench` installs it. A peer that is not installed
is left out and named. The method is that of `bench_calls`: alternating chunks,
servers in processes of their own, client and servers pinned to a core each,
ratios between neighbouring chunks, medians over several starts of all servers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bench_peers
import psutil
from bench_calls import (
    PAYLOADS,
    RATES,
    Echo,
    Ours,
    Raw,
    add,
    awake_cores,
    chunks,
    compare,
    repeat,
    serve_flock,
    serve_raw,
    server,
)

from flock import Flock, FlockOfChefs

MODULES = {"pyro": "Pyro5", "rpyc": "rpyc", "xoscar": "xoscar"}
OURS, CURVE = "ours, plain", "ours, CURVE"


@dataclass
class Line:
    """One line of the table.

    Attributes:
        unit: `us` for times, `/s` for rates.
        figure: makes it of a chunk's seconds.
        seconds: what each chunk took, by client.
    """

    unit: str
    figure: Callable[[float], float]
    seconds: dict[str, list[float]] = field(default_factory=dict)


Table = dict[str, Line]


def measure(clients: dict[str, Any], rounds: int, table: Table) -> None:
    """Measure every form of call once more."""
    few = max(7, rounds // 3)
    for size, value in PAYLOADS.items():
        count = 300 if size != "64 KiB" else 60
        works: dict[str, Callable[[], object]] = {
            name: partial(client.repeat, value, count)
            if hasattr(client, "repeat")
            else repeat(client.call, value, count)
            for name, client in clients.items()
        }
        line = table.setdefault(
            f"synchronous call, {size}", Line("us", partial(_microseconds, count))
        )
        add(line.seconds, chunks(rounds, works))
    for title, (method, arguments, count) in EVERY_RATE.items():
        works = {
            name: partial(getattr(client, method), *arguments)
            for name, client in clients.items()
            if hasattr(client, method)
        }
        line = table.setdefault(title, Line("/s", partial(_a_second, count)))
        add(line.seconds, chunks(few, works))
    with burning():
        works = {
            name: repeat(client.call, PAYLOADS["10 B"], 10)
            for name, client in clients.items()
            if name in ("raw", OURS, CURVE)
        }
        line = table.setdefault(
            "beside a thread that burns CPU", Line("us", partial(_microseconds, 10))
        )
        add(line.seconds, chunks(few, works))


def _microseconds(count: int, seconds: float) -> float:
    return seconds / count * 1e6


def _a_second(count: int, seconds: float) -> float:
    return count / seconds


EVERY_RATE = RATES | {"many calls in one message": ("batch", (5000,), 5000)}


def show(table: Table) -> None:
    """Print the table: of each client the figure, and the ratio to the first."""
    for title, line in table.items():
        medians, ratios = compare(line.seconds)
        print(f"\n{title} ({line.unit}; x = against {next(iter(medians))})")
        for name, seconds in medians.items():
            ratio = ratios[name] if line.unit == "us" else 1 / ratios[name]
            print(f"  {name:14}{line.figure(seconds):14,.0f}   {ratio:6.2f}x", flush=True)


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """Keep a thread of this process busy."""
    over = threading.Event()

    def burn() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def percentiles(ours: Ours, curve: Ours) -> None:
    """Print median and 99th percentile of single calls."""
    print("\nsingle calls, 10 B (us)")
    for name, client in ((OURS, ours), (CURVE, curve)):
        taken = []
        for _ in range(3000):
            started = time.perf_counter()
            client.call(PAYLOADS["10 B"])
            taken.append((time.perf_counter() - started) * 1e6)
        taken.sort()
        print(f"  {name:14} median {statistics.median(taken):8,.0f}   p99 {taken[2970]:8,.0f}")


PEERS = 50


def serve_peers(folder: str, first: int, last: int) -> None:
    """Be the nodes `peer-FIRST` to `peer-LAST`, in one process, until standard input ends."""
    nodes = [Flock(name=f"peer-{n}", registry=f"embedded:{folder}") for n in range(first, last + 1)]
    for node in nodes:
        node.start().supervise(Echo, name="echo")
    print(os.getpid(), flush=True)
    sys.stdin.read()
    for node in nodes:
        node.close()


def isolation(folder: str, rounds: int) -> None:
    """Print what calls to 49 peers cost while the fiftieth is frozen, and while it lives.

    While it is frozen, twenty calls to it are open.
    """
    arguments = ("--folder", f"{folder}/peers")
    last = str(PEERS)
    with (
        server("--serve", "peers", "--peers", "1", str(PEERS - 1), *arguments, script=__file__),
        server("--serve", "peers", "--peers", last, last, *arguments, script=__file__) as pid,
        Flock(registry=f"embedded:{folder}/peers") as client,
    ):
        lively = [client[f"peer-{n}"]["echo"].echo for n in range(1, PEERS)]
        frozen = client[f"peer-{PEERS}"]["echo"].echo
        taken: dict[str, list[float]] = {"all alive": [], "one frozen": []}
        for number in range(2 * rounds + 1):
            case = "one frozen" if number % 2 else "all alive"
            os.kill(int(pid), signal.SIGSTOP if number % 2 else signal.SIGCONT)
            if number % 2:
                _ = [frozen.future(b"x") for _ in range(20)]
            else:
                frozen(b"x")
            single = []
            for call in lively * 4:
                started = time.perf_counter()
                call(b"x" * 10)
                single.append((time.perf_counter() - started) * 1e6)
            if number:  # the first round opens the lanes
                taken[case] += single
        os.kill(int(pid), signal.SIGCONT)
    print(f"\ncalls to {PEERS - 1} peers in turn, CURVE (us)")
    medians = {}
    for case, times in taken.items():
        times.sort()
        medians[case] = statistics.median(times)
        worst = times[len(times) * 99 // 100]
        print(f"  {case:14} median {medians[case]:8,.0f}   p99 {worst:8,.0f}")
    print(f"  one frozen against all alive: {medians['one frozen'] / medians['all alive']:.2f}x")


def costs(folder: str) -> None:
    """Print what a node costs: memory, wake-ups, time until listed, the first call."""
    registry = f"embedded:{folder}/costs"
    code = (
        "import sys\nfrom flock import Flock\n"
        f"with Flock(name=sys.argv[1], registry={registry!r}):\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        process.stdout.readline()

    began = time.monotonic()
    idle = start("x")
    ready(idle)
    print(f"\na node: {time.monotonic() - began:.2f} s from start to listed")
    watched = psutil.Process(idle.pid)
    before = sum(_switches(idle.pid))
    time.sleep(5)
    rate = (sum(_switches(idle.pid)) - before) / 5
    resident = watched.memory_info().rss / 2**20
    print(f"  idle: {resident:.1f} MiB resident, {rate:.1f} wake-ups a second")
    started = time.perf_counter()
    FlockOfChefs.start(registry=registry)
    FlockOfChefs["x"]["info"].load_averages()
    first = time.perf_counter() - started
    for _ in range(998):
        FlockOfChefs["x"]["info"].load_averages()
    started = time.perf_counter()
    FlockOfChefs["x"]["info"].load_averages()
    last = time.perf_counter() - started
    print(
        f"  FlockOfChefs['x']['info'].load_averages(): {first * 1e3:.1f} ms the first time "
        f"(joining included), {last * 1e6:.0f} us the thousandth"
    )
    visitors = [Flock(registry=registry).start() for _ in range(100)]
    for visitor in visitors:
        visitor["x"]["info"].load_averages()
    print(f"  with 100 peers: {watched.memory_info().rss / 2**20:.1f} MiB resident")
    for visitor in visitors:
        visitor.close()
    FlockOfChefs.close()
    assert idle.stdin is not None and idle.stdout is not None
    idle.stdin.close()
    idle.wait(10)
    idle.stdout.close()
    commands = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "flock", "nodes", "--registry", registry, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        commands.append(time.monotonic() - started)
    print(
        f"  flockctl nodes, embedded registry: {statistics.median(commands):.2f} s, whole process"
    )


def _switches(pid: int) -> list[int]:
    """Return the voluntary context switches of each thread of a process."""
    counts = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            line = next(line for line in status if line.startswith("voluntary"))
            counts.append(int(line.split()[1]))
    return counts


def run(rounds: int, starts: int) -> None:
    """Start the servers so many times, and measure."""
    print("x: times of raw pyzmq; for times lower is better, for rates (/s) higher")
    for name in missing():
        print(f"{name} is not installed and left out", file=sys.stderr)
    folder = tempfile.mkdtemp(prefix="flock-bench-")
    table: Table = {}
    try:
        with awake_cores():
            for start in range(1, starts + 1):
                print(f"start {start} of {starts}", file=sys.stderr)
                with started(f"{folder}/{start}") as clients:
                    measure(clients, rounds, table)
                    if start == starts:
                        show(table)
                        percentiles(clients[OURS], clients[CURVE])
                        isolation(folder, rounds)
        costs(folder)
    finally:
        shutil.rmtree(folder)


def missing() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]


@contextlib.contextmanager
def started(folder: str) -> Iterator[dict[str, Any]]:
    """Start all servers; yield a client of each, by name."""
    plain, curve = f"{folder}/plain", f"{folder}/curve"
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        port = enter(server("--serve", "raw", script=__file__))
        enter(server("--serve", "plain", "--folder", plain, script=__file__))
        enter(server("--serve", "curve", "--folder", curve, script=__file__))
        served = {
            name: enter(server("--serve", name, script=__file__))
            for name in MODULES
            if name not in missing()
        }
        # Before any thread of a client exists: each inherits its maker's cores.
        everywhere = os.sched_getaffinity(0)
        stack.callback(os.sched_setaffinity, 0, everywhere)
        os.sched_setaffinity(0, {min(everywhere)})
        clients: dict[str, Any] = {
            "raw": enter(Raw(int(port))),
            OURS: Ours(enter(Flock(registry=f"embedded:{plain}", crypto=False))),
            CURVE: Ours(enter(Flock(registry=f"embedded:{curve}"))),
        }
        for name, where in served.items():
            clients[name] = bench_peers.CLIENTS[name](where)
        # What the clients of others have loaded is not ours to be searched for garbage.
        gc.collect()
        gc.freeze()
        yield clients


def main() -> None:
    """Serve, or measure."""
    parser = argparse.ArgumentParser(description="Our calls beside raw pyzmq and other libraries.")
    parser.add_argument("--rounds", type=int, default=9, help="chunks of each kind (9)")
    parser.add_argument("--starts", type=int, default=3, help="starts of all servers (3)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--peers", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "raw":
        serve_raw()
    elif options.serve in ("plain", "curve"):
        serve_flock(options.folder, options.serve == "curve")
    elif options.serve == "peers":
        serve_peers(options.folder, *options.peers)
    elif options.serve:
        bench_peers.SERVERS[options.serve]()
    else:
        run(options.rounds, options.starts)


if __name__ == "__main__":
    main()
