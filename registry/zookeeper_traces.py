"""What an attempt at a lock may leave behind, and how it is made sure that nothing stays."""

from __future__ import annotations

from collections.abc import Iterable

from registry.contract import OPERATION_TIMEOUT
from registry.zookeeper_lock import Places
from registry.zookeeper_session import Session
from registry.zookeeper_slots import give_back, tidy


class Traces:
    """What an attempt that was given up may have left, and may yet come into being.

    A request whose answer never came can still be on its way, so one look that
    finds nothing is not enough.
    """

    def __init__(
        self,
        session: Session,
        places: Places,
        attempt: str,
        slots: Iterable[int],
    ) -> None:
        self._session = session
        self._places = places
        self._attempt = attempt
        self._slots = tuple(slots)
        self._clean_looks = 0

    def remove(self, timeout: float = OPERATION_TIMEOUT) -> bool:
        """Remove what is there; say whether anything was."""
        requests = self._session.requests(timeout)
        requests.sync(self._places.folder)
        removed = False
        for name in requests.names(self._places.line):
            if name.startswith(f"{self._attempt}."):
                removed = requests.delete(f"{self._places.line}/{name}") or removed
        for slot in self._slots:
            removed = give_back(requests, self._places, slot, self._attempt) or removed
        if removed:
            tidy(requests, self._places)
        return removed

    def remove_for_sure(self) -> bool:
        """Do the same for `Chores`, until two looks in a row find nothing."""
        self._clean_looks = 0 if self.remove() else self._clean_looks + 1
        return self._clean_looks >= 2
