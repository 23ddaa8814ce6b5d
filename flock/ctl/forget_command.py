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
    """Remove what the registry keeps of NODE: key, node object, notices and subscriptions.

    For a machine that is gone for good, or comes back with another state
    folder or key. Refused while a process has the name.
    """
    from flock import subscriptions
    from flock.node_objects import NodeObjects
    from flock.notice import queue_of

    name = line.talk_to(node)
    registry = line.open_registry()
    try:
        live = registry.presence(name)
        if live is not None:
            raise BusyError(f"{name} is up ({live.whereabouts()}): stop it first", advice="")
        had_object = NodeObjects(registry).forget(name)
        had_key = registry.forget_key(name)
        dropped = registry.queue_length(queue_of(name))
        registry.drop_queue(queue_of(name))
        unsubscribed = subscriptions.forget(registry, name)
    finally:
        registry.close()
    if not (had_object or had_key or dropped or unsubscribed):
        raise NodeNotFound(f"nothing is known of {name} in {registry.url}")
    line.output.say(f"{name} is forgotten, with {dropped} notices for it")
    if line.output.wants_json:
        line.output.value(
            {
                "node": name,
                "node_object": had_object,
                "key": had_key,
                "notices": dropped,
                "subscriptions": unsubscribed,
            }
        )
