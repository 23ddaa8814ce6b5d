"""What a user can get wrong, given to a real node: one clear error, and nothing half done."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flock import Flock
from flock.proxy import ActorProxy
from tests.flockctl import Flockctl, Running, flockctl_on

DONE = "file('{here}/done', content='yes')\n"
"""Stands before what is wrong: declared is not done."""

MISTAKES = [
    # what is in the recipe's file after its first line, where it is wrong, and how that is said
    ("syntax", "file('{here}/x', content=(", "2: syntax error: '(' was never closed"),
    ("kind", "from flock.recipe import fil", "2: unknown word or kind 'fil' (did you"),
    ("property", "file('{here}/x', contnt='')", "2: file[{here}/x]: unknown property 'contnt'"),
    ("place", "file('{here}/x', 'x')", "2: file[{here}/x]: only the name stands alone, 'x' needs"),
    ("query", "log('x').remote_notifies('write', 'log[x]', query='a:(')", "2: log[x]: 'a:(' is no"),
    ("value", "file('{here}/x', content=5)", "2: file[{here}/x]: content must be str or bytes"),
    ("action", "file('{here}/x', action='crate')", "2: file[{here}/x] has no action 'crate'"),
    ("timing", "log('x').notifies('write', 'log[x]', 'later')", "2: log[x]: unknown timing 'l"),
    ("notified", "log('x').notifies('run', 'execute[z]')", "2: log[x] names execute[z], which no"),
    ("its action", "log('x').notifies('wrte', 'log[x]')", "2: log[x] has no action 'wrte'"),
    ("watched", "log('x').subscribes('write', 'log[z]')", "2: log[x] names log[z], which no"),
    ("cookbook", "include_recipe('web')", "2: no cookbook 'web' in {here}/cookbooks"),
    ("recipe", "include_recipe('cb::god')", "2: cookbook 'cb' has no recipe 'god' (did you mean"),
    ("exception", "node['web']['port']", "2: no attribute 'web'"),
    ("attribute", "node['web'] = 80", "2: merged attributes are read only: write node.default['w"),
    ("exit", "raise SystemExit(3)", "2: SystemExit: 3"),
    ("node object", "node.normal['blob'] = 'x' * 5_000_000", "2: attribute 'blob' with its"),
]  # fmt: skip


@pytest.fixture(scope="module")
def flockctl() -> Iterator[Flockctl]:
    """Give the command."""
    with (
        tempfile.TemporaryDirectory(prefix="flk-") as folder,
        flockctl_on(f"embedded:{folder}/registry", Path(folder)) as command,
    ):
        yield command


@pytest.fixture(scope="module")
def node(flockctl: Flockctl) -> Running:
    """Give a node that all the mistakes are made on, one after the other."""
    write(flockctl, "good", "log('good')\n")
    return flockctl.node("bender0", "--run-list", "cb::good")


def write(flockctl: Flockctl, recipe: str, text: str) -> Path:
    path = flockctl.cookbooks / f"cb/recipes/{recipe}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = "execute, file, include_recipe, log, node, template"
    first = f"from flock.recipe import {words}; {DONE if recipe == 'bad' else ''}"
    path.write_text((first.rstrip() + "\n" + text).replace("{here}", str(flockctl.folder)))
    return path


@pytest.fixture
def api(flockctl: Flockctl, node: Running) -> Iterator[ActorProxy]:
    """Give that node's `flock_api`."""
    with Flock(registry=flockctl.url) as fleet:
        yield fleet["bender0"]["flock_api"]


def assert_one_clear_error(flockctl: Flockctl, api: ActorProxy, run_list: str, said: str) -> None:
    """Run a mistake on the node: it fails with what is to be said, and the node is as before."""
    report = api.run_chef(wait=True, override_run_list=[run_list])
    assert report["state"] == "failed"
    assert report["error"].startswith(said.replace("{here}", str(flockctl.folder)))
    assert "\n" not in report["error"]
    assert report["resources"] == []
    assert not (flockctl.folder / "done").exists()
    assert api.active() is False
    assert api.run_chef(wait=True)["state"] == "ok"


@pytest.mark.parametrize(
    ("text", "said"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES]
)
def test_a_wrong_recipe_is_one_error_with_file_and_line_and_nothing_is_done(
    flockctl, api, text, said
):
    path = write(flockctl, "bad", text)
    assert_one_clear_error(flockctl, api, "cb::bad", f"{path}:{said}")


def test_a_cookbook_or_recipe_or_role_that_is_not_there_is_said_with_what_is_near(flockctl, api):
    assert_one_clear_error(flockctl, api, "bc", "run list: no cookbook 'bc' in {here}/cookbooks")
    assert_one_clear_error(flockctl, api, "cb::god", "run list: cookbook 'cb' has no recipe 'god'")
    assert_one_clear_error(flockctl, api, "role[mail]", "run list: no role 'mail'")
    assert_one_clear_error(flockctl, api, "recpe[cb]", "run list: 'recpe[cb]' does not name a")


def test_a_run_list_that_includes_itself_is_said_with_the_way_round(flockctl, api):
    roles = flockctl.folder / "roles"
    roles.mkdir()
    (roles / "web.toml").write_text('description = "web"\nrun_list = ["cb::good", "role[db]"]\n')
    (roles / "db.toml").write_text('run_list = [\n  "role[web]",\n]\n')
    said = "{here}/roles/db.toml:2: role 'web' contains itself: web → db → web"
    assert_one_clear_error(flockctl, api, "role[web]", said)


def test_a_template_variable_that_is_missing_is_said_with_both_files_and_lines(flockctl, node, api):
    template = flockctl.cookbooks / "cb/templates/app.conf.j2"
    template.parent.mkdir()
    template.write_text("port {{ port }}\nhost {{ hots }}\n")
    path = write(flockctl, "template", "template('{here}/app.conf', variables={'port': 1})\n")
    (flockctl.folder / "app.conf").write_text("as it was")

    ended = flockctl("run", "bender0", "--override-run-list", "cb::template", "--json")

    assert ended.code == 1
    error = ended.value[0]["report"]["error"]
    assert ended.err.count(error) == 1
    place = f"template[{flockctl.folder}/app.conf] ({path}:2)"
    assert error == f"{place}: {template}:2: 'hots' is undefined"
    assert (flockctl.folder / "app.conf").read_text() == "as it was"
    assert api.active() is False
    assert "Traceback" not in node.err


def test_a_node_whose_own_recipe_is_wrong_starts_says_so_and_runs_once_it_is_mended(flockctl):
    path = write(flockctl, "own", "log('x', levl='info')\n")
    node = flockctl.node("bender1", "--run-list", "cb::own")
    assert re.search(
        f"ERROR +the run list is not declared: {path}:2: log.x.: unknown pro", node.err
    )

    write(flockctl, "own", "log('x', level='info')\n")

    # Found by what it should be, or nobody could mend a whole role.
    assert flockctl("run", "--on", r"recipes:cb\:\:own").code == 0
    assert node.end(signal.SIGTERM).code == 0
