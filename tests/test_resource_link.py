"""The kind link."""

from __future__ import annotations

import os

import pytest

from tests.kitchens import changes, failure, states


def test_a_symbolic_link_is_made_once(site):
    site.recipe("link('{here}/current', to='releases/1')")

    assert changes(site.converge()) == [[f"link {site.folder}/current to releases/1"]]
    assert os.readlink(site.folder / "current") == "releases/1"
    assert states(site.converge()) == ["unchanged"]


def test_a_symbolic_link_is_led_elsewhere_in_one_step(site, monkeypatch):
    site.recipe("link('{here}/current', to='releases/2')")
    (site.folder / "current").symlink_to("releases/1")
    seen = []
    rename = os.rename

    def look_and_rename(source, target):
        seen.append((os.readlink(source), os.readlink(target)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", look_and_rename)
    site.converge()

    assert ("releases/2", "releases/1") in seen
    assert os.readlink(site.folder / "current") == "releases/2"
    assert sorted(each.name for each in site.folder.iterdir() if "flock" in each.name) == []


def test_what_is_no_link_is_never_replaced(site):
    site.recipe("link('{here}/current', to='releases/2')")
    site.write("current", "precious")

    assert "is there and is no symbolic link" in failure(site.converge())
    assert site.text("current") == "precious"


def test_a_hard_link_is_made_once_and_leads_to_the_same_file(site):
    site.recipe("link('{here}/b', to='{here}/a', link_type='hard')")
    site.write("a", "text")

    assert states(site.converge()) == ["changed"]
    assert os.path.samefile(site.folder / "a", site.folder / "b")
    assert states(site.converge()) == ["unchanged"]


def test_a_hard_link_does_not_replace_another_file(site):
    site.recipe("link('{here}/b', to='{here}/a', link_type='hard')")
    site.write("a", "text")
    site.write("b", "precious")

    assert "is no hard link to" in failure(site.converge())
    assert site.text("b") == "precious"


def test_a_hard_link_to_nothing_is_an_error(site):
    site.recipe("link('{here}/b', to='{here}/a', link_type='hard')")

    assert f"{site.folder}/a is not there to be linked to" in failure(site.converge())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a link away")
def test_the_owner_is_that_of_the_link_itself(site):
    site.recipe("link('{here}/b', to='a', owner='nobody')")
    site.write("a", "text")
    (site.folder / "b").symlink_to("a")

    assert changes(site.converge()) == [[f"set owner nobody on {site.folder}/b"]]
    assert (site.folder / "b").lstat().st_uid == 65534
    assert (site.folder / "a").stat().st_uid == os.geteuid()


def test_deleting_takes_the_link_and_not_what_it_leads_to(site):
    site.recipe("link('{here}/b', action='delete')")
    site.write("a", "text")
    (site.folder / "b").symlink_to("a")

    assert changes(site.converge()) == [[f"delete link {site.folder}/b"]]
    assert site.text("a") == "text"
    assert states(site.converge()) == ["unchanged"]


def test_deleting_a_link_leaves_a_file(site):
    site.recipe("link('{here}/b', action='delete')")
    site.write("b", "precious")

    assert "is no symbolic link" in failure(site.converge())
    assert site.text("b") == "precious"


def test_a_why_run_makes_no_link(site):
    site.recipe("link('{here}/b', to='a')\nlink('{here}/c', to='{here}/x', link_type='hard')")

    assert states(site.converge(why_run=True)) == ["changed", "changed"]
    assert not os.path.lexists(site.folder / "b")
    assert not os.path.lexists(site.folder / "c")


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'b', to='a'", "target_file must be absolute"),
        ("'/b'", "to is missing"),
        ("'/b', to='a', link_type='hard'", "to must be absolute for a hard link"),
        ("'/b', to='/a', link_type='hard', owner='root'", "owner and group belong to the file"),
        ("'/b', to='/a', link_type='soft'", "link_type must be 'symbolic' or 'hard'"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"link({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
