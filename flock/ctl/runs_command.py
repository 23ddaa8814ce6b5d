"""`flockctl runs` and `flockctl cancel`: what ran on a node, and ending what runs."""

from __future__ import annotations

from typing import Any

import click

from flock.ctl.options import CommandLine, pass_line, reachable
from flock.ctl.output import Ended
from flock.ctl.progress import deed_of, waits_for
from flock.ctl.reports import show_report


@click.command()
@click.argument("node")
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, help="how many (default: 20)")
@reachable
@pass_line
def runs(line: CommandLine, node: str, run_id: str | None, limit: int) -> None:
    """List the last runs of NODE, the newest first, or print the report of one."""
    name, output = line.talk_to(node), line.output
    with line.visitor() as fleet:
        api = fleet[name]["flock_api"]
        if run_id is not None:
            report = api.run(run_id)
            if report is None:
                raise Ended(3, f"{name}: no run {run_id!r} is kept; `flockctl runs {name}`")
            if output.wants_json:
                output.value(report)
            else:
                show_report(output, report)
            return
        heads, status = api.runs(limit), api.status()
    if status["acting"] is not None:
        waits = f", {waits_for(status['waiting'])}" if status["waiting"] else ""
        output.say(f"{name}: now: {deed_of(status['acting'])}{waits}")
    if output.wants_json:
        output.value(heads)
    elif not heads:
        output.say(f"{name}: no runs yet")
    else:
        columns = ("run_id", "state", "started", "seconds", "asked_by", "error")
        output.table(
            [column.upper() for column in columns],
            ([_cell(head, column) for column in columns] for head in heads),
        )


def _cell(head: dict[str, Any], column: str) -> object:
    if column == "state" and head["why_run"]:
        return f"{head['state']} (why-run)"
    return head[column] or ""


@click.command()
@click.argument("node")
@click.argument("run_id", required=False)
@click.option("--reason", default="", help="why, for the run's report")
@reachable
@pass_line
def cancel(line: CommandLine, node: str, run_id: str | None, reason: str) -> None:
    """End the run, or the action of a notice, that goes on at NODE, else its queued run.

    With RUN_ID that one alone. A notice whose action was ended goes to the dead
    letters: `flockctl notices NODE --retry ID` lets it go once more.
    """
    name = line.talk_to(node)
    with line.visitor() as fleet:
        run = fleet[name]["flock_api"].cancel(run_id, reason=reason)
    if run is None and run_id is not None:
        raise Ended(3, f"{name}: run {run_id!r} does not go on; `flockctl runs {name}`")
    if line.output.wants_json:
        line.output.value(run)
    elif run is None:
        line.output.say(f"{name}: no run goes on")
    else:
        what = f"run {run['run_id']}" if run["deed"] is None else deed_of(run)
        line.output.say(f"{name}: {what} is told to end")
