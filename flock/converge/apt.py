"""Manage packages with apt, on Debian and its kin."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from flock.converge.package_manager import PackageManager
from flock.errors import CommandFailed

_QUIET = (
    "-q",
    "-y",
    # Somebody else's apt is waited for, not fought.
    "-o",
    "DPkg::Lock::Timeout=300",
    # A configuration file that was changed here stays; nobody could answer the question.
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
)


class Apt(PackageManager):
    """Looks by `dpkg-query` and `apt-cache`, changes by `apt-get`."""

    def installed(self, names: Collection[str]) -> dict[str, str]:
        """Return the versions of those packages that are installed."""
        return {
            name: version for name, state, version in self._states(names) if state == "installed"
        }

    def providers(self, names: Collection[str]) -> dict[str, set[str]]:
        """Return what is installed in place of those names that no package has for its own."""
        own = {name for name, _, candidate in self._policies(names) if candidate != "(none)"}
        virtual = set(names) - own
        found: dict[str, set[str]] = {}
        if not virtual:
            return found
        form = "${db:Status-Status}\t${Package}\t${Provides}\n"
        for line in self._run("dpkg-query", "--show", "--showformat", form).stdout.splitlines():
            status, package, provided = line.split("\t")
            # `name (= version), other`
            for name in (each.strip().partition(" ")[0] for each in provided.split(",")):
                if status == "installed" and name in virtual:
                    found.setdefault(name, set()).add(package)
        return found

    def outdated(self, names: Collection[str]) -> set[str]:
        """Return those installed packages whose candidate is another version."""
        return {
            name
            for name, installed, candidate in self._policies(names)
            if candidate not in ("(none)", installed)
        }

    def left_behind(self, names: Collection[str]) -> set[str]:
        """Return those packages of which dpkg knows more than the name."""
        return {name for name, state, _ in self._states(names) if state != "not-installed"}

    def check_known(self, names: Collection[str]) -> None:
        """Refuse packages without a candidate, unless something else provides them.

        Raises:
            CommandFailed: names them.
        """
        known = {name for name, _, candidate in self._policies(names) if candidate != "(none)"}
        missing = sorted(set(names) - known)
        unknown = [name for name in missing if not self._is_provided(name)]
        if unknown:
            raise CommandFailed(
                f"apt knows no package {', '.join(unknown)}: is its source there, and read by "
                "`apt-get update`?"
            )

    def read_file(self, path: str) -> tuple[str, str]:
        """Return name and version of a .deb file.

        Raises:
            CommandFailed: it is none.
        """
        shown = self._run(
            "dpkg-deb", "--show", "--showformat", "${Package} ${Version}", "--", path
        ).stdout
        name, _, version = shown.strip().partition(" ")
        return name, version

    def install(self, packages: Mapping[str, str | None]) -> None:
        """Install packages, each in a version, be it an older one, or the newest."""
        wishes = [
            name if version is None else f"{name}={version}" for name, version in packages.items()
        ]
        may_go_back = any(version is not None for version in packages.values())
        self._change("install", wishes, may_go_back=may_go_back)

    def install_file(self, path: str) -> None:
        """Install a .deb file; a path with a slash is one to apt."""
        self._change("install", [path], may_go_back=True)

    def remove(self, names: Collection[str]) -> None:
        """Remove packages, not their configuration."""
        self._change("remove", names)

    def purge(self, names: Collection[str]) -> None:
        """Remove packages with their configuration."""
        self._change("purge", names)

    def _change(self, verb: str, what: Collection[str], *, may_go_back: bool = False) -> None:
        """Change something."""
        downgrade = ["--allow-downgrades"] if may_go_back else []
        self._run("apt-get", *_QUIET, *downgrade, *self._options, verb, "--", *what)

    def _states(self, names: Collection[str]) -> Iterator[tuple[str, str, str]]:
        """Yield name, state and version as dpkg has them; of the names as they were asked."""
        form = "${Package}:${Architecture} ${db:Status-Status} ${Version}\n"
        done = self._run("dpkg-query", "--show", "--showformat", form, "--", *names, returns=(0, 1))
        for line in done.stdout.splitlines():
            full, state, *version = line.split(" ")
            short = full.rpartition(":")[0]
            for name in names:
                if name in (full, short):
                    yield name, state, version[0] if version else ""

    def _policies(self, names: Collection[str]) -> Iterator[tuple[str, str, str]]:
        """Yield name, installed version and candidate as apt sees them."""
        if not names:
            return
        name = installed = ""
        for line in self._run("apt-cache", "policy", "--", *names).stdout.splitlines():
            if line and not line.startswith(" "):
                name = line.removesuffix(":")
            key, _, value = line.strip().partition(": ")
            if key == "Installed":
                installed = value
            elif key == "Candidate":
                yield name, installed, value

    def _is_provided(self, name: str) -> bool:
        """Say whether other packages provide this one."""
        done = self._run("apt-cache", "showpkg", "--", name, returns=None)
        _, _, providers = done.stdout.partition("Reverse Provides:")
        return bool(providers.strip())
