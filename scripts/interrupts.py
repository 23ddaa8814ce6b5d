"""Signals that end a script: put off while something begins that only its starter can end.

For scripts alone, on their main thread.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off: a process must be known to whoever ends it before we may go.

    Raises:
        KeyboardInterrupt: at the end, if one came meanwhile.
    """
    came: list[int] = []
    before = {
        # A function, since what is ignored would be so in the process that is started, too.
        number: signal.signal(number, lambda came_now, _: came.append(came_now))
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def hold_signals() -> None:
    """Take no more signals: what is left is cleaning up, and that must come to its end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
