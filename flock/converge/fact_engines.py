"""Facts from `facter` or `ohai` beside our own, for recipes that were written for theirs."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from flock.converge import facts as machine_facts
from flock.converge.attributes import merge_onto, plain
from flock.journal import Journal

log = logging.getLogger("flock.converge")

COMMANDS: Mapping[str, tuple[str, ...]] = {"facter": ("facter", "--json"), "ohai": ("ohai",)}
"""What prints an engine's facts as JSON."""

KEPT_SECONDS = 3600.0
"""How long an engine's facts are used again: it takes a second or more to find them."""

LIMIT_SECONDS = 60.0
"""How long an engine may take."""


class EngineFacts:
    """Returns our own facts with an engine's merged over them; a kitchen's `facts`.

    The engine's are kept in the journal for an hour. An engine that is not
    there, or fails, is warned about; what is known of it, however old, and our
    own facts are used.
    """

    def __init__(
        self,
        engine: str,
        journal: Journal,
        own: Callable[[], Mapping[str, Any]] = machine_facts.collect,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make one.

        Args:
            engine: `facter` or `ohai`.
            journal: keeps what was found.
            own: returns our own facts; asked each time.
            clock: wall clock, seconds since 1970.
        """
        self._engine = engine
        self._command = COMMANDS[engine]
        self._journal = journal
        self._own = own
        self._clock = clock

    def __call__(self) -> dict[str, Any]:
        """Return the facts as they are now."""
        facts: dict[str, Any] = plain(self._own(), "facts")
        merge_onto(facts, self._engine_facts(), join_lists=False)
        return facts

    def _engine_facts(self) -> dict[str, Any]:
        """Return the engine's facts: kept ones that are young enough, else new ones."""
        key = f"facts of {self._engine}"
        kept = self._journal.recall(key) or {"at": 0.0, "facts": {}}
        # A clock that was set back makes what is kept look as if it came from the future.
        if not 0 <= self._clock() - kept["at"] < KEPT_SECONDS:
            found = self._ask()
            if found is not None:
                kept = {"at": self._clock(), "facts": found}
                self._journal.remember(key, kept)
        facts: dict[str, Any] = kept["facts"]
        return facts

    def _ask(self) -> dict[str, Any] | None:
        """Run the engine; None if it gave nothing that can be used."""
        try:
            done = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIMIT_SECONDS,
                check=True,
            )
            found = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            log.warning("no facts of %s: %s", self._engine, error)
            return None
        if not isinstance(found, dict):
            log.warning("no facts of %s: it printed no table", self._engine)
            return None
        return found
