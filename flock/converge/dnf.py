"""Manage packages with dnf, on Fedora and its kin."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flock.converge.package_manager import PackageManager

_SOMETHING_TO_UPGRADE = 100
"""Exit code of `dnf check-upgrade`."""


class Dnf(PackageManager):
    """Looks by `rpm`, changes by `dnf`, which itself refuses packages it does not know."""

    def installed(self, names: Collection[str]) -> dict[str, str]:
        """Return the versions of those packages that are installed, as `version-release`."""
        found: dict[str, str] = {}
        for name in names:
            done = self._run(
                "rpm",
                "--query",
                "--queryformat",
                "%{VERSION}-%{RELEASE}\n",
                "--",
                name,
                returns=None,
            )
            if done.exit_code == 0 and done.stdout.strip():
                # Several kernels may be installed at once: the last is the newest.
                found[name] = done.stdout.split()[-1]
        return found

    def providers(self, names: Collection[str]) -> dict[str, set[str]]:
        """Return what is installed in place of those names that no package has for its own.

        rpm knows who provides a name; only dnf knows whether some package that
        is not here is called so, and it is asked for nothing else.
        """
        found: dict[str, set[str]] = {}
        for name in names:
            done = self._run(
                "rpm",
                "--query",
                "--whatprovides",
                "--queryformat",
                "%{NAME}\n",
                "--",
                name,
                returns=None,
            )
            if done.exit_code == 0:
                found[name] = set(done.stdout.split())
        if found:
            asked = ("-q", "repoquery", "--queryformat=%{name}\n", *found)
            for own in set(self._run("dnf", *asked).stdout.split()):
                found.pop(own, None)
        return found

    def outdated(self, names: Collection[str]) -> set[str]:
        """Return those installed packages for which there is a newer version."""
        if not names:
            return set()
        done = self._run("dnf", "-q", "check-upgrade", *names, returns=(0, _SOMETHING_TO_UPGRADE))
        if done.exit_code == 0:
            return set()
        listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
        return {name for name in names if any(_is_named(name, each) for each in listed)}

    def left_behind(self, names: Collection[str]) -> set[str]:
        """Return those packages that are installed: rpm keeps no configuration of others."""
        return set(self.installed(names))

    def check_known(self, names: Collection[str]) -> None:
        """Refuse nothing: dnf does, and says which."""

    def read_file(self, path: str) -> tuple[str, str]:
        """Return name and version of an .rpm file.

        Raises:
            CommandFailed: it is none.
        """
        form = "%{NAME} %{VERSION}-%{RELEASE}"
        shown = self._run("rpm", "--query", "--package", "--queryformat", form, "--", path).stdout
        name, _, version = shown.strip().partition(" ")
        return name, version

    def install(self, packages: Mapping[str, str | None]) -> None:
        """Install packages, each in a version, be it an older one, or the newest.

        Of a package that is there `install` without a version says that all is
        well, and `upgrade` brings the newest: of what provides the name, if
        that is how it is there.
        """
        installed = self.installed(packages)
        missing = [name for name, version in packages.items() if version is None]
        provided = self.providers([name for name in missing if name not in installed])
        wishes = {"install": list[str](), "upgrade": list[str]()}
        for name, version in packages.items():
            if version is not None:
                wishes["install"].append(f"{name}-{version}")
            elif name in installed:
                wishes["upgrade"].append(name)
            elif name in provided:
                wishes["upgrade"].extend(sorted(provided[name]))
            else:
                wishes["install"].append(name)
        for verb, names in wishes.items():
            if names:
                self._change(verb, names)

    def install_file(self, path: str) -> None:
        """Install an .rpm file with what it needs."""
        self._change("install", [path])

    def remove(self, names: Collection[str]) -> None:
        """Remove packages."""
        self._change("remove", names)

    def purge(self, names: Collection[str]) -> None:
        """Remove packages; rpm leaves behind only what was changed by hand."""
        self._change("remove", names)

    def _change(self, verb: str, what: Collection[str]) -> None:
        """Change something."""
        self._run("dnf", "-y", *self._options, verb, *what)


def _is_named(name: str, listed: str) -> bool:
    """Say whether a line of dnf's, `bash.x86_64`, is about this package."""
    return listed == name or listed.rpartition(".")[0] == name
