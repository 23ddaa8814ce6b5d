"""One dead or frozen process among fifty leaves the calls to the others as they were."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from flock.errors import CallError
from tests.support import eventually
from tests.system.flock_process import FlockProcess

LIVELY = 49
PROCESSES = 3
MORE = 0.1
"""Seconds that a call to a lively node may take more than before."""

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
            process.result(within=60.0)
        yield names
    finally:
        for process in processes:
            process.close()


def slowest(calls: Sequence[Callable[[], Any]], seconds: float) -> float:
    """Call one after the other, for so long; return how long the slowest took, in seconds."""
    worst, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        for call in calls:
            began = time.monotonic()
            assert call() == 2
            worst = max(worst, time.monotonic() - began)
            time.sleep(0.004)
    return worst


@pytest.mark.timeout(240)
def test_one_ill_process_among_fifty_leaves_the_calls_to_the_others_as_they_were(
    registry_url: str, tmp_path: Path, crowd: list[str]
) -> None:
    with Flock(registry=registry_url) as here:
        calls = [partial(here[name]["target"].add, 1, 1) for name in crowd]
        slowest(calls, 0.0)  # a first round opens the lanes

        def more_than_before(fault: str) -> float:
            ill = FlockProcess("ill", registry_url, tmp_path)
            ended, stop = 0, threading.Event()
            try:
                target = here["ill"]["target"]
                assert eventually(lambda: target.add(1, 1), within=20.0, ignoring=CallError) == 2
                before = slowest(calls, 2.0)
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
                during = slowest(calls, WATCHED[fault])
                stop.set()
                for caller in callers:
                    caller.join(20)
                assert ended > 3
                return during - before
            finally:
                stop.set()
                ill.close()

        # What a busy machine does once is no fault of the ill one; what is comes each time.
        for fault in WATCHED:
            more = eventually(
                lambda fault=fault: more_than_before(fault),  # type: ignore[misc]
                within=30.0,
                until=lambda more: more < MORE,
            )
            assert more < MORE, fault
