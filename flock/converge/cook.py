"""Makes one run after the other: compiles, converges, keeps what lasts, tells.

The kitchen's queue decides when; here is what then happens, in which order,
and what is left standing: the resources of the last complete run list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flock.converge.attributes import Attributes
from flock.converge.cancellation import Cancellation
from flock.converge.commands import Commands
from flock.converge.compile import Compilation
from flock.converge.cookbooks import Cookbooks
from flock.converge.dishes import LEDGER, read_dishes, washing_with
from flock.converge.events import Events
from flock.converge.kept_cookbooks import KeptCookbooks
from flock.converge.ledger import Ledger
from flock.converge.locks import Locksmith, RunLocks
from flock.converge.node_object import NodeObject
from flock.converge.notification import Trail
from flock.converge.outbound import Outbound
from flock.converge.provider import Machine
from flock.converge.report import RunState
from flock.converge.resource import Resource
from flock.converge.run import Run
from flock.converge.runner import Runner
from flock.converge.waiting import Lookout
from flock.converge.washing import Washing
from flock.errors import FlockError, JournalError, RunCancelled, RunFailed, UsageError
from flock.journal import Journal

log = logging.getLogger("flock.converge")

Handler = Callable[[dict[str, Any]], object]
Around = Callable[[Run], AbstractContextManager[object]]
"""Makes what a run's recipes and resources happen inside of."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the settings want called: `start` with the run, the others with its report."""

    start: tuple[Handler, ...] = ()
    report: tuple[Handler, ...] = ()
    exception: tuple[Handler, ...] = ()


class Cook:
    """Makes runs and single actions; one at a time, the queue sees to that.

    Attributes:
        run_list: the node's own.
        standing: the last complete compilation of the node's own run list.
        at_work: the run, or the action of a notice, that goes on right now.
        acted: called when the action of a notice begins, and when it is over.
        runner: what converges right now.
        unkept: the report of the last run if the journal could not keep it.
    """

    def __init__(
        self,
        node: NodeObject,
        run_list: Sequence[str],
        cookbooks: Cookbooks,
        state_dir: Path,
        journal: Journal,
        events: Events,
        handlers: Handlers,
        words: Mapping[str, Any],
        outbound: Outbound | None,
        locksmith: Locksmith | None,
        lookout: Lookout | None,
        around: Around,
        delayed_after_failure: bool,
    ) -> None:
        """Make a cook; the arguments are the kitchen's."""
        self.run_list = list(run_list)
        self.standing: Compilation | None = None
        self._tried: Compilation | None = None
        self.at_work: Run | None = None
        self.acted: Callable[[], None] = lambda: None
        self.runner: Runner | None = None
        self.unkept: dict[str, Any] | None = None
        self._node = node
        self._cookbooks = cookbooks
        self._state_dir = state_dir
        self._journal = journal
        self._events = events
        self._handlers = handlers
        self._words = dict(words)
        self._outbound = outbound
        self._locksmith = locksmith
        self._lookout = lookout
        self._around = around
        self._delayed_after_failure = delayed_after_failure
        self._commands = Commands()

    def close(self) -> None:
        """End what commands left to end; the next one begins anew."""
        self._commands.close()

    # --- what stands

    def declare(self) -> None:
        """Compile the node's own run list; afterwards it stands.

        Raises:
            RecipeError: what stood before stands.
        """
        compilation = self._compilation(self.run_list)
        self._tried = compilation
        compilation.compile()
        self.standing = compilation

    @property
    def expansion(self) -> tuple[list[str], list[str]]:
        """Roles and recipes of the node's own run list.

        As what stands has them; before anything does, as the last attempt had
        them, or as they were last saved, whatever was wrong in a recipe or
        role: a machine is found by its role when that is mended.
        """
        known = self.standing or self._tried
        if known is not None and (known is self.standing or known.expanded_recipes):
            return list(known.roles), list(known.expanded_recipes)
        return self._node.expansion_of(self.run_list)

    def standing_resource(self, name: str, action: str) -> Resource | None:
        """Return a resource that stands and has this action."""
        found = None if self.standing is None else self.standing.resources.find(name)
        return found if found is not None and found.can(action) else None

    def would_change(self, name: str, action: str) -> bool | None:
        """Say whether an action would change anything; None if that cannot be told."""
        standing, found = self.standing, self.standing_resource(name, action)
        if standing is None or found is None:
            return None
        with standing.active():
            run = Run(self._node.name, "a look", [], why_run=True)
            runner = self._new_runner(run, standing, self._new_locks(run))
            return runner.would_change(found, action)

    def take_up_notices(self) -> None:
        """Settle what a process armed that died; the run lock is held, and something stands."""
        if self._outbound is not None and self.standing is not None:
            self._outbound.take_up("", self.would_change)

    def public_attributes(self) -> dict[str, Any]:
        """Return the merged attributes without what is sensitive."""
        return self._node.public(self._attributes())

    def node_object(self) -> dict[str, Any]:
        """Return what others may know of this machine."""
        return self._object_of(self._attributes())

    def dishes(self) -> list[dict[str, Any]]:
        """Return the machine's dishes as rows."""
        normal = self._attributes().levels["normal"]
        return [dish.as_row() for dish in read_dishes(normal)]

    def settle_dead_runs(self) -> None:
        """Mark the runs of processes that died; the run lock is held."""
        for run_id in self._journal.settle_dead_runs():
            log.warning("%s: the process of run %s died in it", self._node.name, run_id)

    # --- what the queue asks for

    def perform(self, run: Run) -> tuple[RunState, str | None]:
        """Make a run from its start to its end, whatever happens in it."""

        def deed() -> None:
            self.settle_dead_runs()
            self._take_up_assigned(run)
            self._journal.save_run(run.report.as_data())
            self._tell(run, "run started", {"run_list": run.report.run_list})
            self._call("start", self._handlers.start, run, run.as_data)
            locks = self._new_locks(run)
            with _held(locks):
                self._take_run_lock(run, locks)
                if run.wash is None:
                    self._converge(run, locks)
                else:
                    self._wash(run, run.wash, locks)

        with self._working(run):
            return self._outcome(run, deed)

    def keep(self, run: Run, state: RunState, error: str | None) -> None:
        """Note a run's end in the journal."""
        run.report.end(state, error)
        final = run.report.as_data()
        try:
            self._journal.save_run(final, last_words=True)
            self.unkept = None
        except JournalError:
            self.unkept = final
            log.exception("%s: the report of run %s is not kept", self._node.name, run.run_id)

    def announce(self, run: Run) -> None:
        """Tell everybody that a run is over."""
        final = run.report.as_data()
        unwashed = run.unwashed if run.state == "ok" else None
        self._tell(run, "run ended", {"report": final, "unwashed": unwashed})
        if run.state == "ok":
            self._call("report", self._handlers.report, run, run.report.as_data)
        else:
            self._call("exception", self._handlers.exception, run, run.report.as_data)
        run.settle(final)

    def queued(self, run: Run) -> None:
        """Tell that a run was accepted and waits for its turn."""
        self._tell(run, "run queued", run.as_data())

    def wait_for_lock(self, run: Run, holder: str) -> None:
        """Tell that a run waits for another process."""
        self._tell(run, "run waiting", {"holder": holder})

    def act(self, run: Run, resource: str, action: str, trail: Trail) -> None:
        """Run one action of a standing resource as a run of its own; fills the run's report.

        Raises:
            UsageError: no such resource stands, or it has no such action.
        """
        standing, found = self.standing, self.standing_resource(resource, action)
        if standing is None or found is None:
            raise UsageError(f"{self._node.name} has no resource {resource} that can {action}")
        run.report.begin()
        before = self._node.normal(standing.attributes)

        def deed() -> None:
            locks = self._new_locks(run)
            washing = self._new_washing(run, standing, standing, "only whole runs wash dishes")
            with standing.active(), washing_with(washing), self._around(run), _held(locks):
                self._new_runner(run, standing, locks).act_alone(found, action, trail)

        def keep() -> None:
            self._keep_changes(standing.attributes, before)

        try:
            with self._working(run):
                self.acted()
                outcome = self._outcome(run, deed)
                kept = self._outcome(run, keep)
        finally:
            self.acted()
        if outcome[0] == "ok":
            outcome = kept
        if self._outbound is not None:
            run.report.notices += self._outbound.run_over(run.run_id, complete=False)
        run.report.end(*outcome)

    # --- inside

    @contextmanager
    def _working(self, run: Run) -> Iterator[None]:
        """Let others see what goes on."""
        self.at_work = run
        try:
            yield
        finally:
            self.at_work = None

    def _outcome(self, run: Run, deed: Callable[[], None]) -> tuple[RunState, str | None]:
        """Do something, and say how it ended whatever happened."""
        try:
            deed()
        except RunCancelled as cancelled:
            return "cancelled", str(cancelled)
        except FlockError as failure:
            return "failed", str(failure)
        except (Exception, SystemExit) as failure:
            log.exception("%s: run %s failed", self._node.name, run.run_id)
            return "failed", f"{type(failure).__name__}: {failure}"
        return "ok", None

    def _take_up_assigned(self, run: Run) -> None:
        """Let a run begin with environment and run list as they stand now."""
        assigned = self._node.take_up_assigned()
        if assigned is not None:
            self.run_list = list(assigned.run_list)
        if run.override_run_list is None:
            run.report.run_list = list(self.run_list)

    def _take_run_lock(self, run: Run, locks: RunLocks) -> None:
        """Take the lock that a run is under as a whole, if it is under one.

        Raises:
            RunFailed: it is not had: nothing was looked at or done.
        """
        if run.lock is not None and not locks.take(run.lock):
            raise RunFailed(locks.holder_of(run.lock.lockid))

    def _converge(self, run: Run, locks: RunLocks) -> None:
        """Compile and converge."""
        compilation = self._compilation(run.report.run_list, run.cancellation)
        before = self._node.normal(compilation.attributes)
        if run.is_own and not run.why_run:
            self._tried = compilation
        run.report.recipes = compilation.recipes
        washing = self._new_washing(
            run,
            compilation,
            compilation,
            "" if run.is_own else "an override run list says nothing of what is still in use",
        )
        try:
            with self._around(run):
                try:
                    compilation.compile()
                finally:
                    if not run.why_run:
                        washing.saw(compilation.recipes)
            self._node.check(compilation.attributes, self._object_of(compilation.attributes))
            if run.is_own and not run.why_run:
                self.standing = compilation
                washing.judge()
            runner = self._new_runner(run, compilation, locks)
            self.runner = washing.runner = runner
            with compilation.active(), washing_with(washing), self._around(run):
                if run.is_own:
                    runner.take_up_left_over()
                    if self._outbound is not None and not run.why_run:
                        self._outbound.take_up(
                            run.run_id, partial(_would_change, runner, compilation)
                        )
                runner.converge()
        except FlockError as failure:
            self._end(run, compilation, before, failure)
            raise
        finally:
            self.runner = None
        if run.is_own and not run.why_run:
            run.unwashed = washing.unwashed_sinks()
        self._end(run, compilation, before)

    def _wash(self, run: Run, sinks: Sequence[str], locks: RunLocks) -> None:
        """Compile the own run list to judge by it, and converge nothing but the washes."""
        judged = self._compilation(run.report.run_list, run.cancellation)
        with self._around(run):
            judged.compile()
        compilation = judged.beside()
        before = self._node.normal(compilation.attributes)
        run.report.recipes = compilation.recipes
        washing = self._new_washing(run, compilation, judged)
        for sink in sinks:
            compilation.declare_alone("dishes_sink", sink, {}, f"wash {sink}")
        runner = self._new_runner(run, compilation, locks)
        self.runner = washing.runner = runner
        try:
            with compilation.active(), washing_with(washing), self._around(run):
                runner.converge()
        except FlockError as failure:
            self._end(run, compilation, before, failure)
            raise
        finally:
            self.runner = None
        self._end(run, compilation, before)

    def _new_washing(
        self, run: Run, compilation: Compilation, judged: Compilation, refusal: str = ""
    ) -> Washing:
        """Make what washes a run's dishes; in a why-run nothing is written."""

        def write(records: Mapping[str, dict[str, Any] | None]) -> None:
            if not run.why_run:
                self._node.save_values(
                    compilation.attributes,
                    LEDGER,
                    dict(records),
                    self.node_object(),
                    self._attributes(),
                )

        kept = KeptCookbooks(self._state_dir / "dishes", Cookbooks(self._cookbooks.folder))
        return Washing(compilation, judged, kept, write, refusal)

    def _new_locks(self, run: Run) -> RunLocks:
        """Make what holds a run's locks."""
        return RunLocks(
            self._locksmith,
            run.report,
            run.cancellation,
            run.waits,
            lambda event, said: self._tell(run, event, said),
            why_run=run.why_run,
        )

    def _new_runner(self, run: Run, compilation: Compilation, locks: RunLocks) -> Runner:
        """Make what converges the resources of a compilation."""
        machine = Machine(
            self._commands,
            run.cancellation,
            files=compilation.cookbooks,
            attributes=lambda: compilation.merged_attributes,
            state_dir=self._state_dir,
            why_run=run.why_run,
        )
        return Runner(
            compilation.resources,
            compilation.kinds,
            machine,
            run.report,
            lambda event, said: self._tell(run, event, said),
            locks,
            ledger=None if run.why_run else Ledger(self._journal, run.run_id),
            outbound=self._outbound,
            lookout=self._lookout,
            delayed_after_failure=self._delayed_after_failure,
        )

    def _end(
        self,
        run: Run,
        compilation: Compilation,
        before: Mapping[str, Any],
        failure: FlockError | None = None,
    ) -> None:
        """Keep what lasts, let notices go; that this fails too must not hide an earlier failure.

        All attributes are what others find the machine by: those of a run list
        that is not its own, or was not executed whole, would hide it from them.
        """
        if run.why_run:
            return
        try:
            if self._outbound is not None:
                run.report.notices += self._outbound.run_over(
                    run.run_id, run.is_own and failure is None
                )
            is_first = self.standing is None and not self._node.is_kept()
            if compilation is self.standing or is_first:
                self._node.save(compilation.attributes, self.node_object())
            else:
                self._keep_changes(compilation.attributes, before)
        except FlockError as error:
            if failure is None:
                raise
            if str(error) != str(failure):
                log.error(
                    "%s: run %s: what lasts is not saved: %s", self._node.name, run.run_id, error
                )

    def _keep_changes(self, attributes: Attributes, before: Mapping[str, Any]) -> None:
        """Keep what changed in normal attributes, and nothing else."""
        self._node.save_changes(attributes, before, self.node_object(), self._attributes())

    def _attributes(self) -> Attributes:
        """Return the attributes of the node's own run list, as others see them.

        As what stands has them; before anything does, as far as the last
        attempt came; before the first, what lasts.
        """
        known = self.standing or self._tried
        return self._node.attributes() if known is None else known.attributes

    def _object_of(self, attributes: Attributes) -> dict[str, Any]:
        """Return what others may know of this machine, with these attributes."""
        roles, recipes = self.expansion
        return self._node.as_data(attributes, self.run_list, roles, recipes)

    def _compilation(
        self, run_list: Sequence[str], cancellation: Cancellation | None = None
    ) -> Compilation:
        """Make a compilation with fresh attributes."""
        return Compilation(
            self._node.name,
            self._node.environment,
            run_list,
            # Its own: what a wash brings in is there for one run.
            Cookbooks(self._cookbooks.folder),
            self._node.attributes(cancellation),
            self._words,
            cancellation,
        )

    def _call(
        self,
        moment: str,
        handlers: Sequence[Handler],
        run: Run,
        data: Callable[[], dict[str, Any]],
    ) -> None:
        """Call handlers, each with data of its own; one that fails spoils nothing."""
        for handler in handlers:
            try:
                handler(data())
            except (Exception, SystemExit) as error:
                function = getattr(handler, "__qualname__", None)
                name = repr(handler) if function is None else f"{handler.__module__}:{function}"
                why = f"{type(error).__name__}: {error}"
                log.exception(
                    "%s: run %s: the %s handler %s failed: %s",
                    self._node.name,
                    run.run_id,
                    moment,
                    name,
                    why,
                )
                self._tell(run, "handler failed", {"moment": moment, "handler": name, "error": why})

    def _tell(self, run: Run, event: str, said: Mapping[str, Any]) -> None:
        """Tell an event of a run."""
        self._events.tell(run.run_id, event, {"why_run": run.why_run, **said}, run.listeners)


def _would_change(runner: Runner, compilation: Compilation, name: str, action: str) -> bool | None:
    """Say whether an action of a declared resource would change anything; None if unknown."""
    found = compilation.resources.find(name)
    return None if found is None else runner.would_change(found, action)


@contextmanager
def _held(locks: RunLocks) -> Iterator[None]:
    """Let `held` speak of a run's locks, and give them back when the run is over."""
    failed = True
    try:
        with locks.active():
            yield
        locks.boundary()  # what was done last counts, too
        failed = False
    finally:
        locks.end(failed=failed)
