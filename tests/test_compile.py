"""From cookbooks to resources: recipes, attributes, roles, and what is wrong in them."""

from __future__ import annotations

import pytest

from tests.kitchens import rows


def test_recipes_are_executed_in_order_and_each_once(site):
    site.recipe(
        "include_recipe('cb::two', '::three')\nlog('one')\ninclude_recipe('cb')", "cb::default"
    )
    site.recipe("include_recipe('other')\nlog('two')", "cb::two")
    site.recipe("log('three')", "cb::three")
    site.recipe("log('other')", "other::default")

    report = site.converge("recipe[cb]", "cb::three", "other")

    assert report["recipes"] == ["cb::default", "cb::two", "other::default", "cb::three"]
    assert [name for name, _, _ in rows(report)] == [
        "log[other]", "log[two]", "log[three]", "log[one]",
    ]  # fmt: skip
    assert [each["recipe"] for each in report["resources"]] == [
        "other::default", "cb::two", "cb::three", "cb::default",
    ]  # fmt: skip


def test_attributes_come_from_files_roles_environment_and_recipes(site):
    site.write(
        "cookbooks/cb/attributes/default.toml", "[default.app]\na = 1\nb = 1\nc = 1\nd = 1\n"
    )
    site.write("cookbooks/cb/attributes/more.toml", "[override.app]\nd = 5\n")
    site.write("environments/prod.toml", "[default_attributes.app]\nb = 2\nc = 2\n")
    site.write("roles/web.toml", "run_list = ['cb']\n[default_attributes.app]\nc = 3\n")
    site.recipe("""
        node.default['app']['e'] = 4
        file('{here}/out', content=f"{node['app']} {node.read('kernel.release')}")
        log(f"{node.roles} {node.recipes} {node.environment} {node.read('no.such', 'default')}")
        log(f"{sorted(node)[:2]} {len(node)} {'app' in node} {node['chef_environment']}")
    """)

    report = site.converge("role[web]", environment="prod")

    assert site.text("out") == "{'a': 1, 'b': 2, 'c': 3, 'd': 5, 'e': 4} 6.1"
    assert report["resources"][1]["resource"] == "log[['web'] ['cb::default'] prod default]"
    assert report["resources"][2]["resource"] == "log[['app', 'chef_environment'] 6 True prod]"


def test_attributes_of_all_cookbooks_are_there_before_the_first_recipe(site):
    site.recipe("log(f\"sees {node['later']['x']}\")", "first::default")
    site.recipe("log('x')", "later::default")
    site.write("cookbooks/later/attributes/default.toml", "[default.later]\nx = 1\n")

    report = site.converge("first", "later")

    assert report["resources"][0]["resource"] == "log[sees 1]"


def test_normal_attributes_last_from_run_to_run_also_after_a_failure(site):
    site.recipe("""
        node.normal['count'] = node.get('count', 0) + 1
        node.default['gone'] = node.get('gone', 0) + 1
        file('{here}/out', content=f"{node['count']} {node['gone']}")
        execute('fails', command='false')
    """)

    for _ in range(3):
        assert site.converge()["state"] == "failed"

    assert site.text("out") == "3 1"


def test_a_why_run_keeps_no_attributes(site):
    site.recipe("node.normal['count'] = node.get('count', 0) + 1\nlog(str(node['count']))")

    site.converge(why_run=True)

    assert site.converge()["resources"][0]["resource"] == "log[1]"


def test_attributes_seen_by_guards_are_those_of_the_converge(site):
    site.recipe("""
        node.default['x'] = 1
        log('a').only_if(lambda: node['x'] == 2)
        node.default['x'] = 2
    """)

    assert site.converge()["resources"][0]["state"] == "unchanged"


def test_words_of_the_node_are_found_and_go_before_others(site):
    site.recipe("from flock.recipe import FlockOfChefs\nlog(FlockOfChefs)")

    report = site.converge(words={"FlockOfChefs": "ours"})

    assert report["resources"][0]["resource"] == "log[ours]"


def test_a_declared_resource_can_be_found(site):
    site.recipe("""
        file('{here}/a', content='old')
        find_resource('file[{here}/a]').content = 'new'
        assert find_resource('file[nope]') is None
    """)

    site.converge()

    assert site.text("a") == "new"


def test_of_two_resources_with_one_name_both_converge_and_the_later_is_notified(site):
    site.recipe("""
        execute('x', command='echo first >> {here}/log', action='nothing')
        execute('x', command='echo second >> {here}/log', action='nothing')
        file('{here}/a', content='x').notifies('run', 'execute[x]')
    """)

    site.converge()

    assert site.text("log") == "second\n"


# --- own kinds

MOTD = """
    from collections.abc import Iterator
    from dataclasses import dataclass
    from pathlib import Path
    from typing import ClassVar

    from flock.converge.provider import Change, Machine
    from flock.converge.resource import Resource


    @dataclass
    class Motd(Resource):
        kind: ClassVar[str] = 'motd'
        actions: ClassVar[tuple[str, ...]] = ('greet',)
        text: str = ''

        def greet(self, machine: Machine) -> Iterator[Change]:
            path = Path(self.name)
            if not path.exists() or path.read_text() != self.text:
                yield Change(f'greet in {path}', lambda: path.write_text(self.text))
"""


def test_a_cookbooks_library_brings_a_kind_of_one_class(site):
    site.write("cookbooks/cb/libraries/motd.py", MOTD)
    site.recipe("from flock.recipe import motd\nmotd('{here}/motd', text='hello')")

    first, second = site.converge(), site.converge()

    assert first["resources"][0]["changes"] == [f"greet in {site.folder}/motd"]
    assert second["resources"][0]["state"] == "unchanged"


def test_a_library_is_read_anew_by_each_run(site):
    site.write("cookbooks/cb/libraries/motd.py", MOTD)
    site.recipe("from flock.recipe import motd\nmotd('{here}/motd', text='hello')")
    kitchen = site.kitchen()
    kitchen.converge("the test")

    site.write("cookbooks/cb/libraries/motd.py", MOTD.replace("'greet in", "'say hello in"))
    (site.folder / "motd").unlink()
    report = kitchen.converge("the test")

    assert report["resources"][0]["changes"] == [f"say hello in {site.folder}/motd"]


def test_a_library_is_a_module_for_recipes_too(site):
    site.write("cookbooks/cb/libraries/names.py", "def greet(name):\n    return f'hello {name}'\n")
    site.recipe("from flock.recipe import library\nlog(library('names').greet('fry'))")
    site.recipe("from flock.recipe import library\nlog(library('cb::names').greet('bo'))", "x::y")
    bad = site.recipe("from flock.recipe import library\nlibrary('name')", "cb::bad")

    report = site.converge("cb", "x::y")

    assert [row["resource"] for row in report["resources"]] == ["log[hello fry]", "log[hello bo]"]
    assert site.converge("cb::bad")["error"] == (
        f"{bad}:3: no library 'cb::name' (did you mean 'cb::names'?)"
    )


def test_properties_of_an_own_kind_are_checked_too(site):
    site.write("cookbooks/cb/libraries/motd.py", MOTD)
    path = site.recipe("from flock.recipe import motd\nmotd('/x', txt='hello')")

    assert site.converge()["error"] == (
        f"{path}:3: motd[/x]: unknown property 'txt' (did you mean 'text'?)"
    )


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[web]\nport = 80", "'web' is no level of attributes: write [default.web]"),
        ("port = 80", "'port' is no level of attributes: write it below [default]"),
        (
            "[defualt]\nport = 80",
            "unknown level of attributes: 'defualt' (did you mean 'default'?)",
        ),
    ],
)
def test_attributes_outside_the_levels_are_told_where_they_go(site, text, error):
    path = site.write("cookbooks/cb/attributes/default.toml", text)
    site.recipe("log('x')")

    assert site.converge()["error"].startswith(f"{path}:1: {error}")


def test_what_is_written_as_chef_reads_it_is_named(site):
    for path in ("cookbooks/cb/recipes/default.rb", "roles/web.json", "environments/prod.rb"):
        site.write(path, "")
    for words, said in (
        ({}, "recipes/default.py (default.rb beside it is not read)"),
        ({"environment": "prod"}, "environments/prod.toml (prod.rb beside it is not read)"),
    ):
        assert site.converge(**words)["error"].endswith(said)
    error = site.converge("role[web]")["error"]
    assert error.endswith("roles/web.toml (web.json beside it is not read)")


def test_the_environment_has_its_name_of_chef_too(site):
    site.recipe("file('{here}/x', content=node.chef_environment + node['chef_environment'])")

    assert site.converge(environment="prod")["state"] == "ok"
    assert site.text("x") == "prodprod"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("from flock.recipe import fiel", "unknown word or kind 'fiel' (did you mean 'file'?)"),
        ("x = = 1", "syntax error: invalid syntax"),
        ("file('/x', contnet=1)", "file[/x]: unknown property 'contnet' (did you mean 'content'?)"),
        ("file('/x', content=1)", "file[/x]: content must be str or bytes or None, not 1"),
        ("file(path='/x')", "file needs a name, a text, not None"),
        ("file('x')", "file[x]: path must be absolute, not 'x'"),
        (
            "file('/x', mode='9')",
            "file[/x]: mode must be an octal number like 0o644 or '0644', not '9'",
        ),
        ("execute('x', timeout=0)", "execute[x]: timeout must be more than 0 s"),
        (
            "execute('x', creates='y')",
            "execute[x]: creates must be an absolute path, or cwd be given",
        ),
        (
            "file('/x', action='mk')",
            (
                "file[/x] has no action 'mk'; it has create, create_if_missing, delete,"
                " touch, nothing"
            ),
        ),
        (
            "service('x', action='strat')",
            (
                "service[x] has no action 'strat'; it has nothing, start, stop, restart, reload,"
                " enable, disable, mask, unmask"
            ),
        ),
        (
            "log('x').notifies('run', 'execute[x]', 'soon')",
            ("log[x]: unknown timing 'soon'; there are 'before', 'immediately', 'delayed'"),
        ),
        (
            "log('x').notifies('write', 'log[y]')",
            "log[x] names log[y], which no recipe of this run declares",
        ),
        (
            "log('abc').subscribes('write', 'log[abd]')",
            ("log[abc] names log[abd], which no recipe of this run declares (did you mean 'abc'?)"),
        ),
        ("log('x').notifies('run', 'log[x]')", "log[x] has no action 'run'; it has write, nothing"),
        ("include_recipe('nope')", "no cookbook 'nope' in {here}/cookbooks"),
        (
            "include_recipe('cb::dfault')",
            (
                "cookbook 'cb' has no recipe 'dfault' (did you mean 'default'?): no {he"
                "re}/cookbooks/cb/recipes/dfault.py"
            ),
        ),
        (
            "include_recipe('a b')",
            "'a b' does not name a recipe: write cookbook or cookbook::recipe",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("nope", "NameError: name 'nope' is not defined"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("node['nope']", "no attribute 'nope'"),
        ("node['kernel']['relase']", "no attribute 'relase' (did you mean 'release'?)"),
        ("node.kernel", "node has no 'kernel': an attribute is read as node['kernel']"),
        ("node.role('web')", "node has no 'role' (here: 'web' in node.roles)"),
        ("node.zzz", "node has no 'zzz'"),
        ("node.recipies", "node has no 'recipies' (did you mean 'recipes'?)"),
        ("''.nope", "AttributeError: 'str' object has no attribute 'nope'"),
        (
            "search('node', 'roles:web')",
            "NameError: name 'search' is not defined (here: FlockOfChefs.search('roles:web'))",
        ),
        (
            "from flock.recipe import cookbook_file",
            (
                "unknown word or kind 'cookbook_file' (here: remote_file, with source= a path "
                "below the cookbook's files/)"
            ),
        ),
        (
            "node.default['x'] = object()",
            "TypeError: x is a object: attributes hold plain data only",
        ),
    ],
)
def test_an_error_in_a_recipe_is_one_line_with_file_and_line_and_nothing_is_done(site, line, error):
    path = site.recipe(f"file('{{here}}/done', content='x')\n{line}")

    report = site.converge()

    assert report["state"] == "failed"
    assert report["error"] == f"{path}:3: {error}".replace("{here}", str(site.folder))
    assert report["resources"] == []
    assert not (site.folder / "done").exists()


def test_an_error_in_an_included_recipe_names_that_recipe(site):
    site.recipe("include_recipe('cb::bad')")
    bad = site.recipe("def f():\n    raise ValueError('no')\nf()", "cb::bad")

    assert site.converge()["error"] == f"{bad}:3: ValueError: no"


@pytest.mark.parametrize("word", ["link", "find_resource"])
def test_a_word_that_was_not_imported_is_said_with_what_to_write(site, word):
    path = site.recipe("log('x')")
    path.write_text(f"\n{word}('a')\n")

    error = site.converge()["error"]

    said = f"NameError: name '{word}' is not defined (write: from flock.recipe import {word})"
    assert error == f"{path}:2: {said}"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("node.default.app = 80", "node has no 'app': a key of its attributes is written ['app']"),
        ("node.default['app'].port = 80", "node has no 'port': a key of its attributes"),
        ("node.normal['app'].port.x = 80", "node has no 'port': a key of its attributes"),
        ("node.port = 80", "node has no 'port' to be set: write node.default['port']"),
    ],
)
def test_an_attribute_that_is_written_with_a_dot_is_not_forgotten(site, written, said):
    path = site.recipe(written)

    assert site.converge()["error"].startswith(f"{path}:2: {said}")


def test_a_folder_of_cookbooks_that_is_not_there_is_said(site):
    site.cookbooks = site.folder / "nowhere"

    report = site.converge("cb")

    assert report["error"].endswith(
        f"no cookbook 'cb' in {site.folder}/nowhere, which is no folder"
    )


@pytest.mark.parametrize(
    ("path", "text", "where", "error"),
    [
        ("cookbooks/cb/attributes/default.toml", "[default]\nx = = 1\n", ":2", "Invalid value"),
        ("cookbooks/cb/attributes/default.toml", "[default]\nx = [\n", ":2", "at end of document"),
        ("cookbooks/cb/attributes/default.toml", "[defualt]\n", ":1", "(did you mean 'default'?)"),
        ("cookbooks/cb/attributes/default.toml", "default = 1\n", ":1", "default must be a table"),
        (
            "roles/web.toml",
            "runlist = ['cb']\n",
            ":1",
            "unknown key of a role: 'runlist' (did you mean",
        ),
        ("roles/web.toml", "\nrun_list = 'cb'\n", ":2", "run_list must be a list of texts"),
        (
            "roles/web.toml",
            "run_list = [\n'cb',\n'role[web]']\n",
            ":3",
            "role 'web' contains itself",
        ),
        (
            "roles/web.toml",
            "run_list = [\n'cb',\n'role[wep]']\n",
            ":3",
            "no role 'wep' (did you mean 'web'?)",
        ),
        ("environments/prod.toml", "default = {}\n", ":1", "unknown key of an environment"),
        (
            "cookbooks/cb/libraries/x.py",
            "\nimport nothing_like_this\n",
            ":2",
            "ModuleNotFoundError",
        ),
    ],
)
def test_an_error_in_another_file_names_that_file_and_line(site, path, text, where, error):
    site.recipe("file('{here}/done', content='x')")
    site.write("roles/web.toml", "run_list = ['cb']\n")
    site.write("environments/prod.toml", "")
    wrong = site.write(path, text)

    report = site.converge("role[web]", environment="prod")

    assert report["error"].startswith(f"{wrong}{where}: ")
    assert error in report["error"]
    assert not (site.folder / "done").exists()


def test_a_cookbook_role_or_environment_that_is_not_there_is_named(site):
    site.recipe("log('x')")
    site.write("environments/prod.toml", "")

    assert site.converge("bc")["error"].startswith("run list: no cookbook 'bc' in ")
    assert site.converge("role[web]")["error"].startswith("run list: no role 'web': no ")
    assert site.converge("recipe[cb")["error"].startswith("run list: 'recipe[cb' does not name")
    assert (
        "no environment 'prd' (did you mean 'prod'?)" in site.converge(environment="prd")["error"]
    )


def test_an_own_kind_that_could_not_work_is_an_error(site):
    site.write("cookbooks/cb/libraries/motd.py", MOTD.replace("@dataclass", ""))
    site.recipe("log('x')")

    assert "TypeError: Motd needs the decorator @dataclass" in site.converge()["error"]

    path = site.write("cookbooks/cb/libraries/motd.py", MOTD.replace("def greet", "def great"))
    assert site.converge()["error"] == (
        f"{path}: TypeError: Motd has no method for the action 'greet'"
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return 5", "TypeError: greet of motd must yield each Change, not return 5"),
        ("yield 'x'", "TypeError: greet of motd yields 'x', not a Change"),
    ],
)
def test_an_own_kind_that_names_no_changes_is_told_how(site, body, problem):
    head = MOTD.partition("path = Path")[0]
    site.write("cookbooks/cb/libraries/motd.py", f"{head}{body}\n")
    site.recipe("from flock.recipe import motd\nmotd('{here}/motd', text='hello')")

    assert problem in site.converge()["error"]


def test_words_outside_a_run_say_so():
    from flock.errors import RecipeError
    from flock.recipe import file, include_recipe, node

    for use in (
        lambda: file("/x"),
        lambda: include_recipe("x"),
        lambda: node["x"],
        lambda: node.name,
    ):
        with pytest.raises(RecipeError, match=rf"{__file__}:\d+: .* no run is going on here"):
            use()
    with pytest.raises(ImportError, match="fiel"):
        exec("from flock.recipe import fiel")


def test_resources_cannot_be_declared_while_others_converge(site):
    path = site.recipe("log('a').only_if(lambda: log('b'))")

    assert site.converge()["resources"][0]["error"] == (
        f"{path}:2: log[b] is declared outside a recipe"
    )
