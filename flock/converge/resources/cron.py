"""`cron`: one entry in a user's crontab."""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.accounts import check_account_name
from flock.converge.programs import needed_program
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource
from flock.converge.text_diff import text_diff
from flock.errors import CommandFailed

_MARK = "# Flock Name: "
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day": (1, 31, ()),
    "month": (1, 12, _MONTHS),
    "weekday": (0, 7, _DAYS),
}
"""The smallest and the largest number of each field, and the names that may stand instead."""
_STEP = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)
_TIMES = ("reboot", "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


@dataclass
class Cron(Resource):
    r"""An entry in a user's crontab, found again by the resource's name.

    Entries of others are left as they are. As in every crontab a `%` in the
    command ends it unless written `\%`.

    Attributes:
        command: what is run, by `/bin/sh`.
        minute, hour, day, month, weekday: as in a crontab; `*` by default.
        time: `daily`, `hourly`, `reboot` and so on, instead of those five.
        user: whose crontab.
        environment: variables of the command.
    """

    kind: ClassVar[str] = "cron"
    actions: ClassVar[tuple[str, ...]] = ("create", "delete")

    command: str = ""
    minute: int | str = "*"
    hour: int | str = "*"
    day: int | str = "*"
    month: int | str = "*"
    weekday: int | str = "*"
    time: str | None = None
    user: str = "root"
    environment: dict[str, str] | None = None

    def check(self) -> None:
        """Refuse what would be another entry than it looks."""
        check_account_name("user", self.user)
        if not self.name.isprintable():
            raise ValueError("the name of a cron entry is one line of plain text")
        if "create" in self.wanted_actions and not self.command:
            raise ValueError("command is missing")
        if any(sign in self.command for sign in "\n\r\0"):
            raise ValueError("command must be one line")
        for what, (least, most, names) in _FIELDS.items():
            value = str(getattr(self, what))
            if not _is_field(what, value):
                named = f", {names[0]} to {names[-1]}" if names else ""
                raise ValueError(
                    f"{what} must be as in a crontab, like '*', '*/5' or '1-3,5', of {least} to"
                    f" {most}{named}; not {value!r}"
                )
            if self.time is not None and value != "*":
                raise ValueError(f"time and {what} exclude each other")
        if self.time is not None and self.time not in _TIMES:
            raise ValueError(f"time must be one of {', '.join(_TIMES)}, not {self.time!r}")
        for key, value in (self.environment or {}).items():
            if not _VARIABLE.fullmatch(key) or any(sign in value for sign in "\n\r\0"):
                raise ValueError(f"environment cannot hold {key!r} with that value")

    @property
    def entry(self) -> list[str]:
        """The entry's lines, its mark first."""
        when = (
            f"@{self.time}"
            if self.time is not None
            else " ".join(
                str(each) for each in (self.minute, self.hour, self.day, self.month, self.weekday)
            )
        )
        # Lines of variables would hold for all entries below them too.
        exports = "".join(
            f"export {key}={shlex.quote(value)}; ".replace("%", r"\%")
            for key, value in (self.environment or {}).items()
        )
        return [f"{_MARK}{self.name}", f"{when} {exports}{self.command}"]


class CronProvider(Provider[Cron]):
    """Names the changes a crontab needs; `crontab` replaces it in one step."""

    def create(self, wanted: Cron) -> Iterator[Change]:
        """Name what puts the entry in, or right."""
        old = self._lines(wanted)
        place = _place(old, wanted.name)
        if place is None:
            yield self._write(wanted, old, [*old, *wanted.entry], "add")
        elif old[place : place + 2] != wanted.entry:
            new = [*old[:place], *wanted.entry, *_rest(old, place)]
            yield self._write(wanted, old, new, "change")

    def delete(self, wanted: Cron) -> Iterator[Change]:
        """Name what takes the entry out."""
        old = self._lines(wanted)
        place = _place(old, wanted.name)
        if place is not None:
            yield self._write(wanted, old, [*old[:place], *_rest(old, place)], "delete")

    def _lines(self, wanted: Cron) -> list[str]:
        """Return the crontab as it stands.

        Raises:
            CommandFailed: it cannot be read, which is something else than empty.
        """
        crontab = needed_program(self.machine, "crontab", "apt-get install cron")
        if crontab is None:
            return []
        done = self.machine.run(
            [crontab, *_whose(wanted.user), "-l"],
            returns=None,
            environment={"LC_ALL": "C"},
            timeout=60,
        )
        if done.exit_code == 0:
            return _text(done.written).removesuffix("\n").split("\n") if done.written else []
        if "no crontab for" in done.stderr:
            return []
        if self.machine.why_run:
            # The user may be going to be made by an earlier resource.
            return []
        raise CommandFailed(f"the crontab of {wanted.user} cannot be read: {done.last_words()}")

    def _write(self, wanted: Cron, old: list[str], new: list[str], verb: str) -> Change:
        """Name the new crontab."""
        before, after = (_bytes("".join(f"{line}\n" for line in lines)) for lines in (old, new))

        def write() -> None:
            crontab = needed_program(self.machine, "crontab", "apt-get install cron")
            assert crontab is not None
            self.machine.run([crontab, *_whose(wanted.user), "-"], stdin=after, timeout=60)

        diff = text_diff(before, after, f"crontab of {wanted.user}")
        return Change(
            f"{verb} entry {wanted.shown(wanted.name)} in the crontab of {wanted.user}", write, diff
        )


def _text(crontab: bytes) -> str:
    """Read a crontab: what is no UTF-8 in entries of others is to come out as it went in."""
    return crontab.decode(errors="surrogateescape")


def _bytes(crontab: str) -> bytes:
    """Write what `_text` read."""
    return crontab.encode(errors="surrogateescape")


def _whose(user: str) -> list[str]:
    """Return the arguments that say whose crontab; only root may name another's."""
    try:
        is_own = pwd.getpwuid(os.geteuid()).pw_name == user
    except KeyError:
        is_own = False
    return [] if is_own else ["-u", user]


def _is_field(what: str, value: str) -> bool:
    """Say whether a value can stand in a field of a crontab."""
    least, most, names = _FIELDS[what]

    def number(word: str) -> int:
        if word.lower() in names:
            return names.index(word.lower()) + least
        return int(word) if word.isdigit() else -1

    for part in value.split(","):
        found = _STEP.fullmatch(part)
        if found is None:
            return False
        every, first, last, step = found.groups()
        if step is not None and (int(step) < 1 or (every is None and last is None)):
            return False
        if every is None:
            begin, end = number(first), number(last or first)
            if not least <= begin <= end <= most:
                return False
    return True


def _place(lines: list[str], name: str) -> int | None:
    """Return the line of an entry's mark."""
    mark = f"{_MARK}{name}"
    return next((number for number, line in enumerate(lines) if line == mark), None)


def _rest(lines: list[str], place: int) -> list[str]:
    """Return what follows an entry; one whose second line somebody deleted has only its mark."""
    has_line = place + 1 < len(lines) and not lines[place + 1].startswith(_MARK)
    return lines[place + (2 if has_line else 1) :]


KIND = Kind(Cron, CronProvider)
