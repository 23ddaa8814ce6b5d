"""`sink`: washes dishes after runs, and when somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from actors.arguments import true_or_false
from flock.actor import Actor
from flock.converge.dishes import DEFAULT_SINK
from flock.converge.kitchen import Kitchen
from flock.errors import BusyError
from flock.fleet import Flock
from flock.future import Future
from flock.run_chains import RunChains

logger = logging.getLogger(__name__)


class Sink(Actor):
    """Cleans up after recipes that left the run list.

    After each run of the node's own run list that ended well it orders a run
    that washes what no `dishes_sink` of that run washed, so that it matters
    neither whether a recipe with a sink is left nor whether the wash recipe
    is. The setting `auto_wash` turns this off.
    """

    survives_tells: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("flock", "kitchen", "chains")

    def __init__(self, flock: Flock, kitchen: Kitchen, chains: RunChains) -> None:
        """Wash in a kitchen; `chains` knows on whose behalf its runs work."""
        super().__init__()
        self._is_automatic = flock.settings.auto_wash
        self._kitchen = kitchen
        self._chains = chains
        self._stop_listening: Callable[[], None] | None = None
        self._owed: tuple[str, Sequence[str]] | None = None

    def on_start(self) -> None:
        """Begin to listen for the ends of runs."""
        if self._is_automatic:
            self._stop_listening = self._kitchen.on_event(self._on_event)

    def on_stop(self) -> None:
        """Listen no more."""
        if self._stop_listening is not None:
            self._stop_listening()

    def wash(self, sink: str = DEFAULT_SINK, why_run: bool = False) -> Future[dict[str, Any]]:
        """Wash the dirty dishes of a sink, in a run of its own.

        Args:
            sink: which.
            why_run: name what would be washed, wash nothing.

        Returns:
            The run's report, when it has ended, also when it failed.

        Raises:
            BusyError: another kind of run is queued; says its id.
            UsageError: `why_run` is neither true nor false.
            DeadlockError: the call came from the run going on here.
        """
        why_run = true_or_false("why_run", why_run)
        asked_by = self.caller or "this node"
        report = self.later()
        self._chains.order_and_wait(
            lambda: self._kitchen.order_wash(asked_by, [str(sink)], why_run)
        ).on_ended(report.set)
        return report

    def dishes(self) -> list[dict[str, Any]]:
        """Return this machine's dishes as rows, in order of first use."""
        return self._kitchen.dishes()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        """Hear of a run's end, on the run's thread."""
        if event["event"] == "run ended":
            self.soon(self._wash_after, event["run_id"], event["unwashed"])

    def _wash_after(self, run_id: str, sinks: Sequence[str] | None) -> None:
        """Order the wash that is owed since the last run which could tell.

        Args:
            run_id: the run that ended.
            sinks: what it left dirty; None if it says nothing of that.
        """
        if sinks is not None:
            self._owed = (run_id, sinks) if sinks else None
        # To be queued behind a run would keep others from it: when it ends we come again.
        if self._owed is None or self._kitchen.active():
            return
        run_id, sinks = self._owed
        try:
            self._kitchen.order_wash(f"sink after run {run_id}", sinks)
        except BusyError as error:
            logger.info("dishes are not washed now, but after the next run: %s", error)
        else:
            self._owed = None
