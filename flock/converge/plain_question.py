"""Whether a question can depend on anything beside what it is noted to read.

A wait that is part of a circle may be ended only if nothing else can give it
another answer. So its function is looked at: it may use objects that note all
they read (the flock and its proxies say so with `_notes_readings`), plain
data, built-in functions that read nothing, and functions of which the same is
true. Whatever else it names, a file, the clock, a module, leaves that open.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

_PURE = frozenset(
    (
        *("abs", "all", "any", "bool", "bytes", "dict", "divmod", "enumerate", "filter", "float"),
        *("format", "frozenset", "int", "isinstance", "issubclass", "len", "list", "map", "max"),
        *("min", "range", "repr", "reversed", "round", "set", "sorted", "str", "sum", "tuple"),
        *("type", "zip", "ArithmeticError", "AttributeError", "Exception", "IndexError"),
        *("KeyError", "LookupError", "TypeError", "ValueError", "ZeroDivisionError"),
    )
)
_OPEN = frozenset(
    (
        *("IMPORT_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"),
        *("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR"),
    )
)
_CHANGING = frozenset(
    (
        *("add", "append", "change", "clear", "compare_and_set", "defer", "discard", "extend"),
        *("insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update", "write"),
    )
)
"""Steps and methods that change something, on which the next answer may depend."""

_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_PLAIN = (type(None), bool, int, float, str, bytes)


def is_plain(question: object) -> bool:
    """Say whether the answer surely depends on nothing but what is noted while it is asked."""
    # A method of a proxy may itself be the question.
    return _notes(question) or _is_plain_function(question, set())


def _notes(value: object) -> bool:
    return bool(getattr(type(value), "_notes_readings", False))


def _is_plain_function(function: object, seen: set[int]) -> bool:
    if not isinstance(function, FunctionType):
        return False
    if id(function) in seen:
        return True
    seen.add(id(function))
    kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    try:
        kept += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is not filled yet
        return False
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname in _OPEN:
                return False
            if step.opname in _ATTRIBUTE and (
                step.argval in _CHANGING or step.argval.startswith("__")
            ):
                return False
            if step.opname == "STORE_DEREF" and step.argval in function.__code__.co_freevars:
                return False
            if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                name = step.argval
                if name in function.__globals__:
                    kept.append(function.__globals__[name])
                elif name not in _PURE or not hasattr(builtins, name):
                    return False
    return all(_is_plain_value(value, seen) for value in kept)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Return a function's code, and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_plain_value(value: object, seen: set[int]) -> bool:
    if isinstance(value, _PLAIN) or _notes(value):
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain_value(each, seen) for each in value)
    if isinstance(value, dict):
        return all(_is_plain_value(each, seen) for each in (*value, *value.values()))
    return _is_plain_function(value, seen)
