"""`python_block`: call a function of the recipe when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from flock.converge.provider import Change, Kind, Outcome, Provider
from flock.converge.resource import Resource


@dataclass
class PythonBlock(Resource):
    """A function that is called each time, unless a guard says no.

    It runs on the run's own thread: a run that is cancelled ends when it
    returns. What it raises fails the resource.

    Attributes:
        code: called without arguments; what it changed is its own affair. If it
            returns False it changed nothing, and nobody is notified.
    """

    kind: ClassVar[str] = "python_block"
    actions: ClassVar[tuple[str, ...]] = ("run",)

    code: Callable[[], Any] | None = None

    @property
    def can_tell(self) -> bool:
        """Whether a look tells if something is to change: only the function knows."""
        return False

    def check(self) -> None:
        """Refuse a block without code."""
        if self.code is None:
            raise ValueError("code is missing: a function without arguments")


class PythonBlockProvider(Provider[PythonBlock]):
    """Names the call as the change."""

    def run(self, wanted: PythonBlock) -> Iterator[Change]:
        """Name the call."""
        text = f"call {wanted.shown(getattr(wanted.code, '__name__', 'code'))}"
        yield Change(text, lambda: _call(wanted, text))


def _call(wanted: PythonBlock, text: str) -> Outcome:
    """Call the code."""
    assert wanted.code is not None
    return Outcome([] if wanted.code() is False else [text])


KIND = Kind(PythonBlock, PythonBlockProvider)
