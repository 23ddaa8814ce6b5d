"""`file`: a file with this content, owner and mode, or none."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.files import (
    Ownership,
    parse_mode,
    read_or_none,
    stat_or_none,
    write_atomically,
)
from flock.converge.provider import Change, Kind, Provider, text_diff
from flock.converge.resource import Resource

MAX_DIFF_BYTES = 1024 * 1024
"""A file larger than this is replaced without showing the difference."""


@dataclass
class File(Resource):
    """A file that should hold exactly `content`.

    Attributes:
        path: where it is; the resource's name by default.
        content: text or bytes; None leaves a file as it is, or makes an empty one.
        owner, group: by name or number; None for as it is.
        mode: `0o644` or `'0644'`; None for as it is, or as the umask says.
    """

    kind: ClassVar[str] = "file"
    actions: ClassVar[tuple[str, ...]] = ("create", "create_if_missing", "delete", "touch")

    path: str = ""
    content: str | bytes | None = None
    owner: str | int | None = None
    group: str | int | None = None
    mode: int | str | None = None

    def check(self) -> None:
        """Fill in the path; refuse a relative one and a mode that is none."""
        self.path = self.path or self.name
        if not os.path.isabs(self.path):
            raise ValueError(f"path must be absolute, not {self.path!r}")
        self.mode = parse_mode(self.mode)


class FileProvider(Provider[File]):
    """Names the changes a file needs."""

    def create(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file as it is wanted; one step for a crash."""
        content = wanted.content.encode() if isinstance(wanted.content, str) else wanted.content
        ownership = Ownership.of(
            wanted.owner, wanted.group, wanted.mode, why_run=self.machine.why_run
        )
        yield from content_changes(Path(wanted.path), content, ownership)

    def create_if_missing(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file if nothing is at its place."""
        if not os.path.lexists(wanted.path):
            yield from self.create(wanted)

    def delete(self, wanted: File) -> Iterator[Change]:
        """Name the removal of the file."""
        path = Path(wanted.path)
        found = stat_or_none(path, follow=False)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(f"{path} is a directory: use directory(..., action='delete')")
        yield Change(f"delete {path}", path.unlink)

    def touch(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file, and the new time of its last change."""
        yield from self.create(wanted)
        path = Path(wanted.path)
        yield Change(f"touch {path}", path.touch)


def content_changes(path: Path, content: bytes | None, ownership: Ownership) -> Iterator[Change]:
    """Name what gives `path` this content and ownership, for every kind that writes a file.

    Without content a file is left as it is, or an empty one is made.
    """
    found = stat_or_none(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise FileExistsError(f"{path} is there and is no file")
    if found is None or (content is not None and not _holds(path, found, content)):
        wanted = content or b""
        yield Change(
            f"write {path}",
            lambda: write_atomically(path, wanted, ownership),
            _diff(path, found, wanted),
        )
        return
    orders = ownership.differences(found)
    if orders:
        yield Change(f"{', '.join(orders)} on {path}", lambda: ownership.apply_to(path))


def _holds(path: Path, found: os.stat_result, content: bytes) -> bool:
    """Say whether the file holds exactly this; a file of another size is not read."""
    return found.st_size == len(content) and read_or_none(path) == content


def _diff(path: Path, found: os.stat_result | None, content: bytes) -> str | None:
    """Return what the new content changes, if that can be shown."""
    if len(content) > MAX_DIFF_BYTES or (found is not None and found.st_size > MAX_DIFF_BYTES):
        return None
    old = None if found is None else read_or_none(path)
    return text_diff(old, content, str(path))


KIND = Kind(File, FileProvider)
