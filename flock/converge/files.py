"""Write files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = "/proc/self/fd/{}"
"""Where a file of ours can be given a name."""

_MEANT_OCTAL = frozenset(int(f"{number:o}") for number in range(0o600, 0o1000)) | {
    1777,
    2750,
    2755,
    2770,
    2775,
}
"""Numbers that somebody wrote without `0o`: what they are in octal nobody gives a file."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Owner, group and mode as they are or should be; None for "as it is"."""

    user_id: int | None = None
    group_id: int | None = None
    mode: int | None = None

    @classmethod
    def of(
        cls,
        owner: str | int | None,
        group: str | int | None,
        mode: int | str | None,
        *,
        why_run: bool = False,
    ) -> Ownership:
        """Make one of what a recipe wrote.

        With `why_run` an unknown user or group is left open: an earlier
        resource may be going to make it.

        Raises:
            LookupError: this machine knows no such user or group.
        """
        try:
            user_id, group_id = _user_id(owner), _group_id(group)
        except LookupError:
            if not why_run:
                raise
            user_id = group_id = None
        return cls(user_id, group_id, parse_mode(mode))

    def differences(self, found: os.stat_result) -> list[str]:
        """Name what differs at a file, as orders: `set mode 0600`."""
        orders = []
        if self.user_id is not None and self.user_id != found.st_uid:
            orders.append(f"set owner {_user_name(self.user_id)}")
        if self.group_id is not None and self.group_id != found.st_gid:
            orders.append(f"set group {_group_name(self.group_id)}")
        if self.mode is not None and self.mode != stat.S_IMODE(found.st_mode):
            orders.append(f"set mode {self.mode:04o}")
        return orders

    def apply_to(self, target: Path | int, *, follow: bool = True) -> None:
        """Set what is wanted, the owner first: changing it clears the set-id bits of the mode."""
        if self.user_id is not None or self.group_id is not None:
            ids = (-1 if each is None else each for each in (self.user_id, self.group_id))
            os.chown(target, *ids, follow_symlinks=follow)
        if self.mode is not None:
            os.chmod(target, self.mode)


def parse_mode(mode: int | str | None) -> int | None:
    """Read `0o644`, `'0644'` or `'644'`.

    Raises:
        ValueError: no mode.
    """
    if mode is None:
        return None
    try:
        number = int(mode, 8) if isinstance(mode, str) else mode
    except ValueError:
        number = -1
    if not 0 <= number <= 0o7777:
        raise ValueError(f"mode must be an octal number like 0o644 or '0644', not {mode!r}")
    if isinstance(mode, int) and mode in _MEANT_OCTAL:
        raise ValueError(f"mode {mode} is {number:04o} in octal: write 0o{mode} or '{mode:04}'")
    return number


def read_or_none(path: Path) -> bytes | None:
    """Return a file's content, None if there is no such file."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.readall()
    except FileNotFoundError:
        return None


def stat_or_none(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """Return what is known of a path, None if nothing is there."""
    try:
        return os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_atomically(
    path: Path, content: bytes | Iterable[bytes], ownership: Ownership | None = None
) -> None:
    """Put `content` at `path` in one step, on disk before it is seen.

    It is written beside its place with its owner and mode, and renamed. What
    `ownership` leaves open stays as it was at `path`, or follows the umask. A
    symbolic link is kept: the file it leads to is replaced.

    Args:
        path: where to.
        content: all of it, or the parts in order.
        ownership: owner, group and mode.

    Raises:
        OSError: `path` is as it was.
    """
    ownership = ownership or Ownership()
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    found = stat_or_none(path)
    if found is not None:
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(f"{path} is a directory")
        ownership = Ownership(
            _either(ownership.user_id, found.st_uid),
            _either(ownership.group_id, found.st_gid),
            _either(ownership.mode, stat.S_IMODE(found.st_mode)),
        )
    beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.flock")
    # Without a mode of its own the file may be seen as the umask says; with
    # one, nobody else may read it before that mode stands.
    first_mode = 0o666 if ownership.mode is None else 0o600
    # What comes in parts may be large: it has no name yet, so that nothing stays if we die.
    nameless = None if isinstance(content, bytes) else _open_nameless(path.parent, first_mode)
    try:
        descriptor = (
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, first_mode)
            if nameless is None
            else nameless
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"the directory {path.parent} does not exist") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        try:
            for part in (content,) if isinstance(content, bytes) else content:
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            _own(descriptor, ownership)
            os.fdatasync(descriptor)
            if nameless is not None:
                # With a folder given Python follows the link of /proc to the file.
                os.link(_PROC.format(nameless), beside, src_dir_fd=nameless)
        finally:
            os.close(descriptor)
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _open_nameless(folder: Path, mode: int) -> int | None:
    """Open a new file in a folder that has no name; None where there is no such thing."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError:
        return None
    if os.path.exists(_PROC.format(descriptor)):
        return descriptor
    os.close(descriptor)
    return None


def _own(descriptor: int, wanted: Ownership) -> None:
    """Set owner and mode of the new file, leaving out what is so already."""
    new = os.fstat(descriptor)
    user_id = None if wanted.user_id == new.st_uid else wanted.user_id
    group_id = None if wanted.group_id == new.st_gid else wanted.group_id
    Ownership(user_id, group_id, wanted.mode).apply_to(descriptor)


def _either(first: int | None, second: int) -> int:
    """Return the first if there is one."""
    return second if first is None else first


def _user_id(owner: str | int | None) -> int | None:
    """Return the number of a user named or numbered."""
    if owner is None or isinstance(owner, int):
        return owner
    if owner.isdigit():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise LookupError(f"no user {owner!r} on this machine") from None


def _group_id(group: str | int | None) -> int | None:
    """Return the number of a group named or numbered."""
    if group is None or isinstance(group, int):
        return group
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LookupError(f"no group {group!r} on this machine") from None


def _user_name(user_id: int) -> str:
    """Return a user's name, or the number if it has none."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def _group_name(group_id: int) -> str:
    """Return a group's name, or the number if it has none."""
    try:
        return grp.getgrgid(group_id).gr_name
    except KeyError:
        return str(group_id)
