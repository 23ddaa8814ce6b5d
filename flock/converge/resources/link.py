"""`link`: a symbolic or hard link, or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from flock.converge.files import Ownership, stat_or_none
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource


@dataclass
class Link(Resource):
    """A link at `target_file` that leads to `to`.

    What is there and is no link (for a hard link: another file) is never
    replaced: that is an error, and nothing is lost.

    Attributes:
        target_file: where the link is; the resource's name by default.
        to: where it leads. A symbolic link may be relative and lead nowhere.
        link_type: `symbolic` or `hard`.
        owner, group: of a symbolic link itself; None for as it is.
    """

    kind: ClassVar[str] = "link"
    actions: ClassVar[tuple[str, ...]] = ("create", "delete")

    target_file: str = ""
    to: str = ""
    link_type: Literal["symbolic", "hard"] = "symbolic"
    owner: str | int | None = None
    group: str | int | None = None

    def check(self) -> None:
        """Fill in the place; refuse what cannot be a link."""
        self.target_file = self.target_file or self.name
        if not os.path.isabs(self.target_file):
            raise ValueError(f"target_file must be absolute, not {self.target_file!r}")
        if "create" in self.wanted_actions and not self.to:
            raise ValueError("to is missing: where the link leads")
        if self.link_type == "hard":
            if self.to and not os.path.isabs(self.to):
                raise ValueError(f"to must be absolute for a hard link, not {self.to!r}")
            if self.owner is not None or self.group is not None:
                raise ValueError("owner and group belong to the file that a hard link leads to")


class LinkProvider(Provider[Link]):
    """Names the changes a link needs."""

    def create(self, wanted: Link) -> Iterator[Change]:
        """Name what makes the link, or leads it elsewhere in one step."""
        path = Path(wanted.target_file)
        found = stat_or_none(path, follow=False)
        if wanted.link_type == "hard":
            yield from self._create_hard(wanted, path, found)
            return
        ownership = Ownership.of(wanted.owner, wanted.group, None, why_run=self.machine.why_run)
        if found is not None and not stat.S_ISLNK(found.st_mode):
            raise FileExistsError(f"{path} is there and is no symbolic link")
        if found is None or os.readlink(path) != wanted.to:
            yield Change(
                f"link {path} to {wanted.to}", lambda: _make_symbolic(path, wanted.to, ownership)
            )
            return
        orders = ownership.differences(found)
        if orders:
            yield Change(
                f"{', '.join(orders)} on {path}", lambda: ownership.apply_to(path, follow=False)
            )

    def delete(self, wanted: Link) -> Iterator[Change]:
        """Name the removal of the link; what it leads to stays."""
        path = Path(wanted.target_file)
        found = stat_or_none(path, follow=False)
        if found is None:
            return
        if wanted.link_type == "symbolic":
            if not stat.S_ISLNK(found.st_mode):
                raise FileExistsError(f"{path} is there and is no symbolic link")
        elif wanted.to and not _is_same(found, stat_or_none(Path(wanted.to))):
            raise FileExistsError(f"{path} is no hard link to {wanted.to}")
        elif not stat.S_ISREG(found.st_mode):
            raise FileExistsError(f"{path} is there and is no file")
        yield Change(f"delete link {path}", path.unlink)

    def _create_hard(
        self, wanted: Link, path: Path, found: os.stat_result | None
    ) -> Iterator[Change]:
        """Name what makes a hard link."""
        to = stat_or_none(Path(wanted.to))
        if to is None and not self.machine.why_run:
            raise FileNotFoundError(f"{wanted.to} is not there to be linked to")
        if found is None:
            yield Change(f"link {path} to {wanted.to}", lambda: os.link(wanted.to, path))
        elif to is not None and not _is_same(found, to):
            raise FileExistsError(f"{path} is there and is no hard link to {wanted.to}")


def _is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Say whether both are one file."""
    return other is not None and os.path.samestat(one, other)


def _make_symbolic(path: Path, to: str, ownership: Ownership) -> None:
    """Put a symbolic link in place in one step."""
    beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.flock")
    try:
        beside.symlink_to(to)
    except FileNotFoundError:
        raise FileNotFoundError(f"the directory {path.parent} does not exist") from None
    try:
        ownership.apply_to(beside, follow=False)
        beside.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


KIND = Kind(Link, LinkProvider)
