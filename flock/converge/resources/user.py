"""`user`: a user of this machine."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.accounts import check_account_name, order
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource


@dataclass
class User(Resource):
    """A user in the machine's own files.

    Attributes:
        username: the resource's name by default.
        uid: the number; None for the next free one, or as it is.
        gid: the first group, by name or number; None for one of the user's own.
        comment: the full name.
        home: the home directory.
        shell: what a login starts.
        password: as a hash (`mkpasswd`, `openssl passwd -6`); never shown.
        manage_home: the home directory is made with the user, moved when
            `home` changes, and deleted when the user is removed.
        system: a new user gets a number below those of people.
    """

    kind: ClassVar[str] = "user"
    actions: ClassVar[tuple[str, ...]] = ("create", "modify", "remove", "lock", "unlock")

    username: str = ""
    uid: int | None = None
    gid: int | str | None = None
    comment: str | None = None
    home: str | None = None
    shell: str | None = None
    password: str | None = None
    manage_home: bool = False
    system: bool = False

    def check(self) -> None:
        """Fill in the name; refuse what would break the machine's files."""
        self.username = self.username or self.name
        check_account_name("username", self.username)
        if isinstance(self.gid, str) and not self.gid.isdigit():
            check_account_name("gid", self.gid)
        for what in ("comment", "home", "shell", "password"):
            value = getattr(self, what)
            if value is not None and any(sign in value for sign in ":\n\0"):
                raise ValueError(f"{what} cannot hold a colon or a line break")
        for what in ("home", "shell"):
            value = getattr(self, what)
            if value and not os.path.isabs(value):
                raise ValueError(f"{what} must be absolute, not {value!r}")


class UserProvider(Provider[User]):
    """Names the changes a user needs."""

    def create(self, wanted: User) -> Iterator[Change]:
        """Name what makes the user, or puts it right."""
        name = wanted.username
        if _found(name) is None:
            flags = ["--create-home" if wanted.manage_home else "--no-create-home"]
            if wanted.system:
                flags.append("--system")
            options = {
                "--uid": wanted.uid,
                "--gid": wanted.gid,
                "--comment": wanted.comment,
                "--home-dir": wanted.home,
                "--shell": wanted.shell,
            }
            for option, value in options.items():
                if value is not None:
                    flags += [option, str(value)]
            yield order(self.machine, f"create user {name}", "useradd", *flags, "--", name)
        yield from self._put_right(wanted)

    def modify(self, wanted: User) -> Iterator[Change]:
        """Name what puts a user right that is there."""
        self._must_be_there(wanted)
        yield from self._put_right(wanted)

    def remove(self, wanted: User) -> Iterator[Change]:
        """Name the removal of the user."""
        name = wanted.username
        if _found(name) is not None:
            flags = ["--remove"] if wanted.manage_home else []
            text = f"remove user {name}" + (" with the home directory" if flags else "")
            yield order(self.machine, text, "userdel", *flags, "--", name)

    def lock(self, wanted: User) -> Iterator[Change]:
        """Name what makes the password useless."""
        self._must_be_there(wanted)
        name = wanted.username
        hashed = self._password_hash(name)
        if hashed is None or not hashed.startswith("!"):
            yield order(self.machine, f"lock user {name}", "usermod", "--lock", "--", name)

    def unlock(self, wanted: User) -> Iterator[Change]:
        """Name what makes the password good again; a user without one stays locked."""
        self._must_be_there(wanted)
        name = wanted.username
        hashed = self._password_hash(name)
        if hashed is None or (hashed.startswith("!") and hashed.strip("!*")):
            yield order(self.machine, f"unlock user {name}", "usermod", "--unlock", "--", name)

    def _put_right(self, wanted: User) -> Iterator[Change]:
        """Name what differs at a user that is there, and the password."""
        name = wanted.username
        found = _found(name)
        if found is not None:
            flags: list[str] = []
            texts: list[str] = []
            gid = _group_id(wanted.gid)
            for what, option, value, stands in (
                ("uid", "--uid", wanted.uid, found.pw_uid),
                ("gid", "--gid", gid, found.pw_gid),
                ("comment", "--comment", wanted.comment, found.pw_gecos),
                ("home", "--home", wanted.home, found.pw_dir),
                ("shell", "--shell", wanted.shell, found.pw_shell),
            ):
                if value is not None and value != stands:
                    flags += [option, str(value)]
                    texts.append(f"set {what} {value!s}")
            if "--home" in flags and wanted.manage_home:
                flags.append("--move-home")
            if flags:
                text = f"{', '.join(texts)} of user {name}"
                yield order(self.machine, text, "usermod", *flags, "--", name)
        if wanted.password is not None and not self._has_password(wanted):
            line = f"{name}:{wanted.password}\n"
            yield order(
                self.machine, f"set password of user {name}", "chpasswd", "--encrypted", stdin=line
            )

    def _must_be_there(self, wanted: User) -> None:
        """Refuse to change a user that is not there; in a why-run an earlier resource may make it.

        Raises:
            LookupError: there is no such user.
        """
        if _found(wanted.username) is None and not self.machine.why_run:
            raise LookupError(f"no user {wanted.username!r} on this machine")

    def _has_password(self, wanted: User) -> bool:
        """Say whether a user has the wanted password; it may be locked if that is wanted, too."""
        right = [wanted.password]
        if "lock" in wanted.wanted_actions:
            right.append(f"!{wanted.password}")
        return self._password_hash(wanted.username) in right

    def _password_hash(self, name: str) -> str | None:
        """Return a user's password as it stands; None if that is not to be known."""
        if _found(name) is None:
            return None
        done = self.machine.run(["getent", "shadow", name], returns=None, timeout=60)
        fields = done.stdout.split(":")
        return fields[1] if len(fields) > 1 else None


def _found(name: str) -> pwd.struct_passwd | None:
    """Return what the machine knows of a user."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _group_id(group: int | str | None) -> int | str | None:
    """Return the number of a group; the name if there is none yet, for `usermod` to refuse."""
    if group is None or isinstance(group, int):
        return group
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return group


KIND = Kind(User, UserProvider)
