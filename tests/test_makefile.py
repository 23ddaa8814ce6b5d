"""`make` on a machine where something is missing says what, and how to get it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("sh", "make", "sed", "awk", "rm", "touch", "git", "echo")


@pytest.fixture
def project(tmp_path):
    """Give a folder with what `make` looks at, and run targets there."""
    for name in ("Makefile", "pyproject.toml", "flock/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)

    def make(*words: str, python: str = "", without: str = "") -> subprocess.CompletedProcess[str]:
        if python:
            (tools / "python3").write_text(f"#!/bin/sh\n{python}\n")
            (tools / "python3").chmod(0o755)
        if without:
            (tools / without).unlink()
        return subprocess.run(
            [str(tools / "make"), *words],
            cwd=tmp_path,
            env={"PATH": str(tools), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return make


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
@pytest.mark.parametrize(
    ("python", "without", "said"),
    [
        ("", "", "missing: python3. Type: sudo apt-get install python3 python3-venv"),
        (
            'case "$2" in *version_info*) exit 1;; esac; echo "Python 3.9.2"',
            "",
            "python3 is Python 3.9.2, 3.11 or later is needed: make PYTHON=python3.12",
        ),
        (
            'case "$2" in *ensurepip*) exit 1;; esac',
            "",
            "missing: Python's venv module. Type: sudo apt-get install python3-venv",
        ),
        ("exit 0", "git", "missing: git. Type: sudo apt-get install git"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_mend(project, target, python, without, said):
    done = project(target, python=python, without=without)

    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == said
    assert done.stdout == ""


def test_make_alone_lists_every_target_with_what_it_does(project):
    done = project()

    assert (done.returncode, done.stderr) == (0, "")
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M)
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:-1])
    assert list(listed) == targets
    assert {"demo", "test", "lint", "clean"} <= set(targets)
