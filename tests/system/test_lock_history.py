"""What locks promise holds while everything around them breaks; and the judge of it can see."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lock_history import History
from tests.support import eventually
from tests.system.lock_chaos import (
    SETTLE,
    STUCK_AFTER,
    Chaos,
    embedded_chaos,
    zookeeper_chaos,
)

SECONDS = 60.0


def problems(history: History) -> list[str]:
    return history.check(stuck_after=STUCK_AFTER, settle=SETTLE)


@pytest.mark.timeout(240)
@pytest.mark.leaves("proxy")
def test_locks_keep_their_promises_while_everything_breaks(short_path, own_ensemble):
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(embedded_chaos, short_path, SECONDS, 1),
            pool.submit(zookeeper_chaos, short_path, own_ensemble, SECONDS, 2),
        ]
        for run in runs:
            history = run.result()
            figures = history.figures()
            assert problems(history) == [], figures
            assert min(figures["entered"].values()) >= 5, figures
            assert min(figures["faults"].values()) >= 1, figures
            assert {"kill", "stop"} <= figures["faults"].keys(), figures


@pytest.mark.timeout(60)
def test_a_lock_that_is_broken_is_found_out(short_path, embedded_url):
    slots = {"one": 1}
    with Chaos(
        short_path, [embedded_url], embedded_url, slots, "broken", workers=3, sections=(0.4, 0.7)
    ) as chaos:
        for _ in range(3):
            assert chaos.holder("one", 15.0) is not None
            chaos.stop(0.6, chaos.holder("one", 5.0))
        found = problems(chaos.history())
    assert any("wrote in slot 0" in problem for problem in found), found


@pytest.mark.timeout(120)
def test_the_double_holders_of_the_stock_lock_are_found(short_path, embedded_url, own_zookeeper):
    """Its holder is stopped for longer than his session, and then goes on as if nothing was."""
    with Chaos(
        short_path,
        [embedded_url],  # the journals; what is written there is fenced by nothing
        embedded_url,
        {"one": 1},
        "kazoo",
        own_zookeeper.connection_string,
        workers=4,
        sections=(0.2, 0.7),
        session_timeout=2.0,
    ) as chaos:
        found: list[str] = []
        deadline = time.monotonic() + 75.0
        while not found and time.monotonic() < deadline:
            holder = chaos.holder("one", 20.0)
            assert holder is not None
            chaos.stop(5.0, holder)
            found = eventually(lambda: problems(chaos.so_far()), within=2.0, pause=0.3)
    assert any("wrote in slot 0" in problem for problem in found), found
