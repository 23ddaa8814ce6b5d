"""What all kinds that put a file somewhere share: its place, its owner, how it is replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flock.converge.files import (
    Ownership,
    parse_mode,
    read_or_none,
    stat_or_none,
    write_atomically,
)
from flock.converge.provider import Change, Machine
from flock.converge.resource import Resource
from flock.converge.text_diff import text_diff

MAX_DIFF_BYTES = 1024 * 1024
"""A file larger than this is replaced without showing the difference."""


@dataclass
class PlacedFile(Resource):
    """A resource that is a file at a path.

    Attributes:
        path: where it is; the resource's name by default.
        owner, group: by name or number; None for as it is.
        mode: `0o644` or `'0644'`; None for as it is, or as the umask says.
    """

    path: str = ""
    owner: str | int | None = None
    group: str | int | None = None
    mode: int | str | None = None

    def check(self) -> None:
        """Fill in the path; refuse a relative one and a mode that is none."""
        self.path = self.path or self.name
        if not os.path.isabs(self.path):
            raise ValueError(f"path must be absolute, not {self.path!r}")
        self.mode = parse_mode(self.mode)

    def ownership(self, machine: Machine) -> Ownership:
        """Return owner, group and mode as wanted.

        Raises:
            LookupError: this machine knows no such user or group.
        """
        return Ownership.of(self.owner, self.group, self.mode, why_run=machine.why_run)


def content_changes(path: Path, content: bytes | None, ownership: Ownership) -> Iterator[Change]:
    """Name what gives `path` this content and ownership.

    Without content a file is left as it is, or an empty one is made.
    """
    found = found_file(path)
    if found is None or (content is not None and not _holds(path, found, content)):
        wanted = content or b""
        yield Change(
            f"write {path}",
            lambda: write_atomically(path, wanted, ownership),
            _diff(path, found, wanted),
        )
        return
    yield from ownership_changes(path, found, ownership)


def ownership_changes(path: Path, found: os.stat_result, ownership: Ownership) -> Iterator[Change]:
    """Name what gives what is at `path` its owner, group and mode."""
    orders = ownership.differences(found)
    if orders:
        yield Change(f"{', '.join(orders)} on {path}", lambda: ownership.apply_to(path))


def removal_changes(path: Path) -> Iterator[Change]:
    """Name the removal of a file.

    Raises:
        IsADirectoryError: it is a directory.
    """
    found = stat_or_none(path, follow=False)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a directory: use directory(..., action='delete')")
    yield Change(f"delete {path}", path.unlink)


def found_file(path: Path) -> os.stat_result | None:
    """Return what is known of a file, None if nothing is there.

    Raises:
        FileExistsError: what is there is no file.
    """
    found = stat_or_none(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise FileExistsError(f"{path} is there and is no file")
    return found


def _holds(path: Path, found: os.stat_result, content: bytes) -> bool:
    """Say whether the file holds exactly this; a file of another size is not read."""
    return found.st_size == len(content) and read_or_none(path) == content


def _diff(path: Path, found: os.stat_result | None, content: bytes) -> str | None:
    """Return what the new content changes, if that can be shown."""
    if len(content) > MAX_DIFF_BYTES or (found is not None and found.st_size > MAX_DIFF_BYTES):
        return None
    old = None if found is None else read_or_none(path)
    return text_diff(old, content, str(path))
