"""The kind salt_call, against a stand-in that answers as Salt does."""

from __future__ import annotations

import json
import os

import pytest

from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path


@pytest.fixture
def salt(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return put_on_path("salt-call", tmp_path)


def state(identifier, number, result, changes=None, comment="", name=None):
    name = name or identifier
    return {
        f"file_|-{identifier}_|-{name}_|-managed": {
            "__id__": identifier,
            "__run_num__": number,
            "__sls__": "app",
            "name": name,
            "result": result,
            "changes": changes or {},
            "comment": comment,
            "duration": 1.5,
            "start_time": "12:00:00.000000",
        }
    }


def local(*states):
    return json.dumps({"local": {key: value for each in states for key, value in each.items()}})


def test_it_changed_if_a_state_did_and_names_it_with_its_difference(site, salt):
    salt.answers(
        local(
            state("second", 1, True, {"diff": "--- \n+++ \n@@ -1 +1 @@\n-a\n+b"}, name="/etc/b"),
            state("first", 0, True, {"mode": "0644"}),
            state("third", 2, True),
        )
    )
    site.recipe("salt_call('app', states='app', local=True)")

    assert changes(site.converge()) == [["first", "second (/etc/b)"]]
    assert any("+b" in diff for event in site.events for diff in event.get("diffs", []))

    salt.answers(local(state("first", 0, True)))
    assert states(site.converge()) == ["unchanged"]


def test_a_why_run_is_a_test_of_salt(site, salt):
    salt.answers(local(state("first", 0, None, comment="would be changed"), state("b", 1, True)))
    site.recipe("salt_call('app')")

    assert changes(site.converge(why_run=True)) == [["first"]]
    assert salt.calls[0][-1] == "test=True"


@pytest.mark.parametrize("code", [0, 2])
def test_a_state_that_failed_fails_it_whatever_the_exit_code_says(site, salt, code):
    salt.answers(local(state("first", 0, False, comment="no such user")), code)
    site.recipe("salt_call('app')")

    assert "first: no such user" in failure(site.converge())


def test_errors_of_rendering_are_shown(site, salt):
    salt.answers(json.dumps({"local": ["Rendering SLS 'base:app' failed: x"]}), 1)
    site.recipe("salt_call('app')")

    assert "salt-call ended with exit code 1: Rendering SLS 'base:app' failed" in failure(
        site.converge()
    )


@pytest.mark.parametrize("output", ["", "no json", "{}", '{"local": "text"}'])
def test_an_answer_without_states_is_a_failure(site, salt, output):
    salt.answers(output)
    site.recipe("salt_call('app')")

    assert "it returned no states" in failure(site.converge())


def test_warnings_before_the_answer_do_not_matter(site, salt):
    salt.answers("[WARNING] old python\n" + local(state("first", 0, True)))
    site.recipe("salt_call('app')")

    assert states(site.converge()) == ["unchanged"]


def test_properties_become_arguments(site, salt):
    salt.answers(local(state("first", 0, True)))
    site.recipe("salt_call('x', states=['a', 'b.c'], config_dir='/etc/s', pillar={'k': [1]})")
    site.converge()

    call = salt.calls[0]
    assert call[call.index("--config-dir") + 1] == "/etc/s"
    assert call[call.index("state.apply") + 1 :] == ["a,b.c", 'pillar={"k": [1]}']
    assert "--retcode-passthrough" in call


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'x', states='--local'", "states must be names of states"),
        ("'x', states=['test=True']", "states must be names of states"),
        ("'x', pillar={'a': object()}", "pillar must be plain data"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"salt_call({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
