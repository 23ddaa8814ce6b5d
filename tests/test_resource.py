"""What a resource's declaration says, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from flock.converge.notification import Location, Timing, parse_resource_name
from flock.converge.properties import lazy, type_problem
from flock.converge.resource import Resource, declare, with_lazy_values
from flock.errors import RecipeError


@dataclass
class Thing(Resource):
    kind: ClassVar[str] = "thing"
    actions: ClassVar[tuple[str, ...]] = ("make", "break")

    size: int | None = None
    weight: float = 1.0
    colour: Literal["red", "blue"] = "red"
    tags: list[str] | None = None
    on_done: Callable[[], object] | None = None
    label: str = ""

    def check(self) -> None:
        self.label = self.label or self.name
        if self.size is not None and self.size < 0:
            raise ValueError("size cannot be negative")


def thing(name: Any = "x", **properties: Any) -> Thing:
    return declare(Thing, name, properties, "recipe.py:7", "cb::default")


def test_a_resource_knows_its_name_place_and_recipe():
    made = thing("a [b] c", size=3, retries=2)

    assert (str(made), made.where, made.declared_in) == (
        "thing[a [b] c]",
        "recipe.py:7",
        "cb::default",
    )
    assert (made.size, made.retries, made.label, made.home_cookbook) == (3, 2, "a [b] c", "cb")
    assert made.wanted_actions == ("make",)


@pytest.mark.parametrize(
    ("action", "wanted"),
    [("break", ("break",)), (["make", "break"], ("make", "break")), ("nothing", ("nothing",))],
)
def test_actions_are_one_or_several(action, wanted):
    assert thing(action=action).wanted_actions == wanted


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"sise": 1}, "thing[x]: unknown property 'sise' (did you mean 'size'?)"),
        ({"only_if": "true"}, "thing[x]: only_if is a method: write thing(...).only_if(...)"),
        ({"where": "y"}, "thing[x]: unknown property 'where'"),
        ({"size": "1"}, "thing[x]: size must be int or None, not '1'"),
        ({"size": True}, "thing[x]: size must be int or None, not True"),
        ({"weight": "heavy"}, "thing[x]: weight must be float, not 'heavy'"),
        ({"colour": "green"}, "thing[x]: colour must be 'red' or 'blue', not 'green'"),
        ({"tags": "red"}, "thing[x]: tags must be list[str] or None, not 'red'"),
        ({"tags": [1]}, "thing[x]: tags must be list[str] or None, not [1]"),
        ({"on_done": "f"}, "thing[x]: on_done must be a function or None, not 'f'"),
        ({"size": -1}, "thing[x]: size cannot be negative"),
        ({"retries": -1}, "thing[x]: retries and retry_delay cannot be negative"),
        ({"action": "mak"}, "thing[x] has no action 'mak'; it has make, break, nothing"),
        ({"action": lazy(lambda: "make")}, "thing[x]: action cannot be lazy"),
        ({"size": "geheim", "sensitive": True}, "thing[x]: size must be int or None, not str"),
    ],
)
def test_what_is_wrong_in_a_declaration_is_one_error_with_its_place(properties, message):
    with pytest.raises(RecipeError) as caught:
        thing(**properties)

    assert str(caught.value) == f"recipe.py:7: {message}"
    assert caught.value.where == "recipe.py:7"


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_resource_needs_a_name(name):
    with pytest.raises(RecipeError, match="thing needs a name"):
        thing(name)


def test_paths_may_be_given_where_texts_are_asked_for():
    made = thing(Path("/tmp/x"), label=Path("/y"))

    assert (made.name, made.label) == ("/tmp/x", "/y")


def test_an_int_fits_a_float():
    assert thing(weight=2).weight == 2


def test_a_lazy_value_is_worked_out_and_checked_when_asked_for():
    sizes = iter([1, 2, "3", -4])
    made = thing(size=lazy(lambda: next(sizes)))

    assert with_lazy_values(made).size == 1
    assert with_lazy_values(made).size == 2
    with pytest.raises(RecipeError, match=r"recipe\.py:7: thing.x.: size must be int"):
        with_lazy_values(made)
    with pytest.raises(RecipeError, match="size cannot be negative"):
        with_lazy_values(made)


def test_a_resource_without_lazy_values_is_its_own_ready_form():
    made = thing()

    assert with_lazy_values(made) is made


def test_bindings_return_the_resource_and_know_their_place():
    made = thing()

    same = (
        made.notifies("run", "execute[x]")
        .notifies("run", thing("y"), "immediately")
        .subscribes("make", "execute[z]", "before")
        .only_if("test -f /x", cwd="/")
        .not_if(lambda: False)
        .wait_until(lambda: True, timeout=3)
        .remote_notifies("run", "execute[x]", node="bender1")
        .remote_subscribes("break", "execute[x]", "delayed", roles=["web"], environment="prod")
    )

    assert same is made
    assert [(each.target, each.timing) for each in made.notifications] == [
        ("execute[x]", Timing.DELAYED),
        ("thing[y]", Timing.IMMEDIATELY),
    ]
    assert all(each.where.startswith(__file__) for each in made.notifications)
    assert made.subscriptions[0].timing is Timing.BEFORE
    assert str(made.guards[0]) == "only_if `test -f /x`"
    assert str(made.guards[1]).startswith(f"not_if <lambda> ({__file__}:")
    assert (made.waits[0].pause, made.waits[0].timeout) == (1.0, 3)
    assert made.remote_notifications[0].timing is Timing.IMMEDIATELY
    assert made.remote_notifications[0].location == Location(nodes=("bender1",))
    subscription = made.remote_subscriptions[0]
    assert (subscription.target, subscription.watched) == ("thing[x]", "execute[x]")
    assert subscription.location == Location(roles=("web",), environment="prod")


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        (lambda x: x.notifies("run", "execute"), "does not name a resource: write kind"),
        (lambda x: x.notifies("run", "execute[x]", "soon"), "unknown timing 'soon'; there are"),
        (lambda x: x.remote_notifies("run", "execute[x]"), "no location: give node"),
        (lambda x: x.remote_notifies("run", "execute[x]", "before", node="y"), "does not reach"),
        (lambda x: x.remote_subscribes("fly", "execute[x]", node="y"), "has no action 'fly'"),
        (lambda x: x.remote_notifies("run", "execute[x]", query="a:("), "is no query"),
        (lambda x: x.remote_notifies("run", "execute[x]", query=5), "query must be a text"),
        (lambda x: x.remote_notifies("run", "execute[x]", node="a b"), "cannot be a node's name"),
        (lambda x: x.remote_subscribes("make", "execute[x]", roles=5), "roles must be a text or"),
        (lambda x: x.only_if(True), "asks a function or a command, not True"),
        (lambda x: x.only_if("true", cdw="/"), r"unknown option 'cdw' .*did you mean 'cwd'"),
        (lambda x: x.not_if(bool, cwd="/"), "a function takes no options"),
        (lambda x: x.wait_until(bool, pause=0), "a pause above 0 s"),
        (lambda x: x.wait_while(bool, on_timeout="stop"), "on_timeout must be"),
    ],
)
def test_what_is_wrong_in_a_binding_is_an_error_with_its_own_place(bind, message):
    with pytest.raises(RecipeError, match=message) as caught:
        bind(thing())

    assert caught.value.where.startswith(__file__)


def test_a_sensitive_resource_hides_its_texts():
    assert thing(sensitive=True).shown("password") == "(sensitive)"
    assert thing().shown("text") == "text"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("execute[kill all humans]", ("execute", "kill all humans")),
        ("file[/a[1].txt]", ("file", "/a[1].txt")),
        ("file[a]b]", ("file", "a]b")),
    ],
)
def test_a_name_may_hold_brackets(text, parts):
    assert parse_resource_name(text) == parts


@pytest.mark.parametrize("text", ["file", "file[]", "[x]", "fi le[x]", ""])
def test_what_names_no_resource_is_refused(text):
    with pytest.raises(ValueError, match="does not name a resource"):
        parse_resource_name(text)


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        ({"a": "b"}, dict[str, str], True),
        ({"a": 1}, dict[str, str], False),
        ((1, "a"), tuple[int, str], True),
        ((1, 2, 3), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ("abc", list[str] | str, True),
        (b"abc", list[int], False),
        (1, Any, True),
        (1, bool, False),
        (1.5, int, False),
    ],
)
def test_values_are_checked_against_annotations(value, annotation, fits):
    assert (type_problem(value, annotation) is None) is fits
