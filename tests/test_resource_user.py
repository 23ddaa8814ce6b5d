"""The kind user, with real users."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.debian import changing_the_machine
from tests.kitchens import changes, failure, states

USER = f"flku{os.getpid()}"
HASH = "$6$abcdefgh$" + "x" * 86


@pytest.fixture
def cleanup():
    with changing_the_machine():
        yield
        subprocess.run(["userdel", "--remove", USER], check=False, capture_output=True)
        subprocess.run(["groupdel", USER], check=False, capture_output=True)


def shadow():
    done = subprocess.run(["getent", "shadow", USER], check=True, capture_output=True, text=True)
    return done.stdout.split(":")[1]


@pytest.mark.system_changes
def test_a_user_is_made_once_put_right_and_removed(site, cleanup):
    site.recipe(
        f"user('{USER}', comment='Philip J. Fry', home='{{here}}/home', manage_home=True,"
        f" shell='/bin/sh', uid=64123, gid='nogroup', password='{HASH}')"
    )
    report = site.converge()
    assert changes(report) == [[f"create user {USER}", f"set password of user {USER}"]]
    assert HASH not in repr(report)
    found = pwd.getpwnam(USER)
    assert (found.pw_gecos, found.pw_shell, found.pw_uid, found.pw_gid) == (
        "Philip J. Fry",
        "/bin/sh",
        64123,
        65534,
    )
    assert (site.folder / "home").stat().st_uid == 64123
    assert shadow() == HASH
    assert states(site.converge()) == ["unchanged"]

    site.recipe(
        f"user('{USER}', shell='/bin/false', home='{{here}}/moved', manage_home=True, uid=64124)"
    )
    assert changes(site.converge()) == [
        [f"set uid 64124, set home {site.folder}/moved, set shell /bin/false of user {USER}"]
    ]
    assert (site.folder / "moved").stat().st_uid == 64124
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"user('{USER}', action='remove', manage_home=True)")
    assert changes(site.converge()) == [[f"remove user {USER} with the home directory"]]
    assert not Path(site.folder / "moved").exists()
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.system_changes
def test_a_user_is_locked_and_unlocked_once(site, cleanup):
    site.recipe(f"user('{USER}', password='{HASH}', system=True)")
    site.converge()
    assert pwd.getpwnam(USER).pw_uid < 1000

    site.recipe(f"user('{USER}', action='lock')")
    assert states(site.converge()) == ["changed"]
    assert shadow().startswith("!")
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"user('{USER}', action='unlock')")
    assert states(site.converge()) == ["changed"]
    assert shadow() == HASH
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.system_changes
def test_a_user_with_a_password_is_made_and_locked_once(site, cleanup):
    site.recipe(f"user('{USER}', password='{HASH}', action=['create', 'lock'])")
    assert states(site.converge()) == ["changed", "changed"]
    assert shadow() == f"!{HASH}"
    assert states(site.converge()) == ["unchanged", "unchanged"]


def test_a_why_run_names_what_it_would_do_and_does_nothing(site):
    site.recipe(
        f"user('{USER}', password='{HASH}')\nuser('{USER}', action=['modify', 'lock'])\n"
        "user('root', action='remove')"
    )

    assert changes(site.converge(why_run=True)) == [
        [f"create user {USER}", f"set password of user {USER}"],
        [],
        [f"lock user {USER}"],
        ["remove user root"],
    ]
    assert pwd.getpwnam("root").pw_uid == 0
    with pytest.raises(KeyError):
        pwd.getpwnam(USER)


def test_a_user_that_is_right_is_not_touched(site):
    site.recipe("user('root', uid=0, gid='root', home='/root')")

    assert states(site.converge()) == ["unchanged"]


def test_a_user_that_is_not_there_cannot_be_locked(site):
    site.recipe(f"user('{USER}', action='lock')")

    assert f"no user '{USER}' on this machine" in failure(site.converge())


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'a b'", "username must be a name"),
        ("'x', gid='-g'", "gid must be a name"),
        ("'x', comment='a:b'", "comment cannot hold a colon"),
        ("'x', home='fry'", "home must be absolute"),
        ("'x', password='a\\nroot:b'", "password cannot hold a colon or a line break"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"user({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
