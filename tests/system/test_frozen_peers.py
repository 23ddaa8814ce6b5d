"""Calls to a process that stands still: what they end with, and that nothing runs late."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from flock import Flock
from flock.errors import (
    CallError,
    CallTimeout,
    ConnectionLost,
    NodeDownError,
    NodeUnreachable,
)
from tests.support import eventually
from tests.system.flock_process import Start

FROZEN = 15.0
"""Seconds for which a process is stopped."""

SILENCE = 10.0
"""Seconds within which a silent peer fails its calls."""


def end_of(future: Any) -> CallError:
    """Return the error that a future ends with."""
    with pytest.raises(CallError) as caught:
        future.get()
    return caught.value


def test_a_process_that_stands_still_before_during_or_after_a_call(
    start: Start, visitor: Flock
) -> None:
    names = ("before", "during", "after")
    there = {name: start(name) for name in names}
    target = {name: visitor[name]["target"] for name in names}
    assert target["after"].work("first") == "first"
    lasting = target["during"].options(timeout=60).work.future("begun", FROZEN)
    assert eventually(there["during"].effects, within=10.0, becomes=["begun"]) == ["begun"]
    for process in there.values():
        process.pause()
    began = time.monotonic()

    # Nobody was ever connected to this one.
    unconnected = target["before"].work.future("unconnected")
    # An open connection, a call that gives up at once and one that waits as long as it may.
    short = target["after"].options(timeout=1).work.future("short")
    long = target["after"].options(timeout=60).work.future("long")

    short_end, short_took = end_of(short), time.monotonic() - began
    unconnected_end, unconnected_took = end_of(unconnected), time.monotonic() - began
    ends = [end_of(lasting), end_of(long)]
    took = time.monotonic() - began
    assert isinstance(short_end, CallTimeout)
    assert 0.9 < short_took < 3.0
    assert short_end.may_have_run is True
    # With ZooKeeper its session may end before the connection does.
    assert isinstance(unconnected_end, NodeUnreachable | NodeDownError)
    assert unconnected_took < 5.0
    assert unconnected_end.may_have_run is False
    assert all(isinstance(end, ConnectionLost | NodeDownError) for end in ends)
    assert took < SILENCE
    assert [end.may_have_run for end in ends] == [True, True]
    again = time.monotonic()
    refused = end_of(target["after"].work.future("refused"))
    assert time.monotonic() - again < 5.0
    assert isinstance(refused, NodeUnreachable | NodeDownError)
    assert refused.may_have_run is False

    assert eventually(lambda: time.monotonic() - began, within=20.0, until=lambda t: t > FROZEN)
    for process in there.values():
        process.go_on()
    for name in names:
        back = eventually(partial(target[name].work, "back"), within=20.0, ignoring=CallError)
        assert back == "back"
    effects = {name: there[name].effects() for name in names}
    assert set(effects["before"]) == {"back"}
    assert effects["during"].count("begun") == 1
    assert effects["after"][0] == "first"
    # `long` had time left when the process went on; what had none has not run.
    assert effects["after"].count("long") <= 1
    assert not {"short", "refused"} & set(effects["after"])


@pytest.mark.parametrize("lane", ["not open yet", "full"])
def test_what_expires_in_our_own_queue_is_not_run_when_the_peer_goes_on(
    start: Start, visitor: Flock, lane: str
) -> None:
    there = start("there")
    target = visitor["there"]["target"]
    if lane == "full":
        assert target.add(1, 1) == 2
    there.pause()
    filling = []
    if lane == "full":
        big = target.options(timeout=60)
        filling = [big.size.future(b"x" * 100_000) for _ in range(400)]
    expired = [target.options(timeout=0.5).work.future("expired") for _ in range(3)]
    with pytest.raises(CallTimeout) as caught:
        target.options(timeout=0.5).work("expired")
    ends = [caught.value, *map(end_of, expired)]
    assert [type(end) for end in ends] == [CallTimeout] * 4
    # None of them ever left this process, and its error says so.
    assert [end.may_have_run for end in ends] == [False] * 4
    there.go_on()

    assert eventually(lambda: target.work("now"), within=10.0, ignoring=CallError) == "now"
    assert [future.get() for future in filling] == [100_000] * len(filling)
    assert set(there.effects()) == {"now"}
