"""`dishes_dish`: note a recipe, and the one that cleans up after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.dishes import DEFAULT_SINK, Dish, Washer, current_washer, same_name
from flock.converge.provider import Change, Kind, Outcome, Provider
from flock.converge.resource import Resource
from flock.converge.run_list import full_recipe_name
from flock.errors import RunFailed


@dataclass
class DishesDish(Resource):
    """A recipe that is watched (`use`), or no more (`toss`); changes nothing but the ledger.

    When the recipe has left the run list, a `dishes_sink` of the same sink, or
    the node by itself, runs the wash recipe once.

    Attributes:
        recipe: the recipe that is watched; the resource's name by default. It
            need not exist.
        wash_recipe: the recipe that cleans up after it; required for `use`.
        sink: the bag it is put in.
    """

    kind: ClassVar[str] = "dishes_dish"
    actions: ClassVar[tuple[str, ...]] = ("use", "toss")

    recipe: str = ""
    wash_recipe: str = ""
    sink: str = DEFAULT_SINK

    def check(self) -> None:
        """Write recipes as `cookbook::recipe`, and refuse a dish that nothing could wash."""
        if self.recipe or "use" in self.wanted_actions:
            self.recipe = full_recipe_name(self.recipe or self.name)
        if self.wash_recipe:
            self.wash_recipe = full_recipe_name(self.wash_recipe)
        elif "use" in self.wanted_actions:
            raise ValueError("wash_recipe is required: what cleans up after the recipe?")
        if not self.sink:
            raise ValueError("a sink needs a name")


class DishesDishProvider(Provider[DishesDish]):
    """Compares the record with what is wanted, and writes it at once."""

    def use(self, wanted: DishesDish) -> Iterator[Change]:
        """Write the record, and keep the wash recipe's cookbooks."""
        if not wanted.wash_recipe:
            raise RunFailed(f"{wanted}: wash_recipe is required: what cleans up after the recipe?")
        washer = _washer(wanted)
        standing = washer.find(wanted.name)
        # `cb` and `cb::default` are one dish, whoever used it first.
        is_recipe = same_name(wanted.name, wanted.recipe)
        name = standing.name if standing else wanted.recipe if is_recipe else wanted.name
        dish = Dish(name, wanted.recipe, wanted.wash_recipe, wanted.sink)
        dish = washer.wanted(dish, "")  # the place is said with the resource
        if dish != standing:
            text = f"use dish {dish.name}: wash {dish.recipe} by {dish.wash_recipe} in {dish.sink}"
            yield Change(text, lambda: washer.use(dish, ""))
        elif not washer.is_kept(dish):
            # The record is right: only the copy is lost, as with a new state folder.
            yield Change(f"keep the cookbooks of {dish.wash_recipe}", lambda: _again(washer, dish))

    def toss(self, wanted: DishesDish) -> Iterator[Change]:
        """Remove the record."""
        washer = _washer(wanted)
        standing = washer.find(wanted.name)
        if standing is not None:
            yield Change(f"toss dish {standing.name}", lambda: washer.toss(standing))


def _again(washer: Washer, dish: Dish) -> Outcome:
    washer.use(dish, "")
    return Outcome(())


def _washer(wanted: DishesDish) -> Washer:
    washer = current_washer()
    if washer is None:
        raise RunFailed(f"{wanted}: no run is going on here that has a ledger")
    return washer


KIND = Kind(DishesDish, DishesDishProvider)
