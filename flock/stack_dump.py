"""What the actors of a node are doing, for people: asked by a command, or at SIGUSR1."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flock.signals import handle

logger = logging.getLogger(__name__)


def stack_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say for people what `Node.stack` found; the stack only of actors that are busy."""
    for row in rows:
        yield f"{row['name']} ({row['class']}): {_doing(row)}, {row['waiting']} waiting"
        for seconds, method in row["slowest"]:
            yield f"    took {seconds:.3f} s: {method}"
        if row["busy_with"] is not None:
            for entry in row["stack"]:
                yield from (f"    {text}" for text in entry.rstrip().splitlines())


def _doing(row: dict[str, Any]) -> str:
    if row["busy_with"] is None:
        return "idle"
    doing = f"in {row['busy_with']} for {row['busy_for']:.1f} s"
    if row["called_by"]:
        doing += f", called by {row['called_by']}"
    if row["waits_for"]:
        doing += f", waits for {row['waits_for']}"
    return doing


def log_stack(rows: Sequence[dict[str, Any]]) -> None:
    """Log what `Node.stack` found, so that it is seen however little is logged else."""
    text = "\n".join(stack_lines(rows))
    level = logging.INFO if logger.isEnabledFor(logging.INFO) else logging.WARNING
    extra = {"event": "stack", "actors": rows}
    logger.log(level, "what the actors are doing:\n%s", text, extra=extra)


def dump_at_sigusr1(stack: Callable[[], Sequence[dict[str, Any]]]) -> None:
    """Log what `stack` returns at each SIGUSR1, on a thread of its own; ask on the main thread.

    Who has an own use for that signal keeps it.
    """
    handler = signal.getsignal(signal.SIGUSR1)
    if handler is signal.SIG_DFL or isinstance(handler, _Dump):
        handle(signal.SIGUSR1, _Dump(stack))


class _Dump:
    """Takes the signal."""

    def __init__(self, stack: Callable[[], Sequence[dict[str, Any]]]) -> None:
        self._stack = stack

    def __call__(self, *_: object) -> None:
        threading.Thread(target=self._dump, name="flock-dump", daemon=True).start()

    def _dump(self) -> None:
        log_stack(self._stack())
