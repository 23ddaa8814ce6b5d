"""The items of a run list as they are typed: `recipe[cb::name]`, `cb::name`, `role[name]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flock.errors import RecipeError, UsageError


def read_items(written: Sequence[str]) -> list[str]:
    """Return the items that some texts hold, several in one separated by commas.

    Raises:
        UsageError: one is no item.
    """
    from flock.setting_values import read_run_list

    items = list(read_run_list(list(written), Path()))
    for item in items:
        meaning(item)
    return items


def meaning(item: str) -> tuple[str, str]:
    """Return what an item means, so that `cb` and `recipe[cb::default]` are the same.

    Raises:
        UsageError: it is no item.
    """
    from flock.converge.run_list import parse_item

    try:
        return parse_item(item)
    except RecipeError as error:
        raise UsageError(str(error)) from None
