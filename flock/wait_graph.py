"""Who waits for whom, as nodes say it, and whether that is a circle.

Each node says what goes on there (at most one run, or one action of a notice)
and, if it waits, what the answer it waits for depends on. A wait is *stuck* if
all of that belongs to others that are stuck: then no answer changes any more,
however long they wait. What belongs to nobody (a file, a value in the
registry), or to a node that works, may change, and so may everything that
depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_NODES = 64
"""Nodes of one circle at most; who waits for more is not looked at."""

Target = tuple[str, str, int]
"""A node, the run there (empty for whichever goes on), and the token of the lock it holds."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that the answer of a wait depends on.

    Attributes:
        text: what it is, for people: `the run of bender1`.
        targets: whose it is; empty if it is nobody's that waits for others.
        is_sure: nobody but the targets can change it.
    """

    text: str
    targets: tuple[Target, ...] = ()
    is_sure: bool = False

    def as_data(self) -> list[Any]:
        """Return it for the wire."""
        return [self.text, [list(target) for target in self.targets], self.is_sure]


@dataclass(frozen=True, slots=True)
class Standing:
    """What goes on at a node.

    Attributes:
        node: its name.
        run_id: what goes on there; empty for nothing.
        wait: the number of the wait that it is in; 0 for none.
        since: when that began, seconds of its own wall clock.
        text: what it waits for, as its recipe says it.
        is_plain: its answer depends on nothing but its needs.
        needs: what its answer depends on.
    """

    node: str
    run_id: str = ""
    wait: int = 0
    since: float = 0.0
    text: str = ""
    is_plain: bool = False
    needs: tuple[Need, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it for the wire."""
        return {
            "node": self.node,
            "run_id": self.run_id,
            "wait": self.wait,
            "since": self.since,
            "text": self.text,
            "is_plain": self.is_plain,
            "needs": [need.as_data() for need in self.needs],
        }

    @classmethod
    def from_data(cls, node: str, data: Any) -> Standing:
        """Read what a node said of itself.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            needs = tuple(
                Need(
                    str(text),
                    tuple((str(name), str(run), int(token)) for name, run, token in targets),
                    is_sure is True,
                )
                for text, targets, is_sure in data["needs"]
            )
            return cls(
                node,
                str(data["run_id"]),
                int(data["wait"]),
                float(data["since"]),
                str(data["text"]),
                data["is_plain"] is True,
                needs,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{node} says of its run what cannot be read: {error}") from None

    def next_nodes(self) -> list[str]:
        """Return the nodes that it waits for."""
        return sorted({name for need in self.needs for name, _, _ in need.targets})


@dataclass(frozen=True, slots=True)
class Circle:
    """Waits that wait for each other.

    Attributes:
        path: the nodes, beginning with the one that looked.
        text: who waits for what, as a sentence.
        is_sure: it cannot end by itself.
        youngest: the node whose wait began last, of all that are stuck with
            the one that looked.
        seen: what was known of the nodes that it depends on.
    """

    path: tuple[str, ...]
    text: str
    is_sure: bool
    youngest: str
    seen: Mapping[str, Standing]

    def is_same_as(self, other: Circle) -> bool:
        """Say whether another look found the very same waits."""
        if self.is_sure != other.is_sure or self.path != other.path:
            return False
        if self.is_sure:
            return self.seen == other.seen
        return all(self.seen[name].wait == other.seen[name].wait for name in self.path)


def find_circle(standings: Mapping[str, Standing], me: str) -> Circle | None:
    """Find a circle that goes through `me`; a sure one if there is any.

    Args:
        standings: by node, what those said of themselves that `me` waits for,
            and those that they wait for.
        me: the node that looks.
    """
    stuck = _stuck(standings)
    for is_sure, names in ((True, stuck), (False, set(standings))):
        edges = {name: _edges(standings, name, names) for name in names}
        path = _way_back(edges, me)
        if path is None:
            continue
        reached = _reached(edges, me)
        knot = [name for name in reached if me in _reached(edges, name)]
        youngest = max(knot, key=lambda name: (standings[name].since, name))
        seen = {name: standings[name] for name in (reached if is_sure else path)}
        lead = "these wait for each other: " if is_sure else "these may wait for each other: "
        text = lead + " -> ".join(
            f"{name} ({standings[name].text}) waits for {_step(standings[name], following)}"
            for name, following in zip(path, [*path[1:], me], strict=True)
        )
        return Circle(tuple(path), text, is_sure, youngest, seen)
    return None


def _stuck(standings: Mapping[str, Standing]) -> set[str]:
    """Return the nodes whose waits cannot end: what they depend on belongs to each other."""
    stuck = {
        name
        for name, each in standings.items()
        if each.wait and each.is_plain and each.needs and all(need.is_sure for need in each.needs)
    }
    while True:
        free = {
            name
            for name in stuck
            if not all(
                need.targets and all(_is_at(standings, target, stuck) for target in need.targets)
                for need in standings[name].needs
            )
        }
        if not free:
            return stuck
        stuck -= free


def _is_at(standings: Mapping[str, Standing], target: Target, among: set[str]) -> bool:
    """Say whether a target is what goes on, and waits, at one of these nodes."""
    name, run_id, _ = target
    if name not in among:
        return False
    there = standings[name]
    return there.wait != 0 and run_id in ("", there.run_id)


def _edges(standings: Mapping[str, Standing], name: str, among: set[str]) -> list[str]:
    if not standings[name].wait:
        return []
    return sorted(
        {
            target[0]
            for need in standings[name].needs
            for target in need.targets
            if _is_at(standings, target, among)
        }
    )


def _way_back(edges: Mapping[str, Sequence[str]], me: str) -> list[str] | None:
    """Return the shortest way from `me` back to `me`."""
    came_from: dict[str, str] = {}
    waiting = deque([me])
    while waiting:
        name = waiting.popleft()
        for following in edges.get(name, ()):
            if following == me:
                path = [name]
                while path[-1] != me:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if following not in came_from:
                came_from[following] = name
                waiting.append(following)
    return None


def _reached(edges: Mapping[str, Sequence[str]], start: str) -> list[str]:
    """Return the nodes that can be reached from one, itself among them, sorted."""
    found, waiting = {start}, [start]
    while waiting:
        for following in edges.get(waiting.pop(), ()):
            if following not in found:
                found.add(following)
                waiting.append(following)
    return sorted(found)


def _step(standing: Standing, following: str) -> str:
    """Say for what a node waits that belongs to the next one."""
    for need in standing.needs:
        if any(target[0] == following for target in need.targets):
            return need.text
    return following


def collect(
    first: Standing, ask: Callable[[Sequence[str]], Mapping[str, Standing]]
) -> dict[str, Standing]:
    """Gather what the nodes say that a wait depends on, and those that these depend on.

    Args:
        first: what goes on here.
        ask: asks some nodes at once; leaves out those that did not answer.
    """
    standings = {first.node: first}
    asked = {first.node}
    wanted = first.next_nodes()
    while wanted := [name for name in wanted if name not in asked]:
        if len(asked) + len(wanted) > MAX_NODES:
            break
        asked |= set(wanted)
        answers = ask(wanted)
        standings |= answers
        wanted = sorted(
            {name for each in answers.values() if each.wait for name in each.next_nodes()}
        )
    return standings
