"""The kind template."""

from __future__ import annotations

import stat

import pytest

from tests.kitchens import changes, failure, rows, states


def template(site, text, name="app.conf.j2", cookbook="cb"):
    return site.write(f"cookbooks/{cookbook}/templates/{name}", text)


def diffs(site):
    return [diff for event in site.events for diff in event.get("diffs", [])]


def test_a_template_sees_its_variables_and_the_node(site):
    template(site, "port={{ port }}\nkernel={{ node.kernel.release }}\nname={{ node.name }}\n")
    site.recipe("template('{here}/app.conf', variables={'port': 80}, mode='0640')")

    assert changes(site.converge()) == [[f"write {site.folder}/app.conf"]]
    assert site.text("app.conf") == "port=80\nkernel=6.1\nname=bender0\n"
    assert stat.S_IMODE((site.folder / "app.conf").stat().st_mode) == 0o640
    assert states(site.converge()) == ["unchanged"]


def test_a_change_is_shown_as_a_difference(site):
    template(site, "one\ntwo {{ x }}\n")
    site.write("app.conf", "one\n")
    site.recipe("template('{here}/app.conf', variables={'x': 2})")
    site.converge()

    assert [diff.splitlines()[-2:] for diff in diffs(site)] == [[" one", "+two 2"]]


def test_a_template_that_was_changed_counts_in_the_next_run(site):
    site.recipe("template('{here}/app.conf')")
    template(site, "old")
    site.converge()
    template(site, "new")

    assert states(site.converge()) == ["changed"]
    assert site.text("app.conf") == "new"


def test_nothing_is_escaped(site):
    template(site, "{{ x }}")
    site.recipe("template('{here}/app.conf', variables={'x': '<a & \"b\">'})")
    site.converge()

    assert site.text("app.conf") == '<a & "b">'


def test_a_template_of_another_cookbook_and_under_another_name(site):
    template(site, "hers", "deep/x.j2", "other")
    site.recipe("template('{here}/app.conf', source='deep/x.j2', cookbook='other')")
    site.converge()

    assert site.text("app.conf") == "hers"


def test_templates_include_each_other(site):
    template(site, "head\n{% include 'part.j2' %}")
    template(site, "part of {{ who }}", "part.j2")
    site.recipe("template('{here}/app.conf', variables={'who': 'fry'})")
    site.converge()

    assert site.text("app.conf") == "head\npart of fry"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("one\n{{ port }}\n", "2: 'port' is undefined"),
        ("one\n\n{{ node.kernel.version }}\n", "3: there is no 'version'"),
        ("{{ node['kernel']['relase'] }}", "1: there is no 'relase' (did you mean 'release'?)"),
        ("one\n{% if %}\n", "2: Expected an expression"),
        ("one\n{{ 1 / 0 }}\n", "2: ZeroDivisionError: division by zero"),
        ("one\n{% include 'nobody.j2' %}\n", "2: cookbook 'cb' has no templates/nobody.j2"),
    ],
)
def test_a_wrong_template_is_one_error_with_its_line_and_nothing_is_written(site, text, problem):
    path = template(site, text)
    site.recipe("template('{here}/app.conf')")

    error = failure(site.converge())
    assert f"{path}:{problem}" in error
    assert "\n" not in error
    assert not (site.folder / "app.conf").exists()


def test_a_template_that_is_no_text_is_named_with_its_line(site):
    path = template(site, "")
    path.write_bytes(b"one\ntwo \xff\n")
    site.recipe("template('{here}/app.conf')\n")

    assert f"{path}:2: byte 0xff is no UTF-8 text" in failure(site.converge())


def test_a_missing_variable_in_an_included_template_is_named_there(site):
    template(site, "one\n{% include 'part.j2' %}")
    part = template(site, "\n\n{{ who }}", "part.j2")
    site.recipe("template('{here}/app.conf')")

    assert f"{part}:3: 'who' is undefined" in failure(site.converge())


def test_a_template_that_is_not_there_says_what_is_near(site):
    template(site, "x")
    site.recipe("template('{here}/app.conf', source='app.cnf.j2')")

    assert "has no templates/app.cnf.j2 (did you mean 'app.conf.j2'?)" in failure(site.converge())


def test_a_sensitive_template_shows_no_difference(site):
    template(site, "secret {{ x }}")
    site.recipe("template('{here}/app.conf', variables={'x': 1}, sensitive=True)")

    assert states(site.converge()) == ["changed"]
    assert diffs(site) == []


def test_create_if_missing_and_delete(site):
    template(site, "x")
    site.recipe("template('{here}/app.conf', action='create_if_missing')")
    site.write("app.conf", "mine")
    assert states(site.converge()) == ["unchanged"]

    site.recipe("template('{here}/app.conf', action='delete')")
    assert states(site.converge()) == ["changed"]
    assert not (site.folder / "app.conf").exists()
    assert states(site.converge()) == ["unchanged"]


def test_a_why_run_names_the_change_and_writes_nothing(site):
    template(site, "new")
    site.write("app.conf", "old")
    site.recipe("template('{here}/app.conf')")

    report = site.converge(why_run=True)
    assert rows(report) == [(f"template[{site.folder}/app.conf]", "create", "changed")]
    assert site.text("app.conf") == "old"


def test_variables_cannot_hide_the_node(site):
    place = site.recipe("template('/etc/x', variables={'node': 1})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and "variables cannot have the name 'node'" in error
