"""What is known of this machine and lasts: its attributes, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from flock.converge.attributes import Attributes, merge_onto, only, plain, with_values, without
from flock.converge.cancellation import Cancellation
from flock.converge.node_store import Assigned, NodeStore
from flock.errors import DocumentTooLarge, RecipeError
from flock.journal import Journal
from flock.tables import merged

Facts = Callable[[Cancellation | None], Mapping[str, Any]]
"""Returns the automatic attributes; what takes long in it ends when it is cancelled."""

_SENSITIVE_FACT = "sensitive normal attributes"


class NodeObject:
    """Makes a run's attributes from what lasts, and keeps what lasts after it.

    What is sensitive is kept in the journal and handed to nobody.

    Attributes:
        name: the node's name.
        environment: the one it is in, as its runs last took it up.
    """

    def __init__(
        self,
        name: str,
        environment: str,
        journal: Journal,
        store: NodeStore,
        facts: Facts,
        sensitive: Sequence[str],
    ) -> None:
        self.name = name
        self.environment = environment
        self._journal = journal
        self._store = store
        self._facts = facts
        self._sensitive = tuple(sensitive)

    def attributes(self, cancellation: Cancellation | None = None) -> Attributes:
        """Return the attributes as they are before any recipe.

        Raises:
            RunCancelled: it was cancelled while facts were found out.
        """
        normal: dict[str, Any] = plain(self._store.normal_attributes(), "normal")
        if self._sensitive:
            merge_onto(normal, self._journal.recall(_SENSITIVE_FACT, {}), join_lists=False)
        return Attributes(self._facts(cancellation), normal)

    def take_up_assigned(self) -> Assigned | None:
        """Go by the environment that stands now; None if none but the kitchen assigns anything."""
        assigned = self._store.assigned()
        if assigned is not None:
            self.environment = assigned.environment
        return assigned

    def is_kept(self) -> bool:
        """Say whether the node object was saved before."""
        return self._store.saved() is not None

    def expansion_of(self, run_list: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the roles and recipes that a run list had when it was last saved, if it was."""
        saved = self._store.saved()
        if saved is None or saved["run_list"] != list(run_list):
            return [], []
        return list(saved["roles"]), list(saved["recipes"])

    def public(self, attributes: Attributes) -> dict[str, Any]:
        """Return the merged attributes as plain data, without what is sensitive."""
        return without(attributes.merged(), self._sensitive)

    def as_data(
        self,
        attributes: Attributes,
        run_list: Sequence[str],
        roles: Sequence[str],
        recipes: Sequence[str],
    ) -> dict[str, Any]:
        """Return the node object: what others may know."""
        public = self.public(attributes)
        tags = public.get("tags")
        return {
            "name": self.name,
            "run_list": list(run_list),
            "roles": list(roles),
            "recipes": list(recipes),
            "environment": self.environment,
            "tags": tags if isinstance(tags, list) else [],
            "normal": without(attributes.levels["normal"], self._sensitive),
            "attributes": public,
        }

    def check(self, attributes: Attributes, data: dict[str, Any]) -> None:
        """Refuse what `save` would refuse for its size.

        Raises:
            RecipeError: names the attribute, and where a recipe wrote it.
            DocumentTooLarge: it is no single attribute that is too large.
        """
        with _named(attributes):
            self._store.check(data)

    def save(self, attributes: Attributes, data: dict[str, Any]) -> None:
        """Keep what lasts.

        Raises:
            FlockError: the journal or the store could not keep it.
        """
        if self._sensitive:
            normal = plain(attributes.levels["normal"], "normal")
            self._journal.remember(_SENSITIVE_FACT, only(normal, self._sensitive))
        with _named(attributes):
            self._store.save(data)

    def save_values(
        self,
        attributes: Attributes,
        path: Sequence[str],
        values: dict[str, Any],
        data: dict[str, Any],
        shown: Attributes,
    ) -> None:
        """Set some normal attributes, and keep them at once, whatever becomes of the run.

        Args:
            attributes: where they are set.
            path: the table they stand in.
            values: by key; None removes one.
            data: the node object, for a store that has none yet.
            shown: what others see of this machine; takes them, too.

        Raises:
            FlockError: the journal or the store could not keep it.
        """
        change = partial(with_values, path=path, values=values)
        self._store.change_normal(data, change)
        attributes.change_normal(change)
        if shown is not attributes:
            shown.change_normal(change)

    def normal(self, attributes: Attributes) -> dict[str, Any]:
        """Return a copy of the normal attributes, to be told apart from later ones."""
        copied: dict[str, Any] = plain(attributes.levels["normal"], "normal")
        return copied

    def save_changes(
        self,
        attributes: Attributes,
        before: Mapping[str, Any],
        data: dict[str, Any],
        shown: Attributes,
    ) -> None:
        """Keep what changed in the normal attributes since `before`, and nothing else of them.

        For deeds between runs, and for runs that say nothing of the whole
        machine: what they began with may be older than what stands.

        Args:
            attributes: with what changed.
            before: the normal ones as they were.
            data: the node object, for a store that has none yet.
            shown: what others see of this machine; takes the changes, too.

        Raises:
            FlockError: the journal or the store could not keep it.
        """
        after = self.normal(attributes)
        if only(before, self._sensitive) != only(after, self._sensitive):
            self._journal.remember(_SENSITIVE_FACT, only(after, self._sensitive))
        was, now = without(before, self._sensitive), without(after, self._sensitive)
        if was != now:
            with _named(attributes):
                self._store.change_normal(data, partial(merged, was, now))
        if shown is not attributes:
            shown.change_normal(partial(merged, before, after))


@contextmanager
def _named(attributes: Attributes) -> Iterator[None]:
    """Say which attribute makes a node object too large, if one does."""
    try:
        yield
    except DocumentTooLarge as error:
        path, size, where = attributes.largest()
        if size * 2 < error.limit:
            raise
        message = f"attribute {path!r} with its {size} bytes is too large: {error}"
        raise RecipeError(message, where) from error
