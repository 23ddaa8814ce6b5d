#!/usr/bin/env python3
"""Measure our calls against a raw pyzmq ping-pong, in one run, as ratios.

The limit is a DEALER/ROUTER pair with msgpack, one thread on each side, no
actor, one message per frame. Both sides run in alternating chunks (raw, ours,
raw, ours …), the server in another process, client and server pinned to a core
each; a ratio is the median over neighbouring chunks, over several starts of all
servers. Only ratios travel from one machine to another.

The actor called is a supervised `flock.Actor` with a one-line method, found
through the embedded registry; deadlines, chains, limits and checks are all on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgpack
import zmq

import flock
from flock import Actor, Flock

PAYLOADS = {"10 B": b"x" * 10, "1 KiB": b"x" * 1024, "64 KiB": b"x" * 65536}


class Echo(Actor):
    """The actor under test."""

    def echo(self, value: Any) -> Any:
        """Give the value back."""
        return value


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    return zmq.Context.instance()


def serve_raw() -> None:
    """Answer each message with its last field, until standard input ends."""
    socket = _context().socket(zmq.ROUTER)
    socket.rcvhwm = socket.sndhwm = 0  # before it is bound, or a full pipe drops answers
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        route, body = socket.recv_multipart()
        message = msgpack.unpackb(body)
        if message[0] == 1:
            socket.send_multipart([route, msgpack.packb((2, message[1], message[2]))])


def serve_flock(folder: str, crypto: bool) -> None:
    """Be the node `server` until standard input ends."""
    node = Flock(name="server", registry=f"embedded:{folder}", crypto=crypto).start()
    node.supervise(Echo, name="echo")
    print("ready", flush=True)
    sys.stdin.read()
    node.close()


@contextlib.contextmanager
def awake_cores() -> Iterator[None]:
    """Keep every core from falling asleep, with work that gives way to any other.

    What it costs to wake a sleeping core is the machine's, not ours, and swings
    more than everything that is measured here.
    """
    spinners = []
    for core in sorted(os.sched_getaffinity(0)):
        spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.sched_setaffinity(spinner.pid, {core})
        os.sched_setscheduler(spinner.pid, os.SCHED_IDLE, os.sched_param(0))
        spinners.append(spinner)
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@contextlib.contextmanager
def server(*arguments: str, script: str = __file__) -> Iterator[str]:
    """Run a script as a server on the last core; yield its first line."""
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class Raw:
    """The limit's client."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = self.connected()
        self.number = 0

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def connected(self) -> zmq.Socket[bytes]:
        """Make a connection of its own, for one thread."""
        socket: zmq.Socket[bytes] = _context().socket(zmq.DEALER)
        socket.linger = 0
        socket.rcvhwm = socket.sndhwm = 0
        socket.connect(f"tcp://127.0.0.1:{self.port}")
        return socket

    def call(self, value: bytes) -> None:
        """Send one message and wait for its answer."""
        self.number += 1
        self.socket.send(msgpack.packb((1, self.number, value)))
        msgpack.unpackb(self.socket.recv())

    def pipelined(self, count: int) -> None:
        """Send all, then read all."""
        for number in range(count):
            self.socket.send(msgpack.packb((1, number, b"x" * 10)))
        for _ in range(count):
            msgpack.unpackb(self.socket.recv())

    def one_way(self, count: int) -> None:
        """Send all unanswered, then one that is answered."""
        for number in range(count):
            self.socket.send(msgpack.packb((0, number, b"x" * 10)))
        self.call(b"x" * 10)

    def threads(self, threads: int, each: int) -> None:
        """Call from many threads, each with a connection of its own."""

        def work() -> None:
            with self.connected() as socket:
                for number in range(each):
                    socket.send(msgpack.packb((1, number, b"x" * 10)))
                    msgpack.unpackb(socket.recv())

        in_threads(threads, work)


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Run `work` on so many threads and wait for all."""
    started = [threading.Thread(target=work) for _ in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


class Ours:
    """Our client: the same pieces of work as `Raw`."""

    def __init__(self, client: Flock) -> None:
        self.echo = client["server"]["echo"]

    def call(self, value: bytes) -> None:
        """Call and wait for the answer."""
        self.echo.echo(value)

    def pipelined(self, count: int) -> None:
        """Take all futures, then wait for all."""
        futures = [self.echo.echo.future(b"x" * 10) for _ in range(count)]
        for future in futures:
            future.get()

    def one_way(self, count: int) -> None:
        """Tell all, then call once: fewer than an inbox holds, or that call is refused."""
        for _ in range(count):
            self.echo.echo.defer(b"x" * 10)
        self.echo.echo(b"x" * 10)

    def batch(self, count: int) -> None:
        """Make all calls in one message."""
        batch = self.echo.batch()
        for _ in range(count):
            batch.echo(b"x" * 10)
        list(batch())

    def threads(self, threads: int, each: int) -> None:
        """Call from many threads."""

        def work() -> None:
            for _ in range(each):
                self.echo.echo(b"x" * 10)

        in_threads(threads, work)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds the work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def chunks(rounds: int, work: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Run pieces of work in turn, and return the seconds that each took each time."""
    for once in work.values():
        once()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, once in work.items():
            seconds[name].append(timed(once))
    return seconds


def add(seconds: dict[str, list[float]], more: Mapping[str, list[float]]) -> None:
    """Add what more chunks took."""
    for name, taken in more.items():
        seconds.setdefault(name, []).extend(taken)


def compare(seconds: Mapping[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each piece's median seconds, and the median of its ratios to the first's.

    The ratio is taken between neighbours, so that what the machine does
    meanwhile meets both.
    """
    first = next(iter(seconds.values()))
    medians = {name: statistics.median(mine) for name, mine in seconds.items()}
    ratios = {
        name: statistics.median(one / base for one, base in zip(mine, first, strict=True))
        for name, mine in seconds.items()
    }
    return medians, ratios


def repeat(work: Callable[[bytes], None], value: bytes, count: int) -> Callable[[], None]:
    """Return a piece of work that calls so many times."""

    def run() -> None:
        for _ in range(count):
            work(value)

    return run


Seen = dict[str, dict[str, list[float]]]
"""The seconds of each chunk: by line of the table, and by client."""

SYNCHRONOUS = {f"synchronous call, {size}": value for size, value in PAYLOADS.items()}
RATES: dict[str, tuple[str, tuple[int, ...], int]] = {
    "futures, 5,000 outstanding": ("pipelined", (5000,), 5000),
    "tells": ("one_way", (5000,), 5000),
    "8 calling threads": ("threads", (8, 200), 1600),
}
"""By line: the client's method, its arguments, and how many calls that makes."""


def calls_in_a_chunk(line: str) -> int:
    """Return how many calls a chunk of a line makes."""
    if line in RATES:
        return RATES[line][2]
    return 300 if len(SYNCHRONOUS[line]) < 65536 else 100


def measure(clients: Mapping[str, Any], rounds: int, seen: Seen) -> None:
    """Measure every line once more."""
    for line, value in SYNCHRONOUS.items():
        count = calls_in_a_chunk(line)
        work = {name: repeat(client.call, value, count) for name, client in clients.items()}
        add(seen.setdefault(line, {}), chunks(rounds, work))
    for line, (method, arguments, _) in RATES.items():
        work = {
            name: partial(getattr(client, method), *arguments) for name, client in clients.items()
        }
        add(seen.setdefault(line, {}), chunks(max(3, rounds // 3), work))


def report(seen: Seen) -> None:
    """Print the table."""
    print(f"{'':34}{'raw':>12}{'ours, plain':>22}{'ours, CURVE':>22}")
    for line, seconds in seen.items():
        count = calls_in_a_chunk(line)
        medians, ratios = compare(seconds)
        if line in RATES:
            unit, shown = "/s", {name: count / median for name, median in medians.items()}
        else:
            unit, shown = "us", {name: median / count * 1e6 for name, median in medians.items()}
        row(f"{line} ({unit})", shown, ratios, slower=line not in RATES)


def row(title: str, shown: dict[str, float], ratios: dict[str, float], *, slower: bool) -> None:
    """Print one line: figures, and ratios to raw (of times, or of rates)."""
    line = f"{title:34}{shown['raw']:12,.0f}"
    for name in ("ours, plain", "ours, CURVE"):
        ratio = ratios[name] if slower else 1 / ratios[name]
        line += f"{shown[name]:13,.0f} ({ratio:5.2f}x)"
    print(line, flush=True)


def main() -> None:
    """Serve, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15, help="chunks of each kind (15)")
    parser.add_argument("--starts", type=int, default=5, help="starts of all servers (5)")
    parser.add_argument("--serve", choices=["raw", "plain", "curve"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "raw":
        serve_raw()
    elif options.serve:
        serve_flock(options.folder, options.serve == "curve")
    else:
        run(options.rounds, options.starts)


def run(rounds: int, starts: int) -> None:
    """Start the three servers and measure, so many times, and print what came of all.

    A rate depends on how two processes fell into step, which lasts for seconds
    and differs from start to start by more than what is measured here.
    """
    print(
        f"flock {flock.__version__}, {starts} starts, {rounds} rounds each; "
        "times of raw: lower is better, rates: higher"
    )
    seen: Seen = {}
    with awake_cores():
        for _ in range(starts):
            measure_once(rounds, seen)
    report(seen)


def measure_once(rounds: int, seen: Seen) -> None:
    """Start the three servers and measure."""
    folder = tempfile.mkdtemp(prefix="flock-bench-")
    plain, curve = f"{folder}/plain", f"{folder}/curve"
    everywhere = os.sched_getaffinity(0)
    try:
        with (
            server("--serve", "raw") as port,
            server("--serve", "plain", "--folder", plain),
            server("--serve", "curve", "--folder", curve),
        ):
            # Before any thread of a client exists: each inherits its maker's cores.
            os.sched_setaffinity(0, {min(everywhere)})
            with (
                Flock(registry=f"embedded:{plain}", crypto=False) as plain_client,
                Flock(registry=f"embedded:{curve}") as curve_client,
                Raw(int(port)) as raw,
            ):
                clients = {
                    "raw": raw,
                    "ours, plain": Ours(plain_client),
                    "ours, CURVE": Ours(curve_client),
                }
                measure(clients, rounds, seen)
    finally:
        os.sched_setaffinity(0, everywhere)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
