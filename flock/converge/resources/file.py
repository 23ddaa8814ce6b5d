"""`file`: a file with this content, owner and mode, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.placed_file import PlacedFile, content_changes, removal_changes
from flock.converge.provider import Change, Kind, Provider


@dataclass
class File(PlacedFile):
    """A file that should hold exactly `content`.

    Attributes:
        content: text or bytes; None leaves a file as it is, or makes an empty one.
    """

    kind: ClassVar[str] = "file"
    actions: ClassVar[tuple[str, ...]] = ("create", "create_if_missing", "delete", "touch")

    content: str | bytes | None = None

    @property
    def can_tell(self) -> bool:
        """Whether a look tells if something is to change: a touch always does."""
        return "touch" not in self.wanted_actions


class FileProvider(Provider[File]):
    """Names the changes a file needs."""

    def create(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file as it is wanted; one step for a crash."""
        content = wanted.content.encode() if isinstance(wanted.content, str) else wanted.content
        yield from content_changes(Path(wanted.path), content, wanted.ownership(self.machine))

    def create_if_missing(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file if nothing is at its place."""
        if not os.path.lexists(wanted.path):
            yield from self.create(wanted)

    def delete(self, wanted: File) -> Iterator[Change]:
        """Name the removal of the file."""
        yield from removal_changes(Path(wanted.path))

    def touch(self, wanted: File) -> Iterator[Change]:
        """Name what makes the file, and the new time of its last change."""
        yield from self.create(wanted)
        path = Path(wanted.path)
        yield Change(f"touch {path}", path.touch)


KIND = Kind(File, FileProvider)
