"""From a run list to resources: run the recipes, which only declare.

Nothing on the machine is touched here. An error in a recipe, attribute file,
role or run list is one `RecipeError` with file and line, and the run that
compiled goes no further.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from flock.converge.attributes import Attributes, ReadOnly, look_up
from flock.converge.cancellation import Cancellation
from flock.converge.chef_words import said_here
from flock.converge.collection import Collection
from flock.converge.cookbooks import Cookbooks
from flock.converge.kinds import Kinds
from flock.converge.mistakes import mistake_text
from flock.converge.notification import Notification, Timing, parse_resource_name
from flock.converge.properties import nearest
from flock.converge.resource import Resource, declare
from flock.converge.run_list import Expansion, Role, expand, full_recipe_name
from flock.errors import FlockError, RecipeError, RunCancelled

RECIPE_WORDS = (
    "FlockOfChefs",
    "find_resource",
    "held",
    "include_recipe",
    "lazy",
    "library",
    "node",
)
"""What a recipe may import from `flock.recipe` beside the kinds of resources."""

_current: ContextVar[Compilation] = ContextVar("flock_compilation")


def current_compilation() -> Compilation | None:
    """Return the compilation whose recipes or resources this thread is running."""
    return _current.get(None)


class Compilation:
    """One walk through a run list's recipes, and what they declared.

    Used by one thread; what it holds may be read by others once it is done.

    Attributes:
        resources: what was declared, in order.
        recipes: every recipe executed, in order, the included ones too.
        roles: names of the roles in the expanded run list.
        expanded_recipes: the expanded run list, without what recipes included.
        libraries: the library files of the cookbooks in use, as `cookbook::file`.
        complete: all recipes were executed and all notifications found.
    """

    def __init__(
        self,
        node: str,
        environment: str,
        run_list: Sequence[str],
        cookbooks: Cookbooks,
        attributes: Attributes,
        words: Mapping[str, Any] | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        """Make a compilation; nothing is read yet.

        Args:
            node: the node's name.
            environment: its environment.
            run_list: what is compiled.
            cookbooks: where recipes are found.
            attributes: what recipes read and write.
            words: what recipes may import beside the words of `flock.recipe`.
            cancellation: asked before each recipe.
        """
        self.node = node
        self.environment = environment
        self.run_list = list(run_list)
        self.cookbooks = cookbooks
        self.attributes = attributes
        self.kinds = Kinds()
        self.libraries: dict[str, ModuleType] = {}
        self.words = dict(words or {})
        self._cancellation = cancellation
        self.resources = Collection()
        self.recipes: list[str] = []
        self.roles: list[str] = []
        self.expanded_recipes: list[str] = []
        self._recipe_stack: list[str] = []
        self._loaded_cookbooks: set[str] = set()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this the compilation that recipe words in this thread speak to."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def compile(self) -> None:
        """Execute the run list's recipes, and find what their notifications name.

        Raises:
            RecipeError: with file and line; what was declared so far is there
                to be looked at, not to be converged.
        """
        with self.active():
            expansion = expand(self.run_list, self.cookbooks.role)
            self.roles = [role.name for role in expansion.roles]
            self.expanded_recipes = list(expansion.recipes)
            self._prepare_attributes(expansion)
            for recipe in expansion.recipes:
                self.include(recipe, "run list")
            self.resolve()

    def include(self, name: str, where: str) -> bool:
        """Execute a recipe here unless it was executed before; say whether it was now.

        Raises:
            RecipeError: it is not there, or failed.
        """
        inside = self.current_recipe.partition("::")[0]
        recipe = full_recipe_name(name, where, inside=inside)
        if recipe in self.recipes:
            return False
        if self._cancellation is not None:
            self._cancellation.check_boundary()
        path = self.cookbooks.recipe_path(recipe, where)
        self._load_cookbook(recipe.partition("::")[0], where)
        self.recipes.append(recipe)
        self._recipe_stack.append(recipe)
        try:
            _execute(path, f"recipe {recipe}")
        finally:
            self._recipe_stack.pop()
        return True

    def beside(self) -> Compilation:
        """Return an empty compilation of the same node and attributes.

        What it includes is executed although it was executed here.
        """
        other = Compilation(
            self.node,
            self.environment,
            self.run_list,
            self.cookbooks,
            self.attributes,
            self.words,
            self._cancellation,
        )
        other.roles = list(self.roles)
        other.expanded_recipes = list(self.expanded_recipes)
        return other

    def library(self, name: str, where: str) -> ModuleType:
        """Return a library of a cookbook that is in use.

        Args:
            name: `file` of the recipe's own cookbook, or `cookbook::file`.
            where: `file:line` that asks.

        Raises:
            RecipeError: there is none; says what is near.
        """
        own = self.current_recipe.partition("::")[0]
        full = name if "::" in name else f"{own}::{name}"
        if full not in self.libraries:
            raise RecipeError(f"no library {full!r}{nearest(full, self.libraries)}", where)
        return self.libraries[full]

    def declare(
        self, kind: str, name: object, properties: Mapping[str, Any], where: str
    ) -> Resource:
        """Declare a resource, as a recipe's word does.

        Raises:
            RecipeError: unknown kind or property, wrong value, or not inside a recipe.
        """
        if not self._recipe_stack:
            raise RecipeError(f"{kind}[{name}] is declared outside a recipe", where)
        return self.declare_alone(kind, name, properties, where)

    def declare_alone(
        self, kind: str, name: object, properties: Mapping[str, Any], where: str
    ) -> Resource:
        """Declare a resource that no recipe needs to have declared; otherwise as `declare`."""
        found = self.kinds.find(kind, where)
        resource: Resource = declare(found.resource, name, properties, where, self.current_recipe)
        self.resources.add(resource)
        return resource

    @property
    def current_recipe(self) -> str:
        """The recipe that is being executed; empty between recipes."""
        return self._recipe_stack[-1] if self._recipe_stack else ""

    @property
    def merged_attributes(self) -> ReadOnly:
        """The node's attributes as they stand."""
        return self.attributes.merged()

    def read_attribute(self, path: str) -> Any:
        """Return what stands at a dotted path of the merged attributes.

        Raises:
            LookupError: names the first key that is missing.
        """
        return look_up(self.merged_attributes, path)

    def resolve(self) -> None:
        """Turn subscriptions round, and check what all notifications name.

        To be called again after resources were added; what was turned round
        before is left alone.

        Raises:
            RecipeError: an unknown resource, or an action that it does not have.
        """
        for resource in list(self.resources):
            subscriptions, resource.subscriptions = resource.subscriptions, []
            for subscription in subscriptions:
                watched = self._find(subscription.target, resource, subscription.where)
                watched.notifications.append(
                    Notification(
                        subscription.action, str(resource), subscription.timing, subscription.where
                    )
                )
        for resource in self.resources:
            for notification in resource.notifications:
                target = self._find(notification.target, resource, notification.where)
                if not target.can(notification.action):
                    known = ", ".join(dict.fromkeys((*target.actions, "nothing")))
                    raise RecipeError(
                        f"{target} has no action {notification.action!r}; it has {known}",
                        notification.where,
                    )
                if notification.timing is Timing.BEFORE and target is resource:
                    raise RecipeError(f"{resource} cannot notify itself before", notification.where)

    def _find(self, name: str, asking: Resource, where: str) -> Resource:
        """Return a resource that a notification names."""
        found = self.resources.find(name)
        if found is None:
            kind, wanted = parse_resource_name(name)
            same = [each.name for each in self.resources if each.kind == kind]
            near = nearest(wanted, same)
            raise RecipeError(
                f"{asking} names {name}, which no recipe of this run declares{near}", where
            )
        return found

    def _prepare_attributes(self, expansion: Expansion) -> None:
        """Fill the levels: environment, roles, then the attribute files of all cookbooks."""
        with _translated("environment"):
            self.attributes.set_environment(*self.cookbooks.environment(self.environment))
        for role in expansion.roles:
            self._add_role(role)
        self.attributes.automatic.update(
            name=self.node,
            chef_environment=self.environment,
            roles=list(self.roles),
            recipes=list(self.expanded_recipes),
        )
        for recipe in expansion.recipes:
            self.cookbooks.recipe_path(recipe, "run list")
            self._load_cookbook(recipe.partition("::")[0], "run list")

    def _add_role(self, role: Role) -> None:
        """Add a role's attributes."""
        with _translated(f"role {role.name}"):
            self.attributes.add_role(role.default_attributes, role.override_attributes)

    def _load_cookbook(self, cookbook: str, where: str) -> None:
        """Load a cookbook's libraries and attribute files, once."""
        if cookbook in self._loaded_cookbooks:
            return
        self._loaded_cookbooks.add(cookbook)
        self.cookbooks.cookbook_path(cookbook, where)
        for path in self.cookbooks.library_files(cookbook):
            with _translated(str(path), path):
                self.libraries[f"{cookbook}::{path.stem}"] = self.kinds.add_library(cookbook, path)
        for path in self.cookbooks.attribute_files(cookbook):
            with _translated(str(path)):
                self.attributes.add_file(self.cookbooks.attribute_tables(path))


def _execute(path: Path, label: str) -> None:
    """Run a recipe's file."""
    with _translated(str(path), path):
        code: CodeType = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, {"__name__": label, "__file__": str(path)})  # noqa: S102 - recipes are programs


@contextlib.contextmanager
def _translated(label: str, path: Path | None = None) -> Iterator[None]:
    """Turn whatever goes wrong in a file into one error with its file and line.

    Args:
        label: what to name where no line is known.
        path: the file that is run; the last of its lines on the stack is named.
    """
    try:
        yield
    except RunCancelled:
        raise
    except RecipeError as error:
        if error.where:
            raise
        raise RecipeError(str(error), _line_in(error, path) or label) from error
    except SyntaxError as error:
        where = f"{error.filename or label}:{error.lineno or 1}"
        raise RecipeError(f"syntax error: {error.msg}", where) from None
    except FlockError as error:
        raise RecipeError(str(error), _line_in(error, path) or label) from error
    except NameError as error:
        hint = _missing_import(error.name)
        raise RecipeError(f"NameError: {error}{hint}", _line_in(error, path) or label) from error
    except (Exception, SystemExit) as error:
        raise RecipeError(mistake_text(error), _line_in(error, path) or label) from error


def _missing_import(name: str | None) -> str:
    """Say what to write for a word of recipes that nobody imported; nothing for another name."""
    compilation = current_compilation()
    if compilation is None or name is None:
        return ""
    is_word = name in RECIPE_WORDS or name in compilation.words or compilation.kinds.has(name)
    return f" (write: from flock.recipe import {name})" if is_word else said_here(name)


def _line_in(error: BaseException, path: Path | None) -> str:
    """Return `file:line` of the last frame of an error's stack that lies in `path`."""
    name = str(path)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == name:
            return f"{frame.filename}:{frame.lineno}"
    return ""
