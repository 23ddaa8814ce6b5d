"""Ask what guards and waits ask, right before a resource is converged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from flock.converge.condition import Question, Wait
from flock.converge.provider import Machine, Skipped
from flock.converge.resource import Resource
from flock.errors import CallError, RegistryError, WaitTimeout

log = logging.getLogger("flock.converge")

_SHOWN_ANSWER = 200


class Asking:
    """Asks the questions of one run's resources; used by one thread.

    Attributes:
        waiting: what is waited for right now, as plain data; others may read it.
    """

    def __init__(self, machine: Machine, emit: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._machine = machine
        self._emit = emit
        self.waiting: dict[str, Any] | None = None

    def check(self, resource: Resource) -> None:
        """Wait for what the resource waits for, then ask its guards.

        Raises:
            Skipped: a guard said no, or a wait ended and asks to skip.
            WaitTimeout: a wait ended, and that is a failure.
            RunCancelled: the run was cancelled.
        """
        for wait in resource.waits:
            self._wait(resource, wait)
        for guard in resource.guards:
            if bool(self._ask(guard.question, guard.options)) is not guard.wanted:
                raise Skipped(resource.shown(str(guard)))

    def _ask(self, question: Question, options: Mapping[str, Any]) -> object:
        """Ask a question: call the function, or run the command."""
        if callable(question):
            return question()
        return self._machine.run(question, returns=None, **options).exit_code == 0

    def _wait(self, resource: Resource, wait: Wait) -> None:
        """Ask until the answer is as wanted, or the time is over."""
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
                    _give_up(wait, waited, last)
                    return
                self.waiting = {
                    "resource": str(resource),
                    "wait": str(wait),
                    "last": last,
                    "seconds": round(waited, 1),
                }
                if last != shown:
                    shown = last
                    self._emit("resource waiting", dict(self.waiting))
                self._machine.cancellation.pause(min(wait.pause, wait.timeout - waited))
        finally:
            self.waiting = None


def _give_up(wait: Wait, waited: float, last: str) -> None:
    """End a wait whose time is over, as it asks for."""
    timeout = WaitTimeout(str(wait), round(waited, 1), last)
    if wait.on_timeout == "fail":
        raise timeout
    if wait.on_timeout == "skip":
        raise Skipped(str(timeout))
    log.warning("%s; going on", timeout)
