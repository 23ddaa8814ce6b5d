"""A notice: one remote notification on its way to one machine.

It is what stands in the queues of the registry, so what comes from there is
checked field by field. Beside notices the queues carry answers: a notice that
ended as a dead letter over there is told to its sender.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

QUEUES = "notices/"
"""A machine's queue in the registry is called this and its name."""

ANSWER = "answer"
NOTICE = "notice"

MAYBE_UNCHANGED = "maybe unchanged"
"""Mark: the sender died in the change and cannot tell if it was made."""

MAYBE_TWICE = "maybe twice"
"""Mark: the receiver died between the action and its receipt, and ran the action again."""

DIED = "process died in the action"
"""Why a notice is a dead letter whose action the process did not outlive twice."""

DROPPED = "process died in the action, then it was dropped by hand"
"""Why a notice is a dead letter that was begun, and is not in the queue any more."""

Step: TypeAlias = tuple[str, str, str]
"""Node, resource and action."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What one machine asks another to do because a resource changed.

    Attributes:
        id: from sender, cause, notifier, number and target; the same at each try.
        sender: the node's name; of a visitor what it calls itself.
        target: the node that is to act.
        resource: `kind[name]` over there.
        action: what it is to do.
        timing: `immediately` or `delayed`, as seen by the sender's run.
        notifier: `kind[name]` that changed at the sender's; empty for a person's wish.
        cause: the run in which it changed, or the notice that set it off.
        trail: through what it came, the first cause first.
        created: wall clock, ISO 8601 in UTC.
        mark: `maybe unchanged`, `maybe twice`, both, or empty.
        journal: which journal numbers it; empty for a visitor's.
        number: its place there.
        floor: no notice of that journal below this number is tried again.
        kind: `notice`, or `answer`: then it says how the notice `id` of the
            target ended over here.
        error: for an answer, how.
    """

    id: str
    sender: str
    target: str
    resource: str
    action: str
    timing: str = "immediately"
    notifier: str = ""
    cause: str = ""
    trail: tuple[Step, ...] = ()
    created: str = ""
    mark: str = ""
    journal: str = ""
    number: int = 0
    floor: int = 0
    kind: str = NOTICE
    error: str = ""

    @property
    def order(self) -> tuple[str, str]:
        """Resource and action: what is the same for notices that run as one."""
        return self.resource, self.action

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, as it stands in a queue."""
        data = {field.name: getattr(self, field.name) for field in _FIELDS}
        data["trail"] = [list(step) for step in self.trail]
        return data

    @classmethod
    def from_data(cls, data: object) -> Notice:
        """Make it of what stood in a queue.

        Raises:
            ValueError: it is no notice.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"no notice: {data!r:.100}")
        values: dict[str, Any] = {}
        for field in _FIELDS:
            value = data.get(field.name, field.default)
            if field.name == "trail":
                value = _trail(value)
            elif not isinstance(value, int if field.type == "int" else str):
                raise ValueError(f"no notice: {field.name} is {value!r:.100}")
            values[field.name] = value
        return cls(**values)

    def row(self, state: str, *, tries: int = 0, error: str | None = None) -> dict[str, Any]:
        """Return the row that people and programs are shown."""
        return {
            "id": self.id,
            "from": self.sender,
            "to": self.target,
            "resource": self.resource,
            "action": self.action,
            "timing": self.timing,
            "state": state,
            "tries": tries,
            "created": self.created,
            "trail": [list(step) for step in self.trail],
            "error": error,
            "mark": self.mark or None,
        }


_FIELDS = dataclasses.fields(Notice)


def queue_of(node: str) -> str:
    """Return the name of a machine's queue in the registry."""
    return QUEUES + node


def notice_id(sender: str, journal: str, cause: str, notifier: str, number: int, to: str) -> str:
    """Return the id of a notice: another one for a second change, the same for a second try."""
    parts = "\0".join((sender, journal, cause, notifier, str(number), to))
    return hashlib.sha256(parts.encode()).hexdigest()[:20]


def with_mark(marks: str, mark: str) -> str:
    """Return marks with one more, each once."""
    known = [each for each in marks.split(", ") if each]
    return ", ".join(dict.fromkeys([*known, mark]))


def joined_trails(trails: Iterable[Iterable[Step]]) -> tuple[Step, ...]:
    """Return the steps of several trails, each once, in the order met."""
    return tuple(dict.fromkeys(step for trail in trails for step in trail))


def comes_round(trail: Iterable[Step], step: Step) -> str | None:
    """Say how a notice that leads to `step` would go in a circle; None if it does not."""
    steps = list(trail)
    if step not in steps:
        return None
    circle = [*steps[steps.index(step) :], step]
    return "it comes round: " + " → ".join(f"{node} {act} {what}" for node, what, act in circle)


def _trail(value: object) -> tuple[Step, ...]:
    """Check a trail."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"no notice: its trail is {value!r:.100}")
    steps: list[Step] = []
    for step in value:
        if not (
            isinstance(step, list | tuple)
            and len(step) == 3
            and all(isinstance(part, str) for part in step)
        ):
            raise ValueError(f"no notice: a step of its trail is {step!r:.100}")
        steps.append((step[0], step[1], step[2]))
    return tuple(steps)
