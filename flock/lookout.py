"""Watches what questions read: the registry, and what goes on at other nodes.

Of a node's runs its `flock_api.change` tells: a call that is answered when the
next run there is queued, begins or ends. It needs no registry, and it ends
with the node, too. One such call is open for each node, however many wait.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from flock.errors import FlockError
from flock.fleet import Flock
from flock.future import Future
from registry.contract import Cancel
from registry.readings import Reading, watch

logger = logging.getLogger(__name__)

_ASK_AGAIN = 1.0
"""Seconds until a node that did not answer is asked again."""


class FlockLookout:
    """Watches for the waits of one process; any thread may use it."""

    def __init__(self, flock: Callable[[], Flock]) -> None:
        """Begin with nothing watched.

        Args:
            flock: returns the flock that the questions ask, joined.
        """
        self._flock = flock
        self._lock = threading.Condition()
        self._numbers = itertools.count()
        self._watchers: dict[str, dict[int, Callable[[], None]]] = {}
        self._open: set[str] = set()
        self._due: dict[str, tuple[float, int | None]] = {}
        self._thread: threading.Thread | None = None

    def watch(self, reading: Reading, changed: Callable[[], None]) -> Cancel | None:
        """Have `changed` called after what was read may have changed.

        Args:
            reading: what was read.
            changed: called on threads of the runtime; must be quick.

        Returns:
            What ends it; None if it is nothing that can be watched.

        Raises:
            RegistryError: it cannot be watched now.
        """
        if reading.what == "run":
            return self._watch_runs(reading.name, changed)
        return watch(self._flock().registry, reading, changed)

    # --- runs of other nodes

    def _watch_runs(self, node: str, changed: Callable[[], None]) -> Cancel:
        number = next(self._numbers)
        with self._lock:
            self._watchers.setdefault(node, {})[number] = changed
            is_new = node not in self._open
            self._open.add(node)
        if is_new:
            # Sent before the question is asked again, by the same thread: no change falls between.
            self._ask(node, None)

        def cancel() -> None:
            with self._lock:
                watchers = self._watchers.get(node, {})
                watchers.pop(number, None)
                if not watchers:
                    self._watchers.pop(node, None)
                self._lock.notify_all()

        return cancel

    def _ask(self, node: str, seen: int | None) -> None:
        """Have the node tell of the next change after the one of this number."""
        try:
            future = self._flock()[node]["flock_api"].change.future(seen)
        except FlockError as error:
            logger.debug("the runs of %s are not watched now: %s", node, error)
            self._answered(node, None)
        else:
            future.on_ready(lambda ready: self._answered(node, ready))

    def _answered(self, node: str, ready: Future[Any] | None) -> None:
        """Tell that something changed, and see to it that the next change is told, too."""
        failed = ready is None or ready.error() is not None
        number = None if ready is None or failed else ready.get()
        with self._lock:
            self._open.discard(node)
            told = list(self._watchers.get(node, {}).values())
            if told:
                # Asked on a thread of our own: this one is the reader's, and must not wait.
                when = time.monotonic() + (_ASK_AGAIN if failed else 0.0)
                self._due[node] = (when, number)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._ask_when_due, name="flock-lookout", daemon=True
                    )
                    self._thread.start()
                self._lock.notify_all()
        for changed in told:
            changed()

    def _ask_when_due(self) -> None:
        """Ask the nodes that somebody still watches; ends when there are none to ask."""
        while True:
            with self._lock:
                for node in [node for node in self._due if node not in self._watchers]:
                    del self._due[node]
                if not self._due:
                    self._thread = None
                    return
                node, (when, seen) = min(self._due.items(), key=lambda item: item[1][0])
                left = when - time.monotonic()
                if left > 0:
                    self._lock.wait(left)
                    continue
                del self._due[node]
                if node in self._open:
                    continue
                self._open.add(node)
                told = list(self._watchers[node].values())
            self._ask(node, seen)
            if seen is None:
                # What happened while nobody watched is not told by anybody else.
                for changed in told:
                    changed()
