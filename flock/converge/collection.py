"""The resources of a run, in the order they are converged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flock.converge.resource import Resource


class Collection:
    """The resources of a run, in the order they are converged."""

    def __init__(self) -> None:
        self._resources: list[Resource] = []
        self._by_name: dict[str, Resource] = {}
        self._insert_at: int | None = None

    def __len__(self) -> int:
        return len(self._resources)

    def __getitem__(self, number: int) -> Resource:
        return self._resources[number]

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources)

    def add(self, resource: Resource) -> None:
        """Add a resource at the end, or where `inserting_at` says.

        Of two with one name both are converged; notifications reach the later.
        """
        if self._insert_at is None:
            self._resources.append(resource)
        else:
            self._resources.insert(self._insert_at, resource)
            self._insert_at += 1
        self._by_name[str(resource)] = resource

    @contextlib.contextmanager
    def inserting_at(self, number: int) -> Iterator[None]:
        """Put what is added inside before the resource of this number, in order.

        An error inside takes it all out again.
        """
        before, names = list(self._resources), dict(self._by_name)
        self._insert_at = number
        try:
            yield
        except BaseException:
            self._resources[:], self._by_name = before, names
            raise
        finally:
            self._insert_at = None

    def since(self, number: int, count: int) -> list[Resource]:
        """Return so many resources from this number on."""
        return self._resources[number : number + count]

    def find(self, name: str) -> Resource | None:
        """Return the resource of this name, `kind[name]`."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Return the names of all resources."""
        return list(self._by_name)
