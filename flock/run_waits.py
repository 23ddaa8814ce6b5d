"""Where the waits of a machine's runs meet the flock: others are asked what theirs wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flock.blocked_call import BlockedCall
from flock.converge.kitchen import Kitchen
from flock.fleet import Flock
from flock.future import PROBE_AFTER, Future
from flock.run_chains import RunChains
from flock.wait_circles import AtWork, WaitCircles, Waiting
from registry.contract import Registry

_ANSWER_WITHIN = 5.0
_BEGIN_TO_WAIT = frozenset({"resource waiting", "lock asked for"})


def run_chains(name: str, flock: Callable[[], Flock]) -> RunChains:
    """Make what knows on whose behalf a machine's runs work, and which calls they wait for.

    Args:
        name: the machine's name.
        flock: returns the flock that the runs call, joined.
    """

    def fail(call_id: int, error: Exception) -> None:
        flock().calls.fail_each([call_id], lambda _: error)

    def find(call_id: int) -> BlockedCall | None:
        call, since = flock().calls.find(call_id), time.time() - PROBE_AFTER
        return None if call is None else BlockedCall(call, since, partial(fail, call_id))

    return RunChains(name, find, fail)


def watch_for_circles(
    kitchen: Kitchen,
    chains: RunChains,
    flock: Callable[[], Flock],
    registry: Registry,
    *,
    is_unseen: bool = False,
) -> WaitCircles:
    """Look for circles whenever a run of a machine's kitchen waits; its user stops it.

    Args:
        kitchen: where the runs are.
        chains: knows which calls they wait for.
        flock: returns the flock that they call, joined.
        registry: where the locks are.
        is_unseen: no other node can ask what goes on here.
    """

    def ask(node: str, again: bool) -> Future[Any]:
        api = flock()[node]["flock_api"].options(timeout=_ANSWER_WITHIN)
        asked: Future[Any] = api.waits.future(again)
        return asked

    def report(run: AtWork, waiting: Waiting) -> None:
        kitchen.tell_circle(run.run_id, waiting.as_data())

    circles = WaitCircles(
        kitchen.name,
        kitchen.at_work,
        ask,
        registry.lock_holders,
        report,
        lambda: chains.blocked,
        is_unseen=is_unseen,
    )
    chains.on_blocked = circles.begin

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] in _BEGIN_TO_WAIT:
            circles.begin()

    kitchen.on_event(hear)
    return circles
