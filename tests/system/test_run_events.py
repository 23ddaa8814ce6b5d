"""What is told of a run while it goes on: to who ordered it, to who subscribed; real processes."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually

RECIPE = """
from flock.recipe import link
file('{here}/page', content='new\\n')
execute('wait', command='until test -e {here}/go; do sleep 0.05; done')
file('{here}/secret', content='geheim', sensitive=True)
execute('bad', command='exit 3', ignore_failure=True)
link('{here}/nowhere/link', to='{here}/page')
"""


@pytest.fixture
def flockctl(registry_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command where bender0 has that recipe."""
    with flockctl_on(registry_url, tmp_path) as command:
        command.recipe("default", RECIPE)
        command.node("bender0", "--run-list", "cb")
        yield command


def test_run_shows_each_step_live_and_each_once(flockctl):
    running = flockctl.start("run", "bender0")
    here = flockctl.folder

    assert running.says(f"bender0: 1 of 5, file[{here}/page] create: changed (write {here}/page)")
    assert running.says("2 of 5, execute[wait]")
    assert "changed, " not in running.err
    (here / "go").touch()
    ended = running.ended()

    assert ended.code == 1
    steps = [line for line in ended.err.splitlines() if " of 5, " in line and "): " not in line]
    assert [
        line.partition(",")[0] for line in steps if ": changed" in line or "failed" in line
    ] == [
        "bender0: 1 of 5",
        "bender0: 2 of 5",
        "bender0: 3 of 5",
        "bender0: 4 of 5",
        "bender0: 5 of 5",
    ]
    assert "bender0: 4 of 5, execute[bad] run: failed (`exit 3` ended with exit code 3)" in steps
    assert "geheim" not in ended.err


def test_run_shows_with_why_run_what_would_change_in_a_text(flockctl):
    here = flockctl.folder
    (here / "page").write_text("old\n")

    ended = flockctl("run", "bender0", "--why-run")

    lines = ended.err.splitlines()
    first = lines.index(
        f"bender0: 1 of 5, file[{here}/page] create: would change (write {here}/page)"
    )
    assert lines[first + 1 : first + 6] == [
        f"bender0:     --- {here}/page",
        f"bender0:     +++ {here}/page",
        "bender0:     @@ -1 +1 @@",
        "bender0:     -old",
        "bender0:     +new",
    ]
    assert (here / "page").read_text() == "old\n"


def test_a_run_says_what_it_was_refused_and_whom_it_told(flockctl):
    flockctl.recipe(
        "aside",
        """
        from flock.recipe import clocker, held
        clocker('deploy', lockwait=0)
        file('{here}/locked', content='x').only_if(held('deploy'))
        file('{here}/told', content='x').remote_notifies('run', 'execute[x]', node='bender9')
        log('nothing', action='nothing')
        """,
    )
    state = str(flockctl.folder / "state/bender1")
    words = ("converge", "--name", "bender1", "--cookbooks", str(flockctl.cookbooks))
    with Flock(registry=flockctl.url) as fleet, fleet.lock("deploy"):
        ran = flockctl("run", "bender0", "--override-run-list", "cb::aside")
        (flockctl.folder / "told").unlink()
        here = flockctl(*words, "--state-dir", state, "--run-list", "cb::aside")

    assert (ran.code, here.code) == (0, 0), ran.err + here.err
    assert "bender0: lock 'deploy' not held: visitor-" in ran.err
    assert "bender0: notice to bender9: run execute[x]\n" in ran.err
    locked = f"file[{flockctl.folder}/locked] create: skipped (only_if held('deploy'))"
    assert here.out.splitlines()[0] == locked
    assert here.err.count("lock 'deploy'") == 1
    assert "bender1: notice to bender9: run execute[x]\n" in here.err
    assert "log[nothing]" not in here.out


def test_who_subscribes_hears_each_step_of_every_run(flockctl):
    (flockctl.folder / "go").touch()
    heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    with Flock(registry=flockctl.url) as fleet:
        fleet.subscribe("runs of bender0", lambda who, event: heard.put((who, event)))
        api = fleet["bender0"]["flock_api"]
        # The node is told of a subscriber by its registry, moments after it is written.
        assert eventually(
            lambda: api.run_chef(wait=True, why_run=True) and not heard.empty(), within=20
        )
        run_id = api.run_chef(wait=True)["run_id"]
        events = [heard.get(timeout=20)]
        while (events[-1][1]["event"], events[-1][1]["run_id"]) != ("run ended", run_id):
            events.append(heard.get(timeout=20))

    assert {who for who, _ in events} == {"bender0"}
    told = [event for _, event in events if event["run_id"] == run_id]
    named = [(each["event"], each.get("resource", "").partition("[")[0]) for each in told]
    assert named == [
        ("run started", ""),
        ("resource started", "file"), ("resource changed", "file"),
        ("resource started", "execute"), ("resource changed", "execute"),
        ("resource started", "file"), ("resource changed", "file"),
        ("resource started", "execute"), ("resource failed", "execute"),
        ("resource started", "link"), ("resource failed", "link"),
        ("run ended", ""),
    ]  # fmt: skip
    assert [each["row"] for each in told if "row" in each] == [1, 2, 3, 4, 5]
    assert {(each["number"], each["of"]) for each in told if "of" in each} == {
        (number, 5) for number in range(1, 6)
    }
    assert "resources" not in told[-1]["report"]
    assert "geheim" not in str(told)


def test_converge_shows_the_difference_of_a_text(flockctl):
    here = flockctl.folder
    flockctl.recipe("page", "file('{here}/page', content='a\\nnew\\x1b[31m\\n')\n")
    (here / "page").write_text("a\nold\n")
    state = str(here / "state/bender1")
    cookbooks = str(flockctl.cookbooks)
    words = ("converge", "--name", "bender1", "--cookbooks", cookbooks, "--state-dir", state)

    planned = flockctl(*words, "--run-list", "cb::page", "--why-run")
    assert (here / "page").read_text() == "a\nold\n"
    done = flockctl(*words, "--run-list", "cb::page")

    for ended, said in ((planned, "would change"), (done, "changed")):
        assert ended.code == 0
        assert ended.out.splitlines() == [
            f"file[{here}/page] create: {said} (write {here}/page)",
            f"    --- {here}/page",
            f"    +++ {here}/page",
            "    @@ -1,2 +1,2 @@",
            "     a",
            "    -old",
            "    +new [31m",
        ]
