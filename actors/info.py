"""`info`: what this machine is and how it does."""

from __future__ import annotations

import os
import platform
import resource
import time
from typing import Any, ClassVar

import psutil

from flock import __version__
from flock.actor import Actor

_clock = time.time


class Info(Actor):
    """Tells what this machine is and how it does; every method answers at once."""

    survives_tells: ClassVar[bool] = True

    def __init__(self) -> None:
        """Note when this node began to answer."""
        super().__init__()
        self._process = psutil.Process()
        self._began = time.monotonic()

    def about(self) -> dict[str, Any]:
        """Return what does not change while the machine is up: system, distribution, hardware."""
        return {
            "hostname": platform.node(),
            "os": platform.system(),
            "os_release": platform.release(),
            "machine": platform.machine(),
            "distribution": _distribution(),
            "python": platform.python_version(),
            "flock": __version__,
            "cpus": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "booted": psutil.boot_time(),
        }

    def load_averages(self) -> list[float]:
        """Return the load averages of 1, 5 and 15 minutes."""
        return list(os.getloadavg())

    def uptime(self) -> float:
        """Return the seconds since the machine was booted."""
        return time.time() - psutil.boot_time()

    def clock(self) -> float:
        """Return what this machine's clock shows, in seconds since 1970."""
        return _clock()

    def memory(self) -> dict[str, int]:
        """Return the machine's memory in bytes: `total`, `available`, `used`, `free`."""
        memory = psutil.virtual_memory()
        return {name: getattr(memory, name) for name in ("total", "available", "used", "free")}

    def disk(self, path: str = "/") -> dict[str, int]:
        """Return the bytes of the file system that holds `path`: `total`, `used`, `free`."""
        usage = psutil.disk_usage(path)
        return {"total": usage.total, "used": usage.used, "free": usage.free}

    def process(self) -> dict[str, Any]:
        """Return how this node's process does.

        Returns:
            `pid`, `seconds` up, `rss` bytes, `threads`, open `files` and their limit.
        """
        with self._process.oneshot():
            return {
                "pid": self._process.pid,
                "seconds": time.monotonic() - self._began,
                "rss": self._process.memory_info().rss,
                "threads": self._process.num_threads(),
                "files": self._process.num_fds(),
                "files_limit": _files_limit(),
            }


def _files_limit() -> int:
    """Return how many files this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _distribution() -> str:
    """Return the distribution's name for people, empty where there is none."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""
