"""Dishes: recipes that are cleaned up after when they leave the run list.

A dish is a recipe with the recipe that cleans up after it (its wash recipe), in
a labelled bag (its sink). The ledger of a machine's dishes stands in the
normal attributes of its node object, so that it lasts as long as the machine:

    dishes.dish.<name> = {recipe, wash_recipe, sink, hash, order, dirty, washed_at, failed}
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from flock.converge.run_list import full_recipe_name
from flock.errors import RecipeError

LEDGER = ("dishes", "dish")
"""Where in the normal attributes the records stand, by name."""

DEFAULT_SINK = "default"


@dataclass(frozen=True, slots=True)
class Dish:
    """One record of the ledger; recipes are written `cookbook::recipe`.

    Attributes:
        name: what the record is called.
        recipe: the recipe that is watched; it need not exist.
        wash_recipe: the recipe that cleans up after it.
        sink: the bag it is in.
        hash: of the copy of the wash recipe's cookbooks that is kept here.
        order: a number that grows with first use.
        dirty: neither of the recipes was in the last complete run.
        washed_at: when it was washed; None since its recipe was last seen.
        failed: why the last attempt to wash it failed.
    """

    name: str
    recipe: str
    wash_recipe: str
    sink: str = DEFAULT_SINK
    hash: str = ""
    order: int = 0
    dirty: bool = False
    washed_at: str | None = None
    failed: str | None = None

    @property
    def state(self) -> str:
        """`clean`, `dirty`, `washed` or `wash failed`."""
        if self.washed_at is not None:
            return "washed"
        if self.failed is not None:
            return "wash failed"
        return "dirty" if self.dirty else "clean"

    def as_record(self) -> dict[str, Any]:
        """Return what stands in the ledger under its name."""
        record = asdict(self)
        del record["name"]
        return record

    def as_row(self) -> dict[str, Any]:
        """Return the row that people and programs read."""
        return {
            "name": self.name,
            "recipe": self.recipe,
            "wash_recipe": self.wash_recipe,
            "sink": self.sink,
            "state": self.state,
            "washed_at": self.washed_at,
        }


def read_dishes(normal: Mapping[str, Any]) -> list[Dish]:
    """Return the dishes of a node's normal attributes, in order of first use.

    What somebody wrote there by hand and is no record is left out.
    """
    table: Any = normal
    for key in LEDGER:
        table = table.get(key) if isinstance(table, Mapping) else None
    if not isinstance(table, Mapping):
        return []
    dishes = [_read(name, record) for name, record in table.items()]
    return sorted(
        (dish for dish in dishes if dish is not None), key=lambda dish: (dish.order, dish.name)
    )


def _read(name: str, record: Any) -> Dish | None:
    if not isinstance(record, Mapping):
        return None
    texts = {key: record.get(key) for key in ("recipe", "wash_recipe")}
    if not all(isinstance(text, str) for text in texts.values()):
        return None
    try:
        recipe, wash_recipe = (full_recipe_name(str(text)) for text in texts.values())
    except RecipeError:
        return None
    sink, order, digest = record.get("sink"), record.get("order"), record.get("hash")
    washed_at, failed = record.get("washed_at"), record.get("failed")
    return Dish(
        name,
        recipe,
        wash_recipe,
        sink if isinstance(sink, str) else DEFAULT_SINK,
        digest if isinstance(digest, str) else "",
        order if isinstance(order, int) else 0,
        record.get("dirty") is True,
        washed_at if isinstance(washed_at, str) else None,
        failed if isinstance(failed, str) else None,
    )


def same_name(one: str, other: str) -> bool:
    """Say whether two names of dishes mean the same: `cb` and `cb::default` do."""
    return one == other or _full(one) == _full(other)


def _full(name: str) -> str:
    try:
        return full_recipe_name(name)
    except RecipeError:
        return name


class Washer(Protocol):
    """What the resources `dishes_dish` and `dishes_sink` ask of the run they are in."""

    @property
    def refusal(self) -> str:
        """Why nothing can be washed in this run; empty if it can."""

    def find(self, name: str) -> Dish | None:
        """Return the record of this name."""

    def wanted(self, dish: Dish, where: str) -> Dish:
        """Return a dish as its record is to be: with its hash, order and marks.

        Raises:
            RecipeError: its wash recipe does not exist.
        """

    def is_kept(self, dish: Dish) -> bool:
        """Say whether the wash recipe's cookbooks lie in the node's state folder."""

    def use(self, dish: Dish, where: str) -> None:
        """Keep the wash recipe's cookbooks, and write the record at once."""

    def toss(self, dish: Dish) -> None:
        """Remove the record at once."""

    def dirty(self, sink: str) -> list[Dish]:
        """Return the dirty dishes of a sink, in order of first use."""

    def wash(self, dish: Dish) -> bool:
        """Include a dish's wash recipe behind what converges now; say whether that went well."""


_current: ContextVar[Washer | None] = ContextVar("flock_dishes", default=None)


def current_washer() -> Washer | None:
    """Return the washer of the run that this thread works for."""
    return _current.get()


@contextlib.contextmanager
def washing_with(washer: Washer) -> Iterator[None]:
    """Make this the washer that resources in this thread ask."""
    token = _current.set(washer)
    try:
        yield
    finally:
        _current.reset(token)
