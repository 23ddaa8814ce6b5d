"""Which process of which machine is meant, and whether it is surely dead.

A process id alone names nobody: ids are used again, and containers count
their own. The kernel's id of this boot, the process-id namespace, the id and
the start of the process together name one process of one machine exactly, for
as long as anybody remembers. A presence carries all of them, so that the next
claimant of a name can tell on the spot whether its holder died here.

"Surely dead" is said only of processes of this very boot and namespace; of
any other nothing is known, and the answer is False.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from registry.contract import PresenceRecord

_ON_LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one machine.

    Attributes:
        host: host name, for people.
        boot_id: the kernel's id of this boot; empty where it cannot be had.
        pid_namespace: inode of the process-id namespace; 0 where there is none.
        pid: process id within that namespace.
        process_start: start of the process in clock ticks since boot (on
            Linux) or since the epoch; 0 if it cannot be read.
    """

    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    process_start: int


def this_process() -> ProcessIdentity:
    """Return who we are; right also in a forked child."""
    return ProcessIdentity(socket.gethostname(), *_us())


@functools.cache
def _us() -> tuple[str, int, int, int]:
    """Return all but the host's name, which may change; read once, since every lock asks."""
    pid = os.getpid()
    return _boot_id(), _pid_namespace(), pid, start_of(pid) or 0


os.register_at_fork(after_in_child=_us.cache_clear)


def is_surely_dead(record: PresenceRecord) -> bool:
    """Say whether `record` shows a process of this boot and pid namespace that is gone.

    False for a process of another machine, boot or namespace, and wherever
    something cannot be read: then nothing is known.
    """
    return is_process_dead(record.boot_id, record.pid_namespace, record.pid, record.process_start)


def is_process_dead(boot_id: str, pid_namespace: int, pid: int, process_start: int) -> bool:
    """Say the same of a process given by its parts; see `is_surely_dead`."""
    if not is_local(boot_id, pid_namespace) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OverflowError:
        return False  # no process id at all: a record that somebody else wrote
    except OSError:
        pass  # it is there, and belongs to somebody else
    start = start_of(pid)
    if start is not None and process_start and start != process_start:
        return True
    return _is_zombie(pid)


def is_local(boot_id: str, pid_namespace: int) -> bool:
    """Say whether process ids of that boot and namespace mean the same processes here."""
    return bool(boot_id) and boot_id == _boot_id() and pid_namespace == _pid_namespace()


def start_of(pid: int) -> int | None:
    """Return when a process started, None if it is gone or cannot be read.

    The unit is that of `ProcessIdentity.process_start`; only equality counts.
    """
    if not _ON_LINUX:
        return _start_elsewhere(pid)
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def age() -> float:
    """Return how long this process has existed, in seconds; 0 where that cannot be read."""
    ticks = start_of(os.getpid()) if _ON_LINUX else None
    if not ticks:
        return 0.0
    started = ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of `/proc/PID/stat` from the third (the state) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold spaces
    # and brackets itself: what counts is the last closing one.
    return text.rpartition(")")[2].split()


def _is_zombie(pid: int) -> bool:
    """Say whether a process has ended and only waits to be collected by its parent."""
    fields = _stat_fields(pid) if _ON_LINUX else None
    if not fields or fields[0] not in ("Z", "X"):
        return False
    # The first thread of a dying process can be a zombie while others still run.
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task")) <= 1
    return False


def _start_elsewhere(pid: int) -> int | None:
    import psutil  # only where there is no /proc: it takes 30 ms to import

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        pass
    import subprocess  # only where there is no /proc

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["sysctl", "-n", "kern.bootsessionuuid"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        ).stdout.strip()
    return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
