"""Which questions depend on nothing but what they are noted to read."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from flock.converge.plain_question import is_plain


class Flock:
    """Stands for an object that notes all it reads."""

    _notes_readings = True

    def __getitem__(self, name):
        return self


FLOCK: Any = Flock()
NAMES = ["bender0", "bender1"]
asked: Any = []
count = 0
STRANGE = object()


def helper(name):
    return FLOCK[name]["flock_api"].active()


def impure_helper():
    return os.path.exists("/x") and FLOCK["a"]


def recursive(number):
    return bool(FLOCK["a"]) if number == 0 else recursive(number - 1)


def counting():
    global count  # noqa: PLW0603 - what this is about
    count = 1
    return FLOCK["a"]


def named(name):
    return lambda: not FLOCK[name]["flock_api"].active()


def with_local_closure():
    names = ("a", "b")
    return any(FLOCK[name].active() for name in names)


def with_memory():
    seen = 0

    def question():
        nonlocal seen
        seen += 1
        return FLOCK["a"] and seen > 3

    return question


def importing():
    import random

    return random


PLAIN = {
    "a call": lambda: not FLOCK["a"]["flock_api"].active(),
    "the method of a proxy": FLOCK,
    "several": lambda: any(FLOCK[name].active() for name in NAMES) and len(NAMES) > 1,
    "a comparison": lambda: FLOCK["a"].status()["number"] >= 3 and not FLOCK["b"].active(),
    "a function of the recipe": lambda: helper("a") or helper("b"),
    "a closure": named("a"),
    "a default": lambda name="a": FLOCK[name].active(),
    "itself": lambda: recursive(2),
    "a local closure": with_local_closure,
    "a global": lambda: FLOCK.globals.get("release") == "1.4",
}

OPEN = {
    "a file": lambda: os.path.exists("/x") and FLOCK["a"],
    "the clock": lambda: FLOCK["a"] or time.time() > 5,
    "a function that asks more": lambda: not impure_helper(),
    "a list that grows": lambda: asked.append(1) or len(asked) > 3,
    "a global that is set": counting,
    "a memory": with_memory(),
    "an import": importing,
    "a builtin that reads": lambda: input() == "yes",
    "something strange": lambda: STRANGE,
    "a change": lambda: FLOCK.globals.pop("x", None),
    "an item that is set": lambda: NAMES.__setitem__(0, "x"),
}


@pytest.mark.parametrize("question", PLAIN.values(), ids=PLAIN)
def test_what_asks_the_flock_alone_is_plain(question):
    assert is_plain(question)


@pytest.mark.parametrize("question", OPEN.values(), ids=OPEN)
def test_what_may_ask_something_else_is_not(question):
    assert not is_plain(question)


@pytest.mark.parametrize("question", ["true", ["true"], STRANGE, len, FLOCK.__getitem__])
def test_commands_and_other_callables_are_not_plain(question):
    assert not is_plain(question)


def test_a_closure_that_is_not_filled_is_not_plain():
    plain = is_plain(lambda: later)
    later: int = 1
    assert not plain
