"""The journal of a node: what is found again, and what is let go."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from flock.errors import JournalError
from flock.journal import KEPT_RUNS, Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path):
    journal = Journal(path)
    yield journal
    journal.close()


def report(run_id, state="ok", **more):
    return {"run_id": run_id, "state": state, "error": None, "resources": [1, 2], **more}


def test_a_run_is_found_again_after_the_journal_was_reopened(path, journal):
    journal.save_run(report("a"))
    journal.close()

    again = Journal(path)

    assert again.run("a") == report("a")
    again.close()


def test_saving_a_run_again_replaces_it_and_keeps_its_place(journal):
    journal.save_run(report("a", "running"))
    journal.save_run(report("b"))
    journal.save_run(report("a"))

    assert [head["run_id"] for head in journal.runs()] == ["b", "a"]
    assert journal.run("a")["state"] == "ok"


def test_heads_leave_out_the_resources(journal):
    journal.save_run(report("a"))

    assert journal.runs() == [{"run_id": "a", "state": "ok", "error": None}]


def test_the_last_hundred_runs_are_kept(journal):
    for number in range(KEPT_RUNS + 5):
        journal.save_run(report(str(number)))

    heads = journal.runs(limit=1000)

    assert len(heads) == KEPT_RUNS
    assert heads[0]["run_id"] == str(KEPT_RUNS + 4)
    assert heads[-1]["run_id"] == "5"
    assert journal.run("4") is None
    assert journal.last_run()["run_id"] == str(KEPT_RUNS + 4)


def test_runs_of_dead_processes_become_failed(journal):
    journal.save_run(report("a", "running"))
    journal.save_run(report("b", "ok"))

    assert journal.settle_dead_runs() == ["a"]

    assert journal.run("a") == report("a", "failed") | {"error": "process died"}
    assert journal.runs()[1]["state"] == "failed"
    assert journal.run("b")["state"] == "ok"
    assert journal.settle_dead_runs() == []


def test_values_are_remembered_and_replaced(path, journal):
    assert journal.recall("registry") is None
    assert journal.recall("registry", "none") == "none"

    journal.remember("registry", {"id": [1, "ü"]})
    journal.remember("registry", {"id": [2]})

    assert journal.recall("registry") == {"id": [2]}


def test_two_journals_on_one_file_write_side_by_side(path, journal):
    other = Journal(path)
    failures = []

    def write(journal, name):
        try:
            for number in range(20):
                journal.save_run(report(f"{name}{number}"))
        except JournalError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(each, name))
        for name, each in (("a", journal), ("b", other), ("c", journal))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(journal.runs()) == 60
    other.close()


def test_an_exception_inside_a_transaction_takes_everything_back(journal):
    def write_and_fail():
        with journal.writing() as connection:
            connection.execute("INSERT INTO facts VALUES ('a', '1')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()

    assert journal.recall("a") is None
    journal.remember("a", 2)
    assert journal.recall("a") == 2


def test_further_tables_stand_beside_and_are_laid_out_once(path, journal):
    journal.add_tables("CREATE TABLE IF NOT EXISTS outbox (id TEXT)")
    with journal.writing() as connection:
        connection.execute("INSERT INTO outbox VALUES ('x')")
    journal.add_tables("CREATE TABLE IF NOT EXISTS outbox (id TEXT)")

    with journal.reading() as connection:
        assert connection.execute("SELECT id FROM outbox").fetchall() == [("x",)]


def test_a_file_that_is_no_journal_is_one_clear_line(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database, and long enough to be read as one" * 40)

    with pytest.raises(JournalError) as caught:
        Journal(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_closed_journal_says_so(path, journal):
    journal.close()

    with pytest.raises(JournalError, match=r"cannot read the journal .*closed"):
        journal.runs()


def test_a_writer_that_holds_the_file_too_long_is_an_error(path, journal, monkeypatch):
    with journal.writing() as connection:
        connection.execute("PRAGMA user_version")
        other = sqlite3.connect(path, timeout=0.05, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_full_disk_is_an_error_that_hurts_nothing_that_stands(journal):
    journal.save_run(report("a"))
    with journal.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    with pytest.raises(JournalError, match="database or disk is full"):
        journal.save_run(report("b", padding="x" * 100_000))

    assert journal.run("a") == report("a")
    assert journal.run("b") is None
    with journal.reading() as connection:
        connection.execute("PRAGMA max_page_count = 100000")
    journal.save_run(report("b"))
    assert journal.run("b") is not None


def test_a_last_report_is_written_with_the_room_set_aside(journal, path, monkeypatch):
    reserve = path.with_name(path.name + ".reserve")
    assert reserve.stat().st_size >= 1024 * 1024
    whole = journal._save_run

    def full_until_the_reserve_is_given_up(report):
        if reserve.exists():
            raise JournalError("disk is full")
        whole(report)

    def full(report):
        raise JournalError("disk is full")

    monkeypatch.setattr(journal, "_save_run", full_until_the_reserve_is_given_up)

    with pytest.raises(JournalError):
        journal.save_run(report("a"))
    journal.save_run(report("b"), last_words=True)

    assert journal.run("b") is not None
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_save_run", full)
        with pytest.raises(JournalError):
            journal.save_run(report("c"), last_words=True)


def test_the_journal_is_readable_by_its_owner_only(journal, path):
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
