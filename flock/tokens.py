"""The newest fence tokens that callers have shown, so that an older one is refused.

Who calls under a lock shows its token. Of two holders of one slot the later
has the larger token: once that was seen, what the earlier one still sends
comes too late and is refused. Tokens are compared for each (registry, lock,
slot), and kept in the journal, so that a restart forgets none.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

from flock.errors import CallError, JournalError, StaleToken
from flock.journal import Journal

logger = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (place TEXT PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID;
"""

_PARTS = (str, str, int, int)
_MOST_PLACES = 10_000
"""Locks that are known at most; past that the ones seen first are forgotten."""


class Tokens:
    """The newest tokens one process has seen; any thread may use it.

    Args:
        journal: keeps them; None, in a visitor, lets them go with the process.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}
        if journal is not None:
            journal.add_tables(_TABLES)
            with journal.reading() as connection:
                self._newest = dict(connection.execute("SELECT place, token FROM tokens"))

    def check(self, under: Sequence[Any]) -> None:
        """Refuse a token that is older than one already seen; note one that is newer.

        Args:
            under: `[registry id, lock, slot, token]`, as it came over the wire.

        Raises:
            StaleToken: somebody else has had this slot since.
            CallError: it cannot be read.
        """
        if [type(part) for part in under] != list(_PARTS) or abs(under[3]) >= 2**63:
            raise CallError("a call under a lock that cannot be read", may_have_run=False)
        registry, lockid, slot, token = under
        place = json.dumps([registry, lockid, slot])
        with self._lock:
            newest = self._newest.get(place)
            if newest is not None and token < newest:
                raise StaleToken(
                    f"lock {lockid!r}: token {token} is older than {newest}, which was seen here: "
                    "the lock has been somebody else's since"
                )
            if token == newest:
                return
            forgotten = []
            if newest is None and len(self._newest) >= _MOST_PLACES:
                forgotten = [next(iter(self._newest))]
                del self._newest[forgotten[0]]
            self._newest[place] = token
            self._keep(place, token, forgotten)

    def _keep(self, place: str, token: int, forgotten: Sequence[str]) -> None:
        """Keep what is known now; a journal that fails keeps nobody from calling."""
        if self._journal is None:
            return
        try:
            with self._journal.writing() as connection:
                connection.executemany(
                    "DELETE FROM tokens WHERE place = ?", [(each,) for each in forgotten]
                )
                connection.execute(
                    "INSERT INTO tokens VALUES (?, ?)"
                    " ON CONFLICT (place) DO UPDATE SET token = excluded.token",
                    (place, token),
                )
        except JournalError as error:
            logger.warning("a token is known until this process ends only: %s", error)
