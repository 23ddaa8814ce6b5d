"""What the kinds user and group have in common: names, and the programs of `passwd`."""

from __future__ import annotations

import re

from flock.converge.programs import needed_program
from flock.converge.provider import Change, Machine

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}\$?")


def check_account_name(what: str, name: str) -> None:
    """Refuse what no user or group can be called.

    Raises:
        ValueError: names the property.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} must be a name of at most 32 plain characters, not {name!r}")


def order(
    machine: Machine, text: str, program: str, *arguments: str, stdin: str | None = None
) -> Change:
    """Name a change that one of the programs makes.

    Args:
        machine: runs it.
        text: the change.
        program: `useradd` and the like.
        arguments: for it.
        stdin: what it reads; not shown.
    """

    def run() -> None:
        path = needed_program(machine, program, "apt-get install passwd")
        assert path is not None
        machine.run([path, *arguments], stdin=stdin, timeout=300)

    return Change(text, run)
