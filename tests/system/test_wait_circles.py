"""Circles of waits over several machines, and what is none, on both registries."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support import eventually
from tests.system.waiting_kitchens import LONG, NODES, ORDER, SLOW, Kitchens

NAMED_WITHIN = 5.0
"""Seconds within which a circle is named."""

TOGETHER = "log('gate').wait_until(lambda: os.path.exists('{here}/go'), pause=0.05)"


def others_run(node: str, **options: Any) -> str:
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"""
{TOGETHER}
log('later').wait_while(lambda: FlockOfChefs['{node}']['flock_api'].active(){more})
"""


def ended(futures: dict[str, Any], within: float) -> dict[str, Any]:
    """Return the reports by node; each must come in time."""
    deadline = time.monotonic() + within
    return {
        node: future.get(timeout=max(0.1, deadline - time.monotonic()))
        for node, future in futures.items()
    }


def ended_after_the_gate(
    kitchens: Kitchens, runs: dict[str, Any], within: float = NAMED_WITHIN
) -> dict[str, Any]:
    """Let go of runs that all wait, and return their reports, which are soon there."""
    for node in runs:
        kitchens.waiting(node)
    kitchens.open("go")
    begun = time.monotonic()
    reports = ended(runs, 20)
    assert time.monotonic() - begun < within
    return reports


def test_two_nodes_that_wait_for_each_other_are_named_and_the_younger_wait_ends(kitchens):
    runs = {
        "bender0": kitchens.run("bender0", others_run("bender1")),
        "bender1": kitchens.run("bender1", others_run("bender0")),
    }
    reports = ended_after_the_gate(kitchens, runs)

    assert sorted(report["state"] for report in reports.values()) == ["failed", "ok"]
    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    for part in (
        "these wait for each other",
        "the run of bender0",
        "the run of bender1",
        "log[later]",
    ):
        assert part in failed["error"]


def test_three_nodes_in_a_circle_are_named_and_one_of_them_gives_way(kitchens):
    others = dict(zip(NODES, [*NODES[1:], NODES[0]], strict=True))
    runs = {node: kitchens.run(node, others_run(other)) for node, other in others.items()}
    reports = ended_after_the_gate(kitchens, runs)

    assert sorted(report["state"] for report in reports.values()) == ["failed", "ok", "ok"]
    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    assert all(f"the run of {node}" in failed["error"] for node in NODES)


def test_a_run_that_waits_for_itself_is_named(kitchens):
    run = kitchens.run(
        "bender0",
        """
        log('later').wait_while(lambda: FlockOfChefs['bender0']['flock_api'].active())
    """,
    )

    report = run.get(timeout=20)

    assert report["state"] == "failed"
    assert "waits for the run of bender0" in report["error"]
    assert report["seconds"] < NAMED_WITHIN


@pytest.mark.parametrize(("on_timeout", "state"), [("skip", "skipped"), ("go_on", "changed")])
def test_a_wait_that_ends_in_a_circle_ends_as_one_whose_time_is_over(kitchens, on_timeout, state):
    question = "lambda: FlockOfChefs['bender0']['flock_api'].active()"
    run = kitchens.run(
        "bender0",
        f"""
        execute('a', command='true').wait_while({question}, on_timeout={on_timeout!r})
    """,
    )

    report = run.get(timeout=20)

    (row,) = report["resources"]
    assert (report["state"], row["state"]) == ("ok", state)
    if state == "skipped":
        assert "these wait for each other" in row["error"]


def test_a_circle_through_a_lock_is_named_and_the_lock_not_had(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        clocker('circle')
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active())
    """,
    )
    second = kitchens.run(
        "bender1",
        f"""
        {TOGETHER}
        clocker('circle', lockwait=80)
        log('guarded').only_if(held('circle'))
    """,
    )
    reports = ended_after_the_gate(kitchens, {"bender0": first, "bender1": second})

    failed = [node for node, report in reports.items() if report["state"] == "failed"]
    (row,) = reports["bender1"]["locks"]
    # Whichever wait began last gives way: a lock that is not had fails nobody.
    if failed:
        assert failed == ["bender0"]
        assert (
            "bender1 (lock 'circle') waits for lock 'circle' of bender0"
            in (reports["bender0"]["error"])
        )
        assert row["state"] == "held"
    else:
        assert row["state"] == "not held"
        assert row["holder"]["owner"] == "bender0"
        assert row["waited"] < NAMED_WITHIN


def test_two_locks_taken_crosswise_are_named_and_one_is_given_up(kitchens):
    runs = {
        node: kitchens.run(
            node,
            f"""
            clocker('{mine}')
            {TOGETHER}
            file('{{here}}/{node}', content='x').under_lock('{other}', wait=80)
        """,
        )
        for node, mine, other in (("bender0", "left", "right"), ("bender1", "right", "left"))
    }
    reports = ended_after_the_gate(kitchens, runs)

    rows = [report["resources"][-1] for report in reports.values()]
    assert sorted(row["state"] for row in rows) == ["changed", "skipped"]
    (skipped,) = [row for row in rows if row["state"] == "skipped"]
    assert "these wait for each other" in skipped["error"]


def test_a_run_under_a_lock_as_a_whole_is_part_of_a_circle_too(kitchens):
    first = kitchens.run(
        "bender0",
        """
        clocker('whole')
        log('gate').wait_until(lambda: FlockOfChefs['bender1']['flock_api'].active(), pause=80)
        log('later').wait_while(
            lambda: FlockOfChefs['bender1']['flock_api'].active(), on_timeout='go_on')
    """,
    )
    kitchens.waiting("bender0")
    second = kitchens.run("bender1", "log('x')", lock="whole")

    reports = ended({"bender0": first, "bender1": second}, 20)

    assert reports["bender0"]["state"] == "ok"
    if reports["bender1"]["state"] == "failed":
        assert "these wait for each other" in reports["bender1"]["error"]
        assert reports["bender1"]["resources"] == []


def test_a_recipe_that_waits_for_a_run_it_ordered_is_part_of_a_circle(kitchens):
    # bender1 waits for bender0's run, which then orders a run there and waits for its end.
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('ordered').only_if(lambda: {ORDER})
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    reports = ended_after_the_gate(kitchens, {"bender0": first, "bender1": second})

    (failed,) = [report for report in reports.values() if report["state"] == "failed"]
    assert "these wait for each other" in failed["error"]
    assert "call bender1/flock_api.run_chef()" in failed["error"]


def test_a_wait_whose_question_orders_a_run_is_part_of_a_circle(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('ordered').wait_until(lambda: {ORDER})
    """,
    )
    second = kitchens.run("bender1", others_run("bender0", on_timeout="skip"))
    reports = ended_after_the_gate(
        kitchens, {"bender0": first, "bender1": second}, 2 * NAMED_WITHIN
    )

    said = str(reports)
    assert "these wait for each other" in said


def test_a_long_call_of_a_recipe_is_shown_and_no_circle(kitchens):
    slow = kitchens.run("bender1", SLOW)
    first = kitchens.run(
        "bender0",
        f"""
        log('ordered').only_if(lambda: {ORDER})
    """,
    )
    shown = kitchens.waiting("bender0", until=lambda seen: seen["seconds"] > 3)
    assert shown["wait"] == "call bender1/flock_api.run_chef()"
    assert shown["asks"] == ["run bender1"]
    assert shown["circle"] == ""

    kitchens.open("go")

    reports = ended({"bender0": first, "bender1": slow}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}


@pytest.mark.parametrize("recipe", ["a lock", "a run"])
def test_a_converge_that_is_no_node_sees_its_circle_and_gives_way(kitchens, recipe):
    # Its run holds one lock and waits for bender1's run, or for the lock that this one has.
    waits = {
        "a lock": "clocker('of bender1', lockwait=80)",
        "a run": "log('x').wait_while("
        "lambda: FlockOfChefs['bender1']['flock_api'].active(), on_timeout='go_on')",
    }
    kitchens.nodes.recipe(
        "here",
        f"""
from flock.recipe import clocker
import os
clocker('of the converge')
log('gate').wait_until(lambda: os.path.exists('{{here}}/go'), pause=0.05)
{waits[recipe]}
""",
    )
    state = str(kitchens.folder / "state" / "bender9")
    words = ("--state-dir", state, "--cookbooks", str(kitchens.nodes.cookbooks))
    converge = kitchens.nodes.start(
        "converge", "--name", "bender9", "--run-list", "cb::here", "--json", *words
    )
    held = lambda: kitchens.fleet["bender0"]["locker"].holder("of the converge")  # noqa: E731
    assert eventually(held, within=LONG)
    run = kitchens.run(
        "bender1",
        """
        clocker('of bender1')
        clocker('of the converge', lockwait=80)
    """,
    )
    kitchens.waiting("bender1", until=lambda seen: "of the converge" in seen["wait"])

    kitchens.open("go")
    begun = time.monotonic()
    ended_there = converge.ended()

    assert ended_there.code == 0, ended_there.err
    assert "these wait for each other" in ended_there.err
    assert run.get(timeout=LONG)["state"] == "ok"
    assert time.monotonic() - begun < 2 * NAMED_WITHIN


def test_the_action_of_a_notice_is_part_of_a_circle_too(kitchens):
    run = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        clocker('of a deed', lockwait=80)
    """,
    )
    assert kitchens.nodes("notify", "bender1", "execute[deed]", "run").code == 0
    held = lambda: kitchens.fleet["bender1"]["locker"].holder("of a deed")  # noqa: E731
    assert eventually(held, within=LONG)["owner"] == "bender1"
    # So the run's wait will be the younger.
    deed = kitchens.fleet["bender1"]["flock_api"].waits
    assert eventually(deed, within=LONG, until=lambda standing: standing["wait"])["wait"]

    kitchens.open("go")
    report = run.get(timeout=20)

    (row,) = report["locks"]
    assert (report["state"], row["state"]) == ("ok", "not held")
    assert row["waited"] < NAMED_WITHIN
    # The action waited for the run that is over now.
    assert eventually(held, within=LONG, becomes=None) is None


# --- and what is none --------------------------------------------------------------


def test_what_something_else_may_end_is_told_and_goes_on(kitchens):
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active()
            and not os.path.exists('{{here}}/go-on'), pause=0.2)
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    for node in ("bender0", "bender1"):
        kitchens.waiting(node)
    kitchens.open("go")
    for node in ("bender0", "bender1"):
        shown = kitchens.waiting(node, until=lambda seen: seen["circle"])
        assert shown["circle"].startswith("these may wait for each other: ")

    kitchens.open("go-on")

    reports = ended({"bender0": first, "bender1": second}, 20)
    assert [report["state"] for report in reports.values()] == ["ok", "ok"]


def test_slow_nodes_and_locks_of_people_are_no_circle(kitchens):
    # bender0 waits for bender1, which works; bender2 for a lock that a command has, and for
    # bender0. Nobody waits for bender2, and bender1 for nobody.
    lock = kitchens.fleet.lock("of people")
    lock.__enter__()
    slow = kitchens.run("bender1", SLOW)
    first = kitchens.run(
        "bender0",
        """
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active())
    """,
    )
    third = kitchens.run(
        "bender2",
        """
        clocker('of people', lockwait=80)
        log('later').wait_while(lambda: FlockOfChefs['bender0']['flock_api'].active())
    """,
    )
    for node in ("bender0", "bender2"):
        kitchens.waiting(node, until=lambda seen: seen["seconds"] > NAMED_WITHIN)
        assert kitchens.status(node)["waiting"]["circle"] == ""
    lock.__exit__(None, None, None)
    kitchens.waiting("bender2", until=lambda seen: seen["resource"] and seen["seconds"] > 2.0)
    assert kitchens.status("bender2")["waiting"]["circle"] == ""

    kitchens.open("go")

    reports = ended({"bender1": slow, "bender0": first, "bender2": third}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}


def test_a_wait_for_either_of_two_is_no_circle_while_one_of_them_works(kitchens):
    slow = kitchens.run("bender2", SLOW.replace("/go ", "/go-on "))
    first = kitchens.run(
        "bender0",
        f"""
        {TOGETHER}
        log('later').wait_while(lambda: FlockOfChefs['bender1']['flock_api'].active()
            and FlockOfChefs['bender2']['flock_api'].active())
    """,
    )
    second = kitchens.run("bender1", others_run("bender0"))
    kitchens.waiting("bender0")
    kitchens.waiting("bender1")
    kitchens.open("go")
    shown = kitchens.waiting("bender0", until=lambda seen: seen["circle"])
    assert "may wait for each other" in shown["circle"]

    kitchens.open("go-on")

    reports = ended({"bender2": slow, "bender0": first, "bender1": second}, LONG)
    assert {report["state"] for report in reports.values()} == {"ok"}
