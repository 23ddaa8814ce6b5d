"""The kind ansible_module, with real modules."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
import sys

import pytest

from tests.debian import CHANGES_WITHIN, install, may_change_the_machine
from tests.kitchens import changes, failure, states

needs_ansible = pytest.mark.skipif(
    importlib.util.find_spec("ansible") is None,
    reason="ansible-core is not installed: pip install 'flock-of-chefs[ansible]'",
)


def diffs(site):
    return [diff for event in site.events for diff in event.get("diffs", [])]


@needs_ansible
def test_a_module_changes_once_and_shows_the_difference(site):
    site.write("a", "one\n")
    site.recipe("""
        ansible_module('lineinfile', args={'path': '{here}/a', 'line': 'two', 'mode': '0600'})
    """)

    assert changes(site.converge()) == [["run the Ansible module lineinfile"]]
    assert site.text("a") == "one\ntwo\n"
    assert stat.S_IMODE((site.folder / "a").stat().st_mode) == 0o600
    assert any("+two" in diff for diff in diffs(site))
    assert states(site.converge()) == ["unchanged"]


@needs_ansible
def test_a_why_run_is_the_check_mode_of_the_module(site):
    site.write("a", "one\n")
    site.recipe(
        "ansible_module('x', module='lineinfile', args={'path': '{here}/a', 'line': 'two'})"
    )

    assert changes(site.converge(why_run=True)) == [["run the Ansible module lineinfile"]]
    assert site.text("a") == "one\n"
    site.write("a", "two\n")
    assert states(site.converge(why_run=True)) == ["unchanged"]


@needs_ansible
def test_what_a_module_says_of_its_failure_is_the_error(site):
    site.recipe("ansible_module('file', args={'path': '{here}/nothing', 'state': 'file'})")

    error = failure(site.converge())
    assert "the Ansible module file failed: file (" in error and "is absent" in error


@needs_ansible
def test_wrong_arguments_are_named_by_the_module(site):
    site.recipe("ansible_module('ansible.builtin.file', args={'path': '/x', 'nobody': 1})")

    assert "Unsupported parameters" in failure(site.converge())


@needs_ansible
@pytest.mark.parametrize(
    ("module", "instead"), [("template", "template(...)"), ("shell", "execute")]
)
def test_a_plug_in_of_the_controller_is_named_as_such(site, module, instead):
    site.recipe(f"ansible_module('{module}', args={{}})")

    error = failure(site.converge())
    assert "it is a plug-in of Ansible's controller, no module" in error and instead in error


@needs_ansible
def test_an_unknown_module_is_named(site):
    site.recipe("ansible_module('nobody')\n")
    assert "Ansible has no module 'nobody' here" in failure(site.converge())

    site.recipe("ansible_module('planet.express.nobody')\n")
    assert "Ansible has no module 'planet.express.nobody' here" in failure(site.converge())


@needs_ansible
@pytest.mark.timeout(CHANGES_WITHIN)
def test_a_module_that_starts_itself_under_the_systems_python_answers(site):
    """`apt` needs bindings that only the system's Python has, and goes there by itself."""
    if subprocess.run(["/usr/bin/python3", "-c", "import apt"], check=False).returncode != 0:
        if not may_change_the_machine():
            pytest.skip("the system's Python has no bindings of apt; FLOCK_TEST_SYSTEM=1 gets them")
        install("python3-apt")
    site.recipe("ansible_module('apt', args={'name': 'base-files', 'state': 'present'})")

    assert states(site.converge()) == ["unchanged"]


def test_without_ansible_the_error_says_what_to_install(site):
    python = site.write("python", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    site.recipe("ansible_module('ping', python='{here}/python')")

    assert "pip install 'flock-of-chefs[ansible]'" in failure(site.converge())


def test_secrets_are_in_no_list_of_processes_and_no_report(site):
    python = site.write(
        "python", '#!/bin/sh\necho "$@" > {here}/argv; cat > {here}/stdin\nexit 1\n'
    )
    python.chmod(0o755)
    site.recipe("""
        ansible_module('x', module='ping', args={'data': 'fry says'}, python='{here}/python',
                       sensitive=True)
    """)

    report = site.converge()
    assert "fry says" not in site.text("argv")
    assert "fry says" in site.text("stdin")
    assert "fry says" not in repr(report)


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'../x'", "module must be a name"),
        ("'a.b'", "module must be a name"),
        ("'copy', args={'content': 'x', 'dest': '/a'}", "use file(...)"),
        ("'ping', args={'data': object()}", "args must be plain data"),
        ("'ping', timeout=0", "timeout must be more than 0 s"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"ansible_module({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
