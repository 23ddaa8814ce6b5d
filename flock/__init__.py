"""A distributed actor runtime for machines kept in shape by configuration management.

`FlockOfChefs['bender0']['flock_api'].run_chef()` reaches an actor on another
machine. `Flock` is the same thing as a value, `Actor` the base of own actors.

Inside this package modules import each other by file, never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flock.actor import Actor as Actor
    from flock.actor import internal as internal
    from flock.fleet import Flock as Flock
    from flock.fleet import FlockOfChefs as FlockOfChefs

__version__ = "0.1.0"
__all__ = ["Actor", "Flock", "FlockOfChefs", "__version__", "internal"]

_HOMES = {
    "Actor": "flock.actor",
    "internal": "flock.actor",
    "Flock": "flock.fleet",
    "FlockOfChefs": "flock.fleet",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used: most commands need few of them."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'flock' has no attribute {name!r}")
