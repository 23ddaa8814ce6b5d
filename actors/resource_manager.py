"""`resource_manager`: what becomes of notices, here and from here."""

from __future__ import annotations

from typing import Any, ClassVar

from flock.actor import Actor
from flock.notice_office import NoticeOffice


class ResourceManager(Actor):
    """Answers for the notices of this machine.

    It never acts on its own thread: an action waits for the run lock, and who
    asks what waits wants to know it now.
    """

    survives_tells: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("notices",)

    def __init__(self, notices: NoticeOffice) -> None:
        """Answer for an office, which outlives this actor."""
        super().__init__()
        self._office = notices

    def nudge(self) -> None:
        """Look at the queue now; it would be seen a little later without this."""
        self._office.nudge()

    def notices(self, dead: bool = False, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Return notices to and from this machine as rows.

        Args:
            dead: those that ended badly, with the reason.
            all_of_them: those that are over, too.
        """
        return self._office.rows(dead=dead, all_of_them=all_of_them)

    def report(self, notice: str) -> dict[str, Any] | None:
        """Return the report of the action that a notice led to here, None if it led to none."""
        found = self._office.report(notice)
        return None if found is None else dict(found)

    def retry(self, notice: str) -> bool:
        """Let a dead letter go once more; say whether there is one of this id."""
        return self._office.retry(notice)

    def subscriptions(self) -> list[dict[str, Any]]:
        """Return who subscribed to resources of this machine."""
        return self._office.subscribers()
