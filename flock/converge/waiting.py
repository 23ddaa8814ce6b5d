"""What a run waits for right now: so that others can see it, wake it, and end it.

A wait is begun and ended by the run's thread. Whoever watches what it depends
on wakes it; who finds that it is part of a circle says so, and may end it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from flock.converge.cancellation import Cancellation
from registry.contract import Cancel, LockStatus
from registry.readings import Reading

_SOON = 0.05
"""Seconds from one question to the next at least, however often it is woken."""

_numbers = itertools.count(1)


class Lookout(Protocol):
    """Watches what questions read."""

    def watch(self, reading: Reading, changed: Callable[[], None]) -> Cancel | None:
        """Have `changed` called, on any thread, after what was read may have changed.

        Returns:
            What ends it; None if it is nothing that can be watched.

        Raises:
            RegistryError, CallError: it cannot be watched now.
        """


class Waiting:
    """One wait while it goes on; any thread may look at it.

    Attributes:
        number: tells it from every other wait of this process.
        since: when it began, seconds of the wall clock.
        resource: what waits; empty for the run itself.
        text: what it waits for, as the recipe says it.
        last: the last answer, as text.
        readings: what the last answer depended on.
        is_plain: nothing else can have had a part in that answer.
        is_asked: it is a question that is asked again and again.
        status: says who has the lock that is waited for; None for a question.
        circle: the circle of waits that it is part of, as a sentence; empty for none.
        gave_up: it is to end, because of that circle.
    """

    def __init__(
        self,
        cancellation: Cancellation,
        resource: str,
        text: str,
        *,
        is_plain: bool = False,
        status: Callable[[], LockStatus] | None = None,
        on_give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.number = next(_numbers)
        self.since = time.time()
        self.resource = resource
        self.text = text
        self.last = ""
        self.readings: frozenset[Reading] = frozenset()
        self.is_plain = is_plain
        self.status = status
        self.circle = ""
        self.gave_up = False
        self._on_give_up = on_give_up
        self._cancellation = cancellation
        self._began = time.monotonic()
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_over = False
        self._begun_questions = 0
        self._answered_questions = 0
        self._asked_at = 0.0

    @property
    def is_asked(self) -> bool:
        """Whether it is a question that is asked again and again."""
        return self.status is None

    @property
    def seconds(self) -> float:
        """How long it goes on."""
        return time.monotonic() - self._began

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data for people and programs."""
        return {
            "resource": self.resource,
            "wait": self.text,
            "asks": sorted(str(reading) for reading in self.readings),
            "last": self.last,
            "seconds": round(self.seconds, 1),
            "circle": self.circle,
        }

    # --- the run's thread

    def begin_question(self) -> None:
        """Note that the question is asked now: news from here on make it be asked once more."""
        with self._changed:
            self._is_woken = False
            self._begun_questions += 1
        self._asked_at = time.monotonic()

    def end_question(self, last: str, readings: Iterable[Reading]) -> None:
        """Note an answer that does not end the wait."""
        with self._changed:
            self.last = last
            self.readings = frozenset(readings)
            self._answered_questions = self._begun_questions
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait before the next question; ends early when it is woken.

        Raises:
            RunCancelled: the run was cancelled.
        """
        forget = self._cancellation.on_cancel(self.wake)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._is_woken, seconds)
        finally:
            forget()
        self._cancellation.check()
        if self._is_woken:
            too_early = self._asked_at + min(_SOON, seconds) - time.monotonic()
            self._cancellation.pause(max(0.0, too_early))

    def end(self) -> None:
        """Note that the wait is over."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    # --- others

    def wake(self) -> None:
        """Have the question asked at once: what it reads may have changed."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def ask_again(self, within: float) -> bool:
        """Have the question asked once more, and wait for the answer.

        Args:
            within: seconds.

        Returns:
            Whether the wait still goes on, after an answer to a question that
            was begun after this call.
        """
        with self._changed:
            if self.is_asked:
                wanted = self._begun_questions + 1
                self._is_woken = True
                self._changed.notify_all()
                answered = self._changed.wait_for(
                    lambda: self._is_over or self._answered_questions >= wanted, within
                )
                return answered and not self._is_over
            return not self._is_over

    def give_up(self) -> None:
        """End the wait because of its circle."""
        self.gave_up = True
        self._on_give_up()
        self.wake()


class Waits:
    """The waits of one run, of which at most one goes on.

    Attributes:
        current: the one that goes on.
    """

    def __init__(self, cancellation: Cancellation) -> None:
        self.current: Waiting | None = None
        self._cancellation = cancellation

    @contextmanager
    def waiting(self, resource: str, text: str, **more: Any) -> Iterator[Waiting]:
        """Wait inside; arguments as for `Waiting`."""
        before, waiting = self.current, Waiting(self._cancellation, resource, text, **more)
        self.current = waiting
        try:
            yield waiting
        finally:
            self.current = before
            waiting.end()

    def ask_again(self) -> None:
        """Have what is waited for asked at once."""
        waiting = self.current
        if waiting is not None:
            waiting.wake()

    def as_data(self) -> dict[str, Any] | None:
        """Return what is waited for as plain data, None for nothing."""
        waiting = self.current
        return None if waiting is None else waiting.as_data()
