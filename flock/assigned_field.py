"""A field of the node object that belongs to whoever writes it, as this machine knows it.

The run list and the environment are such fields: the node takes up what
stands in the registry. What was given to a process of this machine goes there;
while there is no registry it stands in the journal.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from flock.journal import Journal

Value = TypeVar("Value")


class AssignedField(Generic[Value]):
    """One such field; the caller keeps threads apart."""

    def __init__(self, journal: Journal, fact: str, default: Value) -> None:
        """Take what it works with.

        Args:
            journal: where it is kept.
            fact: its name there.
            default: what stands before anybody gave or noted anything.
        """
        self._journal = journal
        self._fact = fact
        self._unsaved = f"{fact} unsaved"
        self._default = default
        self._for_now: Value | None = None

    @property
    def known(self) -> Value:
        """What stands, as far as it is known here."""
        known: Value = self._journal.recall(self._fact, self._default)
        return known

    @property
    def in_force(self) -> Value:
        """What this process goes by."""
        return self.known if self._for_now is None else self._for_now

    @property
    def unsaved(self) -> Value | None:
        """What was given to us and is not in the registry yet; None for nothing."""
        return self.known if self._journal.recall(self._unsaved, False) else None

    def go_by(self, value: Value | None) -> None:
        """Let this process go by a value, and nobody else; None changes nothing."""
        if value is not None:
            self._for_now = value

    def give(self, value: Value | None) -> None:
        """Let a value stand from now on, here and soon in the registry; None changes nothing."""
        if value is not None:
            self._journal.remember(self._fact, value)
            self._journal.remember(self._unsaved, True)

    def note(self, standing: Value) -> None:
        """Note what stands in the registry; nothing is unsaved any more."""
        if self.known != standing:
            self._journal.remember(self._fact, standing)
        if self.unsaved is not None:
            self._journal.remember(self._unsaved, False)
