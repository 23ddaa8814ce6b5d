"""Facts of other engines; stand-ins named `facter` and `ohai` print what theirs would."""

from __future__ import annotations

import os
import threading

import pytest

from flock.converge import facts as machine_facts
from flock.converge.cancellation import Cancellation
from flock.converge.fact_engines import COMMANDS, KEPT_SECONDS, EngineFacts
from flock.errors import RunCancelled
from flock.journal import Journal
from flock.settings import load_settings
from tests.debian import CHANGES_WITHIN, need
from tests.kitchens import is_running
from tests.support import eventually


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


def test_what_an_engine_did_not_find_out_hides_nothing(journal, stand_in):
    stand_in("ohai", '{"os": null, "kernel": null, "domain": null}')

    assert EngineFacts("ohai", journal, own)() == {**own(), "domain": None}


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
    [
        ("no JSON", 0, "exit code 0 and said: no JSON"),
        ("{}", 1, "exit code 1 and said: {}"),
        ("[1]", 0, "exit code 0 and said: [1]"),
    ],
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


def test_what_an_engine_found_beside_a_failure_is_used_and_told(journal, stand_in, caplog):
    stand_in("facter", '{"a": 1}', code=1)

    assert EngineFacts("facter", journal, own)()["a"] == 1

    assert "not all facts of facter: it ended with exit code 1" in caplog.text


def test_an_engine_that_is_not_there_leaves_our_own(journal, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert EngineFacts("ohai", journal, own)() == own()
    assert "no facts of ohai" in caplog.text


def test_our_own_names_keep_their_form(journal, stand_in):
    stand_in(
        "facter",
        '{"kernel": "Linux", "os": {"family": "Debian"}, "network": {"name": {"a": 1}, "mtu": 9}}',
    )

    facts = EngineFacts("facter", journal, lambda: own() | {"network": {"name": "x"}})()

    assert facts["kernel"] == own()["kernel"]
    assert facts["os"] == "linux"
    assert facts["network"] == {"name": "x", "mtu": 9}
    assert facts["facter"] == {
        "kernel": "Linux",
        "os": {"family": "Debian"},
        "network": {"name": {"a": 1}},
    }


@pytest.mark.timeout(CHANGES_WITHIN)
def test_what_facter_prints_leaves_chefs_names_in_place(journal):
    need("facter")
    ours = machine_facts.collect()

    facts = EngineFacts("facter", journal)()

    assert facts["kernel"]["release"] == ours["kernel"]["release"]
    assert (facts["fqdn"], facts["os"]) == (ours["fqdn"], ours["os"])
    assert facts["memory"]["total"].endswith("kB")
    assert facts["facter"]["os"]["family"]
    assert facts["networking"]["hostname"]


def test_an_engine_that_hangs_is_gone_soon_after_its_run_is_cancelled(journal, tmp_path, stand_in):
    stand_in("ohai", "{}")
    (tmp_path / "ohai").write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/pid\nsleep 71\n"
    )
    cancellation = Cancellation()
    ended = []

    def ask():
        with pytest.raises(RunCancelled):
            EngineFacts("ohai", journal, own)(cancellation)
        ended.append("cancelled")

    asking = threading.Thread(target=ask, name="asking")
    asking.start()
    assert eventually((tmp_path / "pid").exists, within=15)
    cancellation.cancel("enough")
    asking.join(5)

    assert ended == ["cancelled"]
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_every_engine_can_be_named_in_the_settings():
    assert [load_settings({"facts": engine}).facts for engine in COMMANDS] == list(COMMANDS)
