"""`flockctl dishes` and `flockctl wash`: recipes that are cleaned up after."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click

from flock.ctl.options import CommandLine, common, on_query, pass_line, reachable
from flock.ctl.output import Ended
from flock.ctl.reports import show_report
from flock.errors import NodeNotFound

_COLUMNS = ("name", "recipe", "wash_recipe", "sink", "state", "washed_at")


@click.command()
@click.argument("node", required=False)
@on_query("the nodes that QUERY means, as 'roles:web', instead of NODE")
@common
@pass_line
def dishes(line: CommandLine, node: str | None, query: str | None) -> None:
    """List the dishes of NODE: recipes, and what cleans up after each.

    The node need not be up. With --json a row for each dish: name, recipe,
    wash_recipe, sink, state (clean, dirty, washed, wash failed), washed_at;
    with --on QUERY the node's name comes first.
    """
    from flock.converge.dishes import read_dishes
    from flock.node_objects import NodeObjects

    if (node is None) == (query is None):
        raise click.UsageError("name a NODE or --on QUERY, one of them")
    name = None if node is None else line.talk_to(node)
    registry = line.open_registry()
    try:
        objects = NodeObjects(registry)
        if name is not None:
            one = objects.read(name)
            if one is None:
                raise NodeNotFound(f"no node object {name!r} in {registry.url}")
            found = [one]
        else:
            found = objects.search(query or "")
            if not found:
                raise NodeNotFound(f"no node matches {query!r} in {registry.url}")
        rows: list[dict[str, Any]] = []
        for each in found:
            head = {} if name is not None else {"node": each.name}
            rows += [head | dish.as_row() for dish in read_dishes(each.normal)]
    finally:
        registry.close()
    if line.output.wants_json:
        line.output.value(rows)
    elif not rows:
        line.output.say(f"no dishes on {', '.join(each.name for each in found)}")
    else:
        columns = _COLUMNS if name is not None else ("node", *_COLUMNS)
        line.output.table(
            [column.upper() for column in columns],
            ([row[column] or "" for column in columns] for row in rows),
        )
        for each in found:
            for dish in read_dishes(each.normal):
                if dish.state == "wash failed":
                    line.output.say(
                        f"{each.name}: {dish.name} was not washed: {dish.failed}; "
                        f"`flockctl wash {each.name} {quote(dish.sink)}` tries again"
                    )


@click.command()
@click.argument("node")
@click.argument("sink", default="default")
@click.option("--why-run", is_flag=True, help="name what would be washed, wash nothing")
@reachable
@pass_line
def wash(line: CommandLine, node: str, sink: str, *, why_run: bool) -> None:
    """Wash the dirty dishes of SINK (default: default) at NODE, and wait for the end.

    Dirty is a dish whose recipe has left the run list. With --json the report
    of the run that washed.
    """
    name = line.talk_to(node)
    with line.visitor() as fleet:
        actor = fleet[name]["sink"]
        try:
            report = actor.wash(sink, why_run=why_run)
        except KeyboardInterrupt:
            line.output.say(f"flockctl: its run may go on; `flockctl cancel {name}` ends it")
            raise
        if line.output.wants_json:
            line.output.value(report)
        else:
            show_report(line.output, report)
            sinks = sorted({row["sink"] for row in actor.dishes()})
            if sink not in sinks:
                there = ", ".join(sinks) or "none"
                line.output.say(f"{name}: no dish is in sink {sink!r}; its sinks are: {there}")
    if report["state"] != "ok":
        raise Ended(1)
