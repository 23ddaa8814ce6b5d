"""Takes this machine's notices out of the registry and has their actions made.

On a thread of its own, so that whoever asks about notices is answered
meanwhile. One notice after the other, in the order of the queue; those for the
same resource and action that stand next to each other when the action begins
run as one. An entry leaves the queue last, in one transaction with a check
that we are who we say: a crash at any step finds it again, and the receipts
say how far it had come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flock.errors import (
    BusyError,
    FlockError,
    JournalError,
    NameTaken,
    RegistryError,
    RunCancelled,
)
from flock.faults import reached
from flock.notice import ANSWER, DROPPED, Notice, Step, comes_round, joined_trails, queue_of
from flock.outbox import Outbox
from flock.receipts import Receipts
from flock.rounds import go_round
from registry.contract import MAX_QUEUE_LENGTH, Cancel, QueueEntry, Registry, SessionState

logger = logging.getLogger(__name__)

PATIENCE = 3600.0
"""Seconds for which a resource may be unknown to a fully declared run list."""

_END_WITHIN = 5.0
"""Seconds in which an action that was ended is to be over; Python code that goes on is not."""

_LONGEST_PAUSE = 10.0
"""Seconds between two tries while nothing can be done."""


class Doer(Protocol):
    """Who makes the actions: the kitchen."""

    def is_declared(self) -> bool:
        """Say whether the node's whole run list was declared without an error."""

    def knows(self, resource: str) -> bool:
        """Say whether a resource was declared."""

    def stands(self, resource: str, action: str) -> bool:
        """Say whether a resource was declared and has this action."""

    def act(
        self, resource: str, action: str, asked_by: str, *, begin: Callable[[str], None]
    ) -> dict[str, Any]:
        """Run an action under the run lock; calls `begin` with the run's id when it has it.

        Raises:
            RunCancelled: the node is leaving.
        """


class Heir(Protocol):
    """Who must know on whose behalf a run changes things."""

    def inherit(self, run_id: str, trail: tuple[Step, ...], cause: str) -> None:
        """Note through what a run came about."""

    def disinherit(self, run_id: str) -> None:
        """Forget it: the run is over."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A notice to be dealt with; `entry_id` is None if only the journal has it."""

    notice: Notice
    entry_id: int | None


class _NothingToDo(Exception):
    """When its turn came, nothing was left to be done, or it could not be done any more."""


class Receiver:
    """Deals with the notices of one machine."""

    def __init__(
        self,
        node: str,
        generation: str,
        registry: Registry,
        receipts: Receipts,
        outbox: Outbox,
        doer: Doer,
        heir: Heir,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; `start` begins.

        Args:
            node: this machine's name.
            generation: of this process; it takes nothing while another has the name.
            registry: open.
            receipts: in the journal.
            outbox: takes the answers that come in.
            doer: makes the actions.
            heir: told through what an action came about.
            patience: seconds until an unknown resource is given up.
            clock: seconds that only grow.
        """
        self._node = node
        self._generation = generation
        self._registry = registry
        self._receipts = receipts
        self._outbox = outbox
        self._doer = doer
        self._heir = heir
        self._patience = patience
        self._clock = clock
        self._counted_at = clock()
        self._pending: list[_Pending] = []
        self._stale = True
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._cancels: list[Cancel] = []

    def start(self) -> None:
        """Begin with what waits already; watches the queue from now on."""
        self._cancels = [
            self._registry.watch_queue(queue_of(self._node), self.wake),
            self._registry.watch_presence(self._node, self.wake),
            self._registry.on_state(
                lambda state: self.wake() if state is SessionState.CONNECTED else None
            ),
        ]
        self._thread = threading.Thread(target=self._run, name="flock-receiver", daemon=True)
        self._thread.start()
        self.wake()

    def stop(self) -> None:
        """End; an action that goes on is ended by the kitchen, before this is called."""
        self._stopped.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(_END_WITHIN)
            if self._thread.is_alive():
                logger.error("an action of a notice does not end and is left behind")
        for cancel in self._cancels:
            cancel()
        self._cancels = []

    def wake(self) -> None:
        """Have it look at the queue, and at what is declared now; any thread may."""
        self._stale = True
        self._wake.set()

    # --- for people

    def rows(self, *, dead: bool = False, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Return notices for this machine as rows: those that wait, the dead ones, or all.

        Raises:
            RegistryError: the queue cannot be asked.
        """
        if dead:
            return [receipt.row() for receipt in self._receipts.kept("dead")]
        states = ("aside", "ready", "started", *(("done", "dead") if all_of_them else ()))
        rows = [receipt.row() for receipt in self._receipts.kept(*states)]
        known = self._receipts.states
        waiting = [notice for _, notice in self._entries() if notice.kind != ANSWER]
        receipts = known([notice.id for notice in waiting])
        return rows + [notice.row("waiting") for notice in waiting if notice.id not in receipts]

    # --- the thread

    def _run(self) -> None:
        go_round(self._try, self._wake, self._stopped, _LONGEST_PAUSE)

    def _try(self) -> bool:
        """Work, and say whether all was done."""
        try:
            return self.work()
        except (BusyError, RunCancelled) as error:
            logger.debug("notices wait: %s", error)
        except (RegistryError, JournalError) as error:
            logger.info("notices wait: %s", error)
        except Exception:
            logger.exception("a notice could not be dealt with")
        return False

    def work(self) -> bool:
        """Deal with all that waits; say whether that could be done.

        Raises:
            RegistryError: the registry cannot be asked; what is left waits.
            BusyError, RunCancelled: the node is leaving.
        """
        self._look_at_what_is_aside()
        # Known before the queue is read: while another process has our name, all is its own.
        if not self._is_ours():
            return False
        self._read()
        while self._pending and not self._stopped.is_set():
            self._deal_with(self._pending[0])
            if not self._pending:
                self._read()
        return True

    def _is_ours(self) -> bool:
        presence = self._registry.presence(self._node)
        return presence is not None and presence.generation == self._generation

    def _entries(self) -> list[tuple[QueueEntry, Notice]]:
        """Return what stands in the queue and can be read; what cannot is thrown away."""
        found: list[tuple[QueueEntry, Notice]] = []
        for entry in self._registry.entries(queue_of(self._node), limit=MAX_QUEUE_LENGTH):
            try:
                found.append((entry, Notice.from_data(entry.value)))
            except ValueError as error:
                logger.error("entry %d of our queue is thrown away: %s", entry.id, error)
                self._take(entry.id)
        return found

    def _read(self) -> None:
        """Find what is to be done: first what was put off, then the queue in order."""
        self._stale = False
        entries = self._entries()
        queued = {notice.id for _, notice in entries}
        begun = self._receipts.kept("ready", "started")
        left = [receipt for receipt in begun if receipt.notice.id not in queued]
        dropped = [receipt.notice for receipt in left if not receipt.only_here]
        if dropped:
            self._receipts.bury(dropped, DROPPED)
        pending = [_Pending(receipt.notice, None) for receipt in left if receipt.only_here]
        states = self._receipts.states([notice.id for _, notice in entries])
        for entry, notice in entries:
            if notice.kind == ANSWER:
                self._outbox.answered(notice)
                self._take(entry.id)
            elif states.get(notice.id, "started") not in ("started", "ready"):
                self._take(entry.id)
            else:
                pending.append(_Pending(notice, entry.id))
        self._pending = pending

    def _look_at_what_is_aside(self) -> None:
        """Let run what is declared by now, and give up what was unknown for too long."""
        now = self._clock()
        seconds, self._counted_at = now - self._counted_at, now
        aside = self._receipts.kept("aside")
        if not aside:
            return
        known = [each.notice for each in aside if self._doer.knows(each.notice.resource)]
        self._receipts.make_ready([notice.id for notice in known])
        if not self._doer.is_declared():
            return
        self._receipts.add_time_aside(seconds)
        for each in self._receipts.kept("aside"):
            if each.aside >= self._patience:
                self._receipts.bury(
                    [each.notice],
                    f"no recipe of the run list declares {each.notice.resource}"
                    f" (waited {each.aside:.0f} s)",
                )

    # --- one notice

    def _deal_with(self, pending: _Pending) -> None:
        """Have the action of the first notice, and of its like behind it, made."""
        notice = pending.notice
        circle = comes_round(notice.trail, (self._node, *notice.order))
        if circle is not None:
            self._receipts.bury([notice], circle)
        elif not self._doer.knows(notice.resource):
            self._receipts.set_aside([notice], f"no recipe declares {notice.resource} yet")
        elif not self._doer.stands(*notice.order):
            self._receipts.bury([notice], f"{notice.resource} has no action {notice.action!r}")
        else:
            try:
                self._act(notice)
            except _NothingToDo:
                # What stood a moment ago was declared anew, or its process died too often.
                self._read()
            return
        self._finish([pending])

    def _act(self, notice: Notice) -> None:
        """Run the action, with receipts before and after it."""
        group: list[_Pending] = []
        begun: list[Notice] = []
        runs: list[str] = []

        def begin(run_id: str) -> None:
            """Choose whom the action is for; the run lock is held, and nothing has begun."""
            if self._stale and all(each.notice.order == notice.order for each in self._pending):
                self._read()
            for each in self._pending:
                if each.notice.order != notice.order:
                    break
                group.append(each)
            if not group or not self._doer.stands(*notice.order):
                raise _NothingToDo
            begun.extend(self._receipts.start([each.notice for each in group]))
            reached("receipt")
            if not begun:
                self._finish(group)
                raise _NothingToDo
            trail = joined_trails(each.trail for each in begun)
            self._heir.inherit(run_id, trail, begun[0].id)
            runs.append(run_id)

        others = f" and {len(self._pending) - 1} waiting" if len(self._pending) > 1 else ""
        try:
            report = self._doer.act(
                *notice.order, f"notice {notice.id} from {notice.sender}{others}", begin=begin
            )
        finally:
            for run_id in runs:
                self._heir.disinherit(run_id)
        reached("action")
        # One that somebody ended is over; one that ended because the node leaves is no report:
        # the next process finds the receipt and runs it once more.
        problem = (
            report["error"] if report["state"] == "cancelled" else _problem(report, *notice.order)
        )
        if problem is None:
            self._receipts.done(begun, report)
        else:
            logger.error("%s %s failed for a notice: %s", notice.action, notice.resource, problem)
            self._receipts.bury(begun, problem, report)
        reached("done")
        self._finish(group)

    def _finish(self, group: list[_Pending]) -> None:
        """Take what is over off the queue."""
        self._pending = self._pending[len(group) :]
        for each in group:
            if each.entry_id is not None:
                self._take(each.entry_id)
        reached("removal")

    def _take(self, entry_id: int) -> None:
        """Remove an entry, if we are still who we say."""
        try:
            self._registry.remove(queue_of(self._node), entry_id, if_present=True)
        except NameTaken as error:
            logger.warning("a notice stays in the queue: %s", error)
            raise


def _problem(report: Mapping[str, Any], resource: str, action: str) -> str | None:
    """Say why an action counts as failed, None if it was made.

    What it set off may have failed all the same: that is another's failure.
    """
    for row in report["resources"]:
        if (row["resource"], row["action"]) == (resource, action):
            if row["state"] == "failed":
                return row["error"] or "it failed"
            if row["state"] == "skipped" and action != "nothing":
                return f"skipped: {row['error'] or 'a guard said no'}"
            return None
    return report["error"] or "it was not run"


__all__ = ["PATIENCE", "Doer", "FlockError", "Heir", "Receiver"]
