"""Brings what is due from the outbox into the registry, and nudges the targets.

Nobody waits for it: a converge writes to the outbox and goes on. It looks up
locations, appends to each target's queue in order, stops at a target's first
failure, and comes again: when something is due, when the registry is back, and
once a minute for what another process of this machine left.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flock.errors import (
    CallError,
    DocumentTooLarge,
    JournalError,
    QueueFull,
    RecordInvalid,
    RegistryError,
    UsageError,
)
from flock.faults import reached
from flock.notice import NOTICE, Notice, queue_of
from flock.outbox import Outbox
from flock.outgoing import location_text
from flock.rounds import go_round
from registry.contract import NODE_NAME_RULE, Registry, SessionState, is_node_name

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0
"""Seconds between two tries while nothing can be sent."""

Find = Callable[[Mapping[str, Any]], Sequence[str]]
"""Returns the machines at a location; raises `RegistryError` if that cannot be known now."""

Chore = Callable[[], None]


class Courier:
    """Empties one outbox, on a thread of its own."""

    def __init__(
        self,
        outbox: Outbox,
        registry: Registry,
        *,
        find: Find,
        nudge: Callable[[str], None],
        was_seen: Callable[[str], bool] = lambda _: True,
        chores: Sequence[Chore] = (),
    ) -> None:
        """Make it; `start` begins.

        Args:
            outbox: what is to be sent.
            registry: open.
            find: looks up a location.
            nudge: tells a node that its queue has something; may block and fail.
            was_seen: says whether a node of this name ever was.
            chores: what else is to be done when something changed; a
                `RegistryError` in one is tried again.
        """
        self._outbox = outbox
        self._registry = registry
        self._find = find
        self._nudge = nudge
        self._was_seen = was_seen
        self._chores = tuple(chores)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._nudges: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._looked_for: set[str] = set()
        self._cancel_state: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; what is due already leaves at once."""
        self._outbox.on_due(self._wake.set)
        self._cancel_state = self._registry.on_state(self._heard_of_session)
        for name, work in (("flock-courier", self._run), ("flock-nudges", self._send_nudges)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._wake.set()

    def wake(self) -> None:
        """Have it look at once."""
        self._wake.set()

    def stop(self, timeout: float = 5.0) -> int:
        """Send what can be sent within `timeout` seconds, and end; twice is harmless.

        Returns:
            How many notices are left; the next process of this machine sends them.
        """
        if not self._threads:
            return self._outbox.waiting()
        self._cancel_state()
        deadline = time.monotonic() + timeout
        while self._outbox.waiting() and time.monotonic() < deadline:
            self._wake.set()
            self._stopped.wait(0.05)
        self._stopped.set()
        self._wake.set()
        self._nudges.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()) + 4.0)
        self._threads = []
        return self._outbox.waiting()

    # --- inside

    def _heard_of_session(self, state: SessionState) -> None:
        if state is SessionState.CONNECTED:
            self._wake.set()

    def _run(self) -> None:
        go_round(self._try, self._wake, self._stopped, _LONGEST_PAUSE)

    def _try(self) -> bool:
        """Do what can be done now; say whether nothing is left to be tried again soon."""
        try:
            return self.drain() and self._do_chores()
        except JournalError as error:
            logger.error("notices wait: %s", error)
            return False

    def drain(self) -> bool:
        """Send all that can be sent now; say whether nothing is left to be tried again soon."""
        with self._outbox.draining() as alone:
            if not alone:
                return False
            try:
                looked_up = self._look_up()
                sent = [self._send_to(target) for target in self._outbox.targets()]
            except RegistryError as error:
                logger.info("notices wait for the registry: %s", error)
                return False
            return looked_up and all(sent)

    def _do_chores(self) -> bool:
        try:
            for chore in self._chores:
                chore()
        except RegistryError as error:
            logger.info("subscriptions wait for the registry: %s", error)
            return False
        return True

    def _look_up(self) -> bool:
        """Put machines in the place of locations."""
        for number, location in self._outbox.unresolved():
            try:
                nodes = self._find(location)
            except UsageError as error:
                self._outbox.bury(number, str(error))
                continue
            except RegistryError as error:
                self._outbox.not_sent(number, str(error))
                raise
            if not nodes:
                place = location_text(json.dumps(location))
                logger.warning("a notice for %s goes to nobody: there is no such machine", place)
            self._outbox.resolve(number, nodes)
        return True

    def _send_to(self, target: str) -> bool:
        """Append a target's notices in order; say whether all were.

        Raises:
            RegistryError: the registry answers nobody: other targets need not be tried.
        """
        while notices := self._outbox.due(target):
            sent: list[Notice] = []
            try:
                for notice in notices:
                    if self._append(notice):
                        sent.append(notice)
                    if self._stopped.is_set():
                        break
            except QueueFull as error:
                self._outbox.not_sent(notices[len(sent)].number, str(error))
                logger.warning("notices for %s wait: %s", target, error)
                return False
            except RegistryError as error:
                self._outbox.not_sent(notices[len(sent)].number, str(error))
                raise
            finally:
                if sent:
                    self._nudges.put(target)
                    self._outbox.sent(sent)
                    self._warn_of_stranger(sent)
            if self._stopped.is_set():
                return False
        return True

    def _warn_of_stranger(self, sent: Sequence[Notice]) -> None:
        """Say once that nobody ever had a target's name: it may be misspelt, or still to come."""
        target = sent[0].target
        if target in self._looked_for or sent[0].kind != NOTICE:
            return
        try:
            is_stranger = not self._was_seen(target)
        except RegistryError:
            return  # at the next notice
        self._looked_for.add(target)
        if is_stranger:
            logger.warning(
                "a notice waits for %s, which was never seen: is the name right?", target
            )

    def _append(self, notice: Notice) -> bool:
        """Append one notice; a second time does nothing. Says False for one that never can be."""
        if not is_node_name(notice.target):
            self._outbox.bury(
                notice.number, f"{notice.target!r} cannot be a node: {NODE_NAME_RULE}"
            )
            return False
        try:
            # An answer stands beside the notice it is about, under an id of its own.
            dedup_id = f"{notice.kind} {notice.id} {notice.number}"
            self._registry.append(queue_of(notice.target), notice.as_data(), dedup_id=dedup_id)
        except (DocumentTooLarge, RecordInvalid) as error:
            self._outbox.bury(notice.number, str(error))
            return False
        reached("append")
        return True

    def _send_nudges(self) -> None:
        """Nudge one target after the other; one that does not answer holds up no queue."""
        while (target := self._nudges.get()) is not None:
            try:
                self._nudge(target)
            except (CallError, RegistryError) as error:
                # It finds its queue by itself, at the latest when it starts.
                logger.debug("%s was not nudged: %s", target, error)
            reached("nudge")
