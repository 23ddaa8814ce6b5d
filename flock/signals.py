"""Signals that this process handles, and its forked children do not.

A child that goes on without executing anything (those of `multiprocessing`, in
an actor's method, say) would else take a SIGTERM for the node's, and live on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

Handler = Callable[[int, Any], Any]

_taken: dict[int, Handler] = {}


def handle(number: int, handler: Handler) -> None:
    """Handle a signal in this process alone; on the main thread."""
    signal.signal(number, handler)
    _taken[number] = handler


def _give_back() -> None:
    """Let the signals do in a child what they do by themselves."""
    for number, handler in _taken.items():
        if signal.getsignal(number) is handler:
            by_itself = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, by_itself)
    _taken.clear()


os.register_at_fork(after_in_child=_give_back)
