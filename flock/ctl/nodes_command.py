"""`flockctl nodes` and `flockctl actors`: who is there, and what answers there."""

from __future__ import annotations

from typing import Any

import click

from flock.ctl.options import CommandLine, common, pass_line, reachable
from registry.contract import PresenceRecord


@click.command()
@common
@pass_line
def nodes(line: CommandLine) -> None:
    """List the live nodes.

    Asks the registry only; joins nothing and calls nobody.
    """
    registry = line.open_registry()
    try:
        records = registry.presences()
    finally:
        registry.close()
    if line.output.wants_json:
        line.output.value([_row(record) for record in records])
        return
    if not records:
        line.output.say(f"no nodes in {registry.url}")
        return
    line.output.table(
        ("NAME", "STATE", "ADDRESS", "ENVIRONMENT", "ROLES", "RECIPES", "STARTED"),
        (
            (
                record.name,
                record.state,
                record.address,
                record.environment,
                ", ".join(record.roles),
                ", ".join(record.recipes),
                record.started,
            )
            for record in records
        ),
    )


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
