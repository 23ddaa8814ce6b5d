"""Ask what guards and waits ask, right before a resource is converged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from flock.converge.condition import Question, Wait, question_text
from flock.converge.plain_question import is_plain
from flock.converge.provider import Machine, Skipped
from flock.converge.resource import Resource
from flock.converge.waiting import Lookout, Waiting, Waits
from flock.errors import (
    CallError,
    CommandFailed,
    DeadlockError,
    RegistryError,
    WaitCircle,
    WaitTimeout,
)
from registry.contract import Cancel
from registry.readings import Reading, noted

log = logging.getLogger("flock.converge")

_SHOWN_ANSWER = 200

_MOST_WATCHED = 100
"""Things that are watched for one wait; who reads more asks again after its pause."""

_LEAST_TIME = 1.0
"""Seconds that a command has to answer, however little is left of the wait."""

NO_ANSWER = "no answer"
"""What a question read that ended in a call's or the registry's error."""


class Asking:
    """Asks the questions of one run's resources; used by one thread.

    Args:
        machine: runs commands.
        emit: told of each wait.
        waits: where others see what is waited for.
        lookout: watches what questions read; without one they are asked again
            after their pause alone.
    """

    def __init__(
        self,
        machine: Machine,
        emit: Callable[[str, Mapping[str, Any]], None],
        waits: Waits,
        lookout: Lookout | None = None,
    ) -> None:
        self._machine = machine
        self._emit = emit
        self._waits = waits
        self._lookout = lookout

    def check(self, resource: Resource) -> None:
        """Wait for what the resource waits for, then ask its guards.

        Raises:
            Skipped: a guard said no, or a wait ended and asks to skip.
            WaitTimeout: a wait ended, and that is a failure.
            RunCancelled: the run was cancelled.
        """
        for wait in resource.waits:
            plain = is_plain(wait.question)
            name = _shown(resource, wait)
            with self._waits.waiting(str(resource), name, is_plain=plain) as waiting:
                watched = _Watched(self._lookout, waiting.wake)
                try:
                    self._wait(resource, wait, waiting, watched)
                finally:
                    watched.end()
        for guard in resource.guards:
            if bool(self._ask(guard.question, guard.options)) is not guard.wanted:
                raise Skipped(resource.shown(str(guard)))

    def _ask(self, question: Question, options: Mapping[str, Any]) -> object:
        """Ask a question: call the function, or run the command."""
        if callable(question):
            return question()
        return self._machine.run(question, returns=None, **options).exit_code == 0

    def _wait(self, resource: Resource, wait: Wait, waiting: Waiting, watched: _Watched) -> None:
        """Ask until the answer is as wanted, or the time is over."""
        shown = ""
        refused: DeadlockError | None = None
        while True:
            waiting.begin_question()
            circle = ""
            with noted() as readings:
                try:
                    answer = self._ask(wait.question, _limited(wait, waiting.seconds))
                except CommandFailed as error:
                    if waiting.seconds < wait.timeout:
                        raise
                    # It was ended because the wait is over.
                    last = resource.shown(str(error))
                except (CallError, RegistryError) as error:
                    # Not knowing is no answer: both kinds of wait go on.
                    last = str(error)
                    readings.add(Reading(NO_ANSWER))
                    if isinstance(error, DeadlockError):
                        if refused is not None and refused.chain == error.chain:
                            circle = str(error)
                        refused = error
                    else:
                        refused = None
                else:
                    refused = None
                    last = resource.shown(repr(answer)[:_SHOWN_ANSWER])
                    if bool(answer) is wait.wanted:
                        return
            waiting.end_question(last, readings)
            if waiting.gave_up or circle:
                circle = circle or waiting.circle
                name = _shown(resource, wait)
                _give_up(wait, WaitCircle(name, round(waiting.seconds, 1), last, circle))
                return
            if waiting.seconds >= wait.timeout:
                name = _shown(resource, wait)
                _give_up(wait, WaitTimeout(name, round(waiting.seconds, 1), last))
                return
            if last != shown:
                shown = last
                self._emit("resource waiting", waiting.as_data())
            # What is watched from now on may have changed since it was read.
            if not watched.take_up(readings):
                waiting.pause(max(0.0, min(wait.pause, wait.timeout - waiting.seconds)))


class _Watched:
    """The watches of one wait."""

    def __init__(self, lookout: Lookout | None, changed: Callable[[], None]) -> None:
        self._lookout = lookout
        self._changed = changed
        self._watches: dict[Reading, Cancel | None] = {}

    def take_up(self, readings: set[Reading]) -> bool:
        """Watch what was read and is not watched yet; say whether that was anything."""
        if self._lookout is None or len(readings) > _MOST_WATCHED:
            return False
        is_new = False
        for reading in readings - self._watches.keys():
            if len(self._watches) >= _MOST_WATCHED:
                break
            try:
                watch = self._watches[reading] = self._lookout.watch(reading, self._changed)
            except (CallError, RegistryError) as error:
                log.debug("%s is not watched yet: %s", reading, error)
                continue
            is_new = is_new or watch is not None
        return is_new

    def end(self) -> None:
        """End all watches."""
        for cancel in self._watches.values():
            if cancel is not None:
                cancel()


def _limited(wait: Wait, seconds: float) -> dict[str, Any]:
    """Return how a wait's command is run: it ends with the wait; a question asked once has time."""
    if not wait.timeout:
        return {}
    # The last question has time, too. And rather a little more of it than less: a command that
    # is ended before the wait is over would have failed by itself.
    return {"timeout": math.ceil(max(_LEAST_TIME, wait.timeout - seconds) * 10) / 10}


def _shown(resource: Resource, wait: Wait) -> str:
    """Name a wait for people: without its question, if the resource is sensitive."""
    return f"{wait.kind} {resource.shown(question_text(wait.question))}"


def _give_up(wait: Wait, error: WaitTimeout) -> None:
    """End a wait that is over without the wanted answer, as it asks for."""
    if wait.on_timeout == "fail":
        raise error
    if wait.on_timeout == "skip":
        raise Skipped(str(error))
    log.warning("%s; going on", error)
