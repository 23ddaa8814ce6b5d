"""What a run did, in the one shape that is kept, sent and printed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from registry.wall_clock import now_text

RunState = Literal["queued", "running", "ok", "failed", "cancelled"]
RowState = Literal["changed", "unchanged", "skipped", "failed"]


@dataclass(slots=True)
class Row:
    """One action of one resource.

    Attributes:
        resource: `kind[name]`.
        recipe: `cookbook::recipe` that declared it.
        action: what was asked for.
        state: how it ended.
        changes: what was changed, or would be in a why-run, in order.
        seconds: how long it took, waits and retries included.
        error: why it failed, or why it was skipped; None otherwise.
    """

    resource: str
    recipe: str
    action: str
    state: RowState = "unchanged"
    changes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "resource": self.resource,
            "recipe": self.recipe,
            "action": self.action,
            "state": self.state,
            "changes": list(self.changes),
            "seconds": round(self.seconds, 4),
            "error": self.error,
        }


@dataclass(slots=True)
class Report:
    """The report of one run, filled while it goes on.

    Only the run's own thread writes it; others read `as_data`.
    """

    run_id: str
    node: str
    asked_by: str
    run_list: list[str]
    why_run: bool = False
    state: RunState = "queued"
    started: str = field(default_factory=now_text)
    error: str | None = None
    recipes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _seconds: float | None = None

    @property
    def changed(self) -> int:
        """How many actions changed something."""
        return sum(row.state == "changed" for row in self.rows)

    def begin(self) -> None:
        """Note that the run starts now."""
        self.state = "running"
        self.started = now_text()
        self._begun = time.monotonic()

    def end(self, state: RunState, error: str | None = None) -> None:
        """Note that the run is over."""
        self._seconds = time.monotonic() - self._begun
        self.state = state
        self.error = error

    def as_data(self) -> dict[str, Any]:
        """Return the report as plain data."""
        seconds = time.monotonic() - self._begun if self._seconds is None else self._seconds
        return {
            "run_id": self.run_id,
            "node": self.node,
            "state": self.state,
            "asked_by": self.asked_by,
            "started": self.started,
            "seconds": round(seconds, 3),
            "run_list": list(self.run_list),
            "recipes": list(self.recipes),
            "why_run": self.why_run,
            "error": self.error,
            "resources": [row.as_data() for row in list(self.rows)],
            "notices": list(self.notices),
            "locks": list(self.locks),
        }
