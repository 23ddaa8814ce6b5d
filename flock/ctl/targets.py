"""Which nodes a command is for: names, patterns as `'web*'`, and queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from flock.ctl.options import checked_name
from flock.errors import NodeNotFound

if TYPE_CHECKING:
    from flock.fleet import Flock


def expand(targets: Iterable[str], node_names: Callable[[], Sequence[str]]) -> list[str]:
    """Return the nodes that are meant, each once, in the order in which they were named.

    A pattern that fits no live node is returned as it is: nothing can have
    that name, so it ends as a node that is not there, and is named.

    Args:
        targets: names and patterns.
        node_names: returns the names of the live nodes; asked once, and only
            if there is a pattern.

    Raises:
        UsageError: a name that no node can have.
    """
    live: Sequence[str] | None = None
    meant: dict[str, None] = {}
    for target in targets:
        if not is_pattern(target):
            meant[checked_name(target)] = None
            continue
        live = node_names() if live is None else live
        fitting = [name for name in live if fnmatchcase(name, target)]
        meant.update(dict.fromkeys(fitting or [target]))
    return list(meant)


def check_targets(targets: Sequence[str], query: str | None) -> None:
    """Refuse no target at all, which never means "all", and two ways of naming them."""
    if not targets and query is None:
        raise click.UsageError("name a TARGET, or --on QUERY; --on '*:*' is every node")
    if targets and query is not None:
        raise click.UsageError("name TARGETs or --on QUERY, not both")


def found(fleet: Flock, query: str) -> list[str]:
    """Return the names of the nodes that a query means, up or down.

    Raises:
        NodeNotFound: it means nobody.
        RegistryUnavailable: that cannot be known now.
    """
    names = [each.name for each in fleet.search(query)]
    if not names:
        raise NodeNotFound(f"no node matches {query!r} in {fleet.registry.url}")
    return names


def is_pattern(target: str) -> bool:
    """Say whether a target is a pattern; no name holds what makes one."""
    return any(character in target for character in "*?[")
