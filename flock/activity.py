"""What a node is at, in one word, as its entry in the directory shows it."""

from __future__ import annotations

from collections.abc import Callable

from flock.timers import Timer, clock

_SHOWN_AFTER = 1.0
"""Seconds that the action of a notice goes on before it is shown: most are over by then, and the
directory is not to be written twice for each."""


class Activity:
    """Chooses the word: `converging`, `acting` (on a notice) or `idle`."""

    def __init__(
        self,
        is_converging: Callable[[], bool],
        is_acting: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        """Take whom to ask.

        Args:
            is_converging: whether a run goes on or waits.
            is_acting: whether the action of a notice goes on.
            changed: has the entry written anew; must return at once.
        """
        self._is_converging = is_converging
        self._is_acting = is_acting
        self._changed = changed
        self._timer: Timer | None = None

    def word(self) -> str:
        """Return it."""
        if self._is_converging():
            return "converging"
        # Shown is what the timer has fallen due for.
        timer = self._timer
        return "acting" if timer is not None and timer.is_over and self._is_acting() else "idle"

    def action_changed(self) -> None:
        """Note that an action began or is over; actions come one after the other."""
        timer, self._timer = self._timer, None
        if timer is not None:
            was_shown = timer.is_over
            clock.discard([timer])
            if was_shown:
                self._changed()
        if self._is_acting():
            self._timer = clock.start(_SHOWN_AFTER, lambda _: self._changed())
