"""Find kinds of resources by name, and load one only when a recipe uses it.

Three places, the first that has it wins: the libraries of the cookbooks in
use, our own `resources/<kind>.py`, and what other packages offer under the
entry point group `flock.resources` (`web_site = package.module:KIND`, or the
resource's class).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flock.converge.properties import nearest
from flock.converge.provider import Kind
from flock.converge.resource import Resource
from flock.errors import RecipeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

ENTRY_POINTS = "flock.resources"
_STOCK = "flock.converge.resources"
_STOCK_FOLDER = Path(__file__).with_name("resources")


def stock_kind_names() -> list[str]:
    """Return the names of our own kinds, sorted: those of the files in `resources/`."""
    return sorted(path.stem for path in _STOCK_FOLDER.glob("[a-z]*.py"))


class Kinds:
    """The kinds one run knows."""

    def __init__(self) -> None:
        self._known: dict[str, Kind[Any]] = {}

    def has(self, name: str) -> bool:
        """Say whether there is a kind of this name, without loading it where that can be told."""
        return (
            name in self._known
            or (name.isidentifier() and (_STOCK_FOLDER / f"{name}.py").is_file())
            or bool(_offered(name))
        )

    def names(self) -> list[str]:
        """Return the names of all kinds, sorted."""
        offered = (point.name for point in _offered())
        return sorted({*self._known, *stock_kind_names(), *offered})

    def find(self, name: str, where: str) -> Kind[Any]:
        """Return a kind by name.

        Raises:
            RecipeError: there is none of this name, or it cannot be loaded.
        """
        kind = self._known.get(name)
        if kind is None:
            kind = self._known[name] = self._load(name, where)
        return kind

    def add_library(self, cookbook: str, path: Path) -> ModuleType:
        """Run a library file of a cookbook and take the kinds it defines.

        The file is run anew each time: what was just pushed counts.

        Returns:
            The library as a module.

        Raises:
            RecipeError: the file cannot be run, or a kind in it could not work.
        """
        # Dataclasses look their module up by name to understand annotations.
        module_name = f"flock_cookbooks.{cookbook}.{path.stem}"
        specification = importlib.util.spec_from_file_location(module_name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        specification.loader.exec_module(module)
        values = list(vars(module).values())
        kinds = [value for value in values if isinstance(value, Kind)]
        provided = {kind.resource for kind in kinds}
        # A class without a provider is to have its actions itself: made a kind, it says if not.
        kinds += [Kind(value) for value in values if _is_own(value, module_name, provided)]
        self._known.update({kind.name: kind for kind in kinds})
        return module

    def _load(self, name: str, where: str) -> Kind[Any]:
        """Load a kind of ours or of another package."""
        if name.isidentifier() and (_STOCK_FOLDER / f"{name}.py").is_file():
            return _checked(importlib.import_module(f"{_STOCK}.{name}").KIND, name, where)
        for point in _offered(name):
            try:
                return _checked(point.load(), name, where)
            except (ImportError, AttributeError, TypeError) as error:
                raise RecipeError(f"kind {name!r} cannot be loaded: {error}", where) from error
        raise RecipeError(f"unknown kind {name!r}{nearest(name, self.names())}", where)


def _offered(name: str | None = None) -> EntryPoints:
    """Return what other packages offer: all of it, or under one name."""
    # Imported here: it takes as long as all the rest of the engine's imports of the library.
    from importlib.metadata import entry_points

    if name is None:
        return entry_points(group=ENTRY_POINTS)
    return entry_points(group=ENTRY_POINTS, name=name)


def _checked(found: Any, name: str, where: str) -> Kind[Any]:
    """Make a kind of what an entry point names: a `Kind`, or a resource's class."""
    kind = found if isinstance(found, Kind) else Kind(found)
    if kind.name != name:
        raise RecipeError(f"kind {name!r} calls itself {kind.name!r}", where)
    return kind


def _is_own(value: object, module_name: str, provided: Collection[type]) -> bool:
    """Say whether a module's variable is a class of its own that is to be a kind by itself."""
    return (
        isinstance(value, type)
        and issubclass(value, Resource)
        and value.__module__ == module_name
        and "kind" in vars(value)
        and value not in provided
    )
