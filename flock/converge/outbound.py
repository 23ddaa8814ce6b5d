"""What the engine asks of whoever tells other machines that a resource changed.

The engine knows when a change is about to be made and when it was; who is to
be told, and how that gets there, it leaves to this. Without one, remote
notifications are declared and nothing comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flock.converge.notification import Trail
from flock.converge.resource import Resource


class Outbound(Protocol):
    """Takes notices for other machines, safely; called on the run's thread."""

    def arm(self, run_id: str, resource: Resource, action: str, trail: Trail) -> object | None:
        """Note on disk whom a change of `resource` concerns, before it is made.

        Args:
            run_id: the run, or the single action, in which it is made.
            resource: what is about to change; its `remote_notifications` name
                those that its recipe wants told, others may have subscribed.
            action: what it does.
            trail: the (resource, action) pairs that led here, this one last.

        Returns:
            Something to hand to `settle`; None if nobody is to be told.
        """

    def settle(self, armed: object, changed: bool) -> list[dict[str, Any]]:
        """Make what is armed due, or drop it; neither waits for another machine.

        Args:
            armed: what `arm` returned.
            changed: whether the change was made.

        Returns:
            A row per notice for the report: `id`, `to`, `resource`, `action`.
        """

    def foretell(
        self, resource: Resource, told: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Say who would be told of a change in a why-run; notes nothing.

        Args:
            resource: what would change.
            told: the rows that the report has already: who is told at the end
                of a run is told once.

        Returns:
            Rows as of `settle`, with an empty `id`.
        """

    def take_up(self, run_id: str, would_change: Callable[[str, str], bool | None]) -> None:
        """Settle what processes armed that died before they could.

        Called under the run lock, before anything is changed.

        Args:
            run_id: the run that begins; empty outside a run.
            would_change: says of a resource and an action whether that would
                still change anything; None if it cannot be told.
        """

    def run_over(self, run_id: str, complete: bool) -> list[dict[str, Any]]:
        """Hear that a run is over, its delayed local notifications made.

        Args:
            run_id: the run; delayed notices of it are to leave now.
            complete: it was a complete, successful run of the node's own run
                list: what it no longer declares is wanted no more.

        Returns:
            A row per delayed notice for the report, as `settle` does.
        """
