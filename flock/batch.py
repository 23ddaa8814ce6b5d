"""Many calls to one actor in one message, with one answer.

    batch = api.batch()
    for number in range(1000):
        batch.add(number, 1)          # the method `add` of the actor
    for total in batch():
        ...

The calls run one after the other, in order, with nothing of others between
them. Each has its own end: one that fails does not keep the next from running,
and its error is raised where its result is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flock.errors import CallError, EncodeError, RegistryError
from flock.failures import error_of
from flock.future import Future
from flock.messages import FAIL


class BatchResults(Sequence[Any]):
    """What became of the calls of a batch, in their order.

    Reading one gives its value or raises its error.
    """

    def __init__(self, outcomes: Sequence[Any]) -> None:
        """Keep the outcomes as they came: `[value]`, or a FAIL message's fields."""
        self._outcomes = outcomes

    def __len__(self) -> int:
        """Count the calls."""
        return len(self._outcomes)

    def __getitem__(self, index: Any) -> Any:
        """Return a call's value, or raise its error; a slice gives results again."""
        if isinstance(index, slice):
            return BatchResults(self._outcomes[index])
        error = self.error(index)
        if error is not None:
            raise error
        return self._outcomes[index][0]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values; raises at the first call that failed."""
        return (self[index] for index in range(len(self)))

    def error(self, index: int) -> Exception | None:
        """Return a call's error, None if it has a value."""
        outcome = self._outcomes[index]
        return None if len(outcome) == 1 else error_of([FAIL, 0, *outcome])

    def errors(self) -> dict[int, Exception]:
        """Return the errors by the number of their call, counted from 0."""
        found = ((index, self.error(index)) for index in range(len(self)))
        return {index: error for index, error in found if error is not None}

    def __repr__(self) -> str:
        """Say how many there are and how many failed."""
        return f"<results of {len(self)} calls, {len(self.errors())} failed>"


class BatchFuture(Future[BatchResults]):
    """The future of what became of the calls of a batch."""


class Batch:
    """Calls that are gathered here and sent together; for one thread, used once."""

    def __init__(self, send: Callable[[list[list[Any]]], Future[Any]]) -> None:
        """Begin empty.

        Args:
            send: sends `[method, args, kwargs]` of each call and returns the
                future of their outcomes.
        """
        self._send = send
        self._calls: list[list[Any]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return what adds a call of this method."""
        if name.startswith("_"):
            raise AttributeError(name)

        def add(*args: Any, **kwargs: Any) -> None:
            self._calls.append([name, list(args), kwargs])

        return add

    def __len__(self) -> int:
        """Count the calls added so far."""
        return len(self._calls)

    def __call__(self) -> BatchResults:
        """Send the calls and wait for their outcomes.

        Raises:
            CallError: the batch as a whole brought back nothing.
        """
        results: BatchResults = self.future().get()
        return results

    def future(self) -> BatchFuture:
        """Send the calls and return the future of their results; every error comes out of it.

        Only arguments that cannot travel raise here.
        """
        calls, self._calls = self._calls, []
        results = BatchFuture()
        try:
            sent = self._send(calls)
        except EncodeError:
            raise
        except (CallError, RegistryError) as error:
            results.fail(error)
            return results
        results.call_id = sent.call_id

        def settle(outcomes: Future[Any]) -> None:
            error = outcomes.error()
            if error is not None:
                results.fail(error)
                return
            answer = outcomes.get()
            if isinstance(answer, list) and len(answer) == len(calls):
                results.set(BatchResults(answer))
            else:
                results.fail(CallError("an answer came that is none to these calls"))

        sent.on_ready(settle)
        return results
