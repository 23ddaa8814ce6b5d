"""Facts from `facter` or `ohai` beside our own, for recipes that were written for theirs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from flock.converge import facts as machine_facts
from flock.converge.attributes import merge_onto, plain
from flock.converge.cancellation import Cancellation
from flock.converge.commands import Commands
from flock.errors import CommandFailed
from flock.journal import Journal

log = logging.getLogger("flock.converge")

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "facter": ("facter", "--json", "--no-color"),
    "ohai": ("ohai",),
}
"""What prints an engine's facts as JSON."""

KEPT_SECONDS = 3600.0
"""How long an engine's facts are used again: it takes a second or more to find them."""

LIMIT_SECONDS = 30.0
"""How long an engine may take."""


class EngineFacts:
    """Returns our own facts with an engine's merged over them.

    Our own names keep their form, or what is written for them would break: where
    `kernel` is a table of ours and a text of facter's, facter's stands at
    `facter.kernel`.

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

    def __call__(self, cancellation: Cancellation | None = None) -> dict[str, Any]:
        """Return the facts as they are now.

        Args:
            cancellation: ends an engine that is being asked.

        Raises:
            RunCancelled: it was cancelled; the engine is gone.
        """
        facts: dict[str, Any] = plain(self._own(), "facts")
        apart = merge_same_forms(facts, self._engine_facts(cancellation))
        if apart:
            merge_onto(facts, {self._engine: apart}, join_lists=False)
        return facts

    def _engine_facts(self, cancellation: Cancellation | None) -> dict[str, Any]:
        """Return the engine's facts: kept ones that are young enough, else new ones."""
        key = f"facts of {self._engine}"
        kept = self._journal.recall(key) or {"at": 0.0, "facts": {}}
        # A clock that was set back makes what is kept look as if it came from the future.
        if not 0 <= self._clock() - kept["at"] < KEPT_SECONDS:
            found = self._ask(cancellation)
            if found is not None:
                kept = {"at": self._clock(), "facts": found}
                self._journal.remember(key, kept)
        facts: dict[str, Any] = kept["facts"]
        return facts

    def _ask(self, cancellation: Cancellation | None) -> dict[str, Any] | None:
        """Run the engine; None if it gave nothing that can be used."""
        commands = Commands()
        try:
            done = commands.run(self._command, cancellation=cancellation, timeout=LIMIT_SECONDS)
        except CommandFailed as error:
            log.warning("no facts of %s: %s", self._engine, error)
            return None
        finally:
            commands.close()
        found = _table(done.stdout)
        if done.exit_code == 0 and found is not None:
            return found
        words = done.last_words().splitlines()[-1:] or ["nothing"]
        said = f"it ended with exit code {done.exit_code} and said: {words[0]}"
        if found:
            # One fact that cannot be found out is a failure to facter.
            log.warning("not all facts of %s: %s", self._engine, said)
            return found
        log.warning("no facts of %s: %s", self._engine, said)
        return None


def _table(text: str) -> dict[str, Any] | None:
    """Return the table that is written in a text as JSON, None if there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def merge_same_forms(target: dict[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `stronger` into `target` but for what is a table in one and none in the other.

    Returns:
        What was left out, under the keys where it stood.
    """
    apart: dict[str, Any] = {}
    for key, value in stronger.items():
        there = target.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            if left_out := merge_same_forms(there, value):
                apart[key] = left_out
        elif value is None and key in target:
            continue  # what an engine could not find out says nothing of what we did
        elif key in target and isinstance(there, dict) != isinstance(value, dict):
            apart[key] = value
        else:
            target[key] = value
    return apart
