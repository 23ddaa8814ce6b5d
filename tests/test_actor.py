"""What of an actor's class others may call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from flock.actor import PROXY_WORDS, Actor, internal, method_table
from flock.errors import UsageError


class Mixin:
    def mixed_in(self) -> None: ...


class Parent(Actor):
    def inherited(self) -> None: ...

    def overridden(self) -> int:
        return 1

    def made_internal(self) -> None: ...


class Child(Mixin, Parent):
    """Has one of everything."""

    constant = 1
    callable_constant = print
    bound_lambda = lambda self: 0  # noqa: E731

    def __init__(self) -> None:
        super().__init__()
        self.of_instance = lambda: 0

    def offered(self, first: int, second: int = 2, *, third: int = 3) -> int:
        """Add up."""
        return first + second + third

    def overridden(self) -> int:
        return 2

    @internal
    def hidden(self) -> None: ...

    @internal
    def made_internal(self) -> None: ...

    @property
    def shown(self) -> int:
        raise AssertionError("a property was evaluated")

    @staticmethod
    def still() -> None: ...

    @classmethod
    def of_class(cls) -> None: ...

    def _private(self) -> None: ...

    def __dunder__(self) -> None: ...

    def __call__(self) -> None: ...

    def on_start(self) -> None: ...

    def on_stop(self) -> None: ...

    def on_failure(self, *args: Any) -> None: ...

    def on_receive(self, message: Any) -> None: ...

    def stop(self) -> None: ...

    class Inner:
        def method(self) -> None: ...


def test_a_table_holds_public_methods_of_the_class_and_its_bases_and_nothing_else() -> None:
    assert set(method_table(Child)) == {
        "bound_lambda",
        "inherited",
        "mixed_in",
        "offered",
        "overridden",
    }


def test_the_nearest_class_decides() -> None:
    assert method_table(Child)["overridden"].function is Child.overridden
    assert method_table(Parent)["overridden"].function is Parent.overridden
    assert "made_internal" in method_table(Parent)


def test_a_plain_pykka_actor_offers_its_own_methods_only() -> None:
    class Plain(pykka.ThreadingActor):
        def add(self) -> None: ...

        def proxy(self) -> None: ...

        def stop(self) -> None: ...

    assert set(method_table(Plain)) == {"add", "proxy"}


def test_nothing_of_pykka_or_of_our_base_is_offered() -> None:
    assert method_table(pykka.ThreadingActor) == {}
    assert method_table(Actor) == {}


@pytest.mark.parametrize("word", sorted(PROXY_WORDS))
def test_a_method_that_takes_a_word_of_the_proxy_is_refused_by_name(word: str) -> None:
    class Takes(pykka.ThreadingActor):
        pass

    setattr(Takes, word, lambda self: None)
    with pytest.raises(UsageError, match=rf"Takes\.{word}: .*options"):
        method_table(Takes)

    setattr(Takes, word, internal(lambda self: None))
    assert method_table(Takes) == {}


def test_a_method_of_which_a_call_runs_nothing_is_refused() -> None:
    class Waiting(Actor):
        async def wait(self) -> int:
            return 1

    class Yielding(Actor):
        def count(self) -> Iterator[int]:
            yield 1

    class Hiding(Actor):
        @internal
        def count(self) -> Iterator[int]:
            yield 1

    with pytest.raises(UsageError, match=r"Waiting\.wait is a coroutine"):
        method_table(Waiting)
    with pytest.raises(UsageError, match=r"Yielding\.count is a coroutine or a generator"):
        method_table(Yielding)
    assert method_table(Hiding) == {}


def test_a_method_knows_its_signature_and_docstring() -> None:
    offered = method_table(Child)["offered"]

    assert str(offered.signature) == "(first: int, second: int = 2, *, third: int = 3) -> int"
    assert offered.documentation() == "Add up."
    assert method_table(Child)["inherited"].documentation() == ""


class Signatures(Actor):
    def nothing(self) -> None: ...

    def one(self, first: int) -> None: ...

    def one_or_two(self, first: int, second: int = 0) -> None: ...

    def any_number(self, *rest: int) -> None: ...

    def any_words(self, **more: int) -> None: ...

    def needs_word(self, first: int, *, word: int) -> None: ...

    def only_by_place(self, first: int, /) -> None: ...


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "fits"),
    [
        ("nothing", [], {}, True),
        ("nothing", [1], {}, False),
        ("nothing", [], {"x": 1}, False),
        ("one", [1], {}, True),
        ("one", [], {}, False),
        ("one", [1, 2], {}, False),
        ("one", [], {"first": 1}, True),
        ("one", [1], {"first": 1}, False),
        ("one", [], {"self": 1}, False),
        ("one_or_two", [1], {}, True),
        ("one_or_two", [1, 2], {}, True),
        ("one_or_two", [1], {"second": 2}, True),
        ("one_or_two", [], {"second": 2}, False),
        ("any_number", list(range(100)), {}, True),
        ("any_number", [], {"rest": []}, False),
        ("any_words", [], {"a": 1, "b": 2}, True),
        ("any_words", [1], {}, False),
        ("needs_word", [1], {}, False),
        ("needs_word", [1], {"word": 2}, True),
        ("only_by_place", [1], {}, True),
        ("only_by_place", [], {"first": 1}, False),
    ],
)
def test_arguments_are_bound_before_the_method_is_called(
    method: str, args: list[Any], kwargs: dict[str, Any], fits: bool
) -> None:
    misfit = method_table(Signatures)[method].misfit(args, kwargs)

    assert (misfit is None) is fits
    assert misfit is None or misfit.startswith(f"{method}(")


def test_keywords_that_are_no_text_do_not_fit() -> None:
    keywords: Any = {1: 2}
    assert method_table(Signatures)["any_words"].misfit([], keywords) is not None
