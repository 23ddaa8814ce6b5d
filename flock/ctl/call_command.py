"""`flockctl call`: one call to an actor, its arguments as typed."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import click

from flock.ctl.options import CommandLine, pass_line, reachable
from flock.ctl.output import Output, plain


class Call(click.Command):
    """A command whose arguments may look like options (`-5`), and are all positional after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set aside what stands after `--`, where click would mix it with the rest."""
        before, after = args, list[str]()
        if "--" in args:
            place = args.index("--")
            before, after = args[:place], args[place + 1 :]
        # NODE, ACTOR and METHOD may stand there as well.
        ctx.meta[__name__] = len(after)
        return super().parse_args(ctx, [*before, "--", *after] if after else before)


@click.command(cls=Call, context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("actor")
@click.argument("method")
@click.argument("arguments", metavar="[ARG]... [KEY=VALUE]...", nargs=-1)
@reachable
@click.pass_context
@pass_line
def call(
    line: CommandLine,
    context: click.Context,
    node: str,
    actor: str,
    method: str,
    arguments: tuple[str, ...],
) -> None:
    """Call METHOD of ACTOR on NODE and print what it answers.

    An ARG is JSON where it parses as JSON, else text: 5, true, '{"a": 1}',
    web. KEY=VALUE is a named argument; after -- everything is positional.
    """
    split = max(0, len(arguments) - context.meta[__name__])
    args, kwargs = read_arguments(arguments[:split], arguments[split:])
    name = line.talk_to(node)
    with line.visitor() as fleet:
        # Not by `getattr`: what the proxy has itself is no method of the actor.
        called = fleet[name][actor].__getattr__(method)
        try:
            value = called(*args, **kwargs)
        except KeyboardInterrupt:
            line.output.say(f"flockctl: {actor}.{method} may go on over there")
            raise
    show(line.output, value)


def read_arguments(
    mixed: tuple[str, ...], positional: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """Read the arguments of a call.

    Args:
        mixed: `ARG` and `KEY=VALUE`, as typed.
        positional: what stood after `--`.

    Raises:
        click.UsageError: an option that does not exist, or a name given twice.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in mixed:
        key, equals, written = word.partition("=")
        if equals and key.isidentifier():
            if key in kwargs:
                raise click.UsageError(f"{key}= is given twice")
            kwargs[key] = read_value(written)
            continue
        value = read_value(word)
        if word.startswith("-") and isinstance(value, str):
            raise click.UsageError(f"no such option: {word} (an argument? put -- before it)")
        args.append(value)
    return [*args, *map(read_value, positional)], kwargs


def read_value(written: str) -> Any:
    """Return what `written` is as JSON; where it is none, the text itself."""
    try:
        return json.loads(written, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return written


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def show(output: Output, value: Any) -> None:
    """Print a call's value: as it is where it is text, else as JSON, for people, too."""
    if output.wants_json or not isinstance(value, str):
        output.value(value)
    else:
        output.text(plain(value))
