"""`flockctl`: the command line.

Each command stands in a file of its own below `flock/ctl/`, loaded when it is
used: listing nodes must not cost the start of everything else. Here errors
become one line and an exit code, whichever command they come from.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from flock import __version__
from flock.ctl.options import CommandLine, common
from flock.ctl.output import EXIT_CODES, Ended, Output, one_line
from flock.ctl.service import log_warnings_only

COMMANDS: Mapping[str, tuple[str, str]] = {
    "node": ("flock.ctl.node_command", "be a node, until SIGTERM"),
    "nodes": ("flock.ctl.nodes_command", "list the live nodes"),
    "actors": ("flock.ctl.nodes_command", "list what answers on a node"),
    "stack": ("flock.ctl.stack_command", "show what each actor of a node is doing"),
    "call": ("flock.ctl.call_command", "call a method of an actor"),
    "run": ("flock.ctl.run_command", "converge nodes, and wait for their ends"),
    "runs": ("flock.ctl.runs_command", "list a node's last runs, or print a report"),
    "run-list": ("flock.ctl.run_list_command", "show or change what a node converges"),
    "environment": ("flock.ctl.environment_command", "show or set the environment of a node"),
    "search": ("flock.ctl.search_command", "find machines by a query, up or down"),
    "shell": ("flock.shell", "open a Python prompt in the flock"),
    "doctor": ("flock.ctl.doctor_command", "say what is wrong here or on the way to a node"),
    "completion": ("flock.ctl.completion_command", "let bash, zsh or fish complete flockctl"),
    "forget": ("flock.ctl.forget_command", "forget a machine that is gone for good"),
    "notices": ("flock.ctl.notices_command", "list what machines tell each other to do"),
    "notify": ("flock.ctl.notices_command", "have a node run an action of a resource"),
    "subscriptions": ("flock.ctl.notices_command", "list who is told when a resource changes"),
    "lock": ("flock.ctl.lock_command", "run a command while a lock is held"),
    "locks": ("flock.ctl.locks_command", "list who holds which lock, and who waits"),
    "unlock": ("flock.ctl.locks_command", "take a lock from its holder"),
    "dishes": ("flock.ctl.dishes_command", "list recipes, and what cleans up after each"),
    "wash": ("flock.ctl.dishes_command", "clean up after recipes that left the run list"),
    "cancel": ("flock.ctl.runs_command", "end the run that goes on at a node"),
    "converge": ("flock.ctl.converge_command", "converge here, once, without being a node"),
}
"""Every command: where it is, and what it does."""


_COMPLETES = "_FLOCKCTL_COMPLETE"
"""Set by a shell that wants to know what may follow."""


class Commands(click.Group):
    """The commands of the table, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Return their names in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click asks so
        """Load a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        if _COMPLETES in os.environ:
            from flock.ctl.completion_command import complete_values

            complete_values(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click asks so
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click asks so
        """Print what the exit codes mean."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES])
        with formatter.section("Several targets with different ends"):
            formatter.write_text("1 if any failed, else 5, 7, 4, 6, 3")


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    output = context.ensure_object(CommandLine).output
    if output.wants_json:
        output.value({"version": __version__})
    else:
        output.text(f"flockctl {__version__}")
    context.exit()


@click.group(
    cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="say which version this is",
)
@common
def flockctl() -> None:
    """Reach every actor on every machine of the flock, and keep the machines in shape.

    Settings come, strongest first, from options, FLOCK_... variables, the file
    that FLOCK_CONFIG names, else ./flock.toml, else /etc/flock/flock.toml, and
    defaults.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code.

    Args:
        arguments: what was typed after the command's name; None for what was.
    """
    if instruction := os.environ.get(_COMPLETES):
        from flock.ctl.completion_command import answer

        sys.exit(answer(flockctl, instruction))
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Looked at first: whatever else is wrong must be said in the form that was asked for.
    own = words[: words.index("--")] if "--" in words else words
    output = Output(wants_json="--json" in own, debug="--debug" in own)
    sys.exit(_run(words, output))


def _run(words: list[str], output: Output) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    log_warnings_only(debug=output.debug)
    try:
        # Not by click's own `main`: it says some ends in its own words.
        line = CommandLine(output)
        with flockctl.make_context("flockctl", words, obj=line) as context:
            flockctl.invoke(context)
    except Ended as end:
        return output.ended(end)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return output.wrong_use(_usage(error))
    except KeyboardInterrupt:
        return output.interrupted()
    except BrokenPipeError as error:
        # Ours, from click's help, or one that a method raised over there?
        return output.failed(error) if error.__cause__ is not None else output.unread()
    except OSError as error:
        # Click writes its help by itself.
        from_click = traceback.extract_tb(error.__traceback__)[-1].filename == click.utils.__file__
        return output.unwritten(error) if from_click else output.failed(error)
    except Exception as error:  # noqa: BLE001 - the last place where it can become a line
        return output.failed(error)
    return 0


def _usage(error: click.ClickException) -> str:
    path = "flockctl"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    return f"{one_line(error.format_message()).rstrip('.')}; see `{path} --help`"
