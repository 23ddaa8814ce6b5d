"""The manual's table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_fault_of_the_table_is_held_by_a_test() -> None:
    page = (ROOT / "docs/faults.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [row for row in rows if not row.startswith("| fault |")]
    named = [re.search(r"\| (test_[a-z0-9_]+) \|$", row) for row in rows]
    there: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))

    assert len(rows) > 60
    assert [row for row, name in zip(rows, named, strict=True) if name is None] == []
    assert {name[1] for name in named if name is not None} - there == set()
    assert {row.count("|") for row in rows} == {5}
