"""One dead or frozen process among fifty leaves the calls to the others as they were."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flock import Flock
from flock.errors import CallError
from tests.support import eventually
from tests.system.flock_process import FlockProcess, slowest_call

LIVELY = 49
PROCESSES = 3
MORE = 0.1
"""Seconds that a call to a lively node may take more than without the ill one."""

WATCHED = {"frozen": 10.0, "killed": 3.0}
"""Seconds watched: until the silence was noticed, and new lanes were tried in vain."""


@pytest.fixture
def crowd(registry_url: str, tmp_path: Path) -> Iterator[list[str]]:
    """Give the names of the lively nodes; some processes share them."""
    names = [f"lively{number}" for number in range(LIVELY)]
    processes = [FlockProcess(None, registry_url, tmp_path) for _ in range(PROCESSES)]
    try:
        for number, process in enumerate(processes):
            process.begin("gather", names=names[number::PROCESSES], folder=str(tmp_path))
        for process in processes:
            process.result(within=90.0)
        yield names
    finally:
        for process in processes:
            process.close()


@pytest.mark.timeout(400)
def test_one_ill_process_among_fifty_leaves_the_calls_to_the_others_as_they_were(
    registry_url: str, tmp_path: Path, crowd: list[str]
) -> None:
    # One that knows nothing of the ill process calls the same nodes at the same time: what it
    # sees, too, is the machine's doing.
    control = FlockProcess(None, registry_url, tmp_path)
    try:
        with Flock(registry=registry_url) as here:
            slowest_call(here, crowd, 0.0)  # a first round opens the lanes
            control.do("slowest", names=crowd, seconds=0.0)

            def more_than_without(fault: str) -> float:
                with an_ill_process(here, registry_url, tmp_path, fault):
                    control.begin("slowest", names=crowd, seconds=WATCHED[fault])
                    beside_it = slowest_call(here, crowd, WATCHED[fault])
                    return beside_it - float(control.result(within=60.0))

            # What a busy machine does once is no fault of the ill one; what is comes each time.
            for fault in WATCHED:
                more = eventually(
                    partial(more_than_without, fault), within=75.0, until=lambda more: more < MORE
                )
                assert more < MORE, fault
    finally:
        control.close()


@contextlib.contextmanager
def an_ill_process(here: Flock, registry_url: str, folder: Path, fault: str) -> Iterator[None]:
    """Freeze or kill a node that is called all the time."""
    ill = FlockProcess("ill", registry_url, folder)
    ended, stop = 0, threading.Event()
    callers: list[threading.Thread] = []
    try:
        target = here["ill"]["target"]
        assert eventually(lambda: target.add(1, 1), within=20.0, ignoring=CallError) == 2
        ill.pause() if fault == "frozen" else ill.kill()
        with contextlib.suppress(CallError):
            _ = [target.size.future(b"x" * 100_000) for _ in range(200)]

        def call_the_ill() -> None:
            nonlocal ended
            while not stop.is_set():
                with contextlib.suppress(CallError):
                    target.options(timeout=0.5).add(1, 1)
                ended += 1
                stop.wait(0.01)

        callers = [threading.Thread(target=call_the_ill) for _ in range(3)]
        for caller in callers:
            caller.start()
        yield
        assert eventually(lambda: ended, within=5.0, until=lambda count: count > 3) > 3
    finally:
        stop.set()
        for caller in callers:
            caller.join(20)
        ill.close()
