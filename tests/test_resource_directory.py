"""The kind directory."""

from __future__ import annotations

import os
import stat

import pytest

from tests.kitchens import changes, failure, states


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_made_once_with_its_mode(site):
    site.recipe("directory('{here}/a', mode='0750')")

    assert changes(site.converge()) == [[f"make directory {site.folder}/a"]]
    assert mode_of(site.folder / "a") == 0o750
    assert states(site.converge()) == ["unchanged"]


def test_a_mode_that_drifted_is_put_right(site):
    site.recipe("directory('{here}/a', mode=0o750)")
    (site.folder / "a").mkdir(mode=0o700)

    assert changes(site.converge()) == [[f"set mode 0750 on {site.folder}/a"]]
    assert mode_of(site.folder / "a") == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_a_directory_gets_its_owner(site):
    site.recipe("directory('{here}/a', owner='nobody', group='nogroup', mode=0o700)")
    site.converge()

    found = (site.folder / "a").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)
    assert states(site.converge()) == ["unchanged"]


def test_parents_are_made_only_if_told(site):
    site.recipe("directory('{here}/a/b/c')")
    assert "/a/b does not exist: recursive=True makes it too" in failure(site.converge())

    site.recipe("directory('{here}/a/b/c', recursive=True)")
    assert states(site.converge()) == ["changed"]
    assert (site.folder / "a/b/c").is_dir()


def test_a_file_in_the_way_is_an_error_and_stays(site):
    site.recipe("directory('{here}/a')")
    site.write("a", "precious")

    assert "is there and is no directory" in failure(site.converge())
    assert site.text("a") == "precious"


def test_deleting_takes_an_empty_directory_only_unless_told(site):
    site.recipe("directory('{here}/a', action='delete')")
    site.write("a/file", "precious")
    assert "is not empty: recursive=True deletes it" in failure(site.converge())
    assert site.text("a/file") == "precious"

    site.recipe("directory('{here}/a', action='delete', recursive=True)")
    assert states(site.converge()) == ["changed"]
    assert not (site.folder / "a").exists()
    assert states(site.converge()) == ["unchanged"]


def test_a_link_is_not_deleted_as_a_directory(site):
    site.recipe("directory('{here}/a', action='delete', recursive=True)")
    site.write("real/file", "precious")
    (site.folder / "a").symlink_to(site.folder / "real")

    assert "is no directory" in failure(site.converge())
    assert site.text("real/file") == "precious"


def test_a_why_run_makes_nothing(site):
    site.recipe("directory('{here}/a/b', mode=0o700)")

    assert changes(site.converge(why_run=True)) == [[f"make directory {site.folder}/a/b"]]
    assert not (site.folder / "a").exists()


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'a'", "path must be absolute"),
        ("'/', action='delete', recursive=True", "cannot be deleted"),
        ("'/a', mode='rwx'", "mode must be an octal number"),
        ("'/a', recursive='yes'", "recursive must be bool"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"directory({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
