"""What locks promise holds while everything around them breaks; and the judge of it can see."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from zookeeper_servers import NotInstalled, find_installation

from tests.lock_history import History
from tests.support import eventually
from tests.system.lock_chaos import (
    SERVER_FAULTS,
    SETTLE,
    STUCK_AFTER,
    Chaos,
    embedded_chaos,
    zookeeper_chaos,
)
from tests.system.lock_links import cuts_on_this_machine, how_links_are_cut

SECONDS = 80.0
"""Of which the first 20 are calm."""


def problems(history: History) -> list[str]:
    return history.check(stuck_after=STUCK_AFTER, settle=SETTLE)


@pytest.mark.timeout(240)
def test_locks_keep_their_promises_while_everything_breaks(short_path, capsys):
    try:
        find_installation()
    except NotInstalled as error:
        pytest.skip(f"{error}: `scripts/zookeeper start` gets it, or says how")
    with capsys.disabled():
        print(f"links are cut with {how_links_are_cut()}")
    with ThreadPoolExecutor(2) as pool:
        embedded = pool.submit(embedded_chaos, short_path, SECONDS, 1)
        zookeeper = pool.submit(zookeeper_chaos, short_path, SECONDS, 2)
        histories = {"embedded": embedded.result(), "zookeeper": zookeeper.result()}
    for history in histories.values():
        figures = history.figures()
        assert problems(history) == [], figures
        assert min(figures["entered"].values()) >= 5, figures
        assert {"kill", "stop"} <= figures["faults"].keys(), figures
        judged = history.judged(stuck_after=STUCK_AFTER, settle=SETTLE)
        assert judged["deaths"] >= 1, "nobody was killed in peace while others waited"
        assert judged["order"] >= 1, "nobody waited beside others in peace"
    faults = histories["zookeeper"].figures()["faults"]
    # The first of each; there is time for some more.
    assert {cuts_on_this_machine()[0], SERVER_FAULTS[0]} <= faults.keys(), faults


def test_a_lock_that_is_broken_is_found_out(short_path, embedded_url):
    slots = {"one": 1}
    with Chaos(
        short_path,
        [embedded_url],
        embedded_url,
        slots,
        kind="broken",
        workers=3,
        sections=(0.4, 0.7),
    ) as chaos:
        for _ in range(3):
            assert chaos.holder("one", 15.0) is not None
            chaos.stop(0.6, chaos.holder("one", 5.0))
        found = problems(chaos.history())
    assert any("wrote in slot 0" in problem for problem in found), found


@pytest.mark.timeout(180)
def test_the_double_holders_of_the_stock_lock_are_found(short_path, embedded_url, own_zookeeper):
    """Its holder is stopped for longer than his session, and then goes on as if nothing was."""
    with Chaos(
        short_path,
        [embedded_url],  # the journals; what is written there is fenced by nothing
        embedded_url,
        {"one": 1},
        kind="kazoo",
        hosts=own_zookeeper.connection_string,
        workers=4,
        sections=(0.2, 0.7),
        session_timeout=2.0,
    ) as chaos:
        found: list[str] = []
        deadline = time.monotonic() + 75.0
        while not any(map(is_double, found)) and time.monotonic() < deadline:
            holder = chaos.holder("one", 20.0)
            assert holder is not None
            chaos.stop(5.0, holder)
            found = eventually(
                lambda: problems(chaos.so_far()),
                within=2.0,
                until=lambda found: any(map(is_double, found)),
                pause=0.3,
            )
    assert any(map(is_double, found)), found


def is_double(problem: str) -> bool:
    """Say whether it is about a write of one who was followed already."""
    return "wrote in slot 0" in problem
