"""`flockctl forget`: a machine that is gone for good, or begins anew."""

from __future__ import annotations

import click

from flock.ctl.options import CommandLine, common, pass_line
from flock.errors import BusyError, NodeNotFound


@click.command()
@click.argument("node")
@common
@pass_line
def forget(line: CommandLine, node: str) -> None:
    """Remove what the registry keeps of NODE: its key and its node object.

    For a machine that is gone for good, or comes back with another state
    folder or key. Refused while a process has the name.
    """
    from flock.node_objects import NodeObjects

    name = line.talk_to(node)
    registry = line.open_registry()
    try:
        live = registry.presence(name)
        if live is not None:
            raise BusyError(f"{name} is up ({live.whereabouts()}): stop it first")
        had_object = NodeObjects(registry).forget(name)
        had_key = registry.forget_key(name)
    finally:
        registry.close()
    if not had_object and not had_key:
        raise NodeNotFound(f"nothing is known of {name} in {registry.url}")
    line.output.say(f"{name} is forgotten")
    if line.output.wants_json:
        line.output.value({"node": name, "node_object": had_object, "key": had_key})
