"""`flockctl run`: converge nodes, from anywhere, and say what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.options import (
    CommandLine,
    on_query,
    override_run_list,
    pass_line,
    reachable,
    reworded,
)
from flock.ctl.orders import Order, Orders
from flock.ctl.output import Ended, Output, shared_code
from flock.ctl.progress import progress_of
from flock.ctl.targets import check_targets, expand, found

if TYPE_CHECKING:
    from flock.fleet import Flock


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1)
@on_query("the nodes that QUERY means, as 'roles:web', instead of TARGETs")
@click.option("--no-wait", is_flag=True, help="order the runs, do not wait for their ends")
@click.option("--why-run", is_flag=True, help="name the changes, make none")
@override_run_list
@click.option("--lock", metavar="ID", help="each node takes this lock for its own run")
@reachable
@pass_line
def run(
    line: CommandLine,
    targets: Sequence[str],
    query: str | None,
    override_run_list: list[str] | None,
    lock: str | None,
    *,
    no_wait: bool,
    why_run: bool,
) -> None:
    """Converge each TARGET, a name or a pattern ('web*'), and wait for the ends.

    With --on QUERY those that are down are named, too, as 'down'. --timeout is
    for all of it (default: none); runs that take longer go on over there. With
    --json a row for each node: node, state, run_id, report.
    """
    check_targets(targets, query)
    if lock == "":
        raise click.UsageError("the lock's ID is empty (an unset variable?)")
    # To a call it would be the time of one answer; here it is the whole wait.
    timeout = line.settings().timeout if "timeout" in line.given else None
    line.given.pop("timeout", None)
    wanted: dict[str, Any] = {"why_run": why_run, "override_run_list": override_run_list}
    if lock is not None:
        wanted["lock"] = lock
    with line.visitor() as fleet:
        nodes = expand(targets, lambda: list(fleet)) if query is None else found(fleet, query)
        orders = _follow(line.output, fleet, nodes, wanted, timeout, wait=not no_wait)
    if line.output.wants_json:
        line.output.value([order.as_row() for order in orders])
    else:
        _show(line.output, orders)
    raise Ended(shared_code(order.code for order in orders))


reworded(run, "timeout", "how long to wait for all of it (default: for ever)")


def _follow(
    output: Output,
    fleet: Flock,
    nodes: Sequence[str],
    wanted: dict[str, Any],
    timeout: float | None,
    *,
    wait: bool,
) -> list[Order]:
    with progress_of(output, nodes) as progress:
        try:
            return Orders(fleet, nodes, wanted, progress, wait=wait).follow(timeout)
        except KeyboardInterrupt:
            output.say("flockctl: the runs go on over there; `flockctl cancel NODE` ends one")
            raise


def _show(output: Output, orders: Sequence[Order]) -> None:
    output.table(
        ("NODE", "STATE", "RUN_ID", "CHANGED", "SECONDS"),
        ((order.node, order.state, order.run_id or "", *_counts(order.report)) for order in orders),
    )
    not_done = [order.node for order in orders if order.code]
    if not_done and len(orders) > 1:
        output.say(f"{len(orders) - len(not_done)} of {len(orders)} ok; not: {', '.join(not_done)}")


def _counts(report: dict[str, Any] | None) -> tuple[str, str]:
    if report is None:
        return "", ""
    rows = report["resources"]
    changed = sum(row["state"] == "changed" for row in rows)
    return f"{changed} of {len(rows)}", f"{report['seconds']:.1f}"
