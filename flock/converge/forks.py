"""Keep what a process holds out of the children it forks without executing anything.

A lock of `flock(2)` is held until the last copy of its descriptor is closed,
and a pipe has no end while anybody could still write to it. Programs that are
executed inherit nothing; a plain fork, as `multiprocessing` makes, does.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Protocol


class _Weak(Protocol):
    def __call__(self) -> Callable[[], None] | None: ...


def in_children(let_go: Callable[[], None]) -> None:
    """Call a bound method in each child that is forked from now on, as long as its object lives.

    Args:
        let_go: closes what the object holds; must not wait for a lock, which
            another thread may have held at the time of the fork.
    """
    method: _Weak = weakref.WeakMethod(let_go, _methods.discard)
    _methods.add(method)


_methods: set[_Weak] = set()


def _let_go_of_all() -> None:
    for method in list(_methods):
        let_go = method()
        if let_go is not None:
            with contextlib.suppress(OSError):
                let_go()


# Once for all: what was registered here cannot be taken back.
os.register_at_fork(after_in_child=_let_go_of_all)
