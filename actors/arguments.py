"""What callers may give the methods of the stock actors, where a slip would change what is done."""

from __future__ import annotations

from flock.errors import UsageError


def true_or_false(name: str, given: object) -> bool:
    """Return an argument that says yes or no.

    A text is neither: `flockctl call … why_run=False` gives the text "False",
    which Python takes for yes.

    Args:
        name: what the argument is called, for the message.
        given: what came.

    Raises:
        UsageError: it is neither true nor false.
    """
    if not isinstance(given, bool):
        raise UsageError(f"{name} is {given!r}, wanted is true or false")
    return given
