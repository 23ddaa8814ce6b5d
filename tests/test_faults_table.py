"""The manual's table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_fault_of_the_table_is_held_by_a_test() -> None:
    named = set(re.findall(r"\b(test_[a-z0-9_]+) \|$", (ROOT / "docs/faults.md").read_text(), re.M))
    there: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))

    assert len(named) > 30
    assert named - there == set()
