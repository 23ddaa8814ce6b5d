"""Break everything around locks for a while, and bring back the history.

Processes take and release locks (`lock_worker`); a nemesis kills them, stops
them for longer than their sessions last, kills and stops the servers, and
cuts the links between both. `python -m tests.system.lock_chaos SECONDS` does
it as long as one likes, on both registries side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from zookeeper_servers import ZooKeeperEnsemble, ZooKeeperServer

from tests.lock_history import Claim, Entry, Fault, History
from tests.system.lock_worker import journal_of, open_registry
from tests.system.zookeeper_faults import Proxy

ROOT = Path(__file__).parents[2]
SLOTS = {"one": 1, "two": 1, "pair": 2}
SESSION_TIMEOUT = 4.0
LOCK_DELAY = 2.0
STUCK_AFTER = SESSION_TIMEOUT + LOCK_DELAY + 5.0
SETTLE = SESSION_TIMEOUT + LOCK_DELAY + 2.0
"""Seconds for which a fault's effects may last: a session, a lock-delay, finding a server."""

QUIET = 6.0
"""Seconds at the beginning in which nothing is broken."""


@dataclass
class Process:
    """One worker: its name, its process, and where it says what it believes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_stopped: bool = False


@dataclass
class Chaos:
    """One run over one registry.

    Attributes:
        folder: where workers write.
        urls: how workers reach the registry; taken in turn.
        check_url: how the registry is reached past all faults.
        slots: the locks.
        kind: of lock: `ours`, `kazoo` or `broken`.
        hosts: of kazoo's own client.
        workers: how many processes.
        sections: shortest and longest critical section, in seconds.
        session_timeout, lock_delay: of the registry.
        seed: what the chances come from.
    """

    folder: Path
    urls: Sequence[str]
    check_url: str
    slots: dict[str, int] = field(default_factory=lambda: dict(SLOTS))
    kind: str = "ours"
    hosts: str = ""
    workers: int = 8
    sections: tuple[float, float] = (0.05, 0.7)
    session_timeout: float = SESSION_TIMEOUT
    lock_delay: float = LOCK_DELAY
    seed: int = 1

    def __post_init__(self) -> None:
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        self._random = random.Random(self.seed)
        self._born = 0

    # --- processes

    def __enter__(self) -> Chaos:
        for _ in range(self.workers):
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._processes:
            if each.process.poll() is None:
                each.process.kill()
            each.process.wait(10)
            assert each.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                each.process.stdin.close()

    def _begin(self) -> None:
        self._born += 1
        name = f"worker{self._born}"
        log = self.folder / f"{name}.log"
        order = {
            "name": name,
            "url": self.urls[self._born % len(self.urls)],
            "hosts": self.hosts,
            "kind": self.kind,
            "slots": self.slots,
            "sections": self.sections,
            "session_timeout": self.session_timeout,
            "lock_delay": self.lock_delay,
            "seed": self.seed * 1000 + self._born,
            "log": str(log),
        }
        with open(self.folder / f"{name}.err", "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.lock_worker", json.dumps(order)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stderr=errors,
            )
        self._processes.append(Process(name, process, log))

    def _alive(self) -> list[Process]:
        return [p for p in self._processes if p.process.poll() is None and not p.is_stopped]

    def holder(self, lock: str, within: float = 5.0) -> Process | None:
        """Return a process that just said it holds a lock, waiting for one a while."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for each in self._alive():
                said = _lines(each.log)
                if said and said[-1]["lock"] == lock and said[-1]["event"] in ("granted", "held"):
                    return each
            time.sleep(0.02)
        return None

    # --- faults

    def kill(self, target: Process | None = None) -> None:
        """End a process with `kill -9`; another one begins."""
        target = target or self._any()
        if target is None:
            return
        self._note("kill", target.name, target.process.kill)
        target.process.wait(10)
        self._begin()

    def stop(self, seconds: float, target: Process | None = None) -> None:
        """Stop a process with SIGSTOP, and let it go on."""
        target = target or self._any()
        if target is None:
            return

        def deed() -> None:
            os.kill(target.process.pid, signal.SIGSTOP)
            target.is_stopped = True
            time.sleep(seconds)
            target.is_stopped = False
            os.kill(target.process.pid, signal.SIGCONT)

        self._note("stop", target.name, deed)

    def _any(self) -> Process | None:
        alive = self._alive()
        return self._random.choice(alive) if alive else None

    def _note(self, kind: str, target: str, deed: Callable[[], None]) -> None:
        at = _clock()
        deed()
        with self._lock:
            self.faults.append(Fault(at, _clock(), kind, target))

    def fault(self, kind: str, target: str, deed: Callable[[], None]) -> None:
        """Do something to servers or links, and note it."""
        self._note(kind, target, deed)

    # --- the end

    def history(self) -> History:
        """End the processes, and return what happened."""
        ended = _clock()
        self._end()
        return self.so_far(ended)

    def _end(self) -> None:
        for each in self._processes:
            assert each.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                each.process.stdin.close()
        for each in self._processes:
            try:
                each.process.wait(20)
            except subprocess.TimeoutExpired:
                each.process.kill()

    def so_far(self, ended: float = float("inf")) -> History:
        """Return what has happened by now."""
        registry = open_registry(self.check_url, SESSION_TIMEOUT, LOCK_DELAY)
        try:
            journals = {
                lock: [Entry(**entry) for entry in journal_of(registry, lock)]
                for lock in self.slots
            }
        finally:
            registry.close()
        claims = [
            Claim(
                said["at"],
                each.name,
                said["lock"],
                said["event"],
                said.get("slot", -1),
                said.get("token", -1),
            )
            for each in self._processes
            for said in _lines(each.log)
        ]
        faults = sorted(self.faults, key=lambda fault: fault.at)
        return History(dict(self.slots), journals, claims, faults, ended)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, without one that was cut off by a death."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- both registries --------------------------------------------------------------


def break_processes(chaos: Chaos, seconds: float) -> None:
    """Kill and stop processes for a while."""
    chance = random.Random(chaos.seed)
    deadline = time.monotonic() + seconds
    time.sleep(QUIET)
    with ThreadPoolExecutor(8) as stops:
        while time.monotonic() < deadline:
            what = chance.random()
            lock = chance.choice(sorted(chaos.slots))
            if what < 0.3:
                chaos.kill(chaos.holder(lock, 1.0) if chance.random() < 0.7 else None)
            else:
                # Some within the session's timeout, most beyond it.
                length = chance.choice((0.5, 6.0, 7.0))
                stops.submit(chaos.stop, length, chaos.holder(lock, 1.0))
            time.sleep(chance.uniform(0.5, 2.5))


def break_servers(
    chaos: Chaos, ensemble: ZooKeeperEnsemble, links: Sequence[Sequence[Proxy]], seconds: float
) -> None:
    """Kill, stop and restart servers, and cut links, one fault after the other."""
    chance = random.Random(chaos.seed + 1)
    deadline = time.monotonic() + seconds
    time.sleep(QUIET)
    while time.monotonic() < deadline:
        server = chance.choice(ensemble.servers)
        half = chance.choice(links)
        what = chance.choice(("restart a server", "freeze a server", "cut all", "cut one"))
        length = chance.choice((0.5, 3.0, 6.0))
        if what == "restart a server":
            deed = partial(_restart, ensemble, server, length)
        elif what == "freeze a server":
            deed = partial(_freeze, ensemble, server, length)
        else:
            deed = partial(_cut, half if what == "cut all" else [chance.choice(half)], length)
        chaos.fault(what, server.address, deed)
        time.sleep(chance.uniform(2.0, 5.0))


def _restart(ensemble: ZooKeeperEnsemble, server: ZooKeeperServer, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()
    ensemble.wait_until_serving(30.0)


def _freeze(ensemble: ZooKeeperEnsemble, server: ZooKeeperServer, seconds: float) -> None:
    server.pause()
    time.sleep(seconds)
    server.resume()
    ensemble.wait_until_serving(30.0)


def _cut(links: Sequence[Proxy], seconds: float) -> None:
    for link in links:
        link.shut()
    time.sleep(seconds)
    for link in links:
        link.reopen()


def embedded_chaos(folder: Path, seconds: float, seed: int) -> History:
    """Break processes over an embedded registry."""
    url = f"embedded:{folder}/registry"
    logs = folder / "embedded"
    logs.mkdir()
    with Chaos(logs, [url], url, seed=seed) as chaos:
        break_processes(chaos, seconds)
        return chaos.history()


def zookeeper_chaos(
    folder: Path, ensemble: ZooKeeperEnsemble, seconds: float, seed: int
) -> History:
    """Break processes, servers and links over a registry in an ensemble."""
    logs = folder / "zookeeper"
    logs.mkdir()
    root = f"chaos-{seed}-{os.getpid()}"
    with two_ways_to(ensemble) as links:
        urls = [f"zookeeper://{','.join(p.address for p in half)}/{root}" for half in links]
        with (
            Chaos(logs, urls, ensemble.url(root), seed=seed) as chaos,
            ThreadPoolExecutor(1) as pool,
        ):
            servers = pool.submit(break_servers, chaos, ensemble, links, seconds)
            break_processes(chaos, seconds)
            servers.result()
            ensemble.wait_until_serving(30.0)
            return chaos.history()


@contextlib.contextmanager
def two_ways_to(ensemble: ZooKeeperEnsemble) -> Iterator[list[list[Proxy]]]:
    """Give two sets of links to all servers: cutting one parts half of the processes."""
    links = [[Proxy(server.address) for server in ensemble.servers] for _ in range(2)]
    try:
        yield links
    finally:
        for half in links:
            for link in half:
                link.close()


def main(seconds: float) -> int:
    """Break locks on both registries for so many seconds; say what was found."""
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}, {seconds:g} s", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="flk-") as name:
        folder = Path(name)
        (folder / "servers").mkdir()
        with (
            ZooKeeperEnsemble(folder / "servers", 3, dies_with_us=True) as ensemble,
            ThreadPoolExecutor(2) as pool,
        ):
            runs = {
                "embedded": pool.submit(embedded_chaos, folder, seconds, seed),
                "zookeeper": pool.submit(zookeeper_chaos, folder, ensemble, seconds, seed),
            }
            found = {name: run.result() for name, run in runs.items()}
    broken = 0
    for registry, history in found.items():
        print(json.dumps({"registry": registry, **history.figures()}))
        for problem in history.check(stuck_after=STUCK_AFTER, settle=SETTLE):
            broken += 1
            print(f"{registry}: {problem}")
    print(f"{broken} broken promises", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
