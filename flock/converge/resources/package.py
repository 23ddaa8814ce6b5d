"""`package`: packages of the distribution, by apt or dnf."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from flock.converge.apt import Apt
from flock.converge.dnf import Dnf
from flock.converge.package_manager import PackageManager
from flock.converge.programs import find_program
from flock.converge.provider import Change, Kind, Machine, Provider
from flock.converge.resource import Resource
from flock.errors import CommandFailed

_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9+._:@/-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~:_^*-]*")


@dataclass
class Package(Resource):
    """One package or several, in one step.

    A name that no package has for its own is installed with what provides it.
    Several may be given as the resource's name, too: `package(['a', 'b'])`.

    Attributes:
        package_name: one or several; the resource's name by default.
        version: of each package, in the same order, newer or older than what is
            there; `*` matches any text. None for any version that is there already.
        source: a local package file instead of the distribution's.
        manager: `apt` or `dnf`; what this machine has by default.
        options: further arguments for it.
        timeout: seconds that a step may take.
    """

    kind: ClassVar[str] = "package"
    actions: ClassVar[tuple[str, ...]] = ("install", "upgrade", "remove", "purge")

    package_name: str | list[str] | tuple[str, ...] = ()
    version: str | list[str] | tuple[str, ...] | None = None
    source: str | None = None
    manager: Literal["apt", "dnf"] | None = None
    options: list[str] | tuple[str, ...] = ()
    timeout: float = 3600.0

    @classmethod
    def named(cls, given: object) -> tuple[object, dict[str, Any]]:
        """Take several packages for the name, as Chef does: `package[a, b]`."""
        if isinstance(given, list | tuple) and all(isinstance(each, str) for each in given):
            return ", ".join(given), {"package_name": list(given)}
        return given, {}

    def check(self) -> None:
        """Fill in the names; refuse what a package manager would take for something else."""
        names = self.package_name or self.name
        self.package_name = (names,) if isinstance(names, str) else tuple(names)
        if self.version is not None:
            versions = self.version
            self.version = (versions,) if isinstance(versions, str) else tuple(versions)
            if len(self.version) != len(self.package_name):
                raise ValueError("version must name one version for each package")
        for name in self.package_name:
            if not _NAME.fullmatch(name):
                raise ValueError(f"package_name must be the name of a package, not {name!r}")
        for version in self.version or ():
            if not _VERSION.fullmatch(version):
                raise ValueError(f"version cannot be {version!r}")
        if self.source is not None:
            if not os.path.isabs(self.source):
                raise ValueError(f"source must be absolute, not {self.source!r}")
            if len(self.package_name) != 1 or self.version is not None:
                raise ValueError("source is one package, of the version it has")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")

    @property
    def wanted_versions(self) -> dict[str, str | None]:
        """The version wanted of each package."""
        versions = self.version if self.version is not None else [None] * len(self.package_name)
        return dict(zip(self.package_name, versions, strict=True))


class PackageProvider(Provider[Package]):
    """Names the changes packages need; the managers know how to look and what to type."""

    def install(self, wanted: Package) -> Iterator[Change]:
        """Name the packages that are not there, or not in the wanted version."""
        manager = _manager(wanted, self.machine)
        if wanted.source is not None:
            yield from self._install_file(wanted, manager, wanted.source)
            return
        installed = manager.installed(list(wanted.wanted_versions))
        needed = {
            name: version
            for name, version in wanted.wanted_versions.items()
            if not _is_right(installed.get(name), version)
        }
        for name in _providers(manager, needed):
            del needed[name]
        yield from self._install(manager, needed, "install")

    def upgrade(self, wanted: Package) -> Iterator[Change]:
        """Name the packages that are not there, or for which there is a newer version."""
        manager = _manager(wanted, self.machine)
        if wanted.source is not None:
            yield from self._install_file(wanted, manager, wanted.source)
            return
        names = list(wanted.wanted_versions)
        installed = manager.installed(names)
        missing = {
            name: version
            for name, version in wanted.wanted_versions.items()
            if not _is_right(installed.get(name), version)
        }
        # What is there under a name of its own, or for the sake of another name.
        there = {name: {name} for name in names if name in installed}
        there |= _providers(manager, missing)
        outdated = manager.outdated(sorted(set().union(*there.values())))
        needed = {
            name: version
            for name, version in wanted.wanted_versions.items()
            if (name in missing and name not in there)
            or (name in missing and version is not None)
            or (version is None and not outdated.isdisjoint(there.get(name, ())))
        }
        yield from self._install(manager, needed, "upgrade")

    def remove(self, wanted: Package) -> Iterator[Change]:
        """Name the removal of the packages that are there."""
        manager = _manager(wanted, self.machine)
        names = sorted(manager.installed(list(wanted.wanted_versions)))
        if names:
            yield Change(f"remove {', '.join(names)}", lambda: manager.remove(names))

    def purge(self, wanted: Package) -> Iterator[Change]:
        """Name the removal of the packages with their configuration."""
        manager = _manager(wanted, self.machine)
        names = sorted(manager.left_behind(list(wanted.wanted_versions)))
        if names:
            yield Change(f"purge {', '.join(names)}", lambda: manager.purge(names))

    def _install(
        self, manager: PackageManager, needed: dict[str, str | None], verb: str
    ) -> Iterator[Change]:
        """Name the installation of packages."""
        if not needed:
            return
        if not self.machine.why_run:
            manager.check_known(list(needed))
        shown = ", ".join(
            name if version is None else f"{name} {version}" for name, version in needed.items()
        )
        yield Change(f"{verb} {shown}", lambda: manager.install(needed))

    def _install_file(
        self, wanted: Package, manager: PackageManager, source: str
    ) -> Iterator[Change]:
        """Name the installation of a local package file."""
        if self.machine.why_run and not os.path.exists(source):
            yield Change(f"install {source}", lambda: None)
            return
        name, version = manager.read_file(source)
        if name not in wanted.package_name:
            raise CommandFailed(f"{source} holds the package {name}, not {wanted.package_name[0]}")
        if manager.installed([name]).get(name) != version:
            yield Change(
                f"install {name} {version} from {source}", lambda: manager.install_file(source)
            )


def _manager(wanted: Package, machine: Machine) -> PackageManager:
    """Return what manages this machine's packages.

    Raises:
        CommandFailed: neither apt nor dnf is here.
    """
    known: dict[str, tuple[str, type[PackageManager]]] = {
        "apt": ("apt-get", Apt),
        "dnf": ("dnf", Dnf),
    }
    for name, (program, manager) in known.items():
        if wanted.manager == name or (wanted.manager is None and find_program(program)):
            return manager(machine, wanted.options, wanted.timeout)
    raise CommandFailed("packages cannot be managed here: neither apt-get nor dnf is installed")


def _providers(manager: PackageManager, missing: Mapping[str, str | None]) -> dict[str, set[str]]:
    """Return what is there in place of packages that are wanted in any version and are not."""
    return manager.providers([name for name, version in missing.items() if version is None])


def _is_right(installed: str | None, wanted: str | None) -> bool:
    """Say whether an installed version is what is wanted."""
    return installed is not None and (wanted is None or fnmatchcase(installed, wanted))


KIND = Kind(Package, PackageProvider)
