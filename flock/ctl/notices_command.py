"""`flockctl notices`, `notify` and `subscriptions`: what machines tell each other to do."""

from __future__ import annotations

import datetime
import getpass
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.options import CommandLine, common, host_name, pass_line, reachable
from flock.ctl.output import Ended, shared_code
from flock.errors import FlockError, NodeNotFound, UsageError, exit_code
from flock.node_objects import was_seen
from registry.wall_clock import now_text

if TYPE_CHECKING:
    from flock.fleet import Flock
    from registry.contract import Registry


@click.command()
@click.argument("node", required=False)
@click.option("--dead", is_flag=True, help="those that ended badly, with the reason")
@click.option("--all", "all_of_them", is_flag=True, help="those that are over, too")
@click.option("--retry", metavar="ID", help="let this dead letter go once more")
@click.option("--drop", metavar="ID", help="drop this one, which waits for a node that is not up")
@reachable
@pass_line
def notices(
    line: CommandLine,
    node: str | None,
    *,
    dead: bool,
    all_of_them: bool,
    retry: str | None,
    drop: str | None,
) -> None:
    """List the notices that are on their way to and from NODE, or to and from every node.

    Of a node that is down only its queue in the registry can be seen. With
    --json a row for each: id, from, to, resource, action, timing, state,
    tries, created, trail, error, mark, and waited: seconds until now, null if
    it is over.
    """
    if retry is not None and drop is not None:
        raise click.UsageError("--retry and --drop exclude each other")
    with line.visitor() as fleet:
        if drop is not None:
            _drop(line, fleet.registry, node, drop)
            return
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


def _drop(line: CommandLine, registry: Registry, node: str | None, notice: str) -> None:
    """Drop a notice that waits for a node which is not up."""
    from flock.ctl.notice_queues import drop

    if node is None:
        raise UsageError("say whom it is for: `flockctl notices NODE --drop ID`")
    name = line.talk_to(node)
    dropped = drop(registry, name, notice, f"{_user()}@{host_name()}")
    what = f"{dropped.action} {dropped.resource}, from {dropped.sender}"
    line.output.say(f"{notice} is dropped: {what}")
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
        from flock.ctl.notice_queues import queued_rows

        queued = queued_rows(fleet.registry, name)
        if was_seen(fleet.registry, name):
            line.output.say(f"flockctl: {name} is down: only its queue in the registry is seen")
        elif queued:
            line.output.say(
                f"flockctl: {name} was never seen: is the name right? Else drop what waits for"
                f" it, as in `flockctl notices {name} --drop {queued[0]['id']}`"
            )
        else:
            raise
        return [] if dead else queued
    rows: list[dict[str, Any]] = manager.notices(dead=dead, all_of_them=all_of_them)
    return rows


def _show(line: CommandLine, rows: Sequence[dict[str, Any]]) -> None:
    from flock.ctl.notice_queues import waited

    now = datetime.datetime.now(datetime.UTC)
    for row in rows:
        row["waited"] = waited(row, now)
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        line.output.say("no notices")
        return
    line.output.table(
        ("ID", "FROM", "TO", "ACTION", "RESOURCE", "STATE", "TRIES", "CREATED", "WAITED", "ERROR"),
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
                "" if row["waited"] is None else f"{row['waited']:.0f} s",
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
        if not was_seen(registry, name):
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
        if name is not None and not rows and not was_seen(registry, name):
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
