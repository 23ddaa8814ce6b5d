"""What a command that was refused, or was to look only, leaves behind: nothing."""

from __future__ import annotations

import pytest

from tests.support import eventually


def run_list_of(flockctl, name):
    return flockctl("run-list", name, "--json").value


@pytest.fixture
def fry(alone):
    """Give the words that converge `fry`, whose own run list is `cb`."""
    alone.recipe("default", "file('{here}/there', content='x')")
    words = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks))
    assert alone(*words, "--run-list", "recipe[cb]").code == 0
    return words


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--run-list", "recipe[cb"), "run_list (from: argument): 'recipe[cb' does not name"),
        (("--run-list", "other", "--start-handlers", "nowhere:to"), "'nowhere:to'"),
    ],
)
@pytest.mark.parametrize("command", ["converge", "node"])
def test_a_refused_run_list_is_not_kept(alone, fry, command, wrong, said):
    refused = alone(command, *fry[1:], *wrong)

    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1
    assert said in refused.err
    assert run_list_of(alone, "fry") == ["recipe[cb]"]
    assert alone(*fry).code == 0


def test_the_run_list_of_a_why_run_is_not_kept(alone, fry):
    alone.recipe("other", "file('{here}/other', content='x')")

    looked = alone(*fry, "--run-list", "cb::other", "--why-run")

    assert "from now on" not in looked.err
    assert "write" in looked.out
    assert run_list_of(alone, "fry") == ["recipe[cb]"]
    assert alone(*fry, "--json").value["run_list"] == ["recipe[cb]"]


def test_a_run_list_that_takes_the_place_of_another_is_said(alone, fry):
    alone.recipe("other", "file('{here}/other', content='x')")

    same = alone(*fry, "--run-list", "recipe[cb]")
    changed = alone(*fry, "--run-list", "cb::other")

    assert (same.code, "from now on" in same.err) == (0, False)
    assert changed.code == 0
    assert "the run list of fry is cb::other from now on; it was recipe[cb]\n" in changed.err
    assert run_list_of(alone, "fry") == ["cb::other"]


def test_an_override_run_list_that_names_no_recipe_makes_no_run(alone):
    alone.node("bender0")

    refused = alone("run", "bender0", "--override-run-list", "recipe[cb")

    assert (refused.code, refused.out) == (2, "")
    assert "'recipe[cb' does not name a recipe" in refused.err
    assert alone("runs", "bender0", "--json").value == []


def test_an_empty_run_list_is_said_and_nothing_is_added_to_it(alone):
    assert alone("converge", "--name", "fry").code == 0

    shown = alone("run-list", "fry")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == "the run list of fry is empty\n"
    assert alone("run-list", "fry", "add", "").code == 2


def test_a_converge_that_finds_another_one_says_how_to_wait_for_it(alone):
    waits = "touch {here}/reached; until test -e {here}/go; do sleep 0.05; done"
    alone.recipe("default", f"execute('{waits}')")
    fry = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks), "--run-list", "cb")
    first = alone.start(*fry)
    assert eventually((alone.folder / "reached").exists, within=10.0)

    refused = alone(*fry)
    waiting = alone.start(*fry, "--wait")

    assert refused.code == 6
    assert refused.err.endswith(" converges here; --wait waits for it\n")
    assert waiting.says("waits for process")
    (alone.folder / "go").touch()
    assert (first.ended().code, waiting.ended().code) == (0, 0)


def test_who_is_told_what_to_do_is_not_sent_to_the_runs_as_well(alone):
    alone.node("bender0")

    for words in (
        ("forget", "bender0"),
        ("converge", "--name", "bender0", "--state-dir", str(alone.folder / "other")),
    ):
        refused = alone(*words)
        assert refused.code == 6
        assert "flockctl runs" not in refused.err


def test_the_help_says_which_run_list_lasts(alone):
    shown = " ".join(alone("converge", "--help").out.split())

    assert "repeated; kept: the node's own from now on" in shown
    assert "--override-run-list ITEMS for this run only, instead of the node's own" in shown
