"""Break everything around locks for a while, and bring back the history.

Processes take and release locks (`lock_worker`); a nemesis kills them, stops
them for longer than their sessions last, kills and stops the servers, and
cuts links (`lock_links`). `python -m tests.system.lock_chaos SECONDS` does it
as long as one likes, on both registries side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from zookeeper_servers import ZooKeeperEnsemble, ZooKeeperServer

from tests.lock_history import Claim, Entry, Fault, History
from tests.system.lock_links import Links, how_links_are_cut, with_links
from tests.system.lock_worker import journal_of, open_registry

ROOT = Path(__file__).parents[2]
SLOTS = {"one": 1, "two": 1, "pair": 2}
SESSION_TIMEOUT = 4.0
LOCK_DELAY = 2.0
STUCK_AFTER = SESSION_TIMEOUT + LOCK_DELAY + 5.0
SETTLE = SESSION_TIMEOUT + LOCK_DELAY + 2.0
"""Seconds for which a fault's effects may last: a session, a lock-delay, finding a server."""

QUIET = 8.0
"""Seconds of each calm in which nothing is broken: waiters are served in order."""

ONE_DEATH = STUCK_AFTER + 0.5
"""Seconds after that in which one holder was killed and nothing else is broken."""

STORM = 60.0
"""Seconds in which all is broken, between two times of calm."""


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
        enters: commands that run a worker where it belongs, one for each URL.
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
    enters: Sequence[tuple[str, ...]] = ()
    kind: str = "ours"
    hosts: str = ""
    workers: int = 8
    sections: tuple[float, float] = (0.05, 0.7)
    session_timeout: float = SESSION_TIMEOUT
    lock_delay: float = LOCK_DELAY
    seed: int = 1

    def __post_init__(self) -> None:
        self.faults: list[Fault] = []
        self.calm_is_over = threading.Event()
        self.is_over = threading.Event()
        self.peace = threading.Lock()
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
        enter = self.enters[self._born % len(self.urls)] if self.enters else ()
        with open(self.folder / f"{name}.err", "wb") as errors:
            process = subprocess.Popen(
                [*enter, sys.executable, "-m", "tests.system.lock_worker", json.dumps(order)],
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

    def wait_until_all_speak(self, within: float) -> None:
        """Wait until every process has said something."""
        deadline = time.monotonic() + within
        while not all(_lines(each.log) for each in self._processes):
            assert time.monotonic() < deadline, "some process never began"
            time.sleep(0.1)

    def _is_waited_for(self, target: Process) -> bool:
        """Say whether a process last said that it holds a lock which another waits for."""
        mine = (_lines(target.log) or [{}])[-1]
        others = [(_lines(each.log) or [{}])[-1] for each in self._alive() if each is not target]
        return mine.get("event") in ("granted", "held") and any(
            said.get("event") == "asked" and said["lock"] == mine["lock"] for said in others
        )

    # --- faults

    def kill(self, target: Process | None = None) -> None:
        """End a process with `kill -9`; another one begins."""
        target = target or self._any()
        if target is None:
            return
        self._note("kill", target.name, target.process.kill)
        target.process.wait(10)
        self._begin()

    def kill_who_is_waited_for(self, within: float) -> None:
        """Kill a process that surely holds a lock which another waits for.

        It is stopped first: what it said last is then still true when it dies.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for each in filter(self._is_waited_for, self._alive()):
                os.kill(each.process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, each.process.pid, os.WSTOPPED)
                if self._is_waited_for(each):
                    self.kill(each)
                    return
                os.kill(each.process.pid, signal.SIGCONT)
            time.sleep(0.02)
        raise AssertionError(f"nobody held a lock that another waited for within {within:g} s")

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
    """Kill and stop processes for a while, with times of calm in which one of them dies.

    What is judged only where nothing else is broken needs the calm: nobody
    else breaks anything while `peace` is taken.
    """
    chance = random.Random(chaos.seed)
    chaos.wait_until_all_speak(60.0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with chaos.peace:
            time.sleep(SETTLE if chaos.faults else 0.0)
            time.sleep(QUIET)
            chaos.kill_who_is_waited_for(40.0)
            time.sleep(ONE_DEATH)
            chaos.calm_is_over.set()
        _storm(chaos, chance, min(deadline, time.monotonic() + STORM))


def _storm(chaos: Chaos, chance: random.Random, until: float) -> None:
    with ThreadPoolExecutor(8) as stops:
        while time.monotonic() < until:
            what = chance.random()
            lock = chance.choice(sorted(chaos.slots))
            if what < 0.3:
                chaos.kill(chaos.holder(lock, 1.0) if chance.random() < 0.7 else None)
            else:
                # Some within the session's timeout, most beyond it.
                length = chance.choice((0.5, 6.0, 7.0))
                stops.submit(chaos.stop, length, chaos.holder(lock, 1.0))
            time.sleep(chance.uniform(0.5, 2.5))


SERVER_FAULTS = ("restart a server", "freeze a server")


def break_servers(chaos: Chaos, ensemble: ZooKeeperEnsemble, links: Links) -> None:
    """Kill, stop and restart servers, and cut links, one fault after the other, until it is over.

    All kinds come once in the order that tells most, and then by chance.
    """
    chance = random.Random(chaos.seed + 1)
    kinds = [kind for pair in itertools.zip_longest(links.kinds, SERVER_FAULTS) for kind in pair]
    coming = [kind for kind in kinds if kind is not None]
    chaos.calm_is_over.wait()
    while not chaos.is_over.is_set():
        kind = coming.pop(0) if coming else chance.choice((*links.kinds, *SERVER_FAULTS))
        length = chance.choice((3.0, 6.0) if coming else (0.5, 3.0, 6.0))
        server = chance.choice(ensemble.servers)
        with chaos.peace:
            if kind == "restart a server":
                chaos.fault(kind, server.address, partial(_restart, ensemble, server, length))
            elif kind == "freeze a server":
                chaos.fault(kind, server.address, partial(_freeze, ensemble, server, length))
            else:
                target, cut = links.choose(kind, chance)
                chaos.fault(kind, target, partial(_cut, ensemble, cut, length))
        chaos.is_over.wait(chance.uniform(1.0, 4.0))


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


def _cut(
    ensemble: ZooKeeperEnsemble, cut: contextlib.AbstractContextManager[None], seconds: float
) -> None:
    with cut:
        time.sleep(seconds)
    ensemble.wait_until_serving(30.0)


def embedded_chaos(folder: Path, seconds: float, seed: int) -> History:
    """Break processes over an embedded registry."""
    url = f"embedded:{folder}/registry"
    logs = folder / "embedded"
    logs.mkdir()
    with Chaos(logs, [url], url, seed=seed) as chaos:
        break_processes(chaos, seconds)
        return chaos.history()


def zookeeper_chaos(folder: Path, seconds: float, seed: int) -> History:
    """Break processes, servers and links over a registry in an ensemble of three."""
    logs = folder / "zookeeper"
    logs.mkdir()
    return with_links(folder / "servers", partial(_zookeeper_chaos, logs, seconds, seed))


def _zookeeper_chaos(
    logs: Path, seconds: float, seed: int, ensemble: ZooKeeperEnsemble, links: Links
) -> History:
    root = f"chaos-{seed}-{os.getpid()}"
    urls = [f"zookeeper://{way.hosts}/{root}" for way in links.ways]
    enters = [way.enter for way in links.ways]
    with (
        Chaos(logs, urls, ensemble.url(root), enters=enters, seed=seed) as chaos,
        ThreadPoolExecutor(1) as pool,
    ):
        servers = pool.submit(break_servers, chaos, ensemble, links)
        try:
            break_processes(chaos, seconds)
        finally:
            chaos.is_over.set()
            chaos.calm_is_over.set()
        servers.result()
        ensemble.wait_until_serving(30.0)
        return chaos.history()


def main(seconds: float) -> int:
    """Break locks on both registries for so many seconds; say what was found."""
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}, {seconds:g} s, links: {how_links_are_cut()}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="flk-") as name:
        folder = Path(name)
        with ThreadPoolExecutor(2) as pool:
            runs = {
                "embedded": pool.submit(embedded_chaos, folder, seconds, seed),
                "zookeeper": pool.submit(zookeeper_chaos, folder, seconds, seed),
            }
            found = {name: run.result() for name, run in runs.items()}
    broken = 0
    for registry, history in found.items():
        judged = history.judged(stuck_after=STUCK_AFTER, settle=SETTLE)
        print(json.dumps({"registry": registry, **history.figures(), "judged": judged}))
        for problem in history.check(stuck_after=STUCK_AFTER, settle=SETTLE):
            broken += 1
            print(f"{registry}: {problem}")
    print(f"{broken} broken promises", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
