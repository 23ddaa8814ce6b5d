"""What waits in the registry for nodes that are not up, and taking it from there."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flock.errors import BusyError, UsageError
from flock.node_objects import was_seen
from flock.notice import ANSWER, NOTICE, Notice, queue_of
from registry.contract import MAX_QUEUE_LENGTH, Registry

_OVER = {"sent", "done", "dead"}


def queued_rows(registry: Registry, node: str) -> list[dict[str, Any]]:
    """Return the notices in a node's queue as rows; they say if nobody ever had its name."""
    stranger = None if was_seen(registry, node) else f"{node} was never seen"
    return [notice.row("waiting", error=stranger) for _, notice in _queued(registry, node)]


def drop(registry: Registry, node: str, notice_id: str, who: str) -> Notice:
    """Take a notice out of the queue of a node that is not up, and have its sender told.

    Args:
        registry: open.
        node: whom the notice is for.
        notice_id: which.
        who: drops it, for the sender.

    Raises:
        BusyError: the node is up, or came up just then: it stays in the queue.
        UsageError: no such notice waits there.
    """
    if registry.presence(node) is not None:
        raise BusyError(f"{node} is up and deals with its notices itself", advice="")
    for entry_id, notice in _queued(registry, node):
        if notice.id == notice_id and registry.remove(queue_of(node), entry_id):
            break
    else:
        raise UsageError(
            f"no notice {notice_id!r} waits for {node} in the registry; `flockctl notices {node}`"
        )
    if registry.presence(node) is not None:
        # It may have been read before. By its id it runs once, however often it is read.
        again = f"{NOTICE} {notice.id} not dropped {secrets.token_hex(8)}"
        registry.append(queue_of(node), notice.as_data(), dedup_id=again)
        raise BusyError(f"{node} came up just now and deals with it itself", advice="")
    # A person's wish has no journal, and nobody who keeps how it ended.
    if notice.journal:
        answer = replace(
            notice,
            kind=ANSWER,
            sender=node,
            target=notice.sender,
            journal="",
            number=0,
            floor=0,
            error=f"dropped by {who}",
        )
        registry.append(
            queue_of(notice.sender), answer.as_data(), dedup_id=f"{ANSWER} {notice.id} dropped"
        )
    return notice


def waited(row: dict[str, Any], now: datetime.datetime) -> float | None:
    """Return for how many seconds a notice has been on its way, by two clocks.

    Returns:
        None for one that is over, or whose beginning is not known.
    """
    if row["state"] in _OVER:
        return None
    try:
        created = datetime.datetime.fromisoformat(row["created"])
        return max(0.0, round((now - created).total_seconds(), 1))
    except (ValueError, TypeError):
        return None


def _queued(registry: Registry, node: str) -> Iterator[tuple[int, Notice]]:
    for entry in registry.entries(queue_of(node), limit=MAX_QUEUE_LENGTH):
        try:
            notice = Notice.from_data(entry.value)
        except ValueError:
            continue
        if notice.kind == NOTICE:
            yield entry.id, notice
