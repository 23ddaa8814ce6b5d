"""Order a run on each of several nodes, and follow the runs to their ends.

No node waits behind another: what comes back from any of them comes into one
queue, and the caller's thread takes it from there.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flock.ctl.output import error_line
from flock.ctl.reports import beside_lines, diff_lines, resource_line, summary
from flock.errors import (
    ActorNotFound,
    CallTimeout,
    FlockError,
    MethodNotFound,
    NodeDownError,
    NodeNotFound,
    RegistryError,
    exit_code,
)
from flock.node_objects import NodeObjects

if TYPE_CHECKING:
    from flock.ctl.progress import Progress
    from flock.fleet import Flock
    from flock.future import Future
    from flock.proxy import NodeProxy

_TOPIC = "runs that we ordered"

_ASK_EVERY = 1.0
"""Seconds between two questions to a node how its run goes."""

_MOST_QUESTIONS = 500
"""Questions a second, to all nodes together."""

_STATES: tuple[tuple[type[BaseException], str], ...] = (
    (NodeNotFound, "not found"),
    (ActorNotFound, "not found"),
    (MethodNotFound, "not found"),
    (CallTimeout, "timed out"),
    (RegistryError, "unknown"),
)
_STATES_BY_CODE = {4: "down", 6: "refused", 7: "refused"}


@dataclass
class Order:
    """The run that was ordered on one node, as far as it is known here.

    Attributes:
        node: the node's name.
        state: a state of runs; `timed out`, `refused` or `down`; `not found`
            where there is no such node; `unknown` where the registry cannot
            say whether there is.
        run_id: None if it is not known.
        report: the run's report, once it ended.
        code: the exit code that this node alone would make.
        is_over: nothing more is awaited.
        rows_told: how many rows of the report were told as they came; what comes
            after a row that got lost is told from the report.
        asking: a question how it goes is under way.
        ask_at: when to ask next, on the monotonic clock.
    """

    node: str
    state: str = "queued"
    run_id: str | None = None
    report: dict[str, Any] | None = None
    code: int = 0
    is_over: bool = False
    rows_told: int = field(default=0, repr=False)
    asking: bool = field(default=False, repr=False)
    ask_at: float = field(default=0.0, repr=False)

    def as_row(self) -> dict[str, Any]:
        """Return the row that programs read."""
        return {
            "node": self.node,
            "state": self.state,
            "run_id": self.run_id,
            "report": self.report,
        }


class Orders:
    """Runs on several nodes; used by one thread, once."""

    def __init__(
        self,
        fleet: Flock,
        nodes: Sequence[str],
        wanted: Mapping[str, Any],
        progress: Progress,
        *,
        wait: bool,
    ) -> None:
        """Note what is wanted; nothing is sent yet.

        Args:
            fleet: joined.
            nodes: names, each once.
            wanted: named arguments of `flock_api.run_chef`.
            progress: where it is shown how the runs go.
            wait: follow them to their ends, not only to their acceptance.
        """
        self._fleet = fleet
        self._me = fleet.node.identity.name
        self._wanted = {**wanted, "wait": wait, "tell": _TOPIC if wait else None}
        self._why_run = bool(wanted.get("why_run"))
        self._wait = wait
        self._progress = progress
        self._orders = [Order(node) for node in nodes]
        self._by_node = {order.node: order for order in self._orders}
        self._answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ask_every = max(_ASK_EVERY, len(nodes) / _MOST_QUESTIONS)

    def follow(self, timeout: float | None) -> list[Order]:
        """Order the runs and follow them; returns how each ended, in the order of `nodes`.

        Args:
            timeout: seconds for all of it; a run that is not over then is
                `timed out` and goes on over there. None for no limit.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stop_listening = self._fleet.node.topics.subscribers.listen(_TOPIC, self._told)
        try:
            return self._follow(deadline, timeout)
        finally:
            stop_listening()

    def _follow(self, deadline: float | None, timeout: float | None) -> list[Order]:
        self._send_all()
        while pending := [order for order in self._orders if not order.is_over]:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                for order in pending:
                    self._give_up(order, timeout or 0.0)
                break
            wake_at = now + self._ask_every
            if self._wait:
                for order in pending:
                    if not order.asking and order.ask_at <= now:
                        self._ask(order, now)
                    wake_at = min(wake_at, order.ask_at)
            if deadline is not None:
                wake_at = min(wake_at, deadline)
            self._take_answers(max(0.001, wake_at - now))
        return self._orders

    def _take_answers(self, within: float) -> None:
        """Take what came; wait for the first up to `within` seconds."""
        try:
            self._answers.get(timeout=within)()
            while True:
                self._answers.get_nowait()()
        except queue.Empty:
            return

    # --- the order itself

    def _send_all(self) -> None:
        away: RegistryError | None = None
        for order in self._orders:
            # Each question to a registry that is away costs seconds: one is enough.
            if away is not None:
                self._failed(order, away)
                continue
            try:
                api = self._live(order.node)["flock_api"]
                future = api.run_chef.future(**self._wanted)
            except RegistryError as error:
                away = error
                self._failed(order, error)
            except FlockError as error:
                self._failed(order, error)
            else:
                self._when_ready(future, order, self._answered)

    def _live(self, name: str) -> NodeProxy:
        """Return a live node.

        Raises:
            NodeDownError: it has a node object, and no process.
            NodeNotFound: there is no such node at all.
        """
        try:
            return self._fleet[name]
        except NodeNotFound:
            if NodeObjects(self._fleet.registry).read(name) is None:
                raise
            raise NodeDownError(f"no process has the name {name} now", may_have_run=False) from None

    def _when_ready(
        self, future: Future[Any], order: Order, then: Callable[[Order, Future[Any]], None]
    ) -> None:
        future.on_ready(lambda ready: self._answers.put(lambda: then(order, ready)))

    def _answered(self, order: Order, future: Future[Any]) -> None:
        if order.is_over:
            return
        error = future.error()
        if error is not None:
            self._failed(order, error)
            return
        answer: dict[str, Any] = future.get()
        order.is_over = True
        order.state, order.run_id = answer["state"], answer["run_id"]
        if not self._wait:
            self._progress.ended(order.node, f"run {order.run_id} is {order.state}")
            return
        order.report = answer
        order.code = 0 if order.state == "ok" else 1
        for row in answer["resources"][order.rows_told :]:
            self._show_row(order, row)
        self._progress.did(order.node, {}, list(beside_lines(answer)))
        self._progress.ended(order.node, summary(answer))

    def _failed(self, order: Order, error: BaseException) -> None:
        order.is_over = True
        order.code = exit_code(error)
        by_code = _STATES_BY_CODE.get(order.code, "failed")
        order.state = next((state for kind, state in _STATES if isinstance(error, kind)), by_code)
        said = error_line(error, order.node).removeprefix(f"{order.node}: ")
        self._progress.ended(order.node, f"{order.state}: {said}")

    def _give_up(self, order: Order, waited: float) -> None:
        order.is_over = True
        order.state, order.code = "timed out", 4
        known = f"run {order.run_id} goes on" if order.run_id else "its run may go on"
        self._progress.ended(
            order.node,
            f"timed out: not over after {waited:g} s, {known}; see `flockctl runs {order.node}`",
        )

    # --- how it goes

    def _told(self, node: str, event: Any) -> None:
        """Take an event of a run, on the reader's thread; a gap shows by its row's number."""
        if isinstance(event, Mapping):
            self._answers.put(lambda: self._step(node, event))

    def _step(self, node: str, event: Mapping[str, Any]) -> None:
        """Show a step of a run as it is made."""
        order = self._by_node.get(node)
        if order is None or order.is_over:
            return
        if event["event"] == "resource started":
            order.run_id, order.state = event["run_id"], "running"
            self._progress.did(node, event, ())
        elif event.get("row") == order.rows_told + 1:
            order.rows_told += 1
            self._show_row(order, event)

    def _show_row(self, order: Order, row: Mapping[str, Any]) -> None:
        if row["state"] not in ("changed", "failed"):
            return
        said = resource_line(row, why_run=self._why_run)
        lines = [f"{row['number']} of {row['of']}, {said}" if "number" in row else said]
        if self._why_run:
            lines += diff_lines(row)
        self._progress.did(order.node, row, lines)

    def _ask(self, order: Order, now: float) -> None:
        """Ask how a run goes; on this thread after the order, so answered after it, too."""
        order.asking = True
        order.ask_at = now + self._ask_every
        future = self._fleet[order.node]["flock_api"].status.future()
        self._when_ready(future, order, self._heard)

    def _heard(self, order: Order, future: Future[Any]) -> None:
        order.asking = False
        # No answer here says nothing of the run: the order's own future does.
        if order.is_over or future.error() is not None:
            return
        status: dict[str, Any] = future.get()
        if order.run_id is None:
            order.run_id = self._run_id_in(status)
        running = status["running"]
        if running is not None and running["run_id"] == order.run_id:
            order.state = "running"
        self._progress.goes_on(order.node, order.run_id, status)

    def _run_id_in(self, status: Mapping[str, Any]) -> str | None:
        """Return the id of our run: ours by who asked, or the queued one, which we joined."""
        running, queued = status["running"], status["queued"]
        if running is not None and running["asked_by"] == self._me:
            return str(running["run_id"])
        return str(queued["run_id"]) if queued is not None else None
