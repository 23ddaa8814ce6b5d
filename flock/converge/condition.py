"""Under which conditions a resource is converged: guards, and waits for something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flock.converge.properties import nearest
from flock.errors import RecipeError

Question = Callable[[], object] | str | Sequence[str]
"""What guards and waits ask: a function, or a command that answers yes with exit code 0."""

OnTimeout = Literal["fail", "skip", "go_on"]


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on one resource.

    Attributes:
        question: what is asked right before the resource is converged.
        wanted: True for `only_if`, False for `not_if`.
        options: how a command is run (`cwd`, `user`, `group`, `environment`, `timeout`).
        where: `file:line` of the declaration.
    """

    question: Question
    wanted: bool
    options: Mapping[str, Any]
    where: str

    def __str__(self) -> str:
        """Name the guard as the recipe does."""
        return f"{'only_if' if self.wanted else 'not_if'} {question_text(self.question)}"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for the state of something else, before the guards are asked.

    Attributes:
        question: asked until its answer is `wanted`.
        wanted: True for `wait_until`, False for `wait_while`.
        pause: seconds between two questions.
        timeout: seconds after which the wait is given up.
        on_timeout: `fail` the resource, `skip` it, or `go_on` with it.
        where: `file:line` of the declaration.
    """

    question: Question
    wanted: bool
    pause: float
    timeout: float
    on_timeout: OnTimeout
    where: str

    @property
    def kind(self) -> str:
        """`wait_until` or `wait_while`."""
        return "wait_until" if self.wanted else "wait_while"


_COMMAND_OPTIONS = frozenset({"cwd", "user", "group", "environment", "timeout"})


def guard(question: Question, wanted: bool, options: dict[str, Any], where: str) -> Guard:
    """Make a guard of what a recipe wrote.

    Raises:
        RecipeError: the question is none, or an option is unknown.
    """
    _check_question(question, where)
    for option in options:
        if option not in _COMMAND_OPTIONS:
            raise RecipeError(
                f"unknown option {option!r} of a guard{nearest(option, _COMMAND_OPTIONS)}", where
            )
    if options and callable(question):
        raise RecipeError("a guard that is a function takes no options", where)
    return Guard(question, wanted, options, where)


def wait(
    question: Question,
    wanted: bool,
    pause: float,
    timeout: float,
    on_timeout: OnTimeout,
    where: str,
) -> Wait:
    """Make a wait of what a recipe wrote.

    Raises:
        RecipeError: the question is none, or a number or word is out of its range.
    """
    _check_question(question, where)
    if on_timeout not in ("fail", "skip", "go_on"):
        raise RecipeError(
            f"on_timeout must be 'fail', 'skip' or 'go_on', not {on_timeout!r}", where
        )
    if not pause > 0 or not timeout >= 0:
        raise RecipeError("a wait needs a pause above 0 s and a timeout of at least 0 s", where)
    return Wait(question, wanted, pause, timeout, on_timeout, where)


def _check_question(question: object, where: str) -> None:
    """Refuse what is neither a function nor a command: `only_if(True)` asks nothing."""
    if callable(question) or (isinstance(question, str) and question):
        return
    if (
        isinstance(question, list | tuple)
        and question
        and all(isinstance(q, str) for q in question)
    ):
        return
    raise RecipeError(f"a guard or wait asks a function or a command, not {question!r}", where)


def question_text(question: Question) -> str:
    """Name a question for a report: a command as it is, a function by where it is written."""
    if isinstance(question, str):
        return f"`{question}`"
    if not callable(question):
        return f"`{' '.join(question)}`"
    code = getattr(question, "__code__", None)
    if code is None:
        return str(question)
    return f"{question.__name__} ({code.co_filename}:{code.co_firstlineno})"
