"""ZooKeeper servers of our own: found, started on loopback, killed, paused, thrown away.

`scripts/zookeeper` and the tests stand on this. It needs nothing but Python's
standard library, because it must work before anything is installed, and it
touches no server that it did not start itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 60.0
"""Seconds for all servers until they serve; 0.4 s (one) and 1.8 s (three) are usual."""

_PROBE_TIMEOUT = 0.5
"""Seconds; a question to a server that is still starting can hang without an answer."""

_PORTS = range(20_000, 32_000)
"""Below the range that outgoing connections are given: none of them takes a port of ours."""

Held = Callable[[], AbstractContextManager[None]]

_HOMEBREW = (Path("/opt/homebrew/opt"), Path("/usr/local/opt"))

_JAVA_OPTIONS = (
    "-Xms32m",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dzookeeper.jmx.log4j.disable=true",
    # What is kept here outlives a process, not the machine: no need to wait for the disk.
    "-Dzookeeper.forceSync=no",
)

# Session timeouts from 1 s to 60 s may be asked for: tests cannot wait for more.
_CONFIGURATION = {
    "tickTime": "500",
    "minSessionTimeout": "1000",
    "maxSessionTimeout": "60000",
    "initLimit": "20",
    "syncLimit": "8",
    "admin.enableServer": "false",
    "4lw.commands.whitelist": "*",
    "maxClientCnxns": "0",
}


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Attributes:
        host: the address it serves at.
        enter: a command that runs the command behind it there.
    """

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


class NotInstalled(Exception):
    """ZooKeeper or Java is not on this machine; the message says which."""


class NotStarted(Exception):
    """The servers did not come up; the message ends with what the last one logged."""


@dataclass(frozen=True)
class Installation:
    """What it takes to run a server: a `java` and the jars."""

    java: str
    classpath: str


def find_installation() -> Installation:
    """Find ZooKeeper: `ZOOKEEPER_HOME`, else Debian's package, else Homebrew's.

    Raises:
        NotInstalled: nothing of that is there, or there is no Java.
    """
    jars = _jars()
    java_home = os.environ.get("JAVA_HOME")
    brewed = [str(prefix / "openjdk/bin") for prefix in _HOMEBREW]
    for folder in [f"{java_home}/bin"] if java_home else [os.environ.get("PATH", ""), *brewed]:
        java = shutil.which("java", path=folder)
        if java:
            return Installation(java, ":".join(map(str, jars)))
    raise NotInstalled(f"no java in {java_home}/bin" if java_home else "there is no java")


def _jars() -> list[Path]:
    home = os.environ.get("ZOOKEEPER_HOME")
    if home:
        jars = _unpacked_jars(Path(home))
        if not jars:
            raise NotInstalled(f"ZOOKEEPER_HOME is {home}, and no zookeeper-*.jar is there")
        return jars
    for jars in (_debian_jars(), *(_unpacked_jars(p / "zookeeper/libexec") for p in _HOMEBREW)):
        if jars:
            return jars
    raise NotInstalled("ZooKeeper is not on this machine")


def _unpacked_jars(home: Path) -> list[Path]:
    """Return the jars of an unpacked release: in `lib/` since 3.5, beside it before."""
    jars = [*home.glob("*.jar"), *home.glob("lib/*.jar")]
    return jars if any(jar.name.startswith("zookeeper-") for jar in jars) else []


def _debian_jars() -> list[Path]:
    if shutil.which("dpkg") is None:
        return []
    listing = subprocess.run(
        ["dpkg", "-L", "libzookeeper-java"], capture_output=True, text=True, check=False
    )
    found = [Path(line) for line in listing.stdout.splitlines() if line.endswith("/zookeeper.jar")]
    if not found:
        return []
    folder = found[0].parent
    # The jar names what it needs, but for its logs and for some of netty, which TLS takes.
    return [found[0], folder / "slf4j-simple.jar", *sorted(folder.glob("netty-*.jar"))]


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens at this moment, on loopback."""
    free: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise NotStarted(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def process_start(pid: int) -> str | None:
    """Return when a process began, in the machine's own words, None if it is gone or dead.

    With the pid this names one process: a later one with the same pid began
    at another time.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        listing = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split(maxsplit=1)
        return None if len(listing) != 2 or listing[0].startswith("Z") else listing[1].strip()
    # The name of the program stands in parentheses and may hold spaces and more of them.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def end_process(pid: int, start: str, within: float = 10.0) -> bool:
    """Kill the process that is named by `pid` and `start`, and wait until it is gone.

    Returns:
        False if that process was not there (any more); nothing was killed then.

    Raises:
        TimeoutError: it is still there after `within` seconds.
    """
    if process_start(pid) != start:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + within
    while process_start(pid) == start:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} is still there {within:g} s after SIGKILL")
        time.sleep(0.02)
    return True


class ZooKeeperServer:
    """One server process of ours that may be killed, paused and started again.

    Started again it has the same ports and the same data.

    Attributes:
        number: its id in the ensemble, from 1.
        client_port: where it serves.
        folder: its configuration, data and log (`log`).
        place: where it runs.
        process: the running (or ended) process, None before the first start.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        client_port: int,
        command: list[str],
        lines: list[str],
        place: Place,
    ) -> None:
        self.number = number
        self.folder = folder
        self.client_port = client_port
        self.place = place
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [*command, str(folder / "zoo.cfg")]
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "myid").write_text(f"{number}\n", encoding="ascii")
        lines = [f"dataDir={folder / 'data'}", f"clientPort={client_port}", *lines]
        lines.append(f"clientPortAddress={place.host}")
        (folder / "zoo.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def address(self) -> str:
        """Where it serves, as `HOST:PORT`."""
        return f"{self.place.host}:{self.client_port}"

    @property
    def log(self) -> str:
        """What it has written so far, over all its starts."""
        path = self.folder / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, held: Held = contextlib.nullcontext) -> None:
        """Start the process and return at once; harmless if it runs.

        Args:
            held: what keeps interrupts away until `process` is known.
        """
        if self.is_running():
            return
        with (self.folder / "log").open("ab") as log, held():
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # A Ctrl-C in the terminal is meant for others.
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it as a `kill -9` does, also when it is paused; harmless if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): it keeps its connections and answers nothing.

        Every thread of it has stopped when this returns.
        """
        self._signal(signal.SIGSTOP)
        assert self.process is not None
        # A signal reaches the threads one by one; only the wait says that the last has stopped.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            raise ProcessLookupError(f"server {self.number} does not run")
        self.process.send_signal(number)

    def is_running(self) -> bool:
        """Say whether the process is there, paused or not."""
        return self.process is not None and self.process.poll() is None

    def ask(self, word: str, timeout: float = _PROBE_TIMEOUT) -> str:
        """Return the answer to one of ZooKeeper's four-letter words, '' if none comes in time."""
        return ask(self.client_port, word, timeout, self.place.host)

    def mode(self) -> str | None:
        """Return `leader`, `follower` or `standalone`; None while it does not serve."""
        return mode(self.client_port, self.place.host)


def ask(port: int, word: str, timeout: float = _PROBE_TIMEOUT, host: str = "127.0.0.1") -> str:
    """Return the answer of the server on a port to a four-letter word, '' if none comes.

    Args:
        port: where it serves its clients.
        word: `ruok`, `srvr`, `cons`, `dump`, …
        timeout: seconds for each step.
        host: its address.
    """
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), timeout) as connection,
    ):
        connection.sendall(word.encode("ascii"))
        while received := connection.recv(65_536):
            answer += received
    return answer.decode("utf-8", errors="replace")


def mode(port: int, host: str = "127.0.0.1", timeout: float = _PROBE_TIMEOUT) -> str | None:
    """Return what the server on a port is to its ensemble; None: it does not serve."""
    for line in ask(port, "srvr", timeout, host).splitlines():
        if line.startswith("Mode: "):
            return line.removeprefix("Mode: ").strip()
    return None


class ZooKeeperEnsemble:
    """One server, or three that elect a leader, on loopback with their data in one folder.

    As a context manager it starts on entry, and on exit stops and removes its
    folder. Not safe for several threads at once.

    Args:
        folder: made if it is not there; everything the servers write.
        size: 1 or 3.
        configuration: lines for every server's `zoo.cfg` beside, or instead
            of, ours (TLS, limits).
        dies_with_us: the servers are killed when the thread that starts them
            ends (on Linux), so that a test that is killed leaves none behind.
        installation: found if None.
        places: one for each server; loopback if None.

    Raises:
        NotInstalled: there is no ZooKeeper on this machine.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 1,
        *,
        configuration: Mapping[str, str] | None = None,
        dies_with_us: bool = False,
        installation: Installation | None = None,
        places: Sequence[Place] | None = None,
    ) -> None:
        self.folder = folder
        self.size = size
        self.servers: list[ZooKeeperServer] = []
        found = installation or find_installation()
        self._places = list(places or [Place()] * size)
        self._configuration = {**_CONFIGURATION, **(configuration or {})}
        self._dying: list[str] = []
        self._command = [
            found.java,
            *_JAVA_OPTIONS,
            "-cp",
            found.classpath,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ]
        if dies_with_us and (setpriv := shutil.which("setpriv")):
            self._dying = [setpriv, "--pdeathsig", "KILL"]

    @property
    def connection_string(self) -> str:
        """Where it serves: `HOST:PORT[,HOST:PORT…]`."""
        return ",".join(server.address for server in self.servers)

    def url(self, root: str = "flock") -> str:
        """Return the registry URL for this ensemble with everything below `/root`."""
        return f"zookeeper://{self.connection_string}/{root}"

    def start(self, within: float = START_TIMEOUT, *, held: Held = contextlib.nullcontext) -> None:
        """Start every server that does not run, and wait until all serve.

        Args:
            within: seconds for all of them together.
            held: what keeps interrupts away while one is started whom nobody knows yet.

        Raises:
            NotStarted: they do not serve in time; none is left running.
        """
        fresh = not self.servers
        deadline = time.monotonic() + within
        while True:
            if not self.servers:
                self._lay_out()
            for server in self.servers:
                server.start(held)
            try:
                self.wait_until_serving(max(0.0, deadline - time.monotonic()))
            except NotStarted as error:
                for server in self.servers:
                    server.kill()
                # Between looking for free ports and listening on them somebody else may come.
                if not (fresh and "BindException" in str(error) and time.monotonic() < deadline):
                    raise
                shutil.rmtree(self.folder)
                self.servers = []
            else:
                return

    def _lay_out(self) -> None:
        ports = free_ports(3 * self.size)
        members = []
        if self.size > 1:
            members = [
                f"server.{number}={place.host}:{ports[3 * number - 2]}:{ports[3 * number - 1]}"
                for number, place in enumerate(self._places, 1)
            ]
        lines = [*(f"{name}={value}" for name, value in self._configuration.items()), *members]
        self.servers = [
            ZooKeeperServer(
                number,
                self.folder / str(number),
                ports[3 * number - 3],
                [*self._dying, *place.enter, *self._command],
                lines,
                place,
            )
            for number, place in enumerate(self._places, 1)
        ]

    def wait_until_serving(self, within: float = START_TIMEOUT) -> None:
        """Wait until every server serves.

        Raises:
            NotStarted: one of them does not after `within` seconds, or has ended.
        """
        deadline = time.monotonic() + within
        waiting = list(self.servers)
        while waiting:
            for server in waiting:
                if not server.is_running():
                    raise NotStarted(f"server {server.number} ended:\n{_tail(server.log)}")
                if time.monotonic() > deadline:
                    raise NotStarted(
                        f"server {server.number} does not serve after {within:g} s:\n"
                        f"{_tail(server.log)}"
                    )
            waiting = [server for server in waiting if server.mode() is None]
            if waiting:
                time.sleep(0.05)

    def leader(self, within: float = 10.0) -> ZooKeeperServer:
        """Return the server that leads (the only one, where there is one).

        Raises:
            NotStarted: none leads after `within` seconds.
        """
        deadline = time.monotonic() + within
        while True:
            for server in self.servers:
                if server.is_running() and server.mode() in {"leader", "standalone"}:
                    return server
            if time.monotonic() > deadline:
                raise NotStarted(f"no server leads after {within:g} s")
            time.sleep(0.05)

    def followers(self) -> list[ZooKeeperServer]:
        """Return the servers that follow a leader at this moment."""
        return [server for server in self.servers if server.mode() == "follower"]

    def stop(self) -> None:
        """Kill every server and remove the folder; harmless if there is none."""
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> ZooKeeperEnsemble:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _tail(log: str) -> str:
    lines = log.splitlines()
    telling = [line for line in lines if any(w in line for w in ("ERROR", "WARN", "Exception"))]
    return "\n".join((telling or lines)[-10:])
