"""One machine's cookbooks, run list, resources and runs.

One run at a time: while one runs exactly one more is queued; whoever asks for
the same as the queued one joins it, others are refused. Nobody joins a run
that has started: its recipes may be older than what the caller just pushed.

All methods may be called from any thread. A run always settles: after
any failure the kitchen is idle again and takes the next order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flock.converge import facts as machine_facts
from flock.converge.attributes import look_up
from flock.converge.cancellation import Cancellation
from flock.converge.cook import Around, Cook, Handler, Handlers
from flock.converge.cookbooks import Cookbooks
from flock.converge.events import Events
from flock.converge.fact_engines import EngineFacts
from flock.converge.locks import Locksmith, LockWish
from flock.converge.node_object import NodeObject
from flock.converge.node_store import JournalStore, NodeStore
from flock.converge.notification import Trail
from flock.converge.outbound import Outbound
from flock.converge.resource import Resource
from flock.converge.run import Run
from flock.converge.run_lock import RunLock
from flock.converge.run_queue import RunQueue
from flock.converge.waiting import Lookout
from flock.errors import RunCancelled
from flock.journal import Journal, head_of

log = logging.getLogger("flock.converge")

_LAST_RUN_KEYS = ("run_id", "state", "started", "seconds", "error")


class Kitchen:
    """Converges one machine, now and whenever it is asked to."""

    def __init__(
        self,
        name: str,
        cookbooks: Path | None,
        run_list: Sequence[str],
        state_dir: Path,
        environment: str = "_default",
        *,
        journal: Journal,
        store: NodeStore | None = None,
        outbound: Outbound | None = None,
        locksmith: Locksmith | None = None,
        lookout: Lookout | None = None,
        run_lock: LockWish | None = None,
        around: Around = nullcontext,
        facts: Callable[[], Mapping[str, Any]] = machine_facts.collect,
        fact_engine: str | None = None,
        sensitive_attributes: Sequence[str] = (),
        words: Mapping[str, Any] | None = None,
        delayed_after_failure: bool = True,
        start_handlers: Sequence[Handler] = (),
        report_handlers: Sequence[Handler] = (),
        exception_handlers: Sequence[Handler] = (),
    ) -> None:
        """Set a kitchen up; nothing is read or run yet.

        Args:
            name: the node's name.
            cookbooks: the folder with the cookbooks; None if there are none.
            run_list: the node's own run list.
            state_dir: the node's state folder; the run lock lies there.
            environment: the node's environment; a run takes up what the store
                says by then.
            journal: keeps the reports.
            store: keeps normal attributes and the node object; the journal by
                default.
            outbound: takes notices for other machines.
            locksmith: gives runs their locks; without one none is ever had.
            lookout: watches what waits ask for; without one they are asked
                again after their pause alone.
            run_lock: the lock that each run is under as a whole, unless it is
                ordered under another one.
            around: makes what the recipes and resources of a run happen inside
                of, on the run's thread.
            facts: returns the automatic attributes; asked once a run.
            fact_engine: `facter` or `ohai`, whose facts are merged over those.
            sensitive_attributes: dotted paths of attributes that never leave
                this machine.
            words: what recipes may import from `flock.recipe` beside its own
                words, by name.
            delayed_after_failure: make delayed notifications after a failure too.
            start_handlers: called with the run, as plain data, when it starts.
            report_handlers: called with the report of a run that ended well,
                on the run's thread: it is active until they have returned.
            exception_handlers: called so with the report of one that did not.
                A handler that raises is logged and changes nothing.
        """
        self.name = name
        self.state_dir = state_dir
        self._run_lock = run_lock
        self._journal = journal
        self._events = Events(name)
        self._node = NodeObject(
            name,
            environment,
            journal,
            store or JournalStore(journal),
            EngineFacts(fact_engine, journal, facts) if fact_engine else lambda _: facts(),
            sensitive_attributes,
        )
        self._cook = Cook(
            self._node,
            run_list,
            Cookbooks(cookbooks),
            state_dir,
            journal,
            self._events,
            Handlers(tuple(start_handlers), tuple(report_handlers), tuple(exception_handlers)),
            words or {},
            outbound,
            locksmith,
            lookout,
            around,
            delayed_after_failure,
        )
        self._queue = RunQueue(name, RunLock(state_dir / "run.lock"), self._cook)

    # --- what it is

    @property
    def run_list(self) -> list[str]:
        """The node's own run list; a copy."""
        return list(self._cook.run_list)

    def set_run_list(self, run_list: Sequence[str]) -> None:
        """Set the node's own run list; the next run or `declare` reads it."""
        self._cook.run_list = list(run_list)

    @property
    def environment(self) -> str:
        """The node's environment, as the last run took it up."""
        return self._node.environment

    @property
    def roles(self) -> list[str]:
        """The roles of the expanded run list, as last compiled."""
        return self._cook.expansion[0]

    @property
    def recipes(self) -> list[str]:
        """The recipes of the expanded run list, as last compiled."""
        return self._cook.expansion[1]

    def declare(self) -> None:
        """Execute the run list's recipes without converging anything.

        Afterwards resources stand, and roles and recipes are known. A node
        does so at each start.

        Raises:
            RecipeError: a recipe is wrong; what stood before stands.
        """
        self._queue.do_if_idle(self._cook.settle_dead_runs)
        self._cook.declare()

    def node_attributes(self, path: str | None = None) -> Any:
        """Return attributes of this node as plain data, without the sensitive ones.

        Args:
            path: dotted keys and indices, `kernel.release`; None for all.

        Raises:
            LookupError: names the first key that is missing.
        """
        return look_up(self._cook.public_attributes(), path)

    def node_object(self) -> dict[str, Any]:
        """Return what others may know of this machine: head, normal and merged attributes."""
        return self._cook.node_object()

    # --- ordering runs

    def order_run(
        self,
        asked_by: str,
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
        lock: LockWish | None = None,
        listener: Callable[[dict[str, Any]], None] | None = None,
    ) -> Run:
        """Order a run; returns at once.

        Args:
            asked_by: who wants it, for the report.
            override_run_list: run this instead of the node's own run list;
                then nothing that lasts is changed but what resources do.
            why_run: name the changes, make none.
            lock: the lock that the run is under as a whole; not had, the run
                fails, and nothing was done.
            listener: called with each event of the run, on its thread; must not
                block.

        Returns:
            A new run, or the queued one if that is asked to do the same. It
            starts after this call, never before.

        Raises:
            BusyError: another kind of run is queued, or the node is leaving.
        """

        def new_run() -> Run:
            run = Run(
                self.name,
                asked_by,
                self.run_list,
                override_run_list,
                why_run,
                lock or self._run_lock,
            )
            if listener is not None:
                run.listeners.append(listener)
            return run

        return self._queue.join_or_add(new_run)

    def order_wash(self, asked_by: str, sinks: Sequence[str], why_run: bool = False) -> Run:
        """Order a run that washes the dirty dishes of some sinks, and does nothing else.

        Dirty is judged by the node's own run list as it is then.

        Args:
            asked_by: who wants it, for the report.
            sinks: which.
            why_run: name the dishes that would be washed.

        Raises:
            BusyError: as in `order_run`.
        """
        return self._queue.join_or_add(
            lambda: Run(
                self.name, asked_by, self.run_list, None, why_run, self._run_lock, list(sinks)
            )
        )

    def dishes(self) -> list[dict[str, Any]]:
        """Return the machine's dishes as rows, in order of first use."""
        return self._cook.dishes()

    def converge(
        self,
        asked_by: str,
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
        *,
        wait: bool = False,
    ) -> dict[str, Any]:
        """Run now and return the report; for a process that is no node.

        Args:
            asked_by: who wants it, for the report.
            override_run_list: as in `order_run`.
            why_run: as in `order_run`.
            wait: if another process runs here, wait for it instead of being
                refused.

        Raises:
            BusyError: a run is going on; says whose.
            KeyboardInterrupt: passed on after the run was cancelled and has settled.
        """
        run = Run(self.name, asked_by, self.run_list, override_run_list, why_run, self._run_lock)
        self._queue.add_alone(run, wait=wait)
        try:
            # Woken now and then: a signal that another thread took is handled when this one wakes.
            while (report := run.wait(1.0)) is None:
                pass
        except KeyboardInterrupt:
            self.cancel(run.run_id, reason="interrupted")
            self._queue.await_end(run)
            raise
        return report

    def stands(self, resource: str, action: str) -> bool:
        """Say whether a resource of this name was declared and has this action.

        Resources stand from the last complete run list of the node's own, so
        that something can be asked of them between runs.
        """
        return self._cook.standing_resource(resource, action) is not None

    def would_change(self, resource: str, action: str) -> bool | None:
        """Say whether an action of a standing resource would change anything; it is not made.

        Returns:
            None if that cannot be told without doing it: a command, a resource
            that stands no more, or one that fails when it is looked at.
        """
        return self._cook.would_change(resource, action)

    def knows(self, resource: str) -> bool:
        """Say whether a resource of this name was declared, whatever it can do."""
        standing = self._cook.standing
        return standing is not None and standing.resources.find(resource) is not None

    def is_declared(self) -> bool:
        """Say whether the node's own run list was declared without an error."""
        return self._cook.standing is not None

    def standing_resources(self) -> list[Resource]:
        """Return the resources that stand, in the order they were declared."""
        return [] if self._cook.standing is None else list(self._cook.standing.resources)

    def take_up_notices(self) -> None:
        """Settle notices that a process armed here before it died, unless a run goes on.

        What goes on settles them itself.
        """
        self._queue.do_if_idle(self._cook.take_up_notices)

    def act(
        self,
        resource: str,
        action: str,
        asked_by: str,
        *,
        trail: Trail = (),
        cancellation: Cancellation | None = None,
        begin: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Run one action of a standing resource with all that it sets off.

        Waits until no run goes on here, and keeps runs out meanwhile. Happens
        on the caller's thread.

        Args:
            resource: `kind[name]`.
            action: one of its actions.
            asked_by: who wants it, for the report.
            trail: the (resource, action) pairs that led here; coming round to
                one of them is a failure.
            cancellation: ends it; leaving does so too.
            begin: called with the run's id when its turn has come, before
                anything is done; what it raises is passed on, and nothing is done.

        Returns:
            A report as of a run, also if it failed; it is not kept.

        Raises:
            UsageError: no such resource stands, or it has no such action.
            RunCancelled: cancelled before it began, or ended because the node leaves.
            BusyError: the node is leaving.
        """
        deed = f"{action} {resource}"
        run = Run(self.name, asked_by, [], cancellation=cancellation, deed=deed)
        with self._queue.alone(deed, run.cancellation):
            if begin is not None:
                begin(run.run_id)
            self._cook.act(run, resource, action, trail)
        if run.state == "cancelled" and self._queue.is_leaving:
            raise RunCancelled(run.cancellation.reason)
        return run.report.as_data()

    def acts(self) -> bool:
        """Say whether the action of a notice goes on."""
        return self._acting() is not None

    def on_action(self, callback: Callable[[], None]) -> None:
        """Call `callback` when an action of a notice begins, and when it is over.

        Args:
            callback: called on the action's thread; must return at once.
        """
        self._cook.acted = callback

    def _acting(self) -> Run | None:
        """Return the action of a notice that goes on, as a run of its own."""
        run = self._cook.at_work
        return None if run is None or run.deed is None else run

    def at_work(self) -> Run | None:
        """Return the run, or the action of a notice, that goes on right now; None for nothing.

        Its `waits` say what it waits for.
        """
        return self._cook.at_work

    def tell_circle(self, run_id: str, waiting: Mapping[str, Any]) -> None:
        """Tell that a run waits for somebody who waits for it.

        Args:
            run_id: the run.
            waiting: its wait, as plain data.
        """
        self._events.tell(run_id, "waits in circle", waiting)

    def cancel(self, run_id: str | None = None, *, reason: str = "cancelled") -> Run | None:
        """End a run, or the action of a notice: its command is killed within 5 s, its waits end.

        Args:
            run_id: which one; None for what goes on, else the queued run.
            reason: for the report.

        Returns:
            The run, None if there is no such run going on or queued.
        """
        acting = self._acting()
        if acting is not None and run_id in (None, acting.run_id):
            acting.cancel(reason)
            return acting
        return self._queue.cancel(run_id, reason)

    def stop(self, timeout: float = 60.0) -> None:
        """Leave: the run stops at its next boundary, and is cancelled after `timeout` seconds.

        Orders are refused from now on, and a queued run is cancelled. Returns
        when nothing runs any more, or after 15 s more: what is in Python code that
        goes on is left to the end of the process. Twice is harmless.
        """
        self._queue.stop(timeout)
        self._cook.close()

    # --- what is known of runs

    def active(self) -> bool:
        """Say whether a run was accepted and is not over yet."""
        return self._queue.runs != (None, None)

    def status(self) -> dict[str, Any]:
        """Return what is going on, as plain data."""
        (running, queued), runner = self._queue.runs, self._cook.runner
        acting = self._acting()
        last = self.last_run()
        status: dict[str, Any] = {
            "node": self.name,
            "active": running is not None or queued is not None,
            "running": running.as_data() if running is not None else None,
            "queued": queued.as_data() if queued is not None else None,
            "acting": acting.as_data() if acting is not None else None,
            "resource": None,
            "number": 0,
            "of": 0,
            "waiting": None,
            "last_run": None if last is None else {key: last[key] for key in _LAST_RUN_KEYS},
        }
        if (at_work := running or acting) is not None:
            status["waiting"] = at_work.waits.as_data()
        if running is not None and runner is not None:
            number = runner.number
            status.update(number=number, of=len(runner.resources))
            if 0 < number <= len(runner.resources):
                status["resource"] = str(runner.resources[number - 1])
        return status

    def last_run(self) -> dict[str, Any] | None:
        """Return the report of the last run that ended, None if there was none."""
        unkept = self._cook.unkept
        if unkept is not None:
            return unkept
        for head in self._journal.runs():
            if head["state"] not in ("queued", "running"):
                return self._journal.run(head["run_id"])
        return None

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the heads of the last runs, the newest first; a queued one is the first."""
        # One that has just begun may not be in the journal yet.
        running, queued = self._queue.runs
        heads = [head_of(each.report.as_data()) for each in (queued, running) if each is not None]
        ids = {head["run_id"] for head in heads}
        heads += [head for head in self._journal.runs(limit) if head["run_id"] not in ids]
        return heads[: max(0, limit)]

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of a run as it stands, None if none of this id is kept."""
        for run in self._queue.runs:
            if run is not None and run.run_id == run_id:
                return run.report.as_data()
        return self._journal.run(run_id)

    def on_event(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `callback` with each event of a run, in order, on the run's thread.

        `flock.converge.events` says what they hold.

        Args:
            callback: must not block for long; what it raises is logged.

        Returns:
            A function that ends it.
        """
        return self._events.listen(callback)
