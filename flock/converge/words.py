"""The words of the recipe language that the converge engine brings itself.

A word speaks to the compilation that this thread is running; outside a recipe
it is an error that says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import _getframe
from types import ModuleType
from typing import Any, NoReturn

from flock.converge.attributes import Level
from flock.converge.chef_words import said_of_node
from flock.converge.compile import Compilation, current_compilation
from flock.converge.properties import nearest
from flock.converge.resource import Resource, place_of
from flock.errors import RecipeError


class Word:
    """Declares a resource of one kind: `file('/tmp/x', content='foobar')`."""

    __slots__ = ("_kind",)

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __call__(self, name: object = None, /, *more: object, **properties: Any) -> Resource:
        """Declare a resource here; returns it, to bind it to others."""
        where = place_of(_getframe(1))
        if more:
            raise RecipeError(
                f"{self._kind}[{name}]: only the name stands alone, {more[0]!r} needs the name"
                f" of its property: {self._kind}({name!r}, …={more[0]!r})",
                where,
            )
        return _speaking(self._kind, where).declare(self._kind, name, properties, where)

    def __repr__(self) -> str:
        return f"<recipe word {self._kind}>"


class NodeWord(Mapping[str, Any]):
    """This machine, as recipes, guards and templates see it: `node['kernel']['release']`.

    Reading goes to the merged attributes, which are read only; `default`,
    `normal` and `override` are levels to write.
    """

    # Nothing that a question reads here changes while it waits.
    _notes_readings = True

    def __getitem__(self, key: str) -> Any:
        return self._compilation().merged_attributes[key]

    def __setitem__(self, key: str, value: object) -> NoReturn:
        """Say where attributes are written."""
        where = place_of(_getframe(1))
        raise RecipeError(
            f"merged attributes are read only: write node.default[{key!r}], or node.normal[{key!r}]"
            " to keep it",
            where,
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Say the same of `node.port = 80`, which would be forgotten."""
        where = place_of(_getframe(1))
        raise RecipeError(
            f"node has no {name!r} to be set: write node.default[{name!r}], or"
            f" node.normal[{name!r}] to keep it",
            where,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._compilation().merged_attributes)

    def __len__(self) -> int:
        return len(self._compilation().merged_attributes)

    def read(self, path: str, default: Any = None) -> Any:
        """Return what stands at a dotted path, `kernel.release`, else `default`."""
        try:
            return self._compilation().read_attribute(path)
        except LookupError:
            return default

    @property
    def name(self) -> str:
        """The node's name."""
        return self._compilation().node

    @property
    def environment(self) -> str:
        """The node's environment."""
        return self._compilation().environment

    @property
    def chef_environment(self) -> str:
        """The same, by the name that Chef gives it."""
        return self.environment

    @property
    def run_list(self) -> list[str]:
        """What this run runs, as it was written."""
        return list(self._compilation().run_list)

    @property
    def roles(self) -> list[str]:
        """The roles of the expanded run list."""
        return list(self._compilation().roles)

    @property
    def recipes(self) -> list[str]:
        """The recipes executed so far and those of the expanded run list."""
        compilation = self._compilation()
        return list(dict.fromkeys([*compilation.expanded_recipes, *compilation.recipes]))

    @property
    def default(self) -> Level:
        """The weakest level, for this run."""
        return self._compilation().attributes.level("default")

    @property
    def force_default(self) -> Level:
        """Above the defaults of roles and environment, for this run."""
        return self._compilation().attributes.level("force_default")

    @property
    def normal(self) -> Level:
        """The level that lasts: kept in the node object."""
        return self._compilation().attributes.level("normal")

    @property
    def override(self) -> Level:
        """Above normal attributes, for this run."""
        return self._compilation().attributes.level("override")

    @property
    def force_override(self) -> Level:
        """Above all but the machine's own facts, for this run."""
        return self._compilation().attributes.level("force_override")

    def _instead_of(self, name: str) -> str:
        """Say how what `node.name` was to mean is written."""
        if name in self:
            return f": an attribute is read as node[{name!r}]"
        own = [each for each in dir(type(self)) if not each.startswith("_")]
        return said_of_node(name) or nearest(name, own)

    @staticmethod
    def _compilation() -> Compilation:
        """Return the compilation this thread works for."""
        return _speaking("node", place_of(_getframe(2)))


def include_recipe(*names: str) -> None:
    """Execute other recipes here; one that was executed in this run already is not again.

    Args:
        names: `cb`, `cb::name`, or `::name` for one of the same cookbook.
    """
    where = place_of(_getframe(1))
    compilation = _speaking("include_recipe", where)
    for name in names:
        compilation.include(name, where)


def library(name: str) -> ModuleType:
    """Return a library file of a cookbook as a module.

    Args:
        name: `file` of this recipe's cookbook, or `cookbook::file` of another
            that is in use.
    """
    where = place_of(_getframe(1))
    return _speaking("library", where).library(name, where)


def find_resource(name: str) -> Resource | None:
    """Return a resource that was declared before, as `kind[name]`; None if there is none."""
    return _speaking("find_resource", place_of(_getframe(1))).resources.find(name)


def _speaking(word: str, where: str) -> Compilation:
    """Return the compilation of this thread."""
    compilation = current_compilation()
    if compilation is None:
        raise RecipeError(f"{word} is a word for recipes: no run is going on here", where)
    return compilation
