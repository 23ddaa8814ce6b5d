"""The environment of a machine is kept with its node object, until somebody sets another."""

from __future__ import annotations

import pytest

from tests.support import eventually

RECIPE = "file('{here}/seen', content=f'{node.environment} {node[\"level\"]}')"


def environment_of(flockctl, name="fry"):
    (row,) = flockctl("search", f"name:{name}", "--json").value
    return row["environment"]


@pytest.fixture
def fry(alone):
    """Give the words that converge `fry`; there are the environments prod and test."""
    alone.recipe("default", RECIPE)
    attributes = alone.cookbooks / "cb" / "attributes"
    attributes.mkdir()
    (attributes / "default.toml").write_text("[default]\nlevel = 'plain'\n")
    folder = alone.folder / "environments"
    folder.mkdir()
    for name in ("prod", "test"):
        (folder / f"{name}.toml").write_text(f"[default_attributes]\nlevel = 'for {name}'\n")
    words = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks))
    assert alone(*words, "--run-list", "cb").code == 0
    return words


def seen(flockctl):
    return (flockctl.folder / "seen").read_text()


def test_a_machine_stays_in_its_environment_until_another_is_set(alone, fry):
    assert seen(alone) == "_default plain"
    assert environment_of(alone) == "_default"

    set_to = alone(*fry, "--environment", "prod")
    assert set_to.code == 0
    assert "the environment of fry is prod from now on; it was _default\n" in set_to.err
    assert seen(alone) == "prod for prod"

    for words in (fry, (*fry, "--environment", "prod")):
        again = alone(*words)
        assert (again.code, "from now on" in again.err) == (0, False)
    assert seen(alone) == "prod for prod"
    found = alone("search", "chef_environment:prod", "--attribute", "chef_environment", "--json")
    (row,) = found.value
    assert (row["environment"], row["attributes"]) == ("prod", {"chef_environment": "prod"})

    assert alone(*fry, FLOCK_ENVIRONMENT="test").code == 0
    assert environment_of(alone) == "test"
    assert alone(*fry, "--environment", "_default").code == 0
    assert environment_of(alone) == "_default"
    assert seen(alone) == "_default plain"


def test_the_environment_of_a_why_run_is_not_kept(alone, fry):
    looked = alone(*fry, "--environment", "test", "--why-run")

    assert (looked.code, "+test for test" in looked.out) == (0, True), looked
    assert environment_of(alone) == "_default"
    assert alone(*fry).code == 0
    assert seen(alone) == "_default plain"


def test_a_why_run_of_a_machine_that_nobody_knows_makes_no_node_object(alone, fry):
    zoidberg = ("converge", "--name", "zoidberg", *fry[3:], "--run-list", "cb")

    assert alone(*zoidberg, "--why-run").code == 0
    assert alone("search", "name:zoidberg", "--json").value == []

    assert alone(*zoidberg).code == 0
    assert environment_of(alone, "zoidberg") == "_default"
    other = ("--state-dir", str(alone.folder / "another"))
    refused = alone(*zoidberg, *other, "--why-run")
    assert (refused.code, "take another --name" in refused.err) == (6, True)


def test_who_starts_with_another_environment_than_was_set_from_afar_says_so(alone, fry):
    assert alone(*fry, "--environment", "prod").code == 0
    said = "the environment of fry is prod from now on; it was test"

    alone("environment", "fry", "test")
    assert said in alone(*fry, "--environment", "prod").err
    assert said not in alone(*fry, "--environment", "prod").err

    alone("environment", "fry", "test")
    state = ("--state-dir", str(alone.folder / "state" / "fry"))
    alone("forget", "fry")
    assert alone(*fry, *state, "--environment", "prod", "--run-list", "cb").code == 0
    alone("environment", "fry", "test")
    node = alone.node("fry", "--environment", "prod")
    assert node.says(said)
    assert environment_of(alone) == "prod"


@pytest.mark.parametrize("command", ["converge", "node"])
def test_an_environment_that_is_not_there_is_refused_and_not_kept(alone, fry, command):
    (alone.folder / "seen").unlink()

    refused = alone(command, *fry[1:], "--environment", "prdo")

    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1
    said = "environment (from: argument): no environment 'prdo' (did you mean 'prod'?)"
    assert said in refused.err
    assert not (alone.folder / "seen").exists()
    assert environment_of(alone) == "_default"


def test_a_run_in_an_environment_that_is_no_longer_there_does_nothing(alone, fry):
    assert alone(*fry, "--environment", "prod").code == 0
    (alone.folder / "environments" / "prod.toml").unlink()
    (alone.folder / "seen").unlink()

    for words in (fry, (*fry, "--environment", "prod")):
        failed = alone(*words)
        assert failed.code == 1
        (said,) = failed.err.splitlines()
        assert "no environment 'prod'" in said
        assert not (alone.folder / "seen").exists()
    assert environment_of(alone) == "prod"


def test_a_node_is_listed_in_the_environment_that_it_was_left_in(alone, fry):
    state = ("--state-dir", str(alone.folder / "state" / "fry"))
    assert alone("forget", "fry").code == 0
    assert alone(*fry, *state, "--environment", "prod", "--run-list", "cb").code == 0

    node = alone.node("fry")
    (row,) = alone("nodes", "--json").value
    assert row["environment"] == "prod"

    # Another process sets another one meanwhile.
    assert alone(*fry, *state, "--environment", "test").code == 0
    assert alone("run", "fry").code == 0
    assert seen(alone) == "test for test"

    def environment():
        return alone("nodes", "--json").value[0]["environment"]

    assert eventually(environment, within=30.0, becomes="test") == "test"
    node.close()
    alone.node("fry", "--environment", "prod").close()
    assert environment_of(alone) == "prod"


def test_an_environment_is_set_from_afar_and_taken_up_by_the_next_run(alone, fry):
    assert alone("environment", "fry").out == "_default\n"

    written = alone("environment", "fry", "prod")
    assert (written.code, written.out) == (0, "prod\n")
    assert written.err == "the environment of fry is written: its next run takes it up\n"
    assert alone("environment", "fry", "prod").err == "the environment of fry is so already\n"
    assert alone(*fry).code == 0
    assert seen(alone) == "prod for prod"
    assert alone("environment", "fry", "--json").value == "prod"
    assert alone("environment", "fry", "no way").code == 2
    assert alone("environment", "nobody", "prod").code == 3
    assert alone("environment", "nobody").code == 3


@pytest.mark.parametrize("name", ["a/b", "a b", "", "x" * 129])
def test_what_cannot_be_an_environment_is_refused_before_anything_is_written(alone, fry, name):
    rule = "up to 128 letters, digits, '_' and '-'"
    for words in (("environment", "fry", name), (*fry, "--environment", name)):
        refused = alone(*words)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused
        assert rule in refused.err
    assert environment_of(alone) == "_default"
