"""`flockctl environment`: the environment that a node is in, whether it is up or not."""

from __future__ import annotations

from pathlib import Path

import click

from flock.ctl.options import CommandLine, common, pass_line
from flock.errors import UsageError


@click.command("environment")
@click.argument("node")
@click.argument("name", metavar="[NAME]", required=False)
@common
@pass_line
def environment(line: CommandLine, node: str, name: str | None) -> None:
    """Show the environment of NODE, or set it to NAME.

    The node takes it up with its next run; it need not be up. If its own
    settings name one, that stands again from its next start on. With --json the
    environment as it stands then.
    """
    from flock.node_objects import NodeObjects

    wanted = None if name is None else _checked(name)
    machine = line.talk_to(node)
    registry = line.open_registry()
    try:
        objects = NodeObjects(registry)
        if wanted is None:
            stands = objects.known(machine).environment
        else:
            before, stands = objects.change_environment(machine, wanted), wanted
    finally:
        registry.close()
    if wanted is not None:
        told = "written: its next run takes it up" if before != stands else "so already"
        line.output.say(f"the environment of {machine} is {told}")
    if line.output.wants_json:
        line.output.value(stands)
    else:
        line.output.text(stands)


def _checked(name: str) -> str:
    """Return the name of an environment.

    Raises:
        UsageError: it cannot be one.
    """
    from flock.setting_values import ENVIRONMENT_RULE, read_environment

    try:
        return read_environment(name, Path())
    except ValueError:
        raise UsageError(
            f"{name!r} cannot be an environment: wanted are {ENVIRONMENT_RULE}"
        ) from None
