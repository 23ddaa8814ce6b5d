"""A node's attributes, in Chef's levels.

From weak to strong: default (attribute files and recipes, then environment,
then roles, then force_default), normal, override (attribute files and recipes,
then roles, then environment, then force_override), automatic. Tables merge
over all levels. Lists that stand on several steps of the same level are
joined; a list on a stronger level replaces the weaker one.

Normal attributes last from run to run; the others are made anew by each.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from sys import _getframe
from typing import Any, NoReturn

WRITABLE_LEVELS = ("default", "force_default", "normal", "override", "force_override")
"""What attribute files and recipes may write."""

Change = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Makes a new table of one that stands."""

_LARGE = 64 * 1024
"""Characters from which on it is noted where a value was written: it may be too much one day."""


class MissingAttribute(KeyError):
    """A table of attributes has no such key; says what is near."""

    def __str__(self) -> str:
        """Return the message as it is: a `KeyError` quotes it."""
        return str(self.args[0])


class ReadOnly(dict[str, Any]):
    """A table of merged attributes; plain data to read, refuses to be written."""

    def __missing__(self, key: object) -> NoReturn:
        """Say that it is not there."""
        near = difflib.get_close_matches(str(key), self, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise MissingAttribute(f"no attribute {key!r}{hint}")

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Say where attributes are written."""
        raise TypeError(
            "merged attributes are read only: write node.default[...] or node.normal[...]"
        )

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class Level(MutableMapping[str, Any]):
    """One level as recipes write it: `node.default['web']['port'] = 80`.

    A table that is not there is made when it is walked through.
    """

    __slots__ = ("_changed", "_data", "_path", "_written")

    def __init__(
        self,
        data: dict[str, Any],
        changed: Callable[[], None],
        written: dict[tuple[str, ...], str],
        path: tuple[str, ...] = (),
    ) -> None:
        """Wrap a table.

        Args:
            data: the table.
            changed: called after each change.
            written: takes where each key of the level was first written, and
                each large value last, as `file:line` by path.
            path: of the table.
        """
        self._data = data
        self._changed = changed
        self._written = written
        self._path = path

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what would be forgotten, and be no attribute of the node."""
        if name not in self.__slots__:
            raise AttributeError(f"a level has no {name!r}", name=name, obj=self)
        super().__setattr__(name, value)

    def _instead_of(self, name: str) -> str:
        """Say how what `level.name` was to mean is written."""
        return f": a key of its attributes is written [{name!r}], not .{name}"

    def __getitem__(self, key: str) -> Any:
        value = self._data.setdefault(key, {})
        if not isinstance(value, dict):
            return value
        return Level(value, self._changed, self._written, (*self._path, key))

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[_key(key)] = copied = plain(value, key)
        path = (*self._path, key)
        if _weight(copied) >= _LARGE:
            self._written[path] = _place_outside()
        elif path[:1] not in self._written:
            self._written[path[:1]] = _place_outside()
        self._changed()

    def __delitem__(self, key: str) -> None:
        del self._data[key]
        self._changed()

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def get(self, key: str, default: Any = None) -> Any:
        """Return what stands under `key`, else `default`; makes nothing."""
        return self[key] if key in self._data else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


class Attributes:
    """All levels of one node's attributes during one run; one thread uses it."""

    def __init__(
        self, automatic: Mapping[str, Any] | None = None, normal: Mapping[str, Any] | None = None
    ) -> None:
        self.automatic = plain(automatic or {}, "automatic")
        self.levels: dict[str, dict[str, Any]] = {level: {} for level in WRITABLE_LEVELS}
        self.levels["normal"] = plain(normal or {}, "normal")
        self._environment: dict[str, dict[str, Any]] = {"default": {}, "override": {}}
        self._roles: dict[str, dict[str, Any]] = {"default": {}, "override": {}}
        self._merged: ReadOnly | None = None
        self._written: dict[tuple[str, ...], str] = {}

    def level(self, name: str) -> Level:
        """Return a level to write; `name` is one of `WRITABLE_LEVELS`."""
        return Level(self.levels[name], self._forget, self._written)

    def largest(self) -> tuple[str, int, str]:
        """Return the attribute that takes most of what they take together.

        Returns:
            Its dotted path, its bytes as JSON, and where a recipe wrote it, as
            `file:line`; empty if that is not known.
        """
        path: tuple[str, ...] = ()
        value: Any = self.merged()
        size = 0
        while isinstance(value, Mapping) and value:
            sizes = {key: len(json.dumps(item)) for key, item in value.items()}
            key = max(sizes, key=lambda each: sizes[each])
            if path and sizes[key] * 2 < size:
                break  # many small ones: what holds them is what is large
            path, value, size = (*path, key), value[key], sizes[key]
        above = (path[:length] for length in range(len(path), 0, -1))
        where = next((self._written[each] for each in above if each in self._written), "")
        return ".".join(path), size, where

    def change_normal(self, change: Change) -> None:
        """Put what `change` makes of the normal attributes in their place."""
        normal = self.levels["normal"]
        changed = change(normal)
        normal.clear()
        normal.update(changed)
        self._forget()

    def add_file(self, tables: Mapping[str, Any]) -> None:
        """Merge what an attribute file says: tables named after writable levels."""
        for level, table in tables.items():
            merge_onto(self.levels[level], plain(table, level))
        self._forget()

    def add_role(self, default: Mapping[str, Any], override: Mapping[str, Any]) -> None:
        """Merge a role's attributes; a later role is stronger."""
        merge_onto(self._roles["default"], plain(default, "default_attributes"))
        merge_onto(self._roles["override"], plain(override, "override_attributes"))
        self._forget()

    def set_environment(self, default: Mapping[str, Any], override: Mapping[str, Any]) -> None:
        """Set the environment's attributes."""
        self._environment = {
            "default": plain(default, "default_attributes"),
            "override": plain(override, "override_attributes"),
        }
        self._forget()

    def merged(self) -> ReadOnly:
        """Return all attributes as one table; made anew only after something was written."""
        if self._merged is None:
            default = _joined(
                self.levels["default"],
                self._environment["default"],
                self._roles["default"],
                self.levels["force_default"],
            )
            override = _joined(
                self.levels["override"],
                self._roles["override"],
                self._environment["override"],
                self.levels["force_override"],
            )
            for stronger in (self.levels["normal"], override, self.automatic):
                merge_onto(default, stronger, join_lists=False)
            self._merged = _read_only(default)
        return self._merged

    def _forget(self) -> None:
        """Drop the merged table: something was written."""
        self._merged = None


def merge_onto(
    target: dict[str, Any], stronger: Mapping[str, Any], *, join_lists: bool = True
) -> None:
    """Merge `stronger` into `target`; tables merge, lists join or are replaced."""
    for key, value in stronger.items():
        there = target.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            merge_onto(there, value, join_lists=join_lists)
        elif join_lists and isinstance(there, list) and isinstance(value, list):
            target[key] = there + [item for item in copy.deepcopy(value) if item not in there]
        else:
            target[key] = copy.deepcopy(value)


def plain(value: Any, place: str) -> Any:
    """Return a copy of `value` as plain data: what JSON has.

    Raises:
        TypeError: something else is in it; the message names the place.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_key(key): plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError(f"{place} is a {type(value).__name__}: attributes hold plain data only")


def with_values(
    table: Mapping[str, Any], path: Sequence[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of a table where keys of the table at `path` are set; None removes one."""
    copied = dict(table)
    if path:
        inner = copied.get(path[0])
        copied[path[0]] = with_values(inner if isinstance(inner, Mapping) else {}, path[1:], values)
        return copied
    for key, value in values.items():
        if value is None:
            copied.pop(key, None)
        else:
            copied[key] = plain(value, key)
    return copied


def look_up(attributes: Mapping[str, Any], path: str | None) -> Any:
    """Return what stands at a dotted path of keys and indices; everything without a path.

    Only tables and lists are walked through, nothing is ever called.

    Raises:
        LookupError: names the first key that is missing.
    """
    value: Any = attributes
    walked: list[str] = []
    for part in path.split(".") if path else ():
        if not part:
            continue
        value = _step(value, part, ".".join(walked))
        walked.append(part)
    return value


def without(attributes: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return a plain copy of the attributes without what stands at these dotted paths."""
    copied: dict[str, Any] = plain(attributes, "attributes")
    for path in paths:
        *parents, last = path.split(".")
        table: Any = copied
        for parent in parents:
            table = table.get(parent) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(last, None)
    return copied


def only(attributes: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return a plain copy of nothing but what stands at these dotted paths."""
    picked: dict[str, Any] = {}
    for path in paths:
        try:
            value = look_up(attributes, path)
        except LookupError:
            continue
        for key in reversed([part for part in path.split(".") if part]):
            value = {key: value}
        merge_onto(picked, plain(value, path), join_lists=False)
    return picked


def _step(value: Any, part: str, walked: str) -> Any:
    """Go one key or index further."""
    place = f"{walked!r}" if walked else "the node"
    if isinstance(value, Mapping):
        if part in value:
            return value[part]
        raise LookupError(f"no attribute {part!r} in {place}")
    if isinstance(value, list):
        if part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            return value[int(part)]
        raise LookupError(f"no item {part!r} in {place}, a list of {len(value)}")
    raise LookupError(f"no attribute {part!r} in {place}, which is a {type(value).__name__}")


def _joined(*steps: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the steps of one level, weak to strong."""
    joined: dict[str, Any] = {}
    for step in steps:
        merge_onto(joined, step)
    return joined


def _read_only(table: dict[str, Any]) -> ReadOnly:
    """Make a table and those in it read only."""
    return ReadOnly(
        {key: _read_only(item) if isinstance(item, dict) else item for key, item in table.items()}
    )


def _weight(value: Any) -> int:
    """Return about how many characters a value has."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _weight(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_weight, value))
    return 1


def _place_outside() -> str:
    """Return `file:line` of whoever writes: the first that is neither here nor the library's."""
    frame = _getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (
        __name__,
        "collections.abc",
        "_collections_abc",
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _key(key: object) -> str:
    """Refuse a key that is no text."""
    if not isinstance(key, str):
        raise TypeError(f"attribute keys are texts, not {key!r}")
    return key
