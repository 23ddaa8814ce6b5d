"""Washes the dishes of one run: judges which are dirty, includes their wash recipes, marks them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flock.converge.compile import Compilation
from flock.converge.dishes import Dish, read_dishes, same_name
from flock.converge.kept_cookbooks import KeptCookbooks
from flock.converge.report import Row
from flock.converge.runner import Runner, Section
from flock.errors import FlockError, RunCancelled
from registry.wall_clock import now_text

log = logging.getLogger("flock.converge")

Write = Callable[[Mapping[str, dict[str, Any] | None]], None]
"""Writes records of the ledger at once, by name; None removes one."""


@dataclass(slots=True)
class _Wash:
    """One wash recipe that was included, with the dishes it washes and all it brought in."""

    dishes: list[Dish]
    recipes: list[str] = field(default_factory=list)
    is_over: bool = False
    failure: str | None = None


class Washing:
    """The dishes of one run; used by the run's thread.

    Attributes:
        refusal: why nothing is washed in this run; empty if something may be.
        sinks: the sinks that were washed.
    """

    def __init__(
        self,
        compilation: Compilation,
        judged: Compilation,
        kept: KeptCookbooks,
        write: Write,
        refusal: str = "",
    ) -> None:
        """Begin with nothing washed.

        Args:
            compilation: where wash recipes are included.
            judged: the node's own run list, compiled before anything is judged;
                what is in it is not dirty. Often the same.
            kept: copies of cookbooks.
            write: writes records.
            refusal: why nothing is to be washed.
        """
        self.refusal = refusal
        self.sinks: set[str] = set()
        self.runner: Runner | None = None
        self._compilation = compilation
        self._judged = judged
        self._kept = kept
        self._write = write
        self._washes: list[_Wash] = []
        self._insert_at = 0

    # --- the ledger

    def dishes(self) -> list[Dish]:
        """Return all records, in order of first use."""
        return read_dishes(self._compilation.attributes.levels["normal"])

    def find(self, name: str) -> Dish | None:
        """Return the record of this name; of another spelling if there is none of this one."""
        dishes = self.dishes()
        exact = next((dish for dish in dishes if dish.name == name), None)
        return exact or next((dish for dish in dishes if same_name(dish.name, name)), None)

    def wanted(self, dish: Dish, where: str) -> Dish:
        """Return a dish as its record is to be."""
        digest = self._kept.digest(dish.wash_recipe, where)
        standing = self.find(dish.name)
        if standing is None:
            order = max((each.order for each in self.dishes()), default=0) + 1
            fresh = replace(dish, hash=digest, order=order)
            return replace(fresh, dirty=self._is_left(fresh))
        same = (standing.recipe, standing.wash_recipe) == (dish.recipe, dish.wash_recipe)
        new = replace(standing, sink=dish.sink, hash=digest)
        if same:
            return new
        # What was washed was another recipe, or in another way.
        new = replace(new, recipe=dish.recipe, wash_recipe=dish.wash_recipe)
        return replace(new, washed_at=None, failed=None, dirty=self._is_left(new))

    def is_kept(self, dish: Dish) -> bool:
        """Say whether the copy of the wash recipe's cookbooks is there."""
        return self._kept.folder(dish.hash) is not None

    def use(self, dish: Dish, where: str) -> None:
        """Keep the cookbooks, then write the record."""
        digest = self._kept.keep(dish.wash_recipe, where)
        self._put([replace(dish, hash=digest)])
        self._kept.forget_all_but(each.hash for each in self.dishes())

    def toss(self, dish: Dish) -> None:
        """Remove the record, then the copy that nobody needs any more."""
        self._write({dish.name: None})
        self._kept.forget_all_but(each.hash for each in self.dishes())

    def _put(self, dishes: Iterable[Dish]) -> None:
        """Write the records that differ from what stands."""
        standing = {dish.name: dish for dish in self.dishes()}
        changed = {dish.name: dish for dish in dishes if standing.get(dish.name) != dish}
        if changed:
            self._write({name: dish.as_record() for name, dish in changed.items()})

    # --- what the run shows

    def saw(self, recipes: Iterable[str]) -> None:
        """Clear the marks of dishes whose recipes were executed: they are in use again."""
        seen = set(recipes)
        self._put(
            replace(dish, washed_at=None, failed=None, dirty=False)
            for dish in self.dishes()
            if dish.recipe in seen
        )

    def judge(self) -> None:
        """Note which dishes the complete run list leaves dirty."""
        self._put(replace(dish, dirty=self._is_dirty(dish)) for dish in self.dishes())

    def dirty(self, sink: str) -> list[Dish]:
        """Return the dirty dishes of a sink; the sink counts as washed from then on."""
        self.sinks.add(sink)
        return [dish for dish in self.dishes() if dish.sink == sink and self._is_dirty(dish)]

    def unwashed_sinks(self) -> list[str]:
        """Return the sinks with dirty dishes that nothing in this run washed."""
        dirty = (dish.sink for dish in self.dishes() if self._is_dirty(dish))
        return [sink for sink in dict.fromkeys(dirty) if sink not in self.sinks]

    def _is_dirty(self, dish: Dish) -> bool:
        return dish.washed_at is None and self._is_left(dish)

    def _is_left(self, dish: Dish) -> bool:
        """Say whether neither recipe of a dish is in the run; never where that means nothing."""
        if self.refusal:
            return False
        there = {
            *self._judged.expanded_recipes,
            *self._judged.recipes,
            *self._compilation.recipes,
        }
        # A wash recipe that is there for another dish alone may wash this one, too.
        brought_in = {recipe for wash in self._washes for recipe in wash.recipes}
        return dish.recipe not in there and dish.wash_recipe not in there - brought_in

    # --- washing

    def wash(self, dish: Dish) -> bool:
        """Include the wash recipe; its resources converge next, before what follows the sink."""
        runner = self.runner
        assert runner is not None
        for known in self._washes:
            if dish.wash_recipe in known.recipes:
                known.dishes.append(dish)
                if known.is_over:
                    self._join(runner, dish, known.failure)
                return known.failure is None
        wash = _Wash([dish])
        self._washes.append(wash)
        compilation, at = self._compilation, max(runner.number, self._insert_at)
        recipes_before, before = len(compilation.recipes), len(compilation.resources)
        folder = self._kept.folder(dish.hash)
        if folder is not None:
            compilation.cookbooks.fall_back_to(folder)
        failure: str | None = None
        try:
            with compilation.resources.inserting_at(at):
                compilation.include(dish.wash_recipe, f"dish {dish.name}")
                compilation.resolve()
        except RunCancelled:
            raise
        except FlockError as error:
            failure = f"dish {dish.name}: {error}"
            self._forget_dangling()
        wash.recipes = [dish.wash_recipe, *compilation.recipes[recipes_before:]]
        included = compilation.resources.since(at, len(compilation.resources) - before)
        self._insert_at = at + len(included)
        runner.add_section(
            Section(included, lambda failed: self._ended(runner, wash, failed), failure)
        )
        self.saw(wash.recipes)
        return failure is None

    def _join(self, runner: Runner, dish: Dish, failure: str | None) -> None:
        """Let a wash that is over count for a dish of another sink; the run knows its failure."""
        runner.add_section(Section([], lambda _: self._mark(runner, dish, failure)))

    def _forget_dangling(self) -> None:
        """Drop notifications to resources that were taken out again."""
        resources = self._compilation.resources
        for resource in resources:
            resource.notifications = [
                each for each in resource.notifications if resources.find(each.target) is not None
            ]

    def _ended(self, runner: Runner, wash: _Wash, failure: str | None) -> None:
        wash.is_over, wash.failure = True, failure
        for dish in wash.dishes:
            self._mark(runner, dish, failure)

    def _mark(self, runner: Runner, dish: Dish, failure: str | None) -> None:
        """Note on the record how a wash ended, and report it in a row of the dish's own."""
        state = self.find(dish.name)
        # A wash recipe may toss its own dish: there is nothing to mark then.
        if state is not None and failure is None:
            self._put([replace(state, washed_at=now_text(), failed=None, dirty=False)])
        elif state is not None:
            self._put([replace(state, failed=failure, dirty=True)])
        row = Row(f"dishes_dish[{dish.name}]", dish.wash_recipe, "wash")
        if failure is None:
            row.state, row.changes = "changed", [f"washed {dish.recipe} by {dish.wash_recipe}"]
        else:
            row.state, row.error = "failed", failure
        runner.add_row(row)
