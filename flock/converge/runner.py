"""Converge resources in order: waits, guards, current state, changes, notifications.

The runner makes the changes that providers name, and only it does. A resource
whose action fails ends the walk (unless it says `ignore_failure`); delayed
notifications are still made, then the failure is told.
"""

from __future__ import annotations

import copy
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flock.converge.collection import Collection
from flock.converge.condition import Question, Wait
from flock.converge.kinds import Kinds
from flock.converge.notification import Timing
from flock.converge.provider import Machine
from flock.converge.report import Report, Row
from flock.converge.resource import Resource, with_lazy_values
from flock.errors import (
    CallError,
    FlockError,
    RegistryError,
    RunCancelled,
    RunFailed,
    WaitTimeout,
)

log = logging.getLogger("flock.converge")

Emit = Callable[[str, Mapping[str, Any]], None]
"""Takes the name of an event and what is to be said with it."""

Trail = tuple[tuple[str, str], ...]
"""The (resource, action) pairs through which a notification came, the first cause first."""

_PACKAGE = str(Path(__file__).parent.parent)
_SHOWN_ANSWER = 200


@dataclass(slots=True)
class _Delayed:
    """A notification that waits for the end of the run."""

    target: Resource
    action: str
    trail: Trail


class _Skipped(Exception):
    """The resource is not converged; the text says why."""


@dataclass(slots=True)
class Runner:
    """One walk over the resources of a run; used by one thread.

    Attributes:
        resources: what is converged; may grow behind the place the walk is at.
        kinds: knows the providers.
        machine: what providers use.
        report: gets a row per action.
        emit: told of each step.
        delayed_after_failure: make delayed notifications after a failure too.
        number: the resource the walk is at, from 1; other threads may read it.
        waiting: what is waited for right now, as plain data; others may read it.
    """

    resources: Collection
    kinds: Kinds
    machine: Machine
    report: Report
    emit: Emit
    delayed_after_failure: bool = True
    number: int = 0
    waiting: dict[str, Any] | None = None
    _delayed: list[_Delayed] = field(default_factory=list)
    _delayed_keys: set[tuple[str, str]] = field(default_factory=set)

    def converge(self) -> None:
        """Converge all resources, then make the delayed notifications.

        Raises:
            RunFailed: names each resource that failed, with where it was declared.
            RunCancelled: somebody cancelled the run, or asked it to stop.
        """
        failures: list[str] = []
        stopped: RunCancelled | None = None
        try:
            self._walk()
        except RunFailed as error:
            failures.append(str(error))
        except RunCancelled as error:
            if self.machine.cancellation.cancelled:
                raise
            stopped = error
        if self.delayed_after_failure or not failures:
            self._make_delayed(failures)
        if failures:
            raise RunFailed("; ".join(failures))
        if stopped is not None:
            raise stopped

    def act(self, resource: Resource, action: str, trail: Trail = ()) -> None:
        """Run one action of one resource, and then its immediate notifications.

        Raises:
            RunFailed: it failed, and is not to be ignored.
            RunCancelled: the run was cancelled.
        """
        if (str(resource), action) in trail:
            steps = [*trail[trail.index((str(resource), action)) :], (str(resource), action)]
            circle = " → ".join(f"{action} {name}" for name, action in steps)
            raise RunFailed(f"notifications go in a circle: {circle} ({resource.where})")
        self.machine.cancellation.check()
        row = Row(str(resource), resource.recipe, action)
        begun = time.monotonic()
        diffs: list[str] = []
        self._tell("resource started", row, trail)
        failure: BaseException | None = None
        try:
            self._work(resource, action, row, diffs, trail)
            row.state = "changed" if row.changes else "unchanged"
        except _Skipped as reason:
            row.state, row.error = "skipped", str(reason) or None
        except RunCancelled as cancelled:
            row.state, row.error, failure = "failed", f"cancelled: {cancelled}", cancelled
        except (Exception, SystemExit) as error:
            log.debug("%s failed", resource, exc_info=True)
            row.state, row.error, failure = "failed", _error_text(error, resource), error
        row.seconds = time.monotonic() - begun
        self.report.rows.append(row)
        self._tell(f"resource {row.state}", row, trail, diffs=diffs)
        if isinstance(failure, RunCancelled):
            raise failure
        if failure is not None and not resource.ignore_failure:
            raise RunFailed(f"{resource} ({resource.where}): {row.error}") from failure
        if row.state == "changed":
            self._notify(resource, (*trail, (str(resource), action)))

    # --- the walk

    def _walk(self) -> None:
        """Converge the resources in order; the list may grow meanwhile."""
        while self.number < len(self.resources):
            self.machine.cancellation.check_boundary()
            resource = self.resources[self.number]
            self.number += 1
            for action in resource.wanted_actions:
                self.act(resource, action)

    def _make_delayed(self, failures: list[str]) -> None:
        """Make the delayed notifications, and those that arise meanwhile; a failure stops none."""
        for delayed in self._delayed:
            try:
                self.act(delayed.target, delayed.action, delayed.trail)
            except RunFailed as error:
                failures.append(str(error))

    def _notify(self, resource: Resource, trail: Trail) -> None:
        """Run what is to run immediately; note down what is delayed."""
        for notification in resource.notifications:
            target = self._target(notification.target)
            if notification.timing is Timing.IMMEDIATELY:
                self.act(target, notification.action, trail)
            elif notification.timing is Timing.DELAYED:
                key = (notification.target, notification.action)
                if key not in self._delayed_keys:
                    self._delayed_keys.add(key)
                    self._delayed.append(_Delayed(target, notification.action, trail))

    def _target(self, name: str) -> Resource:
        """Return a notified resource; that it is there was checked when the recipes were read."""
        target = self.resources.find(name)
        assert target is not None
        return target

    # --- one action

    def _work(
        self, resource: Resource, action: str, row: Row, diffs: list[str], trail: Trail
    ) -> None:
        """Do what one action needs; fills the row's changes.

        Raises:
            _Skipped: nothing was to be done.
        """
        if action == "nothing":
            raise _Skipped
        for wait in resource.waits:
            self._wait(resource, wait)
        for guard in resource.guards:
            if bool(self._ask(guard.question, guard.options)) is not guard.wanted:
                raise _Skipped(resource.shown(str(guard)))
        before = [each for each in resource.notifications if each.timing is Timing.BEFORE]
        tries_left = resource.retries
        while True:
            try:
                wanted = with_lazy_values(resource)
                if before and self._would_change(wanted, action):
                    for notification in before:
                        target = self._target(notification.target)
                        self.act(target, notification.action, (*trail, (str(resource), action)))
                    before = []
                self._make_changes(wanted, action, row, diffs)
            except (RunCancelled, RunFailed):
                raise
            except Exception as error:
                if tries_left <= 0:
                    raise
                tries_left -= 1
                text = _error_text(error, resource)
                log.warning("%s failed, trying again: %s", resource, text)
                self._tell("resource retried", row, trail, error=text)
                self.machine.cancellation.pause(resource.retry_delay)
            else:
                return

    def _make_changes(self, wanted: Resource, action: str, row: Row, diffs: list[str]) -> None:
        """Make each change the provider names before the next is asked for."""
        kind = self.kinds.find(wanted.kind, wanted.where)
        for change in kind.changes(wanted, action, self.machine):
            if not self.machine.why_run:
                self.machine.cancellation.check()
                change.apply()
            row.changes.append(change.text)
            if change.diff and not wanted.sensitive:
                diffs.append(change.diff)

    def _would_change(self, wanted: Resource, action: str) -> bool:
        """Say whether the action would change anything, without doing it."""
        dry = copy.copy(self.machine)
        dry.why_run = True
        kind = self.kinds.find(wanted.kind, wanted.where)
        return next(kind.changes(wanted, action, dry), None) is not None

    def _ask(self, question: Question, options: Mapping[str, Any]) -> object:
        """Ask a guard's or wait's question."""
        if callable(question):
            return question()
        return self.machine.run(question, returns=None, **options).exit_code == 0

    def _wait(self, resource: Resource, wait: Wait) -> None:
        """Ask until the answer is as wanted, or the time is over.

        Raises:
            WaitTimeout: the time is over, and that is a failure.
            _Skipped: the time is over, and the resource is to be skipped.
        """
        begun = time.monotonic()
        shown = ""
        try:
            while True:
                try:
                    answer = self._ask(wait.question, {})
                except (CallError, RegistryError) as error:
                    # Not knowing is no answer: both kinds of wait go on.
                    last = str(error)
                else:
                    last = resource.shown(repr(answer)[:_SHOWN_ANSWER])
                    if bool(answer) is wait.wanted:
                        return
                waited = time.monotonic() - begun
                if waited >= wait.timeout:
                    self._give_up(wait, waited, last)
                    return
                self.waiting = {
                    "resource": str(resource),
                    "wait": str(wait),
                    "last": last,
                    "seconds": round(waited, 1),
                }
                if last != shown:
                    shown = last
                    self.emit("resource waiting", dict(self.waiting))
                self.machine.cancellation.pause(min(wait.pause, wait.timeout - waited))
        finally:
            self.waiting = None

    def _give_up(self, wait: Wait, waited: float, last: str) -> None:
        """End a wait whose time is over, as it asks for."""
        timeout = WaitTimeout(str(wait), round(waited, 1), last)
        if wait.on_timeout == "fail":
            raise timeout
        if wait.on_timeout == "skip":
            raise _Skipped(str(timeout))
        log.warning("%s; going on", timeout)

    def _tell(self, event: str, row: Row, trail: Trail, **more: Any) -> None:
        """Tell what happens to a resource."""
        said: dict[str, Any] = {"number": self.number, "of": len(self.resources), **row.as_data()}
        if trail:
            said["notified_by"] = trail[-1][0]
        self.emit(event, {**said, **more})


def _error_text(error: BaseException, resource: Resource) -> str:
    """Say what went wrong in one line; where in the user's own code, if it was there."""
    if resource.sensitive and not isinstance(error, RunFailed):
        return f"{type(error).__name__} (hidden: the resource is sensitive)"
    if isinstance(error, FlockError | OSError):
        return str(error) or type(error).__name__
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = _place_in_own_code(traceback.extract_tb(error.__traceback__))
    return f"{text} ({place})" if place else text


def _place_in_own_code(stack: Sequence[traceback.FrameSummary]) -> str:
    """Return `file:line` of the last frame outside this package, if the error went through one."""
    for frame in reversed(stack):
        if not frame.filename.startswith(_PACKAGE):
            return f"{frame.filename}:{frame.lineno}"
    return ""
