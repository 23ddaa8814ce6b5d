"""`flockctl completion`: lets a shell complete commands, options and names of nodes."""

from __future__ import annotations

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    get_completion_class,
    shell_complete,
)

from flock.ctl.names import known_names
from flock.ctl.options import CommandLine, common, pass_line
from flock.ctl.output import Output
from flock.errors import FlockError

_VARIABLE = "_FLOCKCTL_COMPLETE"
_HOMES = {
    "bash": "~/.local/share/bash-completion/completions/flockctl",
    "zsh": "a file _flockctl in a folder of $fpath",
    "fish": "~/.config/fish/completions/flockctl.fish",
}


@click.command()
@click.argument("shell_name", metavar="[bash|zsh|fish]", type=click.Choice([*_HOMES]))
@common
@pass_line
def completion(line: CommandLine, shell_name: str) -> None:
    """Print what makes a shell complete flockctl.

    For now: eval "$(flockctl completion bash)"; for good write it to
    ~/.local/share/bash-completion/completions/flockctl, for zsh to _flockctl in
    a folder of $fpath, for fish to ~/.config/fish/completions/flockctl.fish.
    Names of nodes come from those last listed here; no network is asked.
    """
    kind = get_completion_class(shell_name)
    assert kind is not None
    # The base's method: bash's own would start a bash only to look at its version.
    script = ShellComplete.source(kind(click.Group(), {}, "flockctl", _VARIABLE))
    if line.output.wants_json:
        line.output.value({"shell": shell_name, "script": script, "file": _HOMES[shell_name]})
        return
    line.output.text(script.strip("\n"))


def answer(group: click.Group, instruction: str) -> int:
    """Print what a shell asked for in its environment variables; returns the exit code."""
    line = CommandLine(Output())
    return shell_complete(group, {"obj": line}, "flockctl", _VARIABLE, instruction)


class NodeName(click.types.StringParamType):
    """The name of a node, which completion knows if it was listed here before."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the known names that begin so; asks no network and never fails."""
        line = ctx.find_object(CommandLine)
        if line is None:
            return []
        given = ctx.params.get(param.name or "")
        taken = given if isinstance(given, tuple) else ()
        try:
            names = known_names(line.settings())
        except FlockError:
            return []
        return [
            CompletionItem(name)
            for name in names
            if name.startswith(incomplete) and name not in taken
        ]


NODE_ARGUMENTS = ("node", "targets")
"""What arguments are called that take names of nodes."""


def complete_nodes(command: click.Command) -> None:
    """Let the arguments of a command that take names of nodes be completed."""
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.name in NODE_ARGUMENTS:
            parameter.type = NodeName()
