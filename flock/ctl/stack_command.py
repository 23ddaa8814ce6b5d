"""`flockctl stack`: what each actor of a node is doing."""

from __future__ import annotations

import click

from flock.ctl.options import CommandLine, pass_line, reachable
from flock.stack_dump import stack_lines


@click.command()
@click.argument("node")
@reachable
@pass_line
def stack(line: CommandLine, node: str) -> None:
    """Show what each actor of NODE is doing: its call, its inbox, its slowest calls, its stack."""
    name = line.talk_to(node)
    with line.visitor() as fleet:
        rows = fleet[name].stack()
    if line.output.wants_json:
        line.output.value(rows)
        return
    for text in stack_lines(rows):
        click.echo(text)
