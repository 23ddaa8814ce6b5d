"""What the kind `package` asks of a package manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from flock.converge.commands import Completed
from flock.converge.programs import needed_program
from flock.converge.provider import Machine


class PackageManager(ABC):
    """Looks what is installed, and installs and removes.

    Args:
        machine: runs its programs.
        options: further arguments for whatever changes something.
        timeout: seconds that a step may take.
    """

    def __init__(self, machine: Machine, options: Sequence[str], timeout: float) -> None:
        self._machine = machine
        self._options = options
        self._timeout = timeout

    @abstractmethod
    def installed(self, names: Collection[str]) -> dict[str, str]:
        """Return the versions of those packages that are installed."""

    @abstractmethod
    def providers(self, names: Collection[str]) -> dict[str, set[str]]:
        """Return what is installed in place of those names that no package has for its own.

        Such names are those of old packages, or of what several can do. What is
        not there in any way, or cannot be told, is left out.
        """

    @abstractmethod
    def outdated(self, names: Collection[str]) -> set[str]:
        """Return those installed packages for which there is another version to upgrade to."""

    @abstractmethod
    def left_behind(self, names: Collection[str]) -> set[str]:
        """Return those packages of which anything is here, be it only configuration."""

    @abstractmethod
    def check_known(self, names: Collection[str]) -> None:
        """Refuse packages that cannot be installed from anywhere.

        Raises:
            CommandFailed: names them.
        """

    @abstractmethod
    def read_file(self, path: str) -> tuple[str, str]:
        """Return name and version of a package file.

        Raises:
            CommandFailed: it is no package.
        """

    @abstractmethod
    def install(self, packages: Mapping[str, str | None]) -> None:
        """Install packages, each in a version, be it an older one, or the newest."""

    @abstractmethod
    def install_file(self, path: str) -> None:
        """Install a package file with what it needs."""

    @abstractmethod
    def remove(self, names: Collection[str]) -> None:
        """Remove packages, not their configuration."""

    @abstractmethod
    def purge(self, names: Collection[str]) -> None:
        """Remove packages with their configuration."""

    def _run(
        self, program: str, *arguments: str, returns: int | Sequence[int] | None = 0
    ) -> Completed:
        """Run one of its programs; without translations, and asking nothing."""
        path = needed_program(self._machine, program, "package needs apt or dnf")
        return self._machine.run(
            [path or program, *arguments],
            returns=returns,
            environment={
                "LC_ALL": "C",
                "DEBIAN_FRONTEND": "noninteractive",
                "APT_LISTCHANGES_FRONTEND": "none",
            },
            timeout=self._timeout,
        )
