"""Helpers that tests import by name; fixtures stand in `conftest.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import psutil

Value = TypeVar("Value")

MARK = "FLOCK_TEST_PROCESS"
"""Environment variable that every process begun by a test inherits, so that it is found again."""

_NOT_GIVEN = object()


def eventually(
    function: Callable[[], Value],
    within: float,
    *,
    becomes: Any = _NOT_GIVEN,
    until: Callable[[Value], object] = bool,
    ignoring: type[BaseException] | tuple[type[BaseException], ...] = (),
    pause: float = 0.02,
) -> Value:
    """Ask `function` again and again, and return its last value.

    It ends as soon as the value is what was waited for, or `within` seconds
    have passed; so assert on what comes back:

        assert eventually(registry.node_names, within=1.0, becomes=[]) == []
        assert eventually(actor.is_alive, within=2.0)

    Args:
        function: asked at least once.
        within: seconds.
        becomes: the value that is waited for.
        until: says whether a value is what is waited for, where no single
            value is; a true one by default.
        ignoring: errors that count as "not yet"; the last one is raised when
            the time is over.
        pause: seconds between two questions.
    """
    deadline = time.monotonic() + within
    while True:
        last_one = time.monotonic() >= deadline
        try:
            value = function()
        except ignoring:
            if last_one:
                raise
        else:
            arrived = until(value) if becomes is _NOT_GIVEN else value == becomes
            if arrived or last_one:
                return value
        time.sleep(pause)


def processes_of_tests(known: Iterable[int] = ()) -> dict[int, str]:
    """Return what was begun by tests of this process and still runs: command lines by pid.

    Finds children, their children, and those whose parent is gone, by the
    mark in their environment.

    Args:
        known: pids that are left out.
    """
    mark = f"{MARK}={os.environ[MARK]}".encode()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    found: dict[int, str] = {}
    for pid in set(psutil.pids()) - set(known) - {os.getpid()}:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE and pid not in children:
                continue
            if pid in children or mark in _environment(pid):
                found[pid] = " ".join(process.cmdline()) or process.name()
        except psutil.Error:
            continue
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []
