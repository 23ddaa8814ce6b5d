"""Run lists: items, roles, and the order in which recipes come."""

from __future__ import annotations

import pytest

from flock.converge.run_list import Role, expand, full_recipe_name, parse_item
from flock.errors import RecipeError


def roles(**run_lists):
    made = {
        name: Role(name, tuple(items), places=dict.fromkeys(items, f"{name}.toml:1"))
        for name, items in run_lists.items()
    }

    def load(name, where):
        if name not in made:
            raise RecipeError(f"no role {name!r}", where)
        return made[name]

    return load


@pytest.mark.parametrize(
    ("item", "parsed"),
    [
        ("recipe[cb]", ("recipe", "cb::default")),
        ("recipe[cb::web]", ("recipe", "cb::web")),
        ("cb::web", ("recipe", "cb::web")),
        ("cb", ("recipe", "cb::default")),
        (" role[web] ", ("role", "web")),
    ],
)
def test_items_are_understood(item, parsed):
    assert parse_item(item) == parsed


@pytest.mark.parametrize(
    "item",
    ["recipe[cb", "role[]", "role[a/b]", "recipe[../x]", "", "cb::", "a::b::c", "rolle[web]"],
)
def test_what_is_no_item_is_refused_with_its_text(item):
    with pytest.raises(RecipeError, match=r"run list: .*does not name a"):
        parse_item(item)


def test_a_recipe_of_the_same_cookbook_is_named_by_two_colons():
    assert full_recipe_name("::web", inside="cb") == "cb::web"


def test_roles_are_expanded_in_place_and_recipes_come_once():
    load = roles(web=["base", "role[tls]", "nginx"], tls=["nginx::tls", "base"])

    expansion = expand(["recipe[first]", "role[web]", "nginx::tls", "last"], load)

    assert expansion.recipes == (
        "first::default", "base::default", "nginx::tls", "nginx::default", "last::default",
    )  # fmt: skip
    assert [role.name for role in expansion.roles] == ["tls", "web"]


def test_a_role_named_twice_counts_once():
    load = roles(web=["role[base]"], mail=["role[base]"], base=["cb"])

    expansion = expand(["role[web]", "role[mail]", "role[web]"], load)

    assert [role.name for role in expansion.roles] == ["base", "web", "mail"]


def test_a_role_that_contains_itself_is_named_with_the_circle_and_the_place():
    load = roles(web=["role[base]"], base=["cb", "role[tls]"], tls=["role[base]"])

    with pytest.raises(RecipeError) as caught:
        expand(["role[web]"], load)

    assert str(caught.value) == "tls.toml:1: role 'base' contains itself: base → tls → base"


def test_a_role_that_is_not_there_is_named_with_who_wants_it():
    with pytest.raises(RecipeError, match=r"^web\.toml:1: no role 'nope'"):
        expand(["role[web]"], roles(web=["role[nope]"]))
