"""`log`: say something in the node's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource

_log = logging.getLogger("flock.converge.log")


@dataclass
class Log(Resource):
    """A line in the node's log; never counts as a change.

    Attributes:
        message: what is said; the resource's name by default.
        level: how loud.
    """

    kind: ClassVar[str] = "log"
    actions: ClassVar[tuple[str, ...]] = ("write",)

    message: str = ""
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"

    def check(self) -> None:
        """Fill in the message."""
        self.message = self.message or self.name


class LogProvider(Provider[Log]):
    """Says it, and names no change: nothing on the machine is different afterwards."""

    def write(self, wanted: Log) -> Iterator[Change]:
        """Write the line, in a why-run too."""
        level = logging.getLevelNamesMapping()[wanted.level.upper()]
        _log.log(level, "%s", wanted.shown(wanted.message))
        return iter(())


KIND = Kind(Log, LogProvider)
