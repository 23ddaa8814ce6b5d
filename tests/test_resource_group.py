"""The kind group, with real groups."""

from __future__ import annotations

import grp
import os
import subprocess

import pytest

from tests.debian import changing_the_machine
from tests.kitchens import changes, failure, states

GROUP = f"flkg{os.getpid()}"


@pytest.fixture
def cleanup():
    with changing_the_machine():
        yield
        subprocess.run(["groupdel", GROUP], check=False, capture_output=True)


def members():
    return sorted(grp.getgrnam(GROUP).gr_mem)


@pytest.mark.system_changes
def test_a_group_is_made_once_put_right_and_removed(site, cleanup):
    site.recipe(f"group('{GROUP}', members=['games', 'mail'], system=True)")
    assert changes(site.converge()) == [
        [f"create group {GROUP}", f"group {GROUP}: add games, add mail"]
    ]
    assert members() == ["games", "mail"]
    assert grp.getgrnam(GROUP).gr_gid < 1000
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"group('{GROUP}', members=['news', 'mail'], gid=64123)")
    assert changes(site.converge()) == [
        [f"set gid 64123 of group {GROUP}", f"group {GROUP}: add news, take out games"]
    ]
    assert (members(), grp.getgrnam(GROUP).gr_gid) == (["mail", "news"], 64123)
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"group('{GROUP}', action='remove')")
    assert states(site.converge()) == ["changed"]
    assert states(site.converge()) == ["unchanged"]
    with pytest.raises(KeyError):
        grp.getgrnam(GROUP)


@pytest.mark.system_changes
def test_members_are_added_and_taken_out_beside_those_of_others(site, cleanup):
    subprocess.run(["groupadd", GROUP], check=True)
    subprocess.run(["gpasswd", "--members", "games,mail", GROUP], check=True)
    site.recipe(
        f"group('{GROUP}', members=['news'], excluded_members=['mail'], append=True,"
        " action='modify')"
    )

    assert changes(site.converge()) == [[f"group {GROUP}: add news, take out mail"]]
    assert members() == ["games", "news"]
    assert states(site.converge()) == ["unchanged"]


def test_a_why_run_names_what_it_would_do_and_does_nothing(site):
    site.recipe(f"group('{GROUP}', gid=64123, members=['games'])\ngroup('root', action='remove')")

    assert changes(site.converge(why_run=True)) == [
        [f"create group {GROUP}", f"group {GROUP}: add games"],
        ["remove group root"],
    ]
    assert grp.getgrnam("root").gr_gid == 0
    with pytest.raises(KeyError):
        grp.getgrnam(GROUP)


def test_a_group_that_is_right_is_not_touched(site):
    site.recipe("group('root', gid=0)")

    assert states(site.converge()) == ["unchanged"]


def test_a_group_that_is_not_there_cannot_be_modified(site):
    site.recipe(f"group('{GROUP}', action='modify')")

    assert f"no group '{GROUP}' on this machine" in failure(site.converge())


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'-x'", "group_name must be a name"),
        ("'x', members=['a,b']", "members must be a name"),
        ("'x', members=['a'], excluded_members=['b']", "goes with append=True"),
        ("'x', members=['a'], excluded_members=['a'], append=True", "both have a"),
        ("'x', gid='one'", "gid must be int or None"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"group({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
