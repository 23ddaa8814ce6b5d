"""A network of the test's own, whose links can be cut: namespaces around one that routes.

Nothing of the machine's network is touched: the thread that makes a network
is its router and lives in a namespace itself, and everything is gone with
that thread and the processes that stand for the places. Needs root, and
Debian's `iproute2` and `util-linux`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zookeeper_servers import Place

Value = TypeVar("Value")

_CLONE_NEWNET = 0x40000000


def why_impossible() -> str:
    """Return what a network of our own lacks on this machine, '' if nothing."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"no {program}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "no network namespaces here"


def in_own_network(function: Callable[[], Value]) -> Value:
    """Call `function` on a thread whose network, and that of what it starts, is an empty one."""
    results: list[Value] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - it belongs to who called
            errors.append(error)

    thread = threading.Thread(target=run, name="router")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """A way from one address to another."""

    source: str
    target: str


class Network:
    """Places around this thread's namespace, each with a link of its own to it.

    Made and used on a thread of `in_own_network`.

    Args:
        size: how many places.
    """

    def __init__(self, size: int) -> None:
        self.places: list[Place] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        _ip("link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
        for number in range(1, size + 1):
            self._add(number)

    def _add(self, number: int) -> None:
        command = ["unshare", "--net", "sleep", "infinity"]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *command]
        process = subprocess.Popen(command)
        self._processes.append(process)
        namespace = f"/proc/{process.pid}/ns/net"
        deadline = time.monotonic() + 10
        while os.readlink(namespace) == os.readlink("/proc/thread-self/ns/net"):
            assert time.monotonic() < deadline, "no namespace of its own"
            time.sleep(0.01)
        enter = ("nsenter", f"--net={namespace}")
        here, there = f"10.213.{number}.1", f"10.213.{number}.2"
        _ip("link", "add", f"to{number}", "type", "veth", "peer", "eth0", "netns", str(process.pid))
        _ip("addr", "add", f"{here}/24", "dev", f"to{number}")
        _ip("link", "set", f"to{number}", "up")
        _ip("link", "set", "lo", "up", enter=enter)
        _ip("addr", "add", f"{there}/24", "dev", "eth0", enter=enter)
        _ip("link", "set", "eth0", "up", enter=enter)
        _ip("route", "add", "default", "via", here, enter=enter)
        self.places.append(Place(there, enter))

    @contextlib.contextmanager
    def cut(self, pairs: Iterable[Pair]) -> Iterator[None]:
        """Drop in silence whatever goes these ways: nobody is told, as with a broken cable."""
        rules = [["from", pair.source, "to", pair.target, "blackhole"] for pair in pairs]
        try:
            for rule in rules:
                _ip("rule", "add", *rule)
            yield
        finally:
            for rule in rules:
                with contextlib.suppress(subprocess.CalledProcessError):  # not added
                    _ip("rule", "del", *rule)

    def close(self) -> None:
        """End the places, and whatever still runs in them loses its network."""
        for process in self._processes:
            process.kill()
            process.wait(10)


def both_ways(place: Place, others: Iterable[Place]) -> list[Pair]:
    """Return all ways between a place and others."""
    return [
        Pair(source.host, target.host)
        for other in others
        for source, target in ((place, other), (other, place))
    ]


def _ip(*arguments: str, enter: tuple[str, ...] = ()) -> None:
    subprocess.run([*enter, "ip", *arguments], check=True, capture_output=True)
