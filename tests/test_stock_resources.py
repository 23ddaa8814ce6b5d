"""The kinds file, execute and log."""

from __future__ import annotations

import os
import stat

import pytest

from flock.converge.kinds import Kinds, stock_kind_names
from flock.converge.provider import Kind
from flock.converge.resource import Resource
from flock.errors import RecipeError
from tests.kitchens import states


def changes(report):
    return [row["changes"] for row in report["resources"]]


# --- file


def test_a_file_gets_content_owner_and_mode_in_one_step(site):
    site.recipe(
        "file('{here}/a', content='x', mode='0600', owner=os.geteuid())".replace(
            "os.geteuid()", str(os.geteuid())
        )
    )

    assert changes(site.converge()) == [[f"write {site.folder}/a"]]
    assert stat.S_IMODE((site.folder / "a").stat().st_mode) == 0o600


def test_what_drifted_is_put_right_and_only_that(site):
    site.recipe("file('{here}/a', content='x', mode=0o600)")
    site.converge()
    (site.folder / "a").chmod(0o644)
    inode = (site.folder / "a").stat().st_ino

    assert changes(site.converge()) == [[f"set mode 0600 on {site.folder}/a"]]
    assert (site.folder / "a").stat().st_ino == inode
    assert states(site.converge()) == ["unchanged"]


def test_a_file_without_content_is_made_empty_once_and_then_left(site):
    site.recipe("file('{here}/a')")

    assert states(site.converge()) == ["changed"]
    (site.folder / "a").write_text("somebody's")
    assert states(site.converge()) == ["unchanged"]
    assert site.text("a") == "somebody's"


def test_content_of_the_same_size_is_compared(site):
    site.recipe("file('x', path='{here}/a', content=b'new')")
    (site.folder / "a").write_text("old")

    assert states(site.converge()) == ["changed"]
    assert site.text("a") == "new"


def test_create_if_missing_leaves_what_is_there(site):
    site.recipe("file('{here}/a', content='x', action='create_if_missing')")

    assert states(site.converge()) == ["changed"]
    (site.folder / "a").write_text("mine")
    assert states(site.converge()) == ["unchanged"]
    assert site.text("a") == "mine"


def test_a_deleted_file_stays_deleted(site):
    site.recipe("file('{here}/a', action='delete')")
    (site.folder / "a").symlink_to("nowhere")

    assert changes(site.converge()) == [[f"delete {site.folder}/a"]]
    assert states(site.converge()) == ["unchanged"]


def test_touching_changes_each_time(site):
    site.recipe("file('{here}/a', action='touch')")

    assert changes(site.converge()) == [[f"write {site.folder}/a", f"touch {site.folder}/a"]]
    assert changes(site.converge()) == [[f"touch {site.folder}/a"]]


@pytest.mark.parametrize("action", ["create", "delete"])
def test_a_directory_in_its_place_is_an_error(site, action):
    site.recipe(f"file('{{here}}/a', action='{action}')")
    (site.folder / "a").mkdir()

    error = site.converge()["resources"][0]["error"]

    assert f"{site.folder}/a is " in error


def test_an_unknown_owner_is_an_error_with_its_name(site):
    site.recipe("file('{here}/a', owner='nobody-x')")

    assert "no user 'nobody-x' on this machine" in site.converge()["error"]
    assert site.converge(why_run=True)["state"] == "ok"
    assert not (site.folder / "a").exists()


def test_a_missing_directory_is_an_error_that_names_it(site):
    site.recipe("file('{here}/no/a', content='x')")

    assert f"the directory {site.folder}/no does not exist" in site.converge()["error"]


# --- execute


def test_a_command_runs_where_and_as_what_it_is_told(site):
    site.recipe("""
        execute('print', command='pwd > out; echo $COLOUR >> out; umask >> out; cat >> out',
                cwd='{here}', environment={'COLOUR': 'red'}, umask='027', input='typed')
    """)

    assert changes(site.converge())[0][0].startswith("run `pwd > out;")
    assert site.text("out") == f"{site.folder}\nred\n0027\ntyped"


def test_its_name_is_the_command_by_default_and_a_list_needs_no_shell(site):
    site.recipe("execute('touch {here}/a')\nexecute('x', command=['touch', '{here}/b c'])")

    assert states(site.converge()) == ["changed", "changed"]
    assert (site.folder / "b c").exists()


def test_what_it_creates_keeps_it_from_running_again(site):
    site.recipe("""
        execute('a', command='touch {here}/a', creates='{here}/a')
        execute('b', command='touch b', cwd='{here}', creates='b')
    """)

    assert states(site.converge()) == ["changed", "changed"]
    assert states(site.converge()) == ["unchanged", "unchanged"]


def test_exit_codes_that_mean_success_are_told(site):
    site.recipe("execute('exit 3', returns=[0, 3])\nexecute('exit 4', returns=[0, 3])")

    report = site.converge()

    assert states(report) == ["changed", "failed"]
    assert report["resources"][1]["error"] == "`exit 4` ended with exit code 4"


def test_a_command_that_takes_too_long_fails(site):
    site.recipe("execute('sleep 60', timeout=0.1)")

    assert "`sleep 60` took longer than 0.1 s" in site.converge()["error"]


# --- log


def test_a_log_line_is_said_at_its_level_and_is_no_change(site, caplog):
    caplog.set_level("DEBUG", logger="flock.converge.log")
    site.recipe("""
        log('hello', level='warning').notifies('run', 'execute[x]')
        log('x', message='other')
        execute('x', command='touch {here}/x', action='nothing')
    """)

    assert states(site.converge()) == ["unchanged", "unchanged"]
    said = [(each.levelname, each.message) for each in caplog.records if each.name.endswith(".log")]
    assert said == [("WARNING", "hello"), ("INFO", "other")]
    assert not (site.folder / "x").exists()


# --- finding kinds


@pytest.mark.parametrize("name", stock_kind_names())
def test_each_stock_kind_is_loaded_by_its_name_and_could_work(name):
    kind = Kinds().find(name, "here")

    assert kind.name == name
    assert issubclass(kind.resource, Resource)
    assert kind.resource.__doc__
    assert Kinds().has(name)


def test_an_unknown_kind_is_an_error_that_says_what_is_near():
    with pytest.raises(
        RecipeError, match=r"^here: unknown kind 'fille' \(did you mean 'file'\?\)$"
    ):
        Kinds().find("fille", "here")
    assert not Kinds().has("fille")
    assert not Kinds().has("../kinds"), "which is a file that is there"


def test_another_package_offers_kinds_by_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "site_kinds.py").write_text(
        "from dataclasses import dataclass\n"
        "from flock.converge.resource import Resource\n"
        "@dataclass\n"
        "class Site(Resource):\n"
        "    kind = 'web_site'\n"
        "    actions = ('make',)\n"
        "    def make(self, machine):\n"
        "        return iter(())\n"
    )
    info = tmp_path / "site_kinds-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-kinds\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[flock.resources]\nweb_site = site_kinds:Site\nbroken = site_kinds:Nothing\n"
        "misnamed = site_kinds:Site\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    kinds = Kinds()

    assert kinds.has("web_site")
    assert "web_site" in kinds.names()
    assert kinds.find("web_site", "here").resource.__name__ == "Site"
    with pytest.raises(RecipeError, match="here: kind 'broken' cannot be loaded"):
        kinds.find("broken", "here")
    with pytest.raises(RecipeError, match="kind 'misnamed' calls itself 'web_site'"):
        kinds.find("misnamed", "here")


def test_a_kind_that_could_not_work_is_refused_when_it_is_made():
    class Bare(Resource):
        kind = "bare"
        actions = ("make",)

    with pytest.raises(TypeError, match="needs the decorator @dataclass"):
        Kind(Bare)
    with pytest.raises(TypeError, match="needs kind = 'name'"):
        Kind(Resource)
