"""The kind ansible_playbook, with the real ansible-playbook."""

from __future__ import annotations

import pytest

from flock.converge.programs import find_program
from tests.kitchens import changes, failure, states

pytestmark = pytest.mark.skipif(
    find_program("ansible-playbook") is None,
    reason="ansible-playbook is not installed: pip install 'flock-of-chefs[ansible]'",
)

PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: write it
      copy: {content: "{{ text | default('x') }}\\n", dest: "HERE/{{ item }}"}
      loop: [a, b]
    - name: always fine
      command: "true"
      changed_when: false
    - name: fail if told
      command: "false"
      when: broken is defined
"""


@pytest.fixture
def playbook(site, monkeypatch):
    # Ansible keeps temporary files at home; two tests at once must not share them.
    monkeypatch.setenv("ANSIBLE_HOME", str(site.folder / "ansible"))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(site.folder / "ansible/local"))
    monkeypatch.setenv("ANSIBLE_REMOTE_TEMP", str(site.folder / "ansible/remote"))
    return site.write("site.yml", PLAYBOOK.replace("HERE", str(site.folder)))


def diffs(site):
    return [diff for event in site.events for diff in event.get("diffs", [])]


def test_a_playbook_changes_once_and_names_its_tasks(site, playbook):
    site.recipe("ansible_playbook('{here}/site.yml')")

    [named] = changes(site.converge())
    assert [each.split(" => ")[0] for each in named] == ["write it on localhost"] * 2
    assert (site.text("a"), site.text("b")) == ("x\n", "x\n")
    assert any("+x" in diff for diff in diffs(site))
    assert states(site.converge()) == ["unchanged"]


def test_a_why_run_is_ansibles_check_mode(site, playbook):
    site.recipe("ansible_playbook('{here}/site.yml')")

    assert len(changes(site.converge(why_run=True))[0]) == 2
    assert not (site.folder / "a").exists()


def test_variables_reach_it_but_not_the_list_of_processes(site, playbook):
    site.recipe("ansible_playbook('{here}/site.yml', extra_vars={'text': 'y z'})")
    site.converge()

    assert site.text("a") == "y z\n"


def test_a_task_that_fails_fails_it(site, playbook):
    site.recipe("ansible_playbook('site.yml', cwd='{here}', extra_vars={'broken': 1})")

    error = failure(site.converge())
    assert "ansible-playbook ended with exit code 2" in error
    assert "non-zero return code" in error


def test_a_playbook_that_is_not_there_or_wrong_fails(site, playbook):
    site.recipe("ansible_playbook('{here}/nothing.yml')")
    assert "nothing.yml" in failure(site.converge())

    site.write("site.yml", "- hosts: [\n")
    site.recipe("ansible_playbook('{here}/site.yml')")
    assert "ansible-playbook ended with exit code" in failure(site.converge())


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'site.yml'", "playbook must be absolute, or cwd be given"),
        ("'/x.yml', extra_vars={'a': object()}", "extra_vars must be plain data"),
        ("'/x.yml', timeout=0", "timeout must be more than 0 s"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"ansible_playbook({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
