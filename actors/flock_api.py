"""`flock_api`: lets other nodes order a converge here and ask how it goes."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from actors.arguments import true_or_false
from flock.actor import Actor
from flock.converge.kitchen import Kitchen
from flock.converge.locks import LockWish
from flock.converge.run import Run
from flock.errors import OverloadedError, UsageError
from flock.fleet import Flock
from flock.future import Future
from flock.run_chains import RunChains
from flock.run_events import for_others
from flock.wait_circles import WaitCircles

_CHANGES = frozenset({"run queued", "run waiting", "run started", "run ended"})

_MOST_TOLD = 10_000
"""Callers that wait for a change before more are refused."""

_MOST_ASKERS = 200
"""Callers that are told what is waited for, on a thread each, before more are refused."""


class FlockApi(Actor):
    """Lets other nodes order a converge here and ask how it goes.

    It never converges on its own thread: a run takes minutes, and an actor
    that is busy for minutes cannot answer `active`.
    """

    survives_tells: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("kitchen", "chains", "circles", "flock")

    def __init__(
        self, kitchen: Kitchen, chains: RunChains, circles: WaitCircles, flock: Flock
    ) -> None:
        """Answer for a kitchen.

        Args:
            kitchen: where runs happen.
            chains: knows on whose behalf its runs work.
            circles: knows what they wait for.
            flock: brings the events of a run to who ordered it.
        """
        super().__init__()
        self._kitchen = kitchen
        self._chains = chains
        self._circles = circles
        self._publisher = flock.node.topics.publisher
        self._lock = threading.Lock()
        # Begins anywhere, so that nobody takes the number of an earlier process for ours.
        self._changes = secrets.randbits(40)
        self._askers = threading.Semaphore(_MOST_ASKERS)
        self._told_later: list[Future[int]] = []
        self._forget: Callable[[], None] | None = None

    def on_start(self) -> None:
        """Begin to hear of runs."""
        self._forget = self._kitchen.on_event(self._hear)

    def on_stop(self) -> None:
        """Hear no more; who waits for a change is told to look himself."""
        if self._forget is not None:
            self._forget()
        self._change()

    def run_chef(
        self,
        wait: bool = False,
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
        lock: str | None = None,
        tell: str | None = None,
    ) -> dict[str, Any] | Future[dict[str, Any]]:
        """Order a converge; while one runs exactly one more is queued.

        Who wants the same as the queued run joins it.

        Args:
            wait: answer when the run has ended instead of at once.
            override_run_list: run this instead of the node's own run list.
            why_run: name the changes, make none.
            lock: the lock that the run takes first, however long that takes,
                and holds to its end.
            tell: the topic on which the caller listens for the run's events.

        Returns:
            The run as plain data, with `run_id` and `state` (`queued` or
            `running`); with `wait` its report, also when it failed.

        Raises:
            BusyError: another kind of run is queued; says its id.
            UsageError: an argument is of another kind; nothing was ordered.
            DeadlockError: with `wait`, the call came from the run going on here.
        """
        wait, why_run = true_or_false("wait", wait), true_or_false("why_run", why_run)
        if isinstance(override_run_list, str):
            override_run_list = [override_run_list]
        if not isinstance(override_run_list, list | tuple | None):
            raise UsageError(
                f"override_run_list is {override_run_list!r}, wanted is a list of items as"
                " 'recipe[cb::name]'"
            )

        caller = self.caller
        teller = self._publisher.teller(caller, str(tell)) if tell and caller else None

        def order() -> Run:
            return self._kitchen.order_run(
                caller or "this node",
                override_run_list=override_run_list,
                why_run=why_run,
                lock=None if lock is None else LockWish(str(lock), None, reason="a run"),
                listener=None if teller is None else lambda event: teller(for_others(event)),
            )

        if not wait:
            return order().as_data()
        report = self.later()
        self._chains.order_and_wait(order).on_ended(report.set)
        return report

    def active(self) -> bool:
        """Say whether a run was accepted and is not over yet."""
        return self._kitchen.active()

    def change(self, seen: int | None = None) -> int | Future[int]:
        """Wait until a run is queued, begins or ends here; answers then.

        Args:
            seen: the number that was answered last time; another one is
                answered at once. None waits for the next change.

        Returns:
            A number that grows with each change; another process of this node
            begins with another one.

        Raises:
            OverloadedError: too many wait for it.
        """
        with self._lock:
            if seen not in (None, self._changes):
                return self._changes
            if len(self._told_later) >= _MOST_TOLD:
                raise OverloadedError(f"{_MOST_TOLD} wait for a change here already")
            answer = self.later()
            self._told_later.append(answer)
            return answer

    def _hear(self, event: Mapping[str, Any]) -> None:
        if event["event"] in _CHANGES:
            self._change()

    def _change(self) -> None:
        with self._lock:
            self._changes += 1
            number = self._changes
            told, self._told_later = self._told_later, []
        for answer in told:
            with contextlib.suppress(queue.Full):  # the actor is over, and said so
                answer.set(number)

    def waits(self, again: bool = False) -> dict[str, Any] | Future[dict[str, Any]]:
        """Say what goes on here, what it waits for, and whose that is.

        Args:
            again: have the question that is waited for asked anew before.

        Returns:
            See `flock.wait_graph.Standing`.

        Raises:
            OverloadedError: too many ask at once.
        """
        if not self._askers.acquire(blocking=False):
            raise OverloadedError(f"{_MOST_ASKERS} ask already what the run here waits for")
        answer = self.later()

        def say() -> None:
            try:
                said = self._circles.standing(again=again).as_data()
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                deed = partial(answer.fail, error)
            else:
                deed = partial(answer.set, said)
            finally:
                self._askers.release()
            with contextlib.suppress(queue.Full):  # the actor is over, and said so
                deed()

        # It asks the registry, and may wait for the question: beside the actor's thread.
        threading.Thread(target=say, name="flock-waits", daemon=True).start()
        return answer

    def status(self) -> dict[str, Any]:
        """Return what is going on: the run, the queued one, or a notice's action; the wait."""
        status, blocked = self._kitchen.status(), self._chains.blocked
        if status["waiting"] is None and blocked is not None:
            status["waiting"] = blocked.as_data()
        return status

    def last_run(self) -> dict[str, Any] | None:
        """Return the report of the last run that ended, None if there was none."""
        return self._kitchen.last_run()

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the heads of the last runs, the newest first; a queued one is the first."""
        return self._kitchen.runs(limit)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of one run as it stands, None if it is not kept."""
        return self._kitchen.run(run_id)

    def cancel(self, run_id: str | None = None, reason: str = "") -> dict[str, Any] | None:
        """End a run, or the action of a notice: its command is killed within 5 s, its waits end.

        Args:
            run_id: which one; None for what goes on, else the queued run.
            reason: for the report.

        Returns:
            The run, None if no such run goes on.
        """
        why = f"cancelled by {self.caller or 'this node'}" + (f": {reason}" if reason else "")
        run = self._kitchen.cancel(run_id, reason=why)
        return None if run is None else run.as_data()

    def node(self, path: str | None = None) -> Any:
        """Return attributes of this node as plain data, without the sensitive ones.

        Args:
            path: dotted keys and indices, `kernel.release`; None for all.

        Raises:
            LookupError: names the first key that is missing.
        """
        if path is not None and not isinstance(path, str):
            raise UsageError("a path is text, as 'kernel.release'")
        return self._kitchen.node_attributes(path)

    def node_hash(self) -> dict[str, Any]:
        """Return all attributes of this node as plain data, without the sensitive ones."""
        attributes: dict[str, Any] = self._kitchen.node_attributes(None)
        return attributes
