"""A kitchen in a folder of its own, for tests of the converge engine."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import psutil

from flock.converge.kinds import stock_kind_names
from flock.converge.kitchen import Kitchen
from flock.journal import Journal

_NAMES = (*stock_kind_names(), "find_resource", "include_recipe", "lazy", "node")
WORDS = f"from flock.recipe import {', '.join(_NAMES)}"


class Site:
    """Cookbooks, roles and environments of one test, and a kitchen that uses them.

    `{here}` in what is written stands for the test's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cookbooks = folder / "cookbooks"
        self.cookbooks.mkdir()
        self.events: list[dict[str, Any]] = []
        self._journals: list[Journal] = []
        self._kitchens: list[Kitchen] = []

    def write(self, path: str, text: str) -> Path:
        """Write a file below the test's folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text).replace("{here}", str(self.folder)))
        return target

    def recipe(self, text: str, name: str = "cb::default") -> Path:
        """Write a recipe; its first line imports the words, `text` begins on the second."""
        cookbook, _, recipe = name.partition("::")
        path = f"cookbooks/{cookbook}/recipes/{recipe}.py"
        return self.write(path, f"{WORDS}\n{textwrap.dedent(text).lstrip()}")

    def text(self, path: str) -> str:
        """Return a file below the test's folder."""
        return (self.folder / path).read_text()

    def kitchen(self, *run_list: str, **options: Any) -> Kitchen:
        """Make a kitchen; its run list is `cb` by default."""
        journal = Journal(self.folder / "state" / "journal.sqlite")
        self._journals.append(journal)
        options.setdefault("facts", lambda: {"kernel": {"release": "6.1"}})
        kitchen = Kitchen(
            "bender0",
            self.cookbooks,
            list(run_list) or ["cb"],
            self.folder / "state",
            journal=journal,
            **options,
        )
        kitchen.on_event(self.events.append)
        self._kitchens.append(kitchen)
        return kitchen

    def converge(self, *run_list: str, why_run: bool = False, **options: Any) -> dict[str, Any]:
        """Run once in a kitchen of its own and return the report."""
        kitchen = self.kitchen(*run_list, **options)
        report = kitchen.converge("the test", why_run=why_run)
        assert not kitchen.active()
        kitchen.stop()
        return report

    def close(self) -> None:
        """End all kitchens."""
        for kitchen in self._kitchens:
            kitchen.stop(timeout=0)
        for journal in self._journals:
            journal.close()


def rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (resource, action, state) of each row of a report, without those that do nothing."""
    return [
        (row["resource"], row["action"], row["state"])
        for row in report["resources"]
        if row["action"] != "nothing"
    ]


def states(report: dict[str, Any]) -> list[str]:
    """Return the states of a report's rows, without those that do nothing."""
    return [state for _, _, state in rows(report)]


def changes(report: dict[str, Any]) -> list[list[str]]:
    """Return the changes of each row of a report that succeeded, without those that do nothing."""
    assert report["error"] is None, report["error"]
    return [row["changes"] for row in report["resources"] if row["action"] != "nothing"]


def failure(report: dict[str, Any]) -> str:
    """Return why a run failed."""
    assert report["state"] == "failed", report
    return str(report["error"])


def is_running(pid: int) -> bool:
    """Say whether a process still does anything: a zombie that nobody reaps does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
