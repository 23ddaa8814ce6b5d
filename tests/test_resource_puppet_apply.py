"""The kind puppet_apply: a stand-in for its exit codes, and the real one where it installs."""

from __future__ import annotations

import os

import pytest

from tests.debian import install
from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path

CHANGED = """\
Notice: Compiled catalog for vm in environment production in 0.04 seconds
Notice: /Stage[main]/Main/File[/tmp/pp]/content: 
--- /tmp/pp\t2026-11-24 04:18:14.573340243 +0000
+++ /tmp/puppet-file20261124-7021-j0eyhn\t2026-11-24 04:18:18.845590409 +0000
@@ -1 +1,2 @@
 x
+y
Notice: /Stage[main]/Main/File[/tmp/pp]/content: content changed '{sha256}73' to '{sha256}09'
Notice: /Stage[main]/Main/Exec[/bin/true]: Triggered 'refresh' from 1 event
Notice: Applied catalog in 0.04 seconds
"""  # noqa: W291 - so does Puppet


@pytest.fixture
def puppet(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return put_on_path("puppet", tmp_path)


def test_it_changed_if_the_exit_code_says_so_and_names_the_events(site, puppet):
    puppet.answers(CHANGED, 2)
    site.recipe("puppet_apply('/x.pp')")

    assert changes(site.converge()) == [
        [
            "/Stage[main]/Main/File[/tmp/pp]/content: content changed '{sha256}73' to '{sha256}09'",
            "/Stage[main]/Main/Exec[/bin/true]: Triggered 'refresh' from 1 event",
        ]
    ]
    assert any("+y" in diff for event in site.events for diff in event.get("diffs", []))

    puppet.answers("Notice: Applied catalog in 0.04 seconds\n", 0)
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.parametrize(
    "event",
    [
        "File[/tmp/pp]/ensure: current_value 'absent', should be 'file' (noop)",  # Puppet 7
        "File[/tmp/pp]/ensure: defined content as '{sha256}73' (noop)",  # and 8
        "File[/tmp/pp]/content: content changed '{sha256}73' to '{sha256}09' (noop)",
        "Exec[/bin/true]: Would have triggered 'refresh' from 1 event",
    ],
)
def test_a_dry_run_names_what_would_change(site, puppet, event):
    puppet.answers(
        f"Notice: /Stage[main]/Main/{event}\n"
        "Notice: Class[Main]: Would have triggered 'refresh' from 1 event\n"
        "Notice: Stage[main]: Would have triggered 'refresh' from 1 event\n",
        0,
    )
    site.recipe("puppet_apply('/x.pp')")

    assert changes(site.converge(why_run=True)) == [[f"/Stage[main]/Main/{event}"]]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "exit code 1: Could not parse"),
        (4, "exit code 4: Could not parse"),
        (6, "some resources changed, others failed: Could not parse"),
    ],
)
def test_failures_are_failures(site, puppet, code, text):
    errors = "Error: Facter: Permission denied\nError: Could not parse: x\n"
    puppet.answers("", code, errors)
    site.recipe("puppet_apply('/x.pp')")

    error = failure(site.converge())
    assert text in error and "Facter" not in error


def test_properties_become_arguments(site, puppet):
    puppet.answers()
    site.recipe("puppet_apply('x', code='include x', modulepath=['/a', '/b'], hiera_config='/h')")
    site.converge()

    call = puppet.calls[0]
    assert call[call.index("--modulepath") + 1] == "/a:/b"
    assert call[call.index("--hiera_config") + 1] == "/h"
    assert "include x" not in call


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'x.pp'", "manifest must be absolute, or cwd be given"),
        ("'x', manifest='/x.pp', code='y'", "manifest and code exclude each other"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"puppet_apply({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error


@pytest.mark.system_changes
def test_a_real_manifest_changes_once(site):
    install("puppet-agent")
    code = f'file {{ "{site.folder}/a": content => "one\\n" }}'
    site.recipe(f"puppet_apply('app', code={code!r})")

    assert "File[" in changes(site.converge(why_run=True))[0][0]
    assert not (site.folder / "a").exists()
    assert "File[" in changes(site.converge())[0][0]
    assert site.text("a") == "one\n"
    assert states(site.converge()) == ["unchanged"]
    assert states(site.converge(why_run=True)) == ["unchanged"]


@pytest.mark.system_changes
def test_a_real_manifest_that_fails_says_why(site):
    install("puppet-agent")
    site.write("bad.pp", "file { '{here}/nowhere/a': ensure => file }")
    site.recipe("puppet_apply('{here}/bad.pp')")

    assert "puppet apply ended with exit code 4: Could not set 'file' on ensure" in failure(
        site.converge()
    )
