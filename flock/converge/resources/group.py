"""`group`: a group of this machine and who is in it."""

from __future__ import annotations

import grp
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.accounts import check_account_name, order
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource


@dataclass
class Group(Resource):
    """A group in the machine's own files.

    Attributes:
        group_name: the resource's name by default.
        gid: its number; None for the next free one, or as it is.
        members: users whose further group it is; None leaves them as they are.
        append: members are added; nobody is taken out but `excluded_members`.
        excluded_members: users that are taken out.
        system: a new group gets a number below those of people.
    """

    kind: ClassVar[str] = "group"
    actions: ClassVar[tuple[str, ...]] = ("create", "modify", "remove")

    group_name: str = ""
    gid: int | None = None
    members: list[str] | tuple[str, ...] | None = None
    append: bool = False
    excluded_members: list[str] | tuple[str, ...] = ()
    system: bool = False

    def check(self) -> None:
        """Fill in the name; refuse what cannot be a name."""
        self.group_name = self.group_name or self.name
        check_account_name("group_name", self.group_name)
        for name in (*(self.members or ()), *self.excluded_members):
            check_account_name("members", name)
        if self.excluded_members and not self.append and self.members is not None:
            raise ValueError("excluded_members goes with append=True")
        both = set(self.members or ()) & set(self.excluded_members)
        if both:
            raise ValueError(f"members and excluded_members both have {', '.join(sorted(both))}")


class GroupProvider(Provider[Group]):
    """Names the changes a group needs."""

    def create(self, wanted: Group) -> Iterator[Change]:
        """Name what makes the group, or puts it right."""
        name = wanted.group_name
        if _found(name) is None:
            arguments = ["--system"] if wanted.system else []
            if wanted.gid is not None:
                arguments += ["--gid", str(wanted.gid)]
            yield order(self.machine, f"create group {name}", "groupadd", *arguments, "--", name)
        yield from self._put_right(wanted)

    def modify(self, wanted: Group) -> Iterator[Change]:
        """Name what puts a group right that is there."""
        if _found(wanted.group_name) is None and not self.machine.why_run:
            raise LookupError(f"no group {wanted.group_name!r} on this machine")
        yield from self._put_right(wanted)

    def remove(self, wanted: Group) -> Iterator[Change]:
        """Name the removal of the group."""
        name = wanted.group_name
        if _found(name) is not None:
            yield order(self.machine, f"remove group {name}", "groupdel", "--", name)

    def _put_right(self, wanted: Group) -> Iterator[Change]:
        """Name what differs."""
        name = wanted.group_name
        found = _found(name)
        if found is not None and wanted.gid not in (None, found.gr_gid):
            gid = str(wanted.gid)
            yield order(
                self.machine, f"set gid {gid} of group {name}", "groupmod", "--gid", gid, "--", name
            )
        is_in = set(found.gr_mem) if found is not None else set()
        if wanted.append or wanted.members is None:
            should = is_in | set(wanted.members or ())
        else:
            should = set(wanted.members)
        should -= set(wanted.excluded_members)
        if should != is_in:
            text = ", ".join(
                [f"add {each}" for each in sorted(should - is_in)]
                + [f"take out {each}" for each in sorted(is_in - should)]
            )
            yield order(
                self.machine,
                f"group {name}: {text}",
                "gpasswd",
                "--members",
                ",".join(sorted(should)),
                name,
            )


def _found(name: str) -> grp.struct_group | None:
    """Return what the machine knows of a group."""
    try:
        return grp.getgrnam(name)
    except KeyError:
        return None


KIND = Kind(Group, GroupProvider)
