"""`flockctl run-list`: what a node converges, whether it is up or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from flock.ctl.options import CommandLine, common, pass_line
from flock.ctl.run_items import meaning, read_items
from flock.errors import UsageError


@click.command("run-list")
@click.argument("node")
@click.argument("deed", metavar="[add|remove|set]", required=False)
@click.argument("items", metavar="ITEM...", nargs=-1)
@common
@pass_line
def run_list(line: CommandLine, node: str, deed: str | None, items: Sequence[str]) -> None:
    """Show the run list of NODE, or change it: add, remove or set each ITEM.

    An ITEM is 'recipe[cb::name]', 'cb::name' or 'role[name]'; several may be
    separated by commas. The node takes the list up with its next run; it need
    not be up. If its own settings name one, that stands again from its next
    start on. With --json the list as it stands then.
    """
    from flock.node_objects import NodeObjects

    name = line.talk_to(node)
    change = _change(name, deed, items)
    registry = line.open_registry()
    try:
        objects = NodeObjects(registry)
        if change is None:
            before = after = objects.known(name).run_list
        else:
            before, after = objects.change_run_list(name, change)
    finally:
        registry.close()
    if change is not None:
        told = "written: its next run takes it up" if before != after else "so already"
        line.output.say(f"the run list of {name} is {told}")
    if not after:
        line.output.say(f"the run list of {name} is empty")
    if line.output.wants_json:
        line.output.value(after)
        return
    for item in after:
        line.output.text(item)


def _change(
    name: str, deed: str | None, written: Sequence[str]
) -> Callable[[list[str]], list[str]] | None:
    """Return what changes a run list, None if nothing is to be changed."""
    if deed is None:
        return None
    changes = {"add": _added, "remove": _removed, "set": _set}
    if deed not in changes:
        raise click.UsageError(f"{deed!r} is nothing to do with a run list: add, remove or set")
    items = read_items(written)
    if not items:
        raise click.UsageError(f"{deed} what? Name items, as 'recipe[web]'")
    meant = [meaning(item) for item in items]
    return lambda standing: changes[deed](name, standing, items, meant)


def _added(_: str, standing: list[str], items: Sequence[str], meant: Sequence[object]) -> list[str]:
    there = {_loosely_meant(item) for item in standing}
    return [*standing, *(item for each, item in _firsts(items, meant) if each not in there)]


def _removed(
    name: str, standing: list[str], items: Sequence[str], meant: Sequence[object]
) -> list[str]:
    there = {_loosely_meant(item) for item in standing}
    for item, each in zip(items, meant, strict=True):
        if each not in there:
            raise UsageError(f"{item!r} is not in the run list of {name}")
    return [item for item in standing if _loosely_meant(item) not in meant]


def _set(_: str, __: list[str], items: Sequence[str], meant: Sequence[object]) -> list[str]:
    return [item for _, item in _firsts(items, meant)]


def _firsts(items: Sequence[str], meant: Sequence[object]) -> list[tuple[object, str]]:
    """Return each meaning once, with the item that has it first."""
    firsts: dict[object, str] = {}
    for each, item in zip(meant, items, strict=True):
        firsts.setdefault(each, item)
    return list(firsts.items())


def _loosely_meant(item: str) -> tuple[str, str]:
    """Do the same for an item that stands, whatever it is."""
    try:
        return meaning(item)
    except UsageError:
        return "", item
