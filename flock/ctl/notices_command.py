"""`flockctl notices`, `notify` and `subscriptions`: what machines tell each other to do."""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.options import CommandLine, common, host_name, pass_line, reachable
from flock.ctl.output import Ended, shared_code
from flock.errors import FlockError, NodeNotFound, UsageError, exit_code
from registry.wall_clock import now_text

if TYPE_CHECKING:
    from flock.fleet import Flock
    from registry.contract import Registry


@click.command()
@click.argument("node", required=False)
@click.option("--dead", is_flag=True, help="those that ended badly, with the reason")
@click.option("--all", "all_of_them", is_flag=True, help="those that are over, too")
@click.option("--retry", metavar="ID", help="let this dead letter go once more")
@reachable
@pass_line
def notices(
    line: CommandLine, node: str | None, *, dead: bool, all_of_them: bool, retry: str | None
) -> None:
    """List the notices that are on their way to and from NODE, or to and from every node.

    Of a node that is down only its queue in the registry can be seen. With
    --json a row for each: id, from, to, resource, action, timing, state,
    tries, created, trail, error, mark.
    """
    with line.visitor() as fleet:
        if retry is not None:
            _retry(line, fleet, node, retry)
            return
        names = [line.talk_to(node)] if node is not None else _names(fleet.registry)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        codes: list[int] = []
        for name in names:
            try:
                rows = _rows(line, fleet, name, dead=dead, all_of_them=all_of_them)
            except FlockError as error:
                if node is not None:
                    raise
                line.output.say(f"flockctl: {name}: {error}")
                codes.append(exit_code(error))
                continue
            for row in rows:
                # The sender and the receiver both know it; the receiver knows more.
                if row["to"] == name or (row["id"], row["to"]) not in found:
                    found[row["id"], row["to"]] = row
    _show(line, list(found.values()))
    if codes:
        raise Ended(shared_code(codes))


def _retry(line: CommandLine, fleet: Flock, node: str | None, notice: str) -> None:
    """Let a dead letter of a node go once more."""
    if node is None:
        raise UsageError("say at which node: `flockctl notices NODE --retry ID`")
    name = line.talk_to(node)
    if not fleet[name]["resource_manager"].retry(notice):
        raise UsageError(f"{name} has no dead letter {notice!r}; `flockctl notices {name} --dead`")
    line.output.say(f"{notice} goes once more")
    if line.output.wants_json:
        line.output.value({"id": notice, "node": name})


def _names(registry: Registry) -> list[str]:
    """Return the live nodes, and those that are down and have a queue."""
    from flock.notice import QUEUES

    queues = [name.removeprefix(QUEUES) for name in registry.queues(QUEUES)]
    return sorted({*registry.node_names(), *queues})


def _rows(
    line: CommandLine, fleet: Flock, name: str, *, dead: bool, all_of_them: bool
) -> list[dict[str, Any]]:
    """Return a node's notices: as it says, or what lies in its queue if it is down."""
    try:
        manager = fleet[name]["resource_manager"]
    except NodeNotFound:
        queued = _queued(fleet.registry, name)
        if not queued and not _is_known(fleet.registry, name):
            raise
        line.output.say(f"flockctl: {name} is down: only its queue in the registry is seen")
        return [] if dead else queued
    rows: list[dict[str, Any]] = manager.notices(dead=dead, all_of_them=all_of_them)
    return rows


def _queued(registry: Registry, name: str) -> list[dict[str, Any]]:
    from flock.notice import NOTICE, Notice, queue_of
    from registry.contract import MAX_QUEUE_LENGTH

    rows: list[dict[str, Any]] = []
    for entry in registry.entries(queue_of(name), limit=MAX_QUEUE_LENGTH):
        try:
            notice = Notice.from_data(entry.value)
        except ValueError:
            continue
        if notice.kind == NOTICE:
            rows.append(notice.row("waiting"))
    return rows


def _is_known(registry: Registry, name: str) -> bool:
    """Say whether there is, or was, a node of this name."""
    from flock.node_objects import NodeObjects

    return registry.presence(name) is not None or NodeObjects(registry).read(name) is not None


def _show(line: CommandLine, rows: Sequence[dict[str, Any]]) -> None:
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        line.output.say("no notices")
        return
    line.output.table(
        ("ID", "FROM", "TO", "ACTION", "RESOURCE", "STATE", "TRIES", "CREATED", "ERROR"),
        (
            (
                row["id"],
                row["from"],
                row["to"],
                row["action"],
                row["resource"],
                row["state"],
                row["tries"],
                row["created"],
                ", ".join(each for each in (row["error"], row["mark"]) if each),
            )
            for row in rows
        ),
    )


@click.command()
@click.argument("node")
@click.argument("resource")
@click.argument("action")
@common
@pass_line
def notify(line: CommandLine, node: str, resource: str, action: str) -> None:
    """Have NODE run ACTION of RESOURCE, as 'execute[x]' run: now, or when it is up again.

    Returns as soon as the notice is safe in the registry; `flockctl notices`
    shows what became of it.
    """
    from flock.armed_notices import check_wish
    from flock.notice import Notice, queue_of

    name = line.talk_to(node)
    check_wish(name, resource, action)
    registry = line.open_registry()
    try:
        if not _is_known(registry, name):
            raise NodeNotFound(f"no node {name!r} in {registry.url}")
        notice = Notice(
            id=secrets.token_hex(10),
            sender=f"{_user()}@{host_name()}",
            target=name,
            resource=resource,
            action=action,
            created=now_text(),
        )
        registry.append(queue_of(name), notice.as_data(), dedup_id=notice.id)
    finally:
        registry.close()
    line.output.say(f"notice {notice.id}: {action} {resource} on {name}")
    if line.output.wants_json:
        line.output.value(notice.row("waiting"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


@click.command()
@click.argument("node", required=False)
@common
@pass_line
def subscriptions(line: CommandLine, node: str | None) -> None:
    """List who wants to be told when resources of NODE, or of any node, change."""
    from flock.subscriptions import all_of

    name = None if node is None else line.talk_to(node)
    registry = line.open_registry()
    try:
        rows = all_of(registry, name)
        if name is not None and not rows and not _is_known(registry, name):
            raise NodeNotFound(f"no node {name!r} in {registry.url}")
    finally:
        registry.close()
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        line.output.say("no subscriptions")
        return
    keys = ("publisher", "watched", "subscriber", "action", "resource", "timing", "recipe")
    line.output.table([key.upper() for key in keys], _cells(rows, keys))


def _cells(rows: Iterable[dict[str, Any]], keys: Sequence[str]) -> Iterable[Sequence[object]]:
    return ([row[key] for key in keys] for row in rows)
