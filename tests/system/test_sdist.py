"""The source distribution is whole: from it alone others build, test and read everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("actors", "docs", "examples", "flock", "registry", "scripts", "tests")
NOT_OURS = ("PKG-INFO", "flock_of_chefs.egg-info")
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"


def sources() -> set[str]:
    """Return every file that the project is made of: what git keeps, else all that is there."""
    kept = kept_by_git()
    if kept:
        found = [ROOT / name for name in kept if not name.startswith(".")]
    else:
        tops = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
        found = [*tops, *(path for name in FOLDERS for path in (ROOT / name).rglob("*"))]
    return {
        str(path.relative_to(ROOT))
        for path in found
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    } - {"PKG-INFO"}


def kept_by_git() -> list[str]:
    """Return the names of the files that git keeps; none where this is no clone that it reads."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return []
    listing = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=False)
    return [name for name in listed.stdout.split("\0") if name]


def build(what: str, source: Path, into: Path) -> Path:
    """Build one distribution in a process of its own, as a front end would."""
    subprocess.run(
        [sys.executable, "-c", BUILD, what, str(into)],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Give the folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in sources():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "tree" / name)
    archive = build("build_sdist", folder / "tree", folder / "made")
    (folder / "out").mkdir()
    # The module tarfile wants a filter from Python 3.12 on, and knows none in Debian 12's 3.11.
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder / "out")], check=True)
    (top,) = (folder / "out").iterdir()
    return top


def test_a_source_distribution_holds_all_that_the_project_is_made_of(unpacked):
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert {name for name in held if not name.startswith(NOT_OURS)} == sources()
    assert os.access(unpacked / "scripts" / "demo", os.X_OK)
    # It is written anew on the way.
    kept = ConfigParser()
    kept.read(unpacked / "setup.cfg")
    assert "importlinter:contract:packages" in kept


def test_a_wheel_of_a_source_distribution_runs_the_command_and_the_demo(unpacked, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(build("build_wheel", unpacked, tmp_path / "made")) as wheel:
        wheel.extractall(installed)
    # It takes the packages that it lies beside, so it is laid beside these.
    shutil.copytree(unpacked / "examples", installed / "examples")
    shutil.copytree(unpacked / "scripts", installed / "scripts")
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = run("-c", "import flock; print(flock.__file__, flock.__version__)").split()
    assert place[0].startswith(str(installed))
    assert run("-m", "flock", "--version") == f"flockctl {place[1]}\n"
    names = run("-c", "import importlib.metadata as m; print(*m.entry_points(name='flockctl'))")
    assert "flock.__main__:main" in names
    run(str(installed / "scripts" / "demo"), "--registry", "embedded")
