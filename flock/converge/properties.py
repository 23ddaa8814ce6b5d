"""Check a resource's properties when it is declared, not when it is converged.

The checks come from the annotations of the resource's class: an unknown name
or a value of the wrong type is an error in the recipe, with its file and line,
before anything on the machine was touched.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Lazy:
    """A value that is worked out when its resource is converged."""

    __slots__ = ("compute",)

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.compute = compute


def lazy(compute: Callable[[], T]) -> T:
    """Put off a property's value until its resource is converged.

    Args:
        compute: asked once per action of the resource; its answer is checked
            as if it had been written in the recipe.
    """
    return typing.cast(T, Lazy(compute))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` if something known is near `name`, else nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def type_problem(value: object, annotation: Any, *, hidden: bool = False) -> str | None:
    """Say what is wrong with `value`, or None if it fits the annotation.

    Containers are checked with their items. A `hidden` value is not repeated.
    """
    if _fits(value, annotation):
        return None
    return f"must be {describe(annotation)}, not {type(value).__name__ if hidden else repr(value)}"


@functools.cache
def property_types(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and its bases, resolved."""
    return typing.get_type_hints(cls)


@functools.cache
def _plain_classes(annotation: Any) -> tuple[type, ...] | None:
    """Return the classes an annotation stands for if `isinstance` alone decides, else None."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        if annotation in (int, float) or typing.is_typeddict(annotation):
            return None
        return (annotation,)
    if annotation is None or annotation is types.NoneType:
        return (types.NoneType,)
    return None


def _fits(value: object, annotation: Any) -> bool:
    """Say whether `value` may stand where `annotation` is asked for."""
    if annotation is Any or annotation is object:
        return True
    plain = _plain_classes(annotation)
    if plain is not None:
        return isinstance(value, plain)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return _fits_form(value, typing.get_origin(annotation), typing.get_args(annotation))


def _fits_form(value: object, origin: Any, arguments: tuple[Any, ...]) -> bool:
    """Say whether `value` fits an annotation with arguments, `list[str]` or `A | B`."""
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(origin, type):
        return True
    if not isinstance(value, origin):
        return False
    if isinstance(value, str | bytes):
        return False
    if isinstance(value, collections.abc.Mapping) and len(arguments) == 2:
        return all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items())
    if isinstance(value, tuple) and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(value, collections.abc.Collection) and arguments:
        return all(_fits(item, arguments[0]) for item in value)
    return True


def describe(annotation: Any) -> str:
    """Name an annotation as a person would write it."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(each) for each in arguments)
    if origin is collections.abc.Callable:
        return "a function"
    if annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and origin is None:
        return annotation.__name__
    return str(annotation).replace("collections.abc.", "").replace("typing.", "")
