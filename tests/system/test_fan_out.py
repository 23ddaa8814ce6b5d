"""One command for many nodes: 50 of them, in five processes, on either registry."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flockctl import ROOT, Flockctl, flockctl_on

NAMES = [f"bender{number:02}" for number in range(50)]
IN_ONE_PROCESS = 10


@pytest.fixture
def flockctl(registry_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command where 50 nodes are."""
    with flockctl_on(registry_url, tmp_path) as command, contextlib.ExitStack() as stack:
        command.recipe("default", "file('{here}/' + node.name, content='there')")
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.system.nodes_process",
                        registry_url,
                        str(tmp_path),
                        *NAMES[first : first + IN_ONE_PROCESS],
                    ],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for first in range(0, len(NAMES), IN_ONE_PROCESS)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            yield command
        finally:
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()


def test_a_run_on_everybody_lists_each_of_fifty_nodes_exactly_once(flockctl):
    ended = flockctl("run", "--on", "*:*", "--json", within=60)

    assert ended.code == 0, ended.err
    assert [row["node"] for row in ended.value] == NAMES
    assert {row["state"] for row in ended.value} == {"ok"}
    assert len({row["run_id"] for row in ended.value}) == len(NAMES)
    assert {row["report"]["node"] for row in ended.value} == set(NAMES)
    changed = [row["report"]["resources"][0]["state"] for row in ended.value]
    assert changed == ["changed"] * len(NAMES)
    assert all((flockctl.folder / name).read_text() == "there" for name in NAMES)

    shown = flockctl("run", "bender*", "--on", "*:*")
    assert shown.code == 2, "names and a query are two answers to one question"
    shown = flockctl("run", "bender*", "bender0?", within=60)
    assert shown.code == 0, shown.err
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == NAMES
    ends = [line.partition(": ok,")[0] for line in shown.err.splitlines() if ": ok, " in line]
    assert sorted(ends) == NAMES
