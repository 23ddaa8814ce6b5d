"""Who is told when a resource changed.

A notification names a target (`service[app]`), the action to run there, and
when. Local ones are resolved to the declared resources before anything is
converged, so that a typo is an error and not a notification that never fires.
Remote ones carry the place their target lives in; the engine only keeps them,
what delivers them is put in from outside.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flock.errors import UsageError
from registry.contract import NODE_NAME_RULE, is_node_name

Trail = tuple[tuple[str, str], ...]
"""The (resource, action) pairs through which a notification came, the first cause first."""

_RESOURCE_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[(.+)\]", re.DOTALL)
"""Greedy up to the last bracket: a resource's name may hold brackets itself."""


class Timing(enum.Enum):
    """When the target's action runs.

    BEFORE: before the notifying resource changes, if it would change.
    IMMEDIATELY: right after it changed. DELAYED: at the end of the run, once
    per target and action.
    """

    BEFORE = "before"
    IMMEDIATELY = "immediately"
    DELAYED = "delayed"

    @classmethod
    def named(cls, name: str) -> Timing:
        """Return the timing of this name; Chef's short `immediate` is understood too.

        Raises:
            ValueError: no such timing.
        """
        if name == "immediate":
            return cls.IMMEDIATELY
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(repr(timing.value) for timing in cls)
            raise ValueError(f"unknown timing {name!r}; there are {known}") from None


def parse_resource_name(text: str) -> tuple[str, str]:
    """Split `execute[kill all humans]` into the kind and the resource's name.

    Raises:
        ValueError: not of this form.
    """
    match = _RESOURCE_NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} does not name a resource: write kind[name]")
    return match[1], match[2]


@dataclass(frozen=True, slots=True)
class Notification:
    """A local notification as a recipe declared it.

    Attributes:
        action: what the target does.
        target: the target as `kind[name]`.
        timing: when.
        where: `file:line` of the declaration.
    """

    action: str
    target: str
    timing: Timing
    where: str


@dataclass(frozen=True, slots=True)
class Location:
    """Which machines a remote notification is for.

    `nodes` wins; otherwise all that is given is ANDed over node objects.
    """

    nodes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    environment: str | None = None
    query: str | None = None

    @classmethod
    def of(
        cls,
        node: str | Sequence[str] | None = None,
        roles: str | Sequence[str] | None = None,
        recipes: str | Sequence[str] | None = None,
        environment: str | None = None,
        query: str | None = None,
    ) -> Location:
        """Make a location of what a recipe wrote.

        Raises:
            ValueError: nothing given, which would mean every machine; a name
                that no node can have; no query.
        """
        location = cls(
            _texts(node, "node"),
            _texts(roles, "roles"),
            _texts(recipes, "recipes"),
            environment,
            query,
        )
        if location == cls():
            raise ValueError("no location: give node, roles, recipes, environment or query")
        for name in location.nodes:
            if not is_node_name(name):
                raise ValueError(f"{name!r} cannot be a node's name: {NODE_NAME_RULE}")
        if query is not None:
            check_query(query)
        return location


@dataclass(frozen=True, slots=True)
class RemoteNotification:
    """A notification over the network as a recipe declared it.

    Attributes:
        action: what the target does.
        target: `kind[name]` on the machine that acts.
        timing: IMMEDIATELY or DELAYED, as seen by the notifying run.
        location: for `remote_notifies` where the target lives, for
            `remote_subscribes` where the resource that is watched lives.
        watched: for `remote_subscribes` the watched resource as `kind[name]`
            (the target is then the resource that declared it); else empty.
        where: `file:line` of the declaration.
    """

    action: str
    target: str
    timing: Timing
    location: Location
    where: str
    watched: str = ""


def check_query(query: object) -> None:
    """Refuse what is no query over machines.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(query, str):
        raise ValueError(f"query must be a text, not {query!r}")
    # Imported here: few recipes ask, and the grammar takes its time to load.
    from flock.search import parse

    try:
        parse(query)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _texts(value: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    if value is None:
        return ()
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{what} must be a text or a list of texts, not {value!r}")
    return tuple(texts)
