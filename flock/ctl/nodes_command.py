"""`flockctl nodes` and `flockctl actors`: who is there, and what answers there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.names import note_names
from flock.ctl.options import CommandLine, common, on_query, pass_line, reachable
from registry.contract import PresenceRecord

if TYPE_CHECKING:
    from flock.node_objects import NodeObject, NodeObjects


@click.command()
@on_query("only those that QUERY means, as 'roles:web AND chef_environment:prod'")
@click.option("--all", "everybody", is_flag=True, help="also those that are down")
@common
@pass_line
def nodes(line: CommandLine, query: str | None, *, everybody: bool) -> None:
    """List the live nodes.

    Asks the registry only; joins nothing and calls nobody.
    """
    from flock.node_objects import NodeObjects

    wants_objects = query is not None or everybody
    registry = line.open_registry()
    try:
        records = registry.presences()
        objects = NodeObjects(registry)
        known = objects.search("*:*" if query is None else query) if wants_objects else []
        note_names(line.settings(), _names(records, objects))
    finally:
        registry.close()
    live = {record.name for record in records}
    if query is not None:
        meant = {each.name for each in known}
        records = [record for record in records if record.name in meant]
    rows = [_row(record) for record in records]
    if everybody:
        rows += [_down_row(each) for each in known if each.name not in live]
        rows.sort(key=lambda row: row["name"])
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        said = "no nodes" if query is None else f"no node matches {query!r}"
        line.output.say(f"{said} in {registry.url}")
        return
    line.output.table(
        ("NAME", "STATE", "ADDRESS", "ENVIRONMENT", "ROLES", "RECIPES", "STARTED"),
        (
            (
                row["name"],
                row["state"],
                row["address"] or "",
                row["environment"],
                ", ".join(row["roles"]),
                ", ".join(row["recipes"]),
                row["started"] or "",
            )
            for row in rows
        ),
    )


def _names(records: Sequence[PresenceRecord], objects: NodeObjects) -> list[str]:
    """Return the names of all nodes, up or down, for completion."""
    return [*(record.name for record in records), *objects.names()]


def _row(record: PresenceRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "state": record.state,
        "address": record.address,
        "environment": record.environment,
        "roles": record.roles,
        "recipes": record.recipes,
        "actors": record.actors,
        "started": record.started,
        "version": record.version,
        "generation": record.generation,
    }


def _down_row(known: NodeObject) -> dict[str, Any]:
    return {
        "name": known.name,
        "state": "down",
        "address": None,
        "environment": known.environment,
        "roles": known.roles,
        "recipes": known.recipes,
        "actors": [],
        "started": None,
        "version": None,
        "generation": None,
    }


@click.command()
@click.argument("node")
@reachable
@pass_line
def actors(line: CommandLine, node: str) -> None:
    """List what answers on NODE: its actors, how they do, and their methods."""
    name = line.talk_to(node)
    with line.visitor() as fleet:
        rows = fleet[name].describe_actors()
    if line.output.wants_json:
        line.output.value(rows)
        return
    line.output.table(
        ("NAME", "CLASS", "STATE", "WAITING", "RESTARTS", "METHODS"),
        (
            (
                row["name"],
                row["class"],
                row["state"],
                row["waiting"],
                row["restarts"],
                " ".join(row["methods"]),
            )
            for row in rows
        ),
    )
