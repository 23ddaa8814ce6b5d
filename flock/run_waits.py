"""Where the waits of a node's runs meet the flock: others are asked what theirs wait for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from flock.blocked_call import BlockedCall
from flock.converge.kitchen import Kitchen
from flock.fleet import Flock
from flock.future import PROBE_AFTER, Future
from flock.run_chains import RunChains
from flock.wait_circles import AtWork, WaitCircles, Waiting

_ANSWER_WITHIN = 5.0
_BEGIN_TO_WAIT = frozenset({"resource waiting", "lock asked for"})


def run_chains(flock: Flock) -> RunChains:
    """Make what knows on whose behalf a node's runs work, and which calls they wait for."""
    calls = flock.node.calls

    def fail(call_id: int, error: Exception) -> None:
        calls.fail_each([call_id], lambda _: error)

    def find(call_id: int) -> BlockedCall | None:
        call, since = calls.find(call_id), time.time() - PROBE_AFTER
        return None if call is None else BlockedCall(call, since, partial(fail, call_id))

    return RunChains(flock.node.identity.name, find, fail)


def watch_for_circles(flock: Flock, kitchen: Kitchen, chains: RunChains) -> WaitCircles:
    """Look for circles whenever a run of a node's kitchen waits, until the flock closes."""

    def ask(node: str, again: bool) -> Future[Any]:
        api = flock[node]["flock_api"].options(timeout=_ANSWER_WITHIN)
        asked: Future[Any] = api.waits.future(again)
        return asked

    def report(run: AtWork, waiting: Waiting) -> None:
        kitchen.tell_circle(run.run_id, waiting.as_data())

    circles = WaitCircles(
        flock.node.identity.name,
        kitchen.at_work,
        ask,
        flock.registry.lock_holders,
        report,
        lambda: chains.blocked,
    )
    chains.on_blocked = circles.begin

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] in _BEGIN_TO_WAIT:
            circles.begin()

    flock.before_close(circles.stop)
    flock.before_close(kitchen.on_event(hear))
    return circles
