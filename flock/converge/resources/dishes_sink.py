"""`dishes_sink`: wash the dishes whose recipes have left the run list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from flock.converge.dishes import Dish, Washer, current_washer
from flock.converge.provider import Change, Kind, Outcome, Provider, Skipped
from flock.converge.resource import Resource


@dataclass
class DishesSink(Resource):
    """A labelled bag of dishes; `wash` includes the wash recipes of the dirty ones.

    Dirty is a dish of which neither the recipe nor the wash recipe is in the
    run. Their resources converge right after the sink, in order of first use.
    A wash that fails stops no other; one that succeeded is not repeated until
    its recipe was in a run again.

    Attributes:
        sink: which bag; the resource's name by default.
    """

    kind: ClassVar[str] = "dishes_sink"
    actions: ClassVar[tuple[str, ...]] = ("wash",)

    sink: str = ""

    def check(self) -> None:
        """Fill in the sink's name."""
        self.sink = self.sink or self.name


class DishesSinkProvider(Provider[DishesSink]):
    """Names a change for each dirty dish; what the wash recipes do are changes of their own."""

    def wash(self, wanted: DishesSink) -> Iterator[Change]:
        """Include the wash recipes of the dirty dishes."""
        washer = current_washer()
        if washer is None:
            raise Skipped("dishes are washed by runs: this is none")
        if washer.refusal:
            raise Skipped(washer.refusal)
        for dish in washer.dirty(wanted.sink):
            yield Change(
                f"wash {dish.name}: include {dish.wash_recipe}", partial(_include, washer, dish)
            )


def _include(washer: Washer, dish: Dish) -> Outcome | None:
    """Include one wash recipe; one that cannot be read is told in the dish's own row."""
    return None if washer.wash(dish) else Outcome(())


KIND = Kind(DishesSink, DishesSinkProvider)
