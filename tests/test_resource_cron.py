"""The kind cron: a stand-in for crontab, and the real one with a user of our own."""

from __future__ import annotations

import os
import subprocess

import pytest

from flock.converge.resources.cron import Cron
from tests.debian import changing_the_machine, install
from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path


class Crontab:
    """The stand-in with the crontab of `fry`."""

    def __init__(self, stand_in):
        self.stand_in = stand_in
        self.path = stand_in.folder / "crontab-fry"

    @property
    def lines(self):
        return self.path.read_text().splitlines()


@pytest.fixture
def crontab(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return Crontab(put_on_path("crontab", tmp_path, "stand_in_crontab.py"))


def test_an_entry_is_added_once_beside_those_of_others(site, crontab):
    crontab.path.write_text("# mine\n1 * * * * own\n")
    site.recipe("cron('backup', user='fry', minute='*/5', hour=3, command='tar c / > /x')")

    assert changes(site.converge()) == [["add entry backup in the crontab of fry"]]
    assert crontab.lines == [
        "# mine",
        "1 * * * * own",
        "# Flock Name: backup",
        "*/5 3 * * * tar c / > /x",
    ]
    assert any("+*/5 3" in diff for event in site.events for diff in event.get("diffs", []))
    assert states(site.converge()) == ["unchanged"]


def test_entries_of_others_stay_as_they_are_to_the_byte(site, crontab):
    others = "# Größe\n1 * * * * a \x0c b \u2028 c\r\n".encode() + b"2 * * * * Gr\xf6\xdfe\n"
    crontab.path.write_bytes(others)
    site.recipe("cron('backup', user='fry', command='true')")
    assert states(site.converge()) == ["changed"]
    assert crontab.path.read_bytes() == others + b"# Flock Name: backup\n* * * * * true\n"
    assert states(site.converge()) == ["unchanged"]

    site.recipe("cron('backup', user='fry', action='delete')")
    assert states(site.converge()) == ["changed"]
    assert crontab.path.read_bytes() == others


def test_an_entry_is_changed_in_its_place_and_deleted(site, crontab):
    site.recipe("""
        cron('a', user='fry', command='one', time='daily')
        cron('b', user='fry', command='two', weekday='mon-fri')
    """)
    site.converge()
    site.recipe("cron('a', user='fry', command='other')")

    assert changes(site.converge()) == [["change entry a in the crontab of fry"]]
    assert crontab.lines == [
        "# Flock Name: a",
        "* * * * * other",
        "# Flock Name: b",
        "* * * * mon-fri two",
    ]

    site.recipe("cron('a', user='fry', action='delete')")
    assert states(site.converge()) == ["changed"]
    assert crontab.lines == ["# Flock Name: b", "* * * * mon-fri two"]
    assert states(site.converge()) == ["unchanged"]


def test_an_entry_whose_line_somebody_deleted_is_repaired(site, crontab):
    crontab.path.write_text("# Flock Name: a\n# Flock Name: b\n* * * * * two\n")
    site.recipe("cron('a', user='fry', command='one')")
    site.converge()

    assert crontab.lines == [
        "# Flock Name: a",
        "* * * * * one",
        "# Flock Name: b",
        "* * * * * two",
    ]


def test_variables_are_those_of_the_one_command(site, crontab):
    site.recipe(
        "cron('a', user='fry', time='reboot', command='run', environment={'A': 'x y', 'B': '5%'})"
    )
    site.converge()

    assert crontab.lines[1] == r"@reboot export A='x y'; export B=5\%; run"


def test_a_crontab_that_cannot_be_read_is_not_taken_for_an_empty_one(site, crontab):
    crontab.path.write_text("1 * * * * own\n")
    (crontab.stand_in.folder / "broken").touch()
    site.recipe("cron('a', user='fry', command='one')")

    assert "the crontab of fry cannot be read: crontab: cannot open the spool" in failure(
        site.converge()
    )
    assert crontab.lines == ["1 * * * * own"]


def test_a_why_run_writes_nothing(site, crontab):
    site.recipe("cron('a', user='fry', command='one')")

    assert states(site.converge(why_run=True)) == ["changed"]
    assert not crontab.path.exists()


def test_without_cron_the_error_says_what_to_install(site, monkeypatch):
    monkeypatch.setattr("flock.converge.programs.find_program", lambda name: None)
    site.recipe("cron('a', command='one')")

    assert "crontab is not installed on this machine: apt-get install cron" in failure(
        site.converge()
    )
    assert states(site.converge(why_run=True)) == ["changed"]


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'a'", "command is missing"),
        ("'a', command='x\\ny'", "command must be one line"),
        ("'a', command='x', minute='* *'", "minute must be as in a crontab"),
        ("'a', command='x', minute=60", "of 0 to 59; not '60'"),
        ("'a', command='x', hour='3-1'", "of 0 to 23; not '3-1'"),
        ("'a', command='x', day=0", "of 1 to 31; not '0'"),
        ("'a', command='x', month='janu'", "of 1 to 12, jan to dec; not 'janu'"),
        ("'a', command='x', weekday='*/0'", "of 0 to 7, sun to sat; not '*/0'"),
        ("'a', command='x', time='now'", "time must be one of"),
        ("'a', command='x', time='daily', hour=3", "time and hour exclude each other"),
        ("'a\\nb', command='x'", "the name of a cron entry is one line"),
        ("'a', command='x', user='-r'", "user must be a name"),
        ("'a', command='x', environment={'A B': 'x'}", "environment cannot hold"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"cron({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error


@pytest.mark.parametrize(
    ("minute", "hour", "day", "month", "weekday"),
    [
        ("*/5", 23, "1-31/2", "jan", "mon-fri"),
        (0, "*", "1,15", "3-12", 7),
        ("0-59/10,7", "0", 31, "DEC", "Sun,3"),
    ],
)
def test_what_may_stand_in_a_crontab_may_be_declared(minute, hour, day, month, weekday):
    entry = Cron("a", command="x", minute=minute, hour=hour, day=day, month=month, weekday=weekday)
    entry.check()
    assert entry.entry[1] == f"{minute} {hour} {day} {month} {weekday} x"


@pytest.mark.system_changes
def test_a_real_crontab_takes_the_entries(site):
    install("cron")
    user = f"flkc{os.getpid()}"
    with changing_the_machine():
        subprocess.run(["useradd", "--no-create-home", user], check=True)
        try:
            site.recipe(
                f"cron('a b', user='{user}', command='true', weekday='sun')\n"
                f"cron('c', user='{user}', command='true', time='daily', environment={{'A': '5%'}})"
            )
            assert states(site.converge()) == ["changed", "changed"]
            shown = subprocess.run(
                ["crontab", "-u", user, "-l"], check=True, capture_output=True, text=True
            ).stdout
            assert "# Flock Name: a b\n* * * * sun true\n" in shown
            assert states(site.converge()) == ["unchanged", "unchanged"]
            site.recipe(f"cron('a b', user='{user}', action='delete')")
            assert states(site.converge()) == ["changed"]
            assert states(site.converge()) == ["unchanged"]
        finally:
            subprocess.run(["crontab", "-u", user, "-r"], check=False)
            subprocess.run(["userdel", user], check=False)
