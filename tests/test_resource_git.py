"""The kind git, with real repositories."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.kitchens import changes, failure, states

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Repository:
    """A repository in a folder, with one commit and a tag `v1`."""

    def __init__(self, folder):
        self.path = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.first = self.commit("file", "one")
        self.git("tag", "-a", "v1", "-m", "first")

    def git(self, *arguments):
        return subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            check=True,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_AUTHOR_NAME": "fry",
                "GIT_AUTHOR_EMAIL": "fry@localhost",
                "GIT_COMMITTER_NAME": "fry",
                "GIT_COMMITTER_EMAIL": "fry@localhost",
            },
        ).stdout.strip()

    def commit(self, name, text):
        (self.path / name).write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "-m", text)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def head(path):
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=path, check=True, capture_output=True, text=True
    ).stdout.strip()


def tree(site, properties=""):
    site.recipe(f"git('{{here}}/tree', repository='{{here}}/repository'{properties})")


@pytest.mark.parametrize("user", ["fry:leela1", "leela1"])
def test_a_password_in_the_url_is_shown_nowhere(site, repository, user):
    url, shown = (f"http://{each}@127.0.0.1:1/x.git" for each in (user, "…"))
    site.recipe(f"git('{{here}}/tree', repository='{url}')")
    assert f"-- {shown} HEAD" in failure(site.converge())

    tree(site)
    site.converge()
    site.recipe(f"git('{{here}}/tree', repository='{url}', revision='{repository.first}')")
    assert changes(site.converge()) == [[f"let origin of {site.folder}/tree be {shown}"]]
    site.recipe(f"git('{{here}}/other', repository='{url}', revision='{repository.first}')")
    assert changes(site.converge(why_run=True)) == [
        [f"check out {shown} at {repository.first[:12]} to {site.folder}/other"]
    ]
    assert "leela1" not in repr(site.events)


def test_a_tree_is_made_and_left_while_nothing_changes(site, repository):
    tree(site)

    assert changes(site.converge()) == [
        [f"check out {repository.path} at {repository.first[:12]} to {site.folder}/tree"]
    ]
    assert site.text("tree/file") == "one"
    assert states(site.converge()) == ["unchanged"]
    assert not (site.folder / ".tree.flock-git").exists()


def test_a_tree_follows_its_branch(site, repository):
    tree(site, ", revision='main'")
    site.converge()
    second = repository.commit("file", "two")

    assert changes(site.converge()) == [
        [f"bring {site.folder}/tree from {repository.first[:12]} to {second[:12]}"]
    ]
    assert site.text("tree/file") == "two"
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.parametrize("revision", ["v1", "the commit"])
def test_a_tag_and_a_commit_stay_where_they_are(site, repository, revision):
    tree(site, f", revision='{repository.first if revision == 'the commit' else revision}'")
    repository.commit("file", "two")

    site.converge()
    assert head(site.folder / "tree") == repository.first
    assert states(site.converge()) == ["unchanged"]


def test_a_commit_that_no_branch_ends_at_is_found(site, repository):
    second = repository.commit("file", "two")
    repository.commit("file", "three")
    tree(site)
    site.converge()

    tree(site, f", revision='{second}'")
    assert states(site.converge()) == ["changed"]
    assert site.text("tree/file") == "two"


def test_changes_of_tracked_files_are_undone_and_others_left(site, repository):
    tree(site)
    site.converge()
    (site.folder / "tree/file").write_text("drifted")
    (site.folder / "tree/mine").write_text("mine")

    text = f"undo changes of tracked files in {site.folder}/tree, at {repository.first[:12]}"
    assert changes(site.converge()) == [[text]]
    assert (site.text("tree/file"), site.text("tree/mine")) == ("one", "mine")


def test_checkout_leaves_a_tree_that_is_there(site, repository):
    tree(site, ", action='checkout'")
    site.converge()
    repository.commit("file", "two")

    assert states(site.converge()) == ["unchanged"]
    assert site.text("tree/file") == "one"


def test_an_export_has_no_history(site, repository):
    tree(site, ", action='export', depth=1")

    assert states(site.converge()) == ["changed"]
    assert sorted(each.name for each in (site.folder / "tree").iterdir()) == ["file"]
    assert states(site.converge()) == ["unchanged"]


def test_a_repository_that_moved_is_followed(site, repository):
    tree(site)
    site.converge()
    repository.path.rename(site.folder / "moved")
    site.recipe("git('{here}/tree', repository='{here}/moved')")

    assert changes(site.converge()) == [
        [f"let origin of {site.folder}/tree be {site.folder}/moved"]
    ]
    assert states(site.converge()) == ["unchanged"]


def test_submodules_come_along(site, repository, monkeypatch):
    other = Repository(site.folder / "other")
    # Git refuses submodules on the same disk unless told; so it is told.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    repository.git("submodule", "--quiet", "add", str(other.path), "part")
    repository.commit("file", "with a part")
    tree(site, ", enable_submodules=True")

    site.converge()
    assert site.text("tree/part/file") == "one"
    assert states(site.converge()) == ["unchanged"]


def test_what_a_run_that_died_left_is_taken_away(site, repository):
    site.write(".tree.flock-git/half", "half")
    tree(site)

    assert states(site.converge()) == ["changed"]
    assert sorted(each.name for each in (site.folder / "tree").iterdir()) == [".git", "file"]


def test_a_failure_leaves_no_half_tree(site, repository):
    tree(site, f", revision='{'0' * 40}'")

    assert "git" in failure(site.converge())
    assert not (site.folder / "tree").exists()
    assert not (site.folder / ".tree.flock-git").exists()


def test_an_unknown_revision_is_named(site, repository):
    tree(site, ", revision='nowhere'")

    assert "has no branch or tag 'nowhere'" in failure(site.converge())


def test_a_folder_with_other_things_is_left(site, repository):
    site.write("tree/mine", "precious")
    tree(site)

    assert "is there and is no working tree of git" in failure(site.converge())
    assert site.text("tree/mine") == "precious"


def test_a_why_run_makes_nothing(site, repository):
    tree(site)

    assert states(site.converge(why_run=True)) == ["changed"]
    assert not (site.folder / "tree").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_tree_belongs_to_the_user_that_git_runs_as(site, short_path):
    short_path.chmod(0o711)
    repository = Repository(short_path / "repository")
    for each in (repository.path, *repository.path.rglob("*")):
        os.chown(each, 65534, 65534)
    site.recipe(f"git('{short_path}/tree', repository='{repository.path}', user='nobody')")

    assert states(site.converge()) == ["changed"]
    made = [short_path / "tree", *(short_path / "tree").rglob("*")]
    assert {each.stat().st_uid for each in made} == {65534}
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'tree', repository='/r'", "destination must be an absolute path"),
        ("'/tree'", "repository is missing"),
        ("'/tree', repository='--upload-pack=x'", "repository cannot be"),
        ("'/tree', repository='r/s'", "repository must be a URL or absolute"),
        ("'/tree', repository='/r', revision='-x'", "revision cannot be"),
        ("'/tree', repository='/r', revision='main~1'", "revision must be a branch, tag or commit"),
        ("'/tree', repository='/r', depth=0", "depth must be at least 1"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"git({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
