"""What a site adds by its settings: handlers of runs, facts of other engines; real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flockctl import ROOT, Flockctl, flockctl_on
from tests.support import eventually

HANDLERS = """
import json, pathlib

def note(moment, data):
    with open(pathlib.Path(__file__).with_name("heard"), "a") as file:
        said = {"moment": moment, "state": data["state"], "run_id": data["run_id"],
                "error": data.get("error"), "rows": len(data.get("resources", []))}
        file.write(json.dumps(said) + "\\n")

def started(run):
    note("start", run)

def went_well(report):
    note("report", report)

def went_wrong(report):
    note("exception", report)

def broken(data):
    data.clear()
    raise RuntimeError("the chat is away")
"""


@pytest.fixture
def flockctl(embedded_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command where a site's module can be imported and a settings file names it."""
    with flockctl_on(embedded_url, tmp_path) as command:
        modules = tmp_path / "modules"
        modules.mkdir()
        (modules / "site_handlers.py").write_text(HANDLERS)
        settings = tmp_path / "site.toml"
        settings.write_text(
            'start_handlers = ["site_handlers:broken", "site_handlers:started"]\n'
            'report_handlers = ["site_handlers:broken", "site_handlers:went_well"]\n'
            'exception_handlers = ["site_handlers:broken", "site_handlers:went_wrong"]\n'
        )
        command.environment |= {
            "FLOCK_CONFIG": str(settings),
            "PYTHONPATH": f"{ROOT}:{modules}",
        }
        command.recipe("default", "execute('try', command='test -e {here}/good')")
        yield command


def heard(flockctl: Flockctl) -> list[dict[str, object]]:
    """Return what the handlers were called with."""
    return [
        json.loads(line) for line in (flockctl.folder / "modules/heard").read_text().splitlines()
    ]


def test_handlers_of_the_settings_hear_of_a_nodes_runs_and_one_that_raises_spoils_nothing(flockctl):
    node = flockctl.node("bender0", "--run-list", "cb")

    failed = flockctl("run", "bender0", "--json")
    (flockctl.folder / "good").touch()
    done = flockctl("run", "bender0", "--json")

    assert (failed.code, done.code) == (1, 0)
    first, second = failed.value[0]["report"], done.value[0]["report"]
    assert (first["state"], second["state"]) == ("failed", "ok")
    assert [[*each.values()] for each in heard(flockctl)] == [
        ["start", "running", first["run_id"], None, 0],
        ["exception", "failed", first["run_id"], first["error"], 1],
        ["start", "running", second["run_id"], None, 0],
        ["report", "ok", second["run_id"], None, 1],
    ]
    for moment in ("start", "exception", "report"):
        said = f"the {moment} handler site_handlers:broken failed: RuntimeError: the chat is away"
        assert said in node.err


def test_handlers_hear_of_a_converge_and_what_one_raises_is_one_line(flockctl):
    words = ("converge", "--name", "bender0", "--cookbooks", str(flockctl.cookbooks))

    ended = flockctl(*words, "--run-list", "cb", "--json")

    assert (ended.code, ended.value["state"]) == (1, "failed")
    assert [each["moment"] for each in heard(flockctl)] == ["start", "exception"]
    lines = [line for line in ended.err.splitlines() if "handler site_handlers" in line]
    assert len(lines) == 2, ended.err
    assert lines[1].startswith(f"flockctl: bender0: run {ended.value['run_id']}: the exception")


@pytest.mark.parametrize("command", ["node", "converge"])
def test_a_handler_that_is_not_there_ends_the_command_in_one_line(flockctl, command):
    # A node waits for its registry; what is wrong here it says before.
    url = "zookeeper://127.0.0.1:1/flock" if command == "node" else flockctl.url
    words = (command, "--name", "bender0", "--report-handlers", "site_handlers:wentwell")
    ended = flockctl(*words, FLOCK_REGISTRY=url)

    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if "INFO" not in line]
    assert line.endswith(
        "the report handler 'site_handlers:wentwell' (from: argument) cannot be loaded:"
        " site_handlers has no 'wentwell'; did you mean 'went_well'?"
    )


def test_handlers_may_be_given_as_callables_to_a_flock(flockctl, tmp_path):
    from flock import Flock

    told: list[str] = []
    with Flock(
        "bender1",
        flockctl.url,
        cookbooks=flockctl.cookbooks,
        run_list=["cb"],
        state_dir=tmp_path / "bender1",
        exception_handlers=[lambda report: told.append(report["state"])],
    ) as fleet:
        fleet["bender1"]["flock_api"].run_chef(wait=True)

    assert told == ["failed"]


def test_an_engines_facts_are_asked_for_once_an_hour_by_node_and_converge(flockctl):
    programs = flockctl.folder / "programs"
    programs.mkdir()
    facter = programs / "facter"
    facter.write_text(
        f'#!/bin/sh\necho x >> {programs}/asked\necho \'{{"site": "mars", "kernel": "Linux"}}\'\n'
    )
    facter.chmod(0o755)
    flockctl.environment["PATH"] = f"{programs}:{flockctl.environment['PATH']}"
    settings = flockctl.folder / "site.toml"
    settings.write_text('facts = "facter"\n')
    flockctl.recipe("default", "file('{here}/' + node['site'], content=node['kernel']['release'])")
    options = ("--run-list", "cb", "--cookbooks", str(flockctl.cookbooks))
    state = ("--state-dir", str(flockctl.folder / "state/bender0"))

    converged = flockctl("converge", "--name", "bender0", *options, *state, "--json")
    node = flockctl.node("bender0", "--run-list", "cb")
    ran = flockctl("run", "bender0", "--json")

    assert (converged.code, ran.code) == (0, 0), converged.err + node.err
    assert (flockctl.folder / "mars").read_text()
    asked = flockctl("call", "bender0", "flock_api", "node", "facter.kernel", "--json")
    assert asked.value == "Linux"
    found = flockctl("search", "site:mars", "--json")
    assert [row["name"] for row in found.value] == ["bender0"]
    assert (programs / "asked").read_text() == "x\n"
    assert "no facts" not in node.err


def test_a_node_converges_by_itself_as_often_as_its_interval_says(flockctl):
    (flockctl.folder / "good").touch()
    node = flockctl.node("bender0", "--run-list", "cb", "--interval", "0.5", "--splay", "0.2")

    def well() -> list[str]:
        path = flockctl.folder / "modules/heard"
        return [] if not path.exists() else [str(each["state"]) for each in heard(flockctl)]

    assert eventually(lambda: well().count("ok") >= 3, within=60), node.err
    runs = flockctl("runs", "bender0", "--json").value
    assert {each["asked_by"] for each in runs} == {"interval"}
    assert node.end(signal.SIGTERM).code == 0
