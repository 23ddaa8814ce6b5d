"""`flockctl search`: which machines a query means, up or down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.names import note_names
from flock.ctl.options import CommandLine, common, pass_line

if TYPE_CHECKING:
    from flock.node_objects import NodeObject


@click.command()
@click.argument("query")
@click.option(
    "-a",
    "--attribute",
    "paths",
    metavar="PATH",
    multiple=True,
    help="show this attribute, as kernel.release; may be repeated",
)
@common
@pass_line
def search(line: CommandLine, query: str, paths: Sequence[str]) -> None:
    r"""List the machines that QUERY means, whether they are up or not.

    'roles:web AND chef_environment:prod', with * ? NOT ranges [1 TO 5] and
    phrases; nested attributes are joined with _ (kernel_release:6*), two terms
    side by side mean OR, and a : in a value is written \: as in
    'recipes:apache2\:\:ssl'. With --json a row for each: name, environment,
    run_list, roles, recipes, tags, and attributes by PATH (null: not there).
    """
    from flock.node_objects import NodeObjects

    registry = line.open_registry()
    try:
        objects = NodeObjects(registry)
        found = objects.search(query)
        rows = [_row(each, paths) for each in found]
        note_names(line.settings(), objects.names())
    finally:
        registry.close()
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        line.output.say(f"no node matches {query!r} in {registry.url}")
        return
    if paths:
        line.output.table(
            ("NAME", *paths),
            ((row["name"], *(_shown(row["attributes"][path]) for path in paths)) for row in rows),
        )
        return
    line.output.table(
        ("NAME", "ENVIRONMENT", "ROLES", "RECIPES", "TAGS"),
        (
            (
                row["name"],
                row["environment"],
                ", ".join(row["roles"]),
                ", ".join(row["recipes"]),
                ", ".join(row["tags"]),
            )
            for row in rows
        ),
    )


def _row(found: NodeObject, paths: Sequence[str]) -> dict[str, Any]:
    row = found.head_as_data()
    if paths:
        row["attributes"] = {path: _attribute(found, path) for path in paths}
    return row


def _attribute(found: NodeObject, path: str) -> Any:
    from flock.converge.attributes import look_up

    try:
        return look_up(found.attributes, path)
    except LookupError:
        return None


def _shown(value: Any) -> str:
    import json

    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
