"""`directory`: a directory with this owner and mode, or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.files import Ownership, stat_or_none
from flock.converge.placed_file import PlacedFile, ownership_changes
from flock.converge.provider import Change, Kind, Provider


@dataclass
class Directory(PlacedFile):
    """A directory that should be there, or not.

    Attributes:
        recursive: create: make what is missing above it too, as the umask says;
            delete: with all that is in it.
    """

    kind: ClassVar[str] = "directory"
    actions: ClassVar[tuple[str, ...]] = ("create", "delete")

    recursive: bool = False

    def check(self) -> None:
        """Refuse to delete everything there is."""
        super().check()
        if "delete" in self.wanted_actions and os.path.normpath(self.path).strip("/") == "":
            raise ValueError("path is the root of all files: it cannot be deleted")


class DirectoryProvider(Provider[Directory]):
    """Names the changes a directory needs."""

    def create(self, wanted: Directory) -> Iterator[Change]:
        """Name what makes the directory, and what puts its owner and mode right."""
        path = Path(wanted.path)
        ownership = wanted.ownership(self.machine)
        found = stat_or_none(path)
        if found is None:
            if path.is_symlink():
                raise FileExistsError(f"{path} is a link that leads nowhere")
            if not path.parent.is_dir() and not wanted.recursive and not self.machine.why_run:
                raise FileNotFoundError(
                    f"the directory {path.parent} does not exist: recursive=True makes it too"
                )
            yield Change(f"make directory {path}", lambda: _make(path, ownership))
            return
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{path} is there and is no directory")
        yield from ownership_changes(path, found, ownership)

    def delete(self, wanted: Directory) -> Iterator[Change]:
        """Name the removal of the directory; of one that is not empty only if that was said."""
        path = Path(wanted.path)
        found = stat_or_none(path, follow=False)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{path} is no directory")
        if wanted.recursive:
            yield Change(f"delete {path} and all in it", lambda: shutil.rmtree(path))
        elif not self.machine.why_run and any(path.iterdir()):
            raise OSError(f"{path} is not empty: recursive=True deletes it with all in it")
        else:
            yield Change(f"delete directory {path}", path.rmdir)


def _make(path: Path, ownership: Ownership) -> None:
    """Make a directory that nobody sees before it has its owner and mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ownership == Ownership():
        path.mkdir()
        return
    beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.flock")
    beside.mkdir(mode=0o777 if ownership.mode is None else 0o700)
    try:
        ownership.apply_to(beside)
        beside.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.rmdir()
        raise


KIND = Kind(Directory, DirectoryProvider)
