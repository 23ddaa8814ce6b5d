"""How the events of a node's runs reach others: what is sent, and on which topic.

Each node publishes on `runs of NODE`, for whoever subscribes; who orders a run
may have its events sent to itself alone. Both are told what `flock.converge.events`
says, but for what is too large to be told again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DIFF = 20_000
"""Characters of a difference that travel."""


def topic_of(node: str) -> str:
    """Return the topic that a node publishes the events of its runs on."""
    return f"runs of {node}"


def for_others(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as it travels: long differences cut, the last report without its rows."""
    told = dict(event)
    if "diffs" in told:
        told["diffs"] = [
            diff if len(diff) <= MAX_DIFF else f"{diff[:MAX_DIFF]}\n… (cut here)\n"
            for diff in told["diffs"]
        ]
    if "report" in told:
        told["report"] = {key: value for key, value in told["report"].items() if key != "resources"}
    return told
