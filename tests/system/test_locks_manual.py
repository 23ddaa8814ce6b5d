"""The examples of `docs/locks.md` do what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flock import Flock
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually

MANUAL = (Path(__file__).parents[2] / "docs" / "locks.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
COMMANDS = re.findall(r"```\n(flockctl .*?)```", MANUAL, re.DOTALL)


@pytest.fixture
def site(tmp_path, embedded_url):
    with flockctl_on(embedded_url, tmp_path) as flockctl:
        for text in PYTHON:
            found = re.match(r"# (cookbooks/\S+)\n", text)
            if found:
                path = tmp_path / found[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.replace("/srv", str(tmp_path)))
        yield flockctl


def converge(site: Flockctl, recipe: str) -> list[tuple[str, str]]:
    done = site(
        "converge", "--json", "--name", "bender0", "--cookbooks", str(site.cookbooks),
        "--run-list", recipe,
    )  # fmt: skip
    assert done.code == 0, done.err
    return [(row["resource"], row["state"]) for row in done.value["resources"]]


def test_the_recipes_of_the_manual_do_what_it_says(site, tmp_path):
    assert [state for _, state in converge(site, "web")] == [
        "unchanged", "changed", "skipped", "changed", "unchanged",
    ]  # fmt: skip
    assert (tmp_path / "restarts").read_text() == "restarted\n"
    assert [state for _, state in converge(site, "web::careful")] == ["changed"]
    site.start("lock", "web-restart", "--", "sleep", "60")
    with Flock(registry=site.url) as fleet:
        assert eventually(lambda: fleet.registry.lock_status("web-restart").holders, within=15.0)
    assert [state for _, state in converge(site, "web::careful")] == ["unchanged"]


def test_the_python_of_the_manual_runs(embedded_url, tmp_path):
    (example,) = [text for text in PYTHON if "Flock(" in text]
    with Flock(name="bender0", registry=embedded_url, state_dir=tmp_path / "bender0") as node:
        exec(compile(example, "docs/locks.md", "exec"), {"registry": embedded_url})
        document = node.registry.read("release")
        assert document is not None
        assert document.value == "1.4"


def test_the_commands_of_the_manual_are_understood(site):
    (commands,) = COMMANDS
    for line in commands.splitlines():
        words = line.split()[1:]
        done = site(words[0], "--help")
        assert done.code == 0
        for option in (word for word in words if word.startswith("--") and word != "--"):
            assert option in done.out
