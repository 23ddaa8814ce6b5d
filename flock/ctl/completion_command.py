"""`flockctl completion`: lets a shell complete commands, options and names of nodes."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    shell_complete,
    split_arg_string,
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


_AS_BASH_SPLITS = 'COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD'
_AS_TYPED = 'COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_CWORD=-1'
_END = "\0"


@add_completion_class
class WholeWordBash(BashComplete):
    """Completion for bash, which takes a line apart at each colon: every registry has some."""

    source_template = BashComplete.source_template.replace(_AS_BASH_SPLITS, _AS_TYPED)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one at the cursor, and that."""
        if os.environ["COMP_CWORD"] != "-1":
            return super().get_completion_args()
        words = split_arg_string(os.environ["COMP_WORDS"] + _END)
        return words[1:-1], words[-1].removesuffix(_END)


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


class FileName(click.types.StringParamType):
    """The name of a file or folder, which the shell completes as it always does."""

    def __init__(self, kind: str) -> None:
        """Note whether it is a `file` or a `dir`."""
        self._kind = kind

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Tell the shell to complete it."""
        return [CompletionItem(incomplete, type=self._kind)]


NODE_ARGUMENTS = ("node", "targets")
"""What arguments are called that take names of nodes."""

_PATHS = {
    "cookbooks": "dir",
    "state_dir": "dir",
    "zookeeper_ca": "file",
    "zookeeper_cert": "file",
    "zookeeper_key": "file",
}


def complete_values(command: click.Command) -> None:
    """Let names of nodes, files and folders be completed where a command takes some."""
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            if parameter.name in NODE_ARGUMENTS:
                parameter.type = NodeName()
        elif parameter.name in _PATHS:
            parameter.type = FileName(_PATHS[parameter.name])
