"""Which machines a location means: `roles`, `recipes`, `environment` and `query`, ANDed.

Asked are node objects, so a machine that is down is found, too. A registry
that cannot answer is an error, never an empty list: a notice that cannot be
placed now is placed later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flock.node_objects import NodeObjects
from flock.search import flatten_head
from registry.contract import Registry


def find_nodes(registry: Registry, location: Mapping[str, Any]) -> list[str]:
    """Return the names of the machines at a location, sorted.

    Args:
        registry: open.
        location: what was written: lists of roles and recipes that a machine
            must all have, its environment, and a query.

    Raises:
        UsageError: the query is none.
        RegistryError: it cannot be known now.
    """
    objects = NodeObjects(registry)
    query = location.get("query")
    roles, recipes = _texts(location.get("roles")), _texts(location.get("recipes"))
    environment = location.get("environment")
    found: list[str] = []
    for each in objects.search(query) if query else objects.read_all():
        head = flatten_head(
            name=each.name,
            environment=each.environment,
            run_list=each.run_list,
            roles=each.roles,
            recipes=each.recipes,
            tags=each.tags,
        )
        if (
            set(roles) <= set(head["roles"])
            and set(recipes) <= set(head["recipes"])
            and environment in (None, each.environment)
        ):
            found.append(each.name)
    return sorted(found)


def _texts(value: Any) -> Sequence[str]:
    """Return one text or several as a sequence."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
