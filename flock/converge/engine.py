"""What the kinds that run another configuration engine have in common.

Only the engine can tell what it changed: each kind reads its engine's own
report and exit codes. In a why-run the engine is run in its own dry mode.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from flock.converge.commands import Completed
from flock.converge.files import Ownership
from flock.converge.programs import needed_program
from flock.converge.provider import Change, Outcome, Provider
from flock.converge.resource import Resource
from flock.errors import CommandFailed

MAX_TEXTS = 100
"""Changes of an engine that a report lists; the rest is counted."""


@dataclass
class Engine(Resource):
    """A run of another engine.

    Attributes:
        options: further arguments for its program.
        environment: variables beside the node's own.
        cwd: directory it runs in.
        user: whom it runs as.
        timeout: seconds after which it is ended and has failed; None for no limit.
    """

    actions: ClassVar[tuple[str, ...]] = ("run",)

    options: list[str] | tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    cwd: str | None = None
    user: str | None = None
    timeout: float | None = 7200.0

    def check(self) -> None:
        """Refuse a time that is none."""
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")


E = TypeVar("E", bound=Engine)


class EngineProvider(Provider[E], Generic[E]):
    """Runs an engine; a kind says how, and reads what came out."""

    program: ClassVar[str] = ""
    """The engine's program."""

    how_to_get: ClassVar[str] = ""
    """What to type where it is missing."""

    def arguments(self, wanted: E, *, dry: bool, data_file: str) -> Sequence[str]:
        """Return the arguments of the engine's program.

        Args:
            wanted: the resource.
            dry: it is only to say what it would do.
            data_file: holds what `data` returned; empty if that was None.
        """
        raise NotImplementedError

    def outcome(self, done: Completed, *, dry: bool) -> Outcome:
        """Read what an engine did, or in a dry run would do.

        Raises:
            CommandFailed: it failed.
        """
        raise NotImplementedError

    def own_environment(self, wanted: E) -> dict[str, str]:
        """Return variables that the engine needs to be understood."""
        del wanted
        return {}

    def stdin(self, wanted: E) -> str | None:
        """Return what the engine reads."""
        del wanted
        return None

    def data(self, wanted: E) -> str | None:
        """Return what the engine reads from a file that only its user can read."""
        del wanted
        return None

    def run(self, wanted: E) -> Iterator[Change]:
        """Name the engine's run; in a why-run what the engine itself would do."""
        path = needed_program(self.machine, self.program, self.how_to_get)
        text = f"run {self.program}"
        if path is None:
            yield Change(f"{text}, which is not installed yet", _nothing)
        elif self.machine.why_run:
            outcome = self._run(path, wanted, dry=True)
            for number, each in enumerate(outcome.texts):
                yield Change(each, _nothing, None if number else outcome.diff)
        else:
            yield Change(text, lambda: self._run(path, wanted, dry=False))

    def _run(self, path: str, wanted: E, *, dry: bool) -> Outcome:
        """Run the engine to its end."""
        with _file_for(self.data(wanted), wanted.user) as data_file:
            arguments = self.arguments(wanted, dry=dry, data_file=data_file)
            done = self.machine.run(
                [path, *arguments, *wanted.options],
                returns=None,
                cwd=wanted.cwd,
                user=wanted.user,
                environment={**self.own_environment(wanted), **(wanted.environment or {})},
                stdin=self.stdin(wanted),
                timeout=wanted.timeout,
            )
        outcome = self.outcome(done, dry=dry)
        if len(outcome.texts) > MAX_TEXTS:
            left = len(outcome.texts) - MAX_TEXTS
            return Outcome([*outcome.texts[:MAX_TEXTS], f"and {left} more"], outcome.diff)
        return outcome


def engine_failed(program: str, done: Completed, reason: str = "") -> CommandFailed:
    """Make the error of an engine that failed; without a reason its last words are shown."""
    how = f"exit code {done.exit_code}" if done.exit_code >= 0 else f"signal {-done.exit_code}"
    said = reason or done.last_words()
    return CommandFailed(f"{program} ended with {how}" + (f": {said}" if said else ""))


@contextlib.contextmanager
def _file_for(data: str | None, user: str | None) -> Iterator[str]:
    """Give a file with `data` that only `user` can read, as long as it is needed."""
    if data is None:
        yield ""
        return
    ownership = Ownership.of(user, None, 0o700)
    with tempfile.TemporaryDirectory(prefix="flock-") as folder:
        path = Path(folder, "data.json")
        path.write_text(data)
        Ownership(ownership.user_id, None, 0o600).apply_to(path)
        ownership.apply_to(Path(folder))
        yield str(path)


def _nothing() -> None:
    """Stand for what a why-run does not do."""
