"""Where a run hands in what other machines are to be told.

The converge engine says when a resource is about to change and when it has;
here that becomes wishes in the outbox: what the recipe asked for with
`remote_notifies`, and what others subscribed to. What recipes ask for with
`remote_subscribes` goes to the subscriptions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flock.armed_notices import Wish
from flock.converge.notification import Location, Trail
from flock.converge.resource import Resource
from flock.errors import JournalError
from flock.faults import reached
from flock.notice import Step, joined_trails
from flock.outbox import Outbox
from flock.outgoing import location_text
from flock.subscriptions import Subscription, Subscriptions

logger = logging.getLogger(__name__)


class NoticeDesk:
    """What the engine hands notices to; called on the thread of a run."""

    def __init__(self, outbox: Outbox, subscriptions: Subscriptions) -> None:
        """Take notices for an outbox."""
        self._outbox = outbox
        self._subscriptions = subscriptions
        self._inherited: dict[str, tuple[tuple[Step, ...], str]] = {}
        self._standing: Callable[[], Iterable[Resource]] = tuple

    def declared_by(self, standing: Callable[[], Iterable[Resource]]) -> None:
        """Say where the resources stand that the node's own run list declares."""
        self._standing = standing

    # --- what the engine calls

    def arm(self, run_id: str, resource: Resource, action: str, trail: Trail) -> list[int] | None:
        """Note on disk whom a change concerns, before it is made."""
        wishes = self._wishes(resource)
        if not wishes:
            return None
        inherited, cause = self._inherited.get(run_id, ((), ""))
        own = [(self._outbox.node, name, act) for name, act in trail]
        return self._outbox.armed.arm(
            run_id, str(resource), action, wishes, joined_trails([inherited, own]), cause
        )

    def settle(self, armed: object, changed: bool) -> list[dict[str, Any]]:
        """Make what is armed due, or drop it."""
        assert isinstance(armed, list)
        if changed:
            reached("change")
            return list(self._outbox.armed.make_due(armed))
        self._outbox.armed.drop(armed)
        return []

    def foretell(
        self, resource: Resource, told: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Say who would be told of a change; notes nothing."""
        rows: list[dict[str, Any]] = []
        for wish in self._wishes(resource):
            for place in wish.nodes or (location_text(json.dumps(wish.location)),):
                row = {"id": "", "to": place, "resource": wish.resource, "action": wish.action}
                if wish.timing != "delayed" or row not in (*told, *rows):
                    rows.append(row)
        return rows

    def take_up(self, run_id: str, would_change: Callable[[str, str], bool | None]) -> None:
        """Settle what processes armed that died before they could; the run lock is held.

        Args:
            run_id: the run that begins; empty outside a run.
            would_change: says whether an action would still change anything,
                None if that cannot be told.
        """
        for each in self._outbox.armed.left_over(run_id):
            still_to_do = would_change(each.notifier, each.notifier_action)
            if still_to_do:
                # Not made, so whoever makes it will tell.
                self._outbox.armed.drop(each.numbers)
                continue
            self._outbox.armed.make_due(each.numbers, maybe_unchanged=still_to_do is None)
            logger.warning(
                "the process of run %s died when it had %s %s: told now%s",
                each.run_id,
                each.notifier_action,
                each.notifier,
                "; it may not have changed" if still_to_do is None else "",
            )
        self._outbox.armed.let_delayed_go()

    def run_over(self, run_id: str, complete: bool) -> list[dict[str, Any]]:
        """Let go what was put off to the run's end, and renew the subscriptions."""
        self.renew(complete=complete)
        return list(self._outbox.armed.let_delayed_go(run_id))

    def _wishes(self, resource: Resource) -> list[Wish]:
        """Return whom a change concerns, for its own recipe and for those who subscribed."""
        own = [
            _wish(each.target, each.action, each.timing.value, each.location)
            for each in resource.remote_notifications
        ]
        return own + self._subscriptions.wishes(str(resource))

    # --- what the node calls

    def renew(self, *, complete: bool) -> None:
        """Ask for what the standing resources subscribe to.

        Args:
            complete: nothing else is wanted any more.
        """
        wanted: list[Subscription] = [
            {
                "watched": each.watched,
                "resource": each.target,
                "action": each.action,
                "timing": each.timing.value,
                "recipe": resource.declared_in,
                **_place(each.location),
            }
            for resource in self._standing()
            for each in resource.remote_subscriptions
        ]
        try:
            self._subscriptions.declare(wanted, complete=complete)
        except JournalError as error:
            logger.error("subscriptions are not renewed: %s", error)

    def inherit(self, run_id: str, trail: tuple[Step, ...], cause: str) -> None:
        """Note through which notices a run came about."""
        self._inherited[run_id] = (trail, cause)

    def disinherit(self, run_id: str) -> None:
        """Forget it: the run is over."""
        self._inherited.pop(run_id, None)


def _wish(resource: str, action: str, timing: str, location: Location) -> Wish:
    place = _place(location)
    return Wish(resource, action, timing, tuple(place["nodes"]), place["location"])


def _place(location: Location) -> dict[str, Any]:
    """Return a location as plain data: `nodes` wins over the rest."""
    nodes: Sequence[str] = location.nodes
    rest = {
        "roles": list(location.roles),
        "recipes": list(location.recipes),
        "environment": location.environment,
        "query": location.query,
    }
    return {"nodes": list(nodes), "location": None if nodes else rest}
