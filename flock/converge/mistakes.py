"""What an exception in a recipe's own code says, in one line and in a recipe's words."""

from __future__ import annotations

from flock.converge.attributes import MissingAttribute


def mistake_text(error: BaseException) -> str:
    """Return `KeyError: 'x'`, or for what is asked of the node in vain what is near."""
    if isinstance(error, MissingAttribute):
        return str(error)
    if isinstance(error, AttributeError):
        instead_of = getattr(error.obj, "_instead_of", None)
        if instead_of is not None:
            return f"node has no {error.name!r}{instead_of(error.name)}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
