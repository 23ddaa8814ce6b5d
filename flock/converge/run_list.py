"""What a machine should run, and what that comes to.

A run list names recipes and roles: `recipe[cb]`, `recipe[cb::name]`,
`cb::name`, `role[web]`; `cb` alone is `cb::default`. Roles have run lists of
their own; expanding one gives the recipes in order, each once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flock.errors import RecipeError

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_RECIPE = re.compile(rf"({_NAME})(?:::({_NAME}))?")
_ITEM = re.compile(r"(recipe|role)\[(.*)\]")


@dataclass(frozen=True, slots=True)
class Role:
    """A role as its file says.

    Attributes:
        name: `web`.
        run_list: what stands for it.
        default_attributes, override_attributes: as in Chef.
        places: `file:line` of each item of its run list.
    """

    name: str
    run_list: tuple[str, ...]
    default_attributes: Mapping[str, Any] = field(default_factory=dict)
    override_attributes: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a run list comes to.

    Attributes:
        recipes: `cookbook::recipe` in order, each once.
        roles: the roles it went through, a role after those it contains, so
            that later ones are stronger.
    """

    recipes: tuple[str, ...]
    roles: tuple[Role, ...]


def full_recipe_name(name: str, where: str = "", *, inside: str = "") -> str:
    """Return `cookbook::recipe` for `cb`, `cb::name` or, inside a cookbook, `::name`.

    Raises:
        RecipeError: no name of a recipe.
    """
    match = _RECIPE.fullmatch(inside + name if name.startswith("::") else name)
    if match is None:
        raise RecipeError(
            f"{name!r} does not name a recipe: write cookbook or cookbook::recipe", where
        )
    return f"{match[1]}::{match[2] or 'default'}"


def parse_item(item: str, where: str = "") -> tuple[str, str]:
    """Return `("recipe", "cb::name")` or `("role", "web")` for an item of a run list.

    Raises:
        RecipeError: neither a recipe nor a role.
    """
    place = where or "run list"
    match = _ITEM.fullmatch(item.strip())
    if match is None:
        return "recipe", full_recipe_name(item.strip(), place)
    if match[1] == "recipe":
        return "recipe", full_recipe_name(match[2], place)
    if not re.fullmatch(_NAME, match[2]):
        raise RecipeError(f"{item!r} does not name a role: write role[name]", place)
    return "role", match[2]


def expand(run_list: Sequence[str], load_role: Callable[[str, str], Role]) -> Expansion:
    """Expand a run list.

    Args:
        run_list: its items.
        load_role: returns a role by name; its second argument is the place
            that names it, for the error.

    Raises:
        RecipeError: an item that is none, a role that is not there or that
            contains itself.
    """
    recipes: dict[str, None] = {}
    roles: dict[str, Role] = {}

    def walk(items: Sequence[str], places: Mapping[str, str], path: tuple[str, ...]) -> None:
        for item in items:
            where = places.get(item, "")
            kind, name = parse_item(item, where)
            if kind == "recipe":
                recipes.setdefault(name)
            elif name in path:
                circle = " → ".join((*path[path.index(name) :], name))
                raise RecipeError(f"role {name!r} contains itself: {circle}", where)
            elif name not in roles:
                role = load_role(name, where or "run list")
                walk(role.run_list, role.places, (*path, name))
                roles[name] = role

    walk(run_list, {}, ())
    return Expansion(tuple(recipes), tuple(roles.values()))
