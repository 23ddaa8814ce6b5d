"""`execute`: run a command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.commands import command_text
from flock.converge.files import parse_mode
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource


@dataclass
class Execute(Resource):
    """A command that is run each time, unless `creates` or a guard says no.

    Attributes:
        command: text for `/bin/sh`, or a list of program and arguments; the
            resource's name by default.
        creates: a path that shows that the command has run already.
        cwd: directory it runs in; `creates` may be relative to it.
        user, group: whom it runs as.
        environment: variables beside the node's own.
        input: what it reads from stdin.
        returns: the exit code, or several, that mean success.
        timeout: seconds after which it is ended and has failed; None for no limit.
        umask: its file mode mask, `0o022` or `'022'`.
    """

    kind: ClassVar[str] = "execute"
    actions: ClassVar[tuple[str, ...]] = ("run",)

    command: str | list[str] | tuple[str, ...] = ""
    creates: str | None = None
    cwd: str | None = None
    user: str | None = None
    group: str | None = None
    environment: dict[str, str] | None = None
    input: str | bytes | None = None
    returns: int | list[int] | tuple[int, ...] = 0
    timeout: float | None = 3600.0
    umask: int | str | None = None

    @property
    def can_tell(self) -> bool:
        """Whether `creates` shows if the command is still to be run."""
        return self.creates is not None

    def check(self) -> None:
        """Fill in the command; refuse what cannot be run."""
        self.command = self.command or self.name
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")
        self.umask = parse_mode(self.umask)
        if self.creates is not None and not os.path.isabs(self.creates) and self.cwd is None:
            raise ValueError("creates must be an absolute path, or cwd be given")


class ExecuteProvider(Provider[Execute]):
    """Names the command as the change."""

    def run(self, wanted: Execute) -> Iterator[Change]:
        """Name the command, unless what it creates is there."""
        if wanted.creates is not None and os.path.lexists(
            os.path.join(wanted.cwd or "/", wanted.creates)
        ):
            return
        yield Change(
            f"run {wanted.shown(command_text(wanted.command))}", lambda: self._execute(wanted)
        )

    def _execute(self, wanted: Execute) -> None:
        """Run it to its end."""
        assert wanted.umask is None or isinstance(wanted.umask, int)
        returns: int | Sequence[int] = wanted.returns
        self.machine.run(
            wanted.command,
            returns=returns,
            cwd=wanted.cwd,
            user=wanted.user,
            group=wanted.group,
            environment=wanted.environment,
            umask=-1 if wanted.umask is None else wanted.umask,
            stdin=wanted.input,
            timeout=wanted.timeout,
        )


KIND = Kind(Execute, ExecuteProvider)
