"""Everything about one machine's notices, put together: what goes out and what comes in.

A node opens it with its journal, sends with `send` once it has joined, and
takes what comes with `receive` once its kitchen stands. `flockctl converge`
opens and sends, and receives nothing: it has no place in the directory. A node
without a registry opens it, too; what its runs hand in leaves when there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flock.converge.kitchen import Kitchen
from flock.courier import Courier
from flock.errors import RegistryError
from flock.journal import Journal
from flock.locations import find_nodes
from flock.node_objects import was_seen
from flock.notice_desk import NoticeDesk
from flock.outbox import Outbox
from flock.receipts import Receipts
from flock.receiver import PATIENCE, Receiver
from flock.subscriptions import Subscription, Subscriptions
from registry.contract import Registry

logger = logging.getLogger(__name__)

_RUN_EVENTS = ("run ended",)


class NoticeOffice:
    """The notices of one machine; any thread may ask it."""

    def __init__(self, journal: Journal, node: str) -> None:
        """Open it; nothing leaves and nothing is taken yet.

        Args:
            journal: where all of it is kept.
            node: this machine's name.
        """
        self.node = node
        self.outbox = Outbox(journal, node)
        self.receipts = Receipts(journal, self.outbox)
        self.subscriptions = Subscriptions(journal, node)
        self.desk = NoticeDesk(self.outbox, self.subscriptions)
        self._courier: Courier | None = None
        self._receiver: Receiver | None = None
        self._end_listening: Callable[[], None] = lambda: None

    def serve(self, kitchen: Kitchen) -> None:
        """Say whose resources subscribe; to be called once, before the first run."""
        self.desk.declared_by(kitchen.standing_resources)

    def send(self, registry: Registry, nudge: Callable[[str], None]) -> None:
        """Begin to bring what is due into the registry, and to follow subscriptions.

        Args:
            registry: open.
            nudge: tells a node that its queue has something.
        """
        find = partial(find_nodes, registry)
        courier = Courier(
            self.outbox,
            registry,
            find=find,
            nudge=nudge,
            was_seen=partial(was_seen, registry),
            chores=(lambda: self.subscriptions.work(registry, find),),
        )
        try:
            self.subscriptions.watch(registry, courier.wake)
            # A run that comes next must not miss who subscribed while we were away.
            self.subscriptions.work(registry, find)
        except RegistryError as error:
            logger.warning("who subscribed here is known as it was: %s", error)
        self._courier = courier
        courier.start()

    def receive(
        self, registry: Registry, generation: str, kitchen: Kitchen, patience: float = PATIENCE
    ) -> None:
        """Begin to deal with the notices that come.

        Args:
            registry: open.
            generation: of this process.
            kitchen: makes the actions.
            patience: seconds until a notice for an unknown resource is given up.
        """
        receiver = Receiver(
            self.node,
            generation,
            registry,
            self.receipts,
            self.outbox,
            kitchen,
            self.desk,
            patience=patience,
        )
        self._receiver = receiver
        self._end_listening = kitchen.on_event(
            lambda event: receiver.wake() if event.get("event") in _RUN_EVENTS else None
        )
        receiver.start()

    def nudge(self) -> None:
        """Look at once at what came, and at what another process here left to be sent."""
        if self._receiver is not None:
            self._receiver.wake()
        if self._courier is not None:
            self._courier.wake()

    def stop_receiving(self) -> None:
        """Take no more; to be called when the kitchen has stopped."""
        self._end_listening()
        if self._receiver is not None:
            self._receiver.stop()

    def stop_sending(self, timeout: float = 5.0) -> int:
        """Send what can be sent within `timeout` seconds; returns how many notices are left."""
        left = self._courier.stop(timeout) if self._courier is not None else self.outbox.waiting()
        self.subscriptions.close()
        return left

    # --- for people

    def rows(self, *, dead: bool = False, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Return notices of this machine as rows, those for it first, then its own to others.

        Args:
            dead: the dead letters.
            all_of_them: also what is over.

        Raises:
            RegistryError: the queue cannot be asked.
        """
        coming = (
            self._receiver.rows(dead=dead, all_of_them=all_of_them)
            if self._receiver is not None
            else []
        )
        known = {row["id"] for row in coming}
        going = self.outbox.rows(dead=dead, all_of_them=all_of_them)
        return coming + [row for row in going if row["id"] not in known]

    def retry(self, notice: str) -> bool:
        """Let a dead letter of this machine, or for it, go once more; say whether there is one."""
        if self.receipts.retry(notice):
            self.nudge()
            return True
        return self.outbox.retry(notice)

    def report(self, notice: str) -> Mapping[str, Any] | None:
        """Return the report of the action that a notice led to here."""
        return self.receipts.report(notice)

    def subscribers(self) -> list[Subscription]:
        """Return who subscribed to resources of this machine."""
        return self.subscriptions.subscribers()
