"""How a resource gets from what is to what should be, step by step.

A provider is written as one method per action. The method looks at the
machine and *yields* the changes it needs, one `Change` at a time; the runner
makes a change before it asks for the next, so that the method can look again.
Under `--why-run` the changes are named and not made. So:

- look before you yield; yield nothing if all is well: the second run must
  change nothing;
- never touch the machine outside `Change.apply`;
- do not rely on an earlier change of yours having been made;
- what can be one step for a crash (content, owner and mode of a file) is one
  `Change`;
- what only running it can tell (another engine, a module of Ansible) is one
  `Change` whose `apply` returns an `Outcome`.

    class FileProvider(Provider[File]):
        def create(self, wanted: File) -> Iterator[Change]:
            ...

A module of a kind ends with `KIND = Kind(File, FileProvider)`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

from flock.converge.cancellation import Cancellation
from flock.converge.commands import Commands, Completed, command_text
from flock.converge.resource import R, Resource
from flock.errors import CommandFailed

log = logging.getLogger("flock.converge")


@dataclass(frozen=True, slots=True)
class Change:
    """One change a resource needs.

    Attributes:
        text: what is done, as an order: `write /tmp/fubar`; without secrets.
        apply: does it; raises if it cannot. Returns an `Outcome` where only
            doing it tells what changed; anything else means that it did.
        diff: a unified text difference, where there is text; the runner drops
            it for sensitive resources.
    """

    text: str
    apply: Callable[[], object]
    diff: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change turned out to be, where nothing but making it could tell.

    Attributes:
        texts: what was changed, for the report in place of the change's own
            text; empty if nothing was.
        diff: a unified text difference, where there is text.
    """

    texts: Sequence[str]
    diff: str | None = None


class Skipped(Exception):
    """The resource is not converged; the text says why.

    A provider raises it before it has named a change.
    """


class CookbookFiles(Protocol):
    """Where the files that came with the cookbooks are found."""

    def path(self, cookbook: str, folder: str, source: str) -> Path:
        """Return `cookbooks/<cookbook>/<folder>/<source>`.

        Raises:
            RecipeError: there is no such file.
        """


class Machine:
    """What a provider may use of the machine and of the run it works for.

    Attributes:
        why_run: nothing is changed in this run. Providers need not ask: their
            changes are not made.
        files: finds templates and files of cookbooks.
        cancellation: says whether the run goes on.
        state_dir: a folder of the node's own that lasts.
    """

    def __init__(
        self,
        commands: Commands,
        cancellation: Cancellation,
        *,
        files: CookbookFiles,
        attributes: Callable[[], Mapping[str, Any]],
        state_dir: Path,
        why_run: bool = False,
    ) -> None:
        self._commands = commands
        self.cancellation = cancellation
        self.files = files
        self._attributes = attributes
        self.state_dir = state_dir
        self.why_run = why_run

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The node's merged attributes as they stand, read only."""
        return self._attributes()

    def run(
        self,
        command: str | Sequence[str],
        *,
        returns: int | Sequence[int] | None = 0,
        cwd: str | None = None,
        user: str | None = None,
        group: str | None = None,
        environment: Mapping[str, str] | None = None,
        umask: int = -1,
        stdin: str | bytes | None = None,
        timeout: float | None = 3600.0,
    ) -> Completed:
        """Run a command to its end; it dies with the run and with this process.

        Args:
            command: text for `/bin/sh`, or a list of program and arguments.
            returns: exit codes that are good; None for any.
            cwd: directory it runs in.
            user: user it runs as, with that user's groups, HOME and USER.
            group: group it runs as, instead of the user's own.
            environment: variables beside the node's own.
            umask: its file mode mask; -1 for the node's.
            stdin: what it reads; nothing by default.
            timeout: seconds; None for no limit.

        Raises:
            CommandFailed: not started, not in time, or another exit code; the
                message ends with the last of its output.
            RunCancelled: the run was cancelled.
        """
        done = self._commands.run(
            command,
            cancellation=self.cancellation,
            cwd=cwd,
            user=user,
            group=group,
            environment=environment,
            umask=umask,
            stdin=stdin,
            timeout=timeout,
        )
        if returns is None or done.exit_code in (
            (returns,) if isinstance(returns, int) else returns
        ):
            return done
        raise CommandFailed(_failure(command, done))


class Provider(Generic[R]):
    """The base of all providers: one instance per action of one resource.

    Attributes:
        machine: what may be used of the machine.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of resource with what converges it.

    Attributes:
        resource: the class recipes declare.
        provider: its provider; None if the resource's class has the actions
            itself, as methods that take the `Machine`:
            `def create(self, machine: Machine) -> Iterator[Change]`.
    """

    resource: type[R]
    provider: type[Provider[R]] | None = None

    def __post_init__(self) -> None:
        """Refuse a kind that could not work, when it is loaded and not when it is used."""
        cls = self.resource
        if not cls.kind.isidentifier():
            raise TypeError(f"{cls.__name__} needs kind = 'name', an identifier")
        if not cls.actions:
            raise TypeError(f"{cls.__name__} needs actions = ('create', ...)")
        if "__dataclass_fields__" not in vars(cls):
            raise TypeError(f"{cls.__name__} needs the decorator @dataclass")
        home = self.provider or cls
        for action in cls.actions:
            if not callable(getattr(home, action, None)) or hasattr(Resource, action):
                raise TypeError(f"{home.__name__} has no method for the action {action!r}")

    @property
    def name(self) -> str:
        """What recipes call it."""
        return self.resource.kind

    def changes(self, wanted: R, action: str, machine: Machine) -> Iterator[Change]:
        """Return the changes that `action` needs, each worked out when it is asked for."""
        if action == "nothing":
            return iter(())
        if self.provider is None:
            named: Iterable[Change] | None = getattr(wanted, action)(machine)
        else:
            named = getattr(self.provider(machine), action)(wanted)
        if named is None:
            return iter(())
        if not isinstance(named, Iterable):
            raise TypeError(f"{action} of {self.name} must yield each Change, not return {named!r}")
        return iter(named)


def _failure(command: str | Sequence[str], done: Completed) -> str:
    """Say how a command failed."""
    how = f"exit code {done.exit_code}" if done.exit_code >= 0 else f"signal {-done.exit_code}"
    words = done.last_words()
    return f"{command_text(command)} ended with {how}" + (f": {words}" if words else "")
