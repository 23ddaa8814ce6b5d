"""`flockctl locks` and `flockctl unlock`: who holds what, and taking it away."""

from __future__ import annotations

import time
from typing import Any

import click

from flock.ctl.options import CommandLine, common, pass_line, reachable
from flock.ctl.output import Ended
from registry.contract import LockStatus, Registry, RegistryUnavailable

_LOOK_EVERY = 1.0
"""Seconds between two looks of `--watch`."""


@click.command()
@click.option("--watch", is_flag=True, help="again after each change, until Ctrl-C")
@common
@pass_line
def locks(line: CommandLine, *, watch: bool) -> None:
    """List every lock that is held or waited for: by whom, since when, and why.

    Asks the registry only. With --watch --json one JSON value for each change.
    A watch goes on over an outage of the registry, and says so.
    """
    registry = line.open_registry()
    try:
        shown = _rows(registry)
        _show(line, registry.url, shown)
        is_away = False
        while watch:
            time.sleep(_LOOK_EVERY)
            try:
                rows = _rows(registry)
            except RegistryUnavailable as error:
                if not is_away:
                    is_away = True
                    line.output.say(f"{error}; what was shown last may have changed")
                continue
            if is_away:
                is_away = False
                line.output.say(f"{registry.url} answers again")
            if rows != shown:
                shown = rows
                _show(line, registry.url, shown)
    finally:
        registry.close()


def _rows(registry: Registry) -> list[dict[str, Any]]:
    return [_row(status) for status in registry.locks()]


def _row(status: LockStatus) -> dict[str, Any]:
    holders = [each.as_data() for each in status.holders]
    return {
        "lockid": status.lockid,
        "slots": status.slots,
        "holders": holders,
        "holder": holders[0] if holders else None,
        "waiting": [each.as_data() for each in status.waiting],
    }


def _show(line: CommandLine, url: str, rows: list[dict[str, Any]]) -> None:
    if line.output.wants_json:
        line.output.value(rows)
        return
    if not rows:
        line.output.say(f"no locks in {url}")
        return
    cells: list[tuple[object, ...]] = []
    for row in rows:
        name = row["lockid"]
        for each in row["holders"]:
            state = "kept" if each["kept"] else "held"
            place = f"{each['slot'] + 1} of {row['slots']}"
            cells.append((name, state, place, *_who(each), each["token"], each["reason"]))
        for number, each in enumerate(row["waiting"], 1):
            cells.append((name, "waits", f"{number}.", *_who(each), "", each["reason"]))
    columns = ("LOCK", "STATE", "PLACE", "OWNER", "HOST", "RUN", "SINCE", "TOKEN", "REASON")
    line.output.table(columns, cells)


def _who(row: dict[str, Any]) -> tuple[str, ...]:
    return row["owner"], row["host"], row["run_id"], row["since"]


@click.command()
@click.argument("lockid", metavar="ID")
@click.option("--reason", required=True, help="why; the holder is told, and keeps it")
@click.option("--token", type=int, help="only the slot with this token")
@reachable
@pass_line
def unlock(line: CommandLine, lockid: str, reason: str, token: int | None) -> None:
    """Take the lock ID from its holders, or a kept slot from its machine.

    The next in line gets it when the old holder has said that he knows, or
    must have noticed by himself.
    """
    from flock.locksmith import tell_holder

    if not reason.strip():
        raise click.UsageError("--reason says why: the holder is told")
    with line.visitor() as fleet:
        broken = [each.as_data() for each in fleet.registry.break_lock(lockid, token=token)]
        me = fleet.node.identity.name
        with_token = "" if token is None else f" with token {token}"
        told = {row["token"]: tell_holder(fleet, lockid, row, me, reason) for row in broken}
    if line.output.wants_json:
        line.output.value(broken)
    for row in broken:
        known = "" if told[row["token"]] else " (not told: no node of that name answers)"
        line.output.say(f"lock {lockid!r} was taken from {row['owner']}{known}")
    if not broken:
        raise Ended(3, f"nobody holds lock {lockid!r}{with_token}; `flockctl locks` lists who does")
