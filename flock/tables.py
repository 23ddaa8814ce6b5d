"""Tables of plain data that two sides write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MISSING = object()


def merged(
    base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what two sides made of `base`, key by key; where both changed one key, ours."""
    result: dict[str, Any] = {}
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        was, our, their = (side.get(key, _MISSING) for side in (base, ours, theirs))
        if isinstance(our, Mapping) and isinstance(their, Mapping):
            value: Any = merged(was if isinstance(was, Mapping) else {}, our, their)
        else:
            value = their if our == was else our
        if value is not _MISSING:
            result[key] = value
    return result
