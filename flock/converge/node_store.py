"""Where a node's lasting facts are kept between runs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from flock.converge.attributes import Change
from flock.journal import Journal


class Assigned(NamedTuple):
    """What a node was told to be; it belongs to whoever writes it, the node takes it up.

    Attributes:
        run_list: the node's own run list.
        environment: its environment.
    """

    run_list: list[str]
    environment: str


class NodeStore(Protocol):
    """Keeps normal attributes, and the node object of the last run.

    The journal does so for a machine alone; with a registry, what keeps node
    objects there stands in its place.
    """

    def normal_attributes(self) -> dict[str, Any]:
        """Return the normal attributes as they were last saved; asked before each run."""

    def assigned(self) -> Assigned | None:
        """Return the node's run list and environment as they stand; asked before each run.

        None if nobody but the kitchen itself knows it.
        """

    def check(self, node_object: dict[str, Any]) -> None:
        """Refuse what `save` would refuse; called when a run has compiled, before it converges.

        Raises:
            DocumentTooLarge: nothing takes it.
        """

    def saved(self) -> dict[str, Any] | None:
        """Return the node object as it was last saved here; None if it never was."""

    def save(self, node_object: dict[str, Any]) -> None:
        """Keep the node object; called after each run that was no why-run.

        Args:
            node_object: `name`, `run_list`, `roles`, `recipes`, `environment`,
                `tags` (its head), `normal` (the normal attributes) and
                `attributes` (all merged); nothing sensitive is in it.
        """

    def change_normal(self, node_object: dict[str, Any], change: Change) -> None:
        """Change normal attributes at once, all or none, and nothing else.

        Args:
            node_object: the whole one as it stands, for a store that has none yet.
            change: makes the new ones of those that are kept.
        """


class JournalStore:
    """Keeps the node object in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def normal_attributes(self) -> dict[str, Any]:
        """Return the normal attributes as they were last saved."""
        normal: dict[str, Any] = self._journal.recall("normal_attributes", {})
        return normal

    def assigned(self) -> Assigned | None:
        """Leave run list and environment to the kitchen."""
        return None

    def check(self, node_object: dict[str, Any]) -> None:
        """Take everything: the journal has no limit."""

    def saved(self) -> dict[str, Any] | None:
        """Return the node object as it was last saved."""
        known: dict[str, Any] | None = self._journal.recall("node_object")
        return known

    def save(self, node_object: dict[str, Any]) -> None:
        """Keep the node object, and the normal attributes apart from it."""
        self._journal.remember("node_object", node_object)
        self._journal.remember("normal_attributes", node_object["normal"])

    def change_normal(
        self,
        node_object: dict[str, Any],  # noqa: ARG002 - here they stand apart from it
        change: Change,
    ) -> None:
        """Change normal attributes at once."""
        self._journal.remember("normal_attributes", change(self.normal_attributes()))
