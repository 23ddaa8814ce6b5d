"""One machine's cookbooks, run list, resources and runs.

One run at a time: while one runs exactly one more is queued; whoever asks for
the same as the queued one joins it, others are refused. Nobody joins a run
that has started: its recipes may be older than what the caller just pushed.

Runs happen on a thread of the kitchen that lives only while there is something
to run. All methods may be called from any thread. A run always settles: after
any failure the kitchen is idle again and takes the next order.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flock.converge import facts as machine_facts
from flock.converge.attributes import Attributes, look_up, without
from flock.converge.commands import Commands
from flock.converge.compile import Compilation
from flock.converge.cookbooks import Cookbooks
from flock.converge.node_store import JournalStore, NodeStore
from flock.converge.provider import Machine
from flock.converge.report import RunState, now_text
from flock.converge.run import Run
from flock.converge.run_lock import RunLock
from flock.converge.runner import Runner
from flock.errors import BusyError, FlockError, JournalError, RunCancelled
from flock.journal import Journal

log = logging.getLogger("flock.converge")

LOCK_PAUSE = 0.2
"""Seconds between two tries for a run lock that another process holds."""

_LAST_RUN_KEYS = ("run_id", "state", "started", "seconds", "error")

Handler = Callable[[dict[str, Any]], object]


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
        facts: Callable[[], Mapping[str, Any]] = machine_facts.collect,
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
            environment: the node's environment.
            journal: keeps the reports.
            store: keeps normal attributes and the node object; the journal by
                default.
            facts: returns the automatic attributes; asked once a run.
            sensitive_attributes: dotted paths of attributes that never leave
                this machine.
            words: what recipes may import from `flock.recipe` beside its own
                words, by name.
            delayed_after_failure: make delayed notifications after a failure too.
            start_handlers: called with the run when it starts.
            report_handlers: called with the report of a run that ended well.
            exception_handlers: called with the report of one that did not.
        """
        self.name = name
        self.environment = environment
        self.state_dir = state_dir
        self._cookbooks = Cookbooks(cookbooks)
        self._run_list = list(run_list)
        self._journal = journal
        self._store = store or JournalStore(journal)
        self._facts = facts
        self._sensitive = tuple(sensitive_attributes)
        self._words = dict(words or {})
        self._delayed_after_failure = delayed_after_failure
        self._handlers = {
            "start": tuple(start_handlers),
            "report": tuple(report_handlers),
            "exception": tuple(exception_handlers),
        }
        self._commands = Commands()
        self._run_lock = RunLock(state_dir / "run.lock")

        self._lock = threading.Lock()
        self._running: Run | None = None
        self._queued: Run | None = None
        self._worker: threading.Thread | None = None
        self._leaving = False
        self._wake = threading.Event()
        self._runner: Runner | None = None
        self._last: dict[str, Any] | None = None
        self._standing: Compilation | None = None
        self._newest: Compilation | None = None
        self._listeners: list[Callable[[dict[str, Any]], None]] = []

    # --- what it is

    @property
    def run_list(self) -> list[str]:
        """The node's own run list; a copy."""
        with self._lock:
            return list(self._run_list)

    def set_run_list(self, run_list: Sequence[str]) -> None:
        """Set the node's own run list; the next run or `declare` reads it."""
        with self._lock:
            self._run_list = list(run_list)

    @property
    def roles(self) -> list[str]:
        """The roles of the expanded run list, as last compiled."""
        return list(self._standing.roles) if self._standing else []

    @property
    def recipes(self) -> list[str]:
        """The recipes of the expanded run list, as last compiled."""
        return list(self._standing.expanded_recipes) if self._standing else []

    def declare(self) -> None:
        """Execute the run list's recipes without converging anything.

        Afterwards resources stand, and roles and recipes are known. A node
        does so at each start.

        Raises:
            RecipeError: a recipe is wrong; what stood before stands.
        """
        with self._lock:
            if self._running is None and self._run_lock.take(""):
                self._journal.settle_dead_runs()
                self._run_lock.release()
        compilation = self._compilation(self.run_list)
        self._newest = compilation
        compilation.compile()
        self._standing = compilation

    def node_attributes(self, path: str | None = None) -> Any:
        """Return attributes of this node as plain data, without the sensitive ones.

        Args:
            path: dotted keys and indices, `kernel.release`; None for all.

        Raises:
            LookupError: names the first key that is missing.
        """
        compilation = self._newest
        attributes = self._attributes() if compilation is None else compilation.attributes
        return look_up(without(attributes.merged(), self._sensitive), path)

    # --- ordering runs

    def order_run(
        self,
        asked_by: str,
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
    ) -> Run:
        """Order a run; returns at once.

        Args:
            asked_by: who wants it, for the report.
            override_run_list: run this instead of the node's own run list;
                then nothing that lasts is changed but what resources do.
            why_run: name the changes, make none.

        Returns:
            A new run, or the queued one if that is asked to do the same. It
            starts after this call, never before.

        Raises:
            BusyError: another kind of run is queued, or the node is leaving.
        """
        with self._lock:
            self._refuse_if_leaving()
            if self._queued is not None:
                if self._queued.asks_the_same(override_run_list, why_run):
                    return self._queued
                raise BusyError(
                    f"{self.name} is busy: run {self._queued.run_id} is queued already and is"
                    " another kind of run"
                )
            run = self._new_run(asked_by, override_run_list, why_run)
            if self._running is not None or not self._take_run_lock(run):
                self._queued = run
            self._start_worker()
            return run

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
        with self._lock:
            self._refuse_if_leaving()
            if self._running is not None or self._queued is not None:
                raise BusyError(f"{self.name} is busy: a run is going on in this process")
            run = self._new_run(asked_by, override_run_list, why_run)
            if not self._take_run_lock(run):
                if not wait:
                    raise BusyError(f"{self.name} is busy: {self._run_lock.holder()} is converging")
                self._queued = run
            self._start_worker()
        try:
            report = run.wait()
        except KeyboardInterrupt:
            self.cancel(run.run_id, reason="interrupted")
            run.wait()
            raise
        assert report is not None
        return report

    def cancel(self, run_id: str | None = None, *, reason: str = "cancelled") -> Run | None:
        """End a run: its command is killed within 5 s, its waits end.

        Args:
            run_id: which one; None for the one that runs, else the queued one.
            reason: for the report.

        Returns:
            The run, None if there is no such run going on or queued.
        """
        with self._lock:
            known = [run for run in (self._running, self._queued) if run is not None]
            run = next((each for each in known if run_id in (None, each.run_id)), None)
            if run is not None and run is self._queued:
                self._queued = None
            else:
                known = []
        if run is None:
            return None
        run.cancel(reason)
        self._wake.set()
        if known:
            self._settle(run, "cancelled", reason)
        return run

    def stop(self, timeout: float = 60.0) -> None:
        """Leave: the run stops at its next boundary, and is cancelled after `timeout` seconds.

        Orders are refused from now on, and a queued run is cancelled. Returns
        when nothing runs any more; twice is harmless.
        """
        with self._lock:
            self._leaving = True
            running, queued, worker = self._running, self._queued, self._worker
        if queued is not None:
            self.cancel(queued.run_id, reason="the node is leaving")
        if running is not None:
            running.cancellation.stop("the node is leaving")
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)
            if worker.is_alive() and running is not None:
                running.cancel("the node is leaving")
                worker.join()
        self._commands.close()

    # --- what is known of runs

    def active(self) -> bool:
        """Say whether a run was accepted and is not over yet."""
        with self._lock:
            return self._running is not None or self._queued is not None

    def status(self) -> dict[str, Any]:
        """Return what is going on, as plain data."""
        with self._lock:
            running, queued, runner = self._running, self._queued, self._runner
        last = self.last_run()
        status: dict[str, Any] = {
            "node": self.name,
            "active": running is not None or queued is not None,
            "running": running.as_data() if running is not None else None,
            "queued": queued.as_data() if queued is not None else None,
            "resource": None,
            "number": 0,
            "of": 0,
            "waiting": None,
            "last_run": {
                key: last[key] for key in ("run_id", "state", "started", "seconds", "error")
            }
            if last is not None
            else None,
        }
        if running is not None and runner is not None:
            number = runner.number
            status.update(number=number, of=len(runner.resources), waiting=runner.waiting)
            if 0 < number <= len(runner.resources):
                status["resource"] = str(runner.resources[number - 1])
        return status

    def last_run(self) -> dict[str, Any] | None:
        """Return the report of the last run that ended, None if there was none."""
        last = self._last
        if last is not None:
            return last
        for head in self._journal.runs():
            if head["state"] not in ("queued", "running"):
                return self._journal.run(head["run_id"])
        return None

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the heads of the last runs, the newest first."""
        return self._journal.runs(limit)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of a run as it stands, None if none of this id is kept."""
        with self._lock:
            for run in (self._running, self._queued):
                if run is not None and run.run_id == run_id:
                    return run.report.as_data()
        return self._journal.run(run_id)

    def on_event(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `callback` with each event of a run, in order, on the run's thread.

        An event has `event` (`run queued`, `run waiting`, `run started`,
        `resource started`, `resource waiting`, `resource retried`, `resource
        changed`, `resource unchanged`, `resource skipped`, `resource failed`,
        `run ended`), `node`, `run_id`, `time`; those of a resource `number` and
        `of` and the fields of its row, `run ended` the report.

        Args:
            callback: must not block for long; what it raises is logged.

        Returns:
            A function that ends it.
        """
        self._listeners.append(callback)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return forget

    # --- inside: orders

    def _new_run(
        self, asked_by: str, override_run_list: Sequence[str] | None, why_run: bool
    ) -> Run:
        """Make a run of an order."""
        return Run(self.name, asked_by, self._run_list, override_run_list, why_run)

    def _refuse_if_leaving(self) -> None:
        """Take no order when the node is going."""
        if self._leaving:
            raise BusyError(f"{self.name} is leaving and takes no run")

    def _take_run_lock(self, run: Run) -> bool:
        """Let a run start if no other process runs here; our lock is held."""
        if not self._run_lock.take(run.run_id):
            return False
        self._running = run
        run.report.begin()
        return True

    def _start_worker(self) -> None:
        """See to it that somebody runs what was ordered; our lock is held."""
        if self._worker is None:
            self._worker = threading.Thread(
                target=self._work, name=f"kitchen-{self.name}", daemon=True
            )
            self._worker.start()

    def _work(self) -> None:
        """Run what was ordered until there is nothing left."""
        told = ""
        while True:
            with self._lock:
                run = self._running
                if run is None and self._queued is None:
                    self._worker = None
                    return
                self._wake.clear()
                if run is None and self._queued is not None and self._take_run_lock(self._queued):
                    run, self._queued = self._queued, None
                waiting = self._queued
            if run is not None:
                self._perform(run)
                told = ""
                continue
            holder = self._run_lock.holder()
            if waiting is not None and holder != told:
                told = holder
                log.info("%s: run %s waits for %s", self.name, waiting.run_id, holder)
                self._emit(waiting, "run waiting", {"holder": holder})
            self._wake.wait(LOCK_PAUSE)

    # --- inside: one run

    def _perform(self, run: Run) -> None:
        """Make a run from its start to its end, whatever happens in it."""
        state: RunState = "ok"
        error: str | None = None
        try:
            self._journal.settle_dead_runs()
            self._journal.save_run(run.report.as_data())
            self._emit(run, "run started", {"run_list": run.report.run_list})
            self._call_handlers("start", run.as_data())
            self._converge(run)
        except RunCancelled as cancelled:
            state, error = "cancelled", str(cancelled)
        except FlockError as failure:
            state, error = "failed", str(failure)
        except Exception as failure:
            log.exception("%s: run %s failed", self.name, run.run_id)
            state, error = "failed", f"{type(failure).__name__}: {failure}"
        self._settle(run, state, error)

    def _converge(self, run: Run) -> None:
        """Compile and converge."""
        compilation = self._compilation(run.report.run_list)
        self._newest = compilation
        run.report.recipes = compilation.recipes
        try:
            compilation.compile()
            if run.is_own and not run.why_run:
                self._standing = compilation
            machine = Machine(
                self._commands,
                run.cancellation,
                files=self._cookbooks,
                attributes=lambda: compilation.merged_attributes,
                state_dir=self.state_dir,
                why_run=run.why_run,
            )
            runner = Runner(
                compilation.resources,
                compilation.kinds,
                machine,
                run.report,
                lambda event, said: self._emit(run, event, said),
                self._delayed_after_failure,
            )
            self._runner = runner
            with compilation.active():
                runner.converge()
        finally:
            self._runner = None
            if not run.why_run:
                self._store.save(self._node_object(compilation))

    def _settle(self, run: Run, state: RunState, error: str | None) -> None:
        """End a run: keep its report, be idle again, tell everybody, in this order."""
        run.report.end(state, error)
        final = run.report.as_data()
        try:
            self._journal.save_run(final, last_words=True)
        except JournalError:
            log.exception("%s: the report of run %s is not kept", self.name, run.run_id)
        with self._lock:
            self._last = final
            if self._running is run:
                self._running = None
                self._run_lock.release()
        self._emit(run, "run ended", {"report": final})
        self._call_handlers("report" if state == "ok" else "exception", final)
        run.settle(final)

    def _compilation(self, run_list: Sequence[str]) -> Compilation:
        """Make a compilation with fresh attributes."""
        return Compilation(
            self.name, self.environment, run_list, self._cookbooks, self._attributes(), self._words
        )

    def _attributes(self) -> Attributes:
        """Return attributes as they are before any recipe."""
        return Attributes(self._facts(), self._store.normal_attributes())

    def _node_object(self, compilation: Compilation) -> dict[str, Any]:
        """Return what is known of this machine and lasts."""
        merged = compilation.merged_attributes
        return {
            "name": self.name,
            "run_list": self.run_list,
            "roles": self.roles,
            "recipes": self.recipes,
            "environment": self.environment,
            "tags": list(merged.get("tags", [])),
            "normal": without(compilation.attributes.levels["normal"], ()),
            "attributes": without(merged, self._sensitive),
        }

    # --- inside: telling

    def _emit(self, run: Run, event: str, said: Mapping[str, Any]) -> None:
        """Tell an event to the log and to whoever listens."""
        told = {"event": event, "node": self.name, "run_id": run.run_id, "time": now_text(), **said}
        _log_event(told)
        for listener in tuple(self._listeners):
            with _logged("a listener"):
                listener(told)

    def _call_handlers(self, moment: str, data: dict[str, Any]) -> None:
        """Call the handlers of the settings; one that fails spoils nothing."""
        for handler in self._handlers[moment]:
            with _logged(f"the {moment} handler {handler!r}"):
                handler(data)


@contextlib.contextmanager
def _logged(who: str) -> Iterator[None]:
    """Log what somebody else's code raises."""
    try:
        yield
    except Exception:
        log.exception("%s failed", who)


def _log_event(told: Mapping[str, Any]) -> None:
    """Write the events that people want to read into the log."""
    event = told["event"]
    if event == "resource changed":
        log.info("%s: %s %s: %s", told["node"], told["action"], told["resource"], told["changes"])
    elif event == "resource failed":
        log.error("%s: %s %s: %s", told["node"], told["action"], told["resource"], told["error"])
    elif event == "run started":
        log.info("%s: run %s started", told["node"], told["run_id"])
    elif event == "run ended":
        report = told["report"]
        log.info(
            "%s: run %s %s in %s s%s",
            told["node"],
            told["run_id"],
            report["state"],
            report["seconds"],
            f": {report['error']}" if report["error"] else "",
        )
