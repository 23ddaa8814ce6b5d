"""Facts of other engines; stand-ins named `facter` and `ohai` print what theirs would."""

from __future__ import annotations

import os

import pytest

from flock.converge.fact_engines import KEPT_SECONDS, EngineFacts
from flock.journal import Journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a stand-in for an engine into the path; it counts how often it is asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(engine, prints, code=0):
        path = tmp_path / engine
        path.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho '{prints}'\nexit {code}\n")
        path.chmod(0o755)

    def asked():
        found = tmp_path / "asked"
        return found.read_text().count("x") if found.exists() else 0

    write.asked = asked  # type: ignore[attr-defined]
    return write


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def own():
    return {"os": "linux", "kernel": {"release": "6.1", "name": "Linux"}}


@pytest.mark.parametrize("engine", ["facter", "ohai"])
def test_an_engines_facts_are_merged_over_our_own(journal, stand_in, engine):
    stand_in(engine, '{"kernel": {"release": "6.2"}, "uptime": {"days": 3}}')

    facts = EngineFacts(engine, journal, own)()

    assert facts == {
        "os": "linux",
        "kernel": {"release": "6.2", "name": "Linux"},
        "uptime": {"days": 3},
    }


def test_they_are_kept_for_an_hour_over_restarts(journal, stand_in):
    stand_in("facter", '{"a": 1}')
    clock = Clock()
    EngineFacts("facter", journal, own, clock)()

    stand_in("facter", '{"a": 2}')
    clock.now += KEPT_SECONDS - 1
    assert EngineFacts("facter", journal, own, clock)()["a"] == 1
    clock.now += 1
    assert EngineFacts("facter", journal, own, clock)()["a"] == 2
    clock.now -= 10 * KEPT_SECONDS
    EngineFacts("facter", journal, own, clock)()

    assert stand_in.asked() == 3


@pytest.mark.parametrize(
    ("prints", "code", "said"),
    [("no JSON", 0, "Expecting value"), ("{}", 1, "exit status 1"), ("[1]", 0, "no table")],
)
def test_an_engine_that_fails_is_warned_about_and_what_was_known_is_used(
    journal, stand_in, caplog, prints, code, said
):
    clock = Clock()
    stand_in("facter", '{"a": 1}')
    EngineFacts("facter", journal, own, clock)()
    clock.now += KEPT_SECONDS
    stand_in("facter", prints, code)

    assert EngineFacts("facter", journal, own, clock)()["a"] == 1

    assert "no facts of facter" in caplog.text
    assert said in caplog.text


def test_an_engine_that_is_not_there_leaves_our_own(journal, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert EngineFacts("ohai", journal, own)() == own()
    assert "no facts of ohai" in caplog.text
