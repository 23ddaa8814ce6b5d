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

from flock.converge.asking import Asking
from flock.converge.collection import Collection
from flock.converge.delayed import DelayedActions
from flock.converge.kinds import Kinds
from flock.converge.ledger import Ledger
from flock.converge.locks import RunLocks
from flock.converge.mistakes import mistake_text
from flock.converge.notification import Notification, Timing, Trail
from flock.converge.outbound import Outbound
from flock.converge.provider import Change, Machine, Outcome, Skipped
from flock.converge.report import Report, Row
from flock.converge.resource import Resource, with_lazy_values
from flock.converge.waiting import Lookout
from flock.errors import FlockError, RecipeError, RunCancelled, RunFailed

log = logging.getLogger("flock.converge")

Emit = Callable[[str, Mapping[str, Any]], None]
"""Takes the name of an event and what is to be said with it."""

_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(slots=True)
class _Deed:
    """One action of one resource while it is made.

    Attributes:
        trail: what notified it, the first cause first; empty in the walk.
        armed: ids in the ledger of the notifications that a change sets off,
            in the order of `notifications`.
        outbound: what `Outbound.arm` returned.
        is_armed: whether all was noted that is to be before the first change.
    """

    resource: Resource
    action: str
    trail: Trail
    row: Row
    diffs: list[str] = field(default_factory=list)
    armed: list[int] = field(default_factory=list)
    outbound: object | None = None
    is_armed: bool = False

    @property
    def notifications(self) -> list[Notification]:
        """What is notified after a change."""
        return [each for each in self.resource.notifications if each.timing is not Timing.BEFORE]

    @property
    def own_trail(self) -> Trail:
        """The trail of what this deed sets off."""
        return (*self.trail, (str(self.resource), self.action))


@dataclass(slots=True, eq=False)
class Section:
    """Resources that were included while the walk went on, and stand or fall together.

    A failure in one leaves out the rest of the section, and not of the walk.

    Attributes:
        resources: what was included, in order.
        ended: told when the walk is past them, with the failure or None.
        failure: what went wrong, also before any of them was converged.
    """

    resources: list[Resource]
    ended: Callable[[str | None], None]
    failure: str | None = None
    passed: int = 0


class _NotBegun(RunFailed):
    """An action was not begun, for no fault of its own: what led to it stays in the ledger."""


class Runner:
    """One walk over the resources of a run; used by one thread.

    Attributes:
        resources: what is converged; may grow behind the place the walk is at.
        report: gets a row per action.
        number: the resource the walk is at, from 1; other threads may read it.
    """

    def __init__(
        self,
        resources: Collection,
        kinds: Kinds,
        machine: Machine,
        report: Report,
        emit: Emit,
        locks: RunLocks,
        *,
        ledger: Ledger | None = None,
        outbound: Outbound | None = None,
        lookout: Lookout | None = None,
        delayed_after_failure: bool = True,
    ) -> None:
        """Make a runner; it begins with `converge` or `act`.

        Args:
            resources: what is converged.
            kinds: knows the providers.
            machine: what providers use.
            report: gets a row per action.
            emit: told of each step.
            locks: what the run holds; told by us what to do when one is taken,
                and before one is released.
            ledger: keeps notifications over the death of the process; None
                where nothing is changed.
            outbound: takes notices for other machines.
            lookout: watches what waits ask for.
            delayed_after_failure: make delayed notifications after a failure too.
        """
        self.resources = resources
        self.report = report
        self.number = 0
        self._kinds = kinds
        self._machine = machine
        self._emit = emit
        self._locks = locks
        self._ledger = ledger
        self._outbound = outbound
        self._delayed_after_failure = delayed_after_failure
        self._sections: list[Section] = []
        self._section_failures: list[str] = []
        self._asking = Asking(machine, emit, locks.waits, lookout)
        self._delayed = DelayedActions(resources, locks, ledger, self.would_change, emit)
        locks.on_taken = self._delayed.take_up_under
        locks.before_release = self._make_delayed_under

    def converge(self) -> None:
        """Converge all resources, then make the delayed notifications.

        Raises:
            RunFailed: names each resource that failed, with where it was declared.
            RunCancelled: somebody cancelled the run, or asked it to stop.
        """
        self._settle(self._walk, walks=True)

    def act_alone(self, resource: Resource, action: str, trail: Trail = ()) -> None:
        """Run one action of one resource with all that it sets off, outside a walk.

        Args:
            resource: one of `resources`.
            action: what it is to do.
            trail: what led here.

        Raises:
            RunFailed: as in `converge`.
            RunCancelled: as in `converge`.
        """
        self._settle(lambda: self._act(resource, action, trail))

    def add_section(self, section: Section) -> None:
        """Take note of resources that were inserted behind the place the walk is at.

        Sections are ended in the order in which they were added; what failed
        in one fails the run when the walk is over.
        """
        self._sections.append(section)

    def add_row(self, row: Row) -> None:
        """Report something that no single resource did."""
        self.report.rows.append(row)
        said = {
            "number": self.number,
            "of": len(self.resources),
            **row.as_data(),
            "diffs": [],
            "row": len(self.report.rows),
        }
        self._emit(f"resource {row.state}", said)

    def take_up_left_over(self) -> None:
        """Add the notifications that earlier runs left to the delayed ones of this run."""
        self._delayed.take_up_left_over()

    # --- the walk

    def _settle(self, deed: Callable[[], None], *, walks: bool = False) -> None:
        """Do something, then make the delayed notifications, whatever happened.

        Args:
            deed: what is done.
            walks: it is the walk, which goes on if a delayed action included something.
        """
        failures: list[str] = []
        stopped: RunCancelled | None = None
        try:
            deed()
        except RunFailed as error:
            failures += [*self._section_failures, str(error)]
        except RunCancelled as error:
            if self._machine.cancellation.cancelled:
                raise
            stopped = error
        else:
            failures += self._section_failures
        self._section_failures = []
        if self._delayed_after_failure or not failures:
            self._make_delayed(failures)
        if failures:
            raise RunFailed("; ".join(failures))
        if stopped is not None:
            raise stopped
        if walks and (self._sections or self.number < len(self.resources)):
            self._settle(deed, walks=True)

    def _walk(self) -> None:
        """Converge the resources in order; the list may grow meanwhile."""
        self._end_sections()
        while self.number < len(self.resources):
            self._machine.cancellation.check_boundary()
            resource = self.resources[self.number]
            self.number += 1
            section = self._section_of(resource)
            if section is None:
                self._act_all(resource)
            else:
                self._act_in(section, resource)
            self._end_sections()

    def _act_all(self, resource: Resource) -> None:
        """Run the actions that a resource was declared with."""
        for action in resource.wanted_actions:
            self._act(resource, action, ())

    def _act_in(self, section: Section, resource: Resource) -> None:
        """Run them for a resource of a section, unless one before it there failed."""
        section.passed += 1
        if section.failure is not None:
            return
        try:
            self._act_all(resource)
        except _NotBegun:
            raise
        except RunFailed as error:
            section.failure = str(error)

    def _section_of(self, resource: Resource) -> Section | None:
        """Return the section a resource belongs to, if it belongs to one."""
        for section in self._sections:
            if any(each is resource for each in section.resources):
                return section
        return None

    def _end_sections(self) -> None:
        """End the sections that the walk is past."""
        while self._sections and self._sections[0].passed == len(self._sections[0].resources):
            section = self._sections.pop(0)
            if section.failure is not None:
                self._section_failures.append(section.failure)
            try:
                section.ended(section.failure)
            except FlockError as error:
                self._section_failures.append(str(error))

    def _act(self, resource: Resource, action: str, trail: Trail) -> None:
        """Run one action of one resource, and then its immediate notifications."""
        deed = _Deed(resource, action, trail, Row(str(resource), resource.declared_in, action))
        if deed.own_trail[-1] in trail:
            steps = deed.own_trail[trail.index(deed.own_trail[-1]) :]
            circle = " → ".join(f"{action} {name}" for name, action in steps)
            raise RunFailed(f"notifications go in a circle: {circle} ({resource.where})")
        self._machine.cancellation.check()
        try:
            self._locks.boundary()
        except RunFailed as lost:
            raise _NotBegun(str(lost)) from lost
        row = deed.row
        begun = time.monotonic()
        self._tell("resource started", deed)
        failure: BaseException | None = None
        try:
            self._work(deed)
            row.state = "changed" if row.changes else "unchanged"
        except Skipped as reason:
            row.state, row.error = "skipped", str(reason) or None
        except RunCancelled as cancelled:
            row.state, row.error, failure = "failed", f"cancelled: {cancelled}", cancelled
        except (Exception, SystemExit) as error:
            # The lines of a traceback show what is to be shown nowhere.
            log.debug("%s failed", resource, exc_info=not resource.sensitive)
            row.state, row.error, failure = "failed", _error_text(error, resource), error
        row.seconds = time.monotonic() - begun
        self.report.rows.append(row)
        self._disarm(deed)
        if row.state == "changed" and self._machine.why_run and self._outbound is not None:
            self.report.notices += self._outbound.foretell(resource, self.report.notices)
        self._tell(f"resource {row.state}", deed, diffs=deed.diffs, row=len(self.report.rows))
        if isinstance(failure, RunCancelled):
            raise failure
        # A failure of the run, as a lost lock, is not the resource's to ignore.
        is_ignored = resource.ignore_failure and not isinstance(failure, RunFailed)
        if failure is not None and not is_ignored:
            raise RunFailed(f"{resource} ({resource.where}): {row.error}") from failure
        if row.state == "changed":
            self._notify(deed)

    # --- notifications

    def _notify(self, deed: _Deed) -> None:
        """Note down what is delayed, then run what is to run immediately."""
        ids: Sequence[int | None] = deed.armed or [None] * len(deed.notifications)
        pairs = list(zip(deed.notifications, ids, strict=True))
        trail, lockids = deed.own_trail, deed.resource.lockids
        for notification, ledger_id in pairs:
            if notification.timing is Timing.DELAYED:
                target = self._target(notification.target)
                self._delayed.add(target, notification.action, trail, lockids, ledger_id)
        for notification, ledger_id in pairs:
            if notification.timing is Timing.IMMEDIATELY:
                self._act_once(
                    self._target(notification.target), notification.action, trail, [ledger_id]
                )

    def _make_delayed(self, failures: list[str], under: str | None = None) -> None:
        """Make the delayed notifications, and those that arise meanwhile; a failure stops none.

        Args:
            failures: gets what went wrong.
            under: only those that this lock protects.
        """
        while waiting := self._delayed.ready(under):
            for delayed in waiting:
                delayed.is_made = True
                try:
                    self._act_once(
                        delayed.target, delayed.action, delayed.trail, delayed.ledger_ids
                    )
                except RunFailed as error:
                    failures.append(str(error))

    def _make_delayed_under(self, lockid: str) -> None:
        """Make the delayed notifications that a lock protects, before it is released."""
        failures: list[str] = []
        self._make_delayed(failures, lockid)
        if failures:
            raise RunFailed("; ".join(failures))

    def _act_once(
        self, target: Resource, action: str, trail: Trail, ids: Sequence[int | None]
    ) -> None:
        """Run a notified action, and note that it was made, well or badly."""
        try:
            self._act(target, action, trail)
        except _NotBegun:
            raise
        except RunFailed:
            self._delayed.strike_off(ids)
            raise
        self._delayed.strike_off(ids)

    def _target(self, name: str) -> Resource:
        """Return a notified resource; that it is there was checked when the recipes were read."""
        target = self.resources.find(name)
        assert target is not None
        return target

    # --- the ledger

    def _arm(self, deed: _Deed, wanted: Resource) -> None:
        """Note whom the change concerns, before the first one of a deed is made."""
        trail = deed.own_trail
        if self._ledger is not None and deed.notifications:
            deed.armed = self._ledger.arm(wanted, deed.action, deed.notifications, trail)
        if self._outbound is not None:
            deed.outbound = self._outbound.arm(self.report.run_id, wanted, deed.action, trail)
        deed.is_armed = True

    def _disarm(self, deed: _Deed) -> None:
        """Say what became of the change whose notifications are armed.

        One that failed half-way stays armed: the next run looks what is left.
        """
        changed = deed.row.state == "changed"
        if deed.row.changes and not changed:
            return
        if deed.armed and self._ledger is not None:
            (self._ledger.make_due if changed else self._ledger.strike_off)(deed.armed)
        if deed.outbound is not None and self._outbound is not None:
            self.report.notices += self._outbound.settle(deed.outbound, changed)

    def would_change(self, resource: Resource, action: str) -> bool | None:
        """Say whether an action would change anything, without doing it; None if it cannot tell."""
        if not resource.can_tell or not resource.can(action):
            return None
        try:
            return self._would_change(with_lazy_values(resource), action)
        except Exception as error:  # noqa: BLE001 - own code of recipes: not knowing is an answer
            log.warning("%s cannot be looked at: %s", resource, _error_text(error, resource))
            return None

    # --- one action

    def _work(self, deed: _Deed) -> None:
        """Do what one action needs; fills the row's changes.

        Raises:
            Skipped: nothing was to be done.
        """
        resource = deed.resource
        if deed.action == "nothing":
            raise Skipped
        self._asking.check(resource)
        tries_left = resource.retries
        is_first = True
        while True:
            try:
                wanted = with_lazy_values(resource)
                if is_first:
                    self._notify_before(deed, wanted)
                is_first = False
                self._make_changes(deed, wanted)
            except (RunCancelled, RunFailed, Skipped):
                raise
            except Exception as error:
                if tries_left <= 0:
                    raise
                tries_left -= 1
                text = _error_text(error, resource)
                log.warning("%s failed, trying again: %s", resource, text)
                self._tell("resource retried", deed, error=text)
                self._machine.cancellation.pause(resource.retry_delay)
            else:
                return

    def _notify_before(self, deed: _Deed, wanted: Resource) -> None:
        """Run what is to run before the resource changes, if it would change."""
        before = [each for each in wanted.notifications if each.timing is Timing.BEFORE]
        if before and self._would_change(wanted, deed.action):
            self._take_locks(wanted)
            for notification in before:
                self._act(self._target(notification.target), notification.action, deed.own_trail)

    def _take_locks(self, wanted: Resource) -> None:
        """Take the locks that a resource is to be changed under; those held are joined.

        Raises:
            Skipped: one is not had; names who has it.
            RunFailed: the run had one, and lost it.
        """
        for wish in wanted.lock_wishes:
            if not self._locks.take(wish):
                raise Skipped(self._locks.holder_of(wish.lockid))

    def _make_changes(self, deed: _Deed, wanted: Resource) -> None:
        """Make each change the provider names before the next is asked for."""
        kind = self._kinds.find(wanted.kind, wanted.where)
        for change in kind.changes(wanted, deed.action, self._machine):
            if not isinstance(change, Change):
                raise TypeError(f"{deed.action} of {wanted.kind} yields {change!r}, not a Change")
            texts: Sequence[str] = [change.text]
            diff = change.diff
            if not self._machine.why_run:
                self._machine.cancellation.check()
                if not deed.is_armed:
                    self._take_locks(wanted)
                    self._arm(deed, wanted)
                self._locks.doing(f"{deed.action} {wanted}")
                outcome = change.apply()
                if isinstance(outcome, Outcome):
                    texts, diff = outcome.texts, outcome.diff
            deed.row.changes += texts
            if diff and not wanted.sensitive:
                deed.diffs.append(diff)

    def _would_change(self, wanted: Resource, action: str) -> bool:
        """Say whether the action would change anything, without doing it."""
        dry = copy.copy(self._machine)
        dry.why_run = True
        kind = self._kinds.find(wanted.kind, wanted.where)
        return next(kind.changes(wanted, action, dry), None) is not None

    def _tell(self, event: str, deed: _Deed, **more: Any) -> None:
        """Tell what happens to a resource."""
        said = {"number": self.number, "of": len(self.resources), **deed.row.as_data()}
        if deed.trail:
            said["notified_by"] = deed.trail[-1][0]
        self._emit(event, {**said, **more})


def _error_text(error: BaseException, resource: Resource) -> str:
    """Say what went wrong in one line; where in the user's own code, if it was there."""
    if resource.sensitive and not isinstance(error, RunFailed):
        return f"{type(error).__name__} (hidden: the resource is sensitive)"
    if isinstance(error, RecipeError):
        # Whoever reads this is told already which resource failed, and where it stands.
        return str(error).removeprefix(f"{resource.where}: {resource}: ")
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, FlockError | OSError):
        return str(error) or type(error).__name__
    text = mistake_text(error)
    place = _place_in_own_code(traceback.extract_tb(error.__traceback__))
    return f"{text} ({place})" if place else text


def _place_in_own_code(stack: Sequence[traceback.FrameSummary]) -> str:
    """Return `file:line` of the last frame outside this package, if the error went through one."""
    for frame in reversed(stack):
        if not frame.filename.startswith(_PACKAGE):
            return f"{frame.filename}:{frame.lineno}"
    return ""
