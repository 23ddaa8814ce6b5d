"""The folder that an embedded registry lives in: where it may lie, and what is called how in it.

In it are the database, and for every opened registry a life file and a
socket to be nudged at, both gone with it. The folder's mode is what protects
the registry, so one that others could write to is refused; so is one on a
network file system, whose locks and shared memory do not hold between
machines.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path

from registry.contract import NotPermitted, RegistryError, RegistryUnavailable, WrongRegistry

# fmt: off
_NETWORK_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "afpfs", "ceph", "coda",
    "ncpfs", "lustre", "beegfs", "gpfs", "glusterfs", "gfs2", "ocfs2", "orangefs", "davfs",
    "webdav", "vboxsf", "prl_fs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs",
    "fuse.rclone", "fuse.gcsfuse", "fuse.goofys", "fuse.juicefs", "fuse.mfs", "fuse.davfs",
    "fuse.smbnetfs", "macfuse", "osxfuse",
})
# fmt: on
_MOUNTS = Path("/proc/self/mountinfo")
_SOCKET_PATH_LIMIT = 100
"""AF_UNIX ends at 107 bytes on Linux, 103 on macOS."""


class Folder:
    """One folder, opened by one registry object.

    Attributes:
        path: the folder, absolute.
        url: `embedded:` and the path, for messages.
        database: the database in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"embedded:{path}"
        self.database = path / "registry.sqlite"
        self._handle: int | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> None:
        """Make the folder if it is not there, and see that it may be used.

        Raises:
            NotPermitted: it belongs to, or can be written by, others.
            WrongRegistry: it is no folder, or lies on a network file system.
            RegistryUnavailable: it cannot be made or looked at.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_rights(self.path.stat())
            self._check_file_system()
            self._make_database()
            self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except RegistryError:
            raise  # some are system errors too, for those who catch such
        except (FileExistsError, NotADirectoryError) as error:
            said = f"{self.url}: there is a file where a folder should be"
            raise WrongRegistry(said) from error
        except PermissionError as error:
            raise NotPermitted(f"{self.url}: {error.strerror} ({error.filename})") from error
        except OSError as error:
            raise RegistryUnavailable(self.url, f"{error.strerror} ({error.filename})") from error
        found = self.database.stat()
        self._identity = (found.st_dev, found.st_ino)

    def _make_database(self) -> None:
        """Make the empty database; others may read the folder, if its owner lets them, but not it.

        One that is there is not opened here. To close any descriptor of it
        drops the locks of every connection that this process has to it; the
        next process to leave would then take itself for the last, and remove
        the log from under us.
        """
        if self.database.exists():
            return
        made = self.path / f"registry.{secrets.token_hex(8)}.new"
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.suppress(FileExistsError):
                os.link(made, self.database)
        finally:
            made.unlink()

    def _check_rights(self, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid():
            raise NotPermitted(
                f"{self.url}: the folder belongs to user {found.st_uid}, you are {os.geteuid()}"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotPermitted(
                f"{self.url}: others can write to the folder "
                f"(mode {stat.S_IMODE(found.st_mode):04o}); try: chmod 700 {self.path}"
            )

    def _check_file_system(self) -> None:
        mounted_at, kind = file_system_of(self.path)
        if kind in _NETWORK_FILE_SYSTEMS:
            raise WrongRegistry(
                f"{self.url}: the folder lies on a network file system ({kind} at {mounted_at}), "
                "where an embedded registry cannot be kept; take a local folder"
            )

    def trouble(self) -> str | None:
        """Say why the folder is not usable as it was when it was opened, None if it is."""
        try:
            found = os.stat(self.database)
        except OSError as error:
            return f"{error.strerror} ({self.database})"
        if (found.st_dev, found.st_ino) != self._identity:
            return f"{self.database} is not the file any more that was opened"
        return None

    def life_file(self, session: str) -> Path:
        """Return the file that a session holds locked while it lives."""
        return self.path / f"{session}.alive"

    def nudge_address(self, session: str) -> str | None:
        """Return the address of a session's socket as this process can use it.

        Every process makes its own way there, through its own handle of the
        folder, because a socket's path must be short. None where there is no
        such way: then nobody is nudged, and the once-a-second look finds all.
        """
        name = f"{session}.nudge"
        if os.path.isdir("/proc/self/fd"):
            return f"/proc/self/fd/{self._handle}/{name}"
        direct = str(self.path / name)
        return direct if len(os.fsencode(direct)) <= _SOCKET_PATH_LIMIT else None

    def remove_traces(self, session: str) -> None:
        """Remove the life file and the socket of a session that has ended."""
        for name in (f"{session}.nudge", f"{session}.alive"):
            # Gone already, or the folder is: nothing depends on it.
            with contextlib.suppress(OSError):
                os.unlink(self.path / name)

    def close(self) -> None:
        """Let go of the folder. Twice is harmless."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def file_system_of(path: Path) -> tuple[str, str]:
    """Return where the file system that holds `path` is mounted, and its type.

    Both are empty where it cannot be told.
    """
    real = os.path.realpath(path)
    best = ("", "")
    for mounted_at, kind in _mounts():
        inside = real == mounted_at or real.startswith(mounted_at.rstrip("/") + "/")
        # A later mount at the same place covers the earlier one.
        if inside and len(mounted_at) >= len(best[0]):
            best = (mounted_at, kind)
    return best


def _mounts() -> list[tuple[str, str]]:
    if not sys.platform.startswith("linux"):
        import psutil  # only where there is no /proc: it takes 30 ms to import

        return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
    try:
        text = os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return []
    mounts = []
    for line in text.splitlines():
        # 36 35 98:0 /root /mounted/at options shared:1 ... - type source options
        before, _, after = line.partition(" - ")
        if len(before.split(" ")) >= 5 and after:
            mounts.append((_unescaped(before.split(" ")[4]), after.split(" ")[0]))
    return mounts


def _unescaped(text: str) -> str:
    """Undo the kernel's octal escapes of blanks and backslashes in paths."""
    for escape, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, plain)
    return text
