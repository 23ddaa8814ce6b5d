"""Runs that others order: cancelled for real, queued once, kept over restarts, by the clock."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from flock.boot import Timetable
from flock.errors import BusyError
from flock.journal import KEPT_RUNS
from tests.flockctl import flockctl_on
from tests.kitchens import is_running
from tests.support import eventually

LONG = 30.0


STUBBORN = """
trap '' TERM
echo $$ > $1
touch $1.is
while :; do sleep 0.1; done
"""
FAMILY = """
trap '' TERM
sh stubborn child &
setsid sh stubborn stray &
wait
sleep 60
"""


def test_a_cancelled_run_ends_its_command_with_all_its_children_within_five_seconds(flockctl):
    (flockctl.folder / "stubborn").write_text(STUBBORN)
    (flockctl.folder / "family").write_text(FAMILY)
    flockctl.recipe("default", "execute('family', command=['sh', 'family'], cwd='{here}')")
    flockctl.node("bender0", "--run-list", "cb")
    with Flock(registry=flockctl.url) as fleet:
        api = fleet["bender0"]["flock_api"]
        run = api.run_chef.future(wait=True)
        for name in ("child.is", "stray.is"):
            assert eventually((flockctl.folder / name).exists, within=LONG), api.status()
        pids = [int((flockctl.folder / name).read_text()) for name in ("child", "stray")]

        begun = time.monotonic()
        assert api.cancel(reason="enough")["state"] == "running"
        report = run.get(timeout=LONG)
        took = time.monotonic() - begun

        still = lambda: [pid for pid in pids if is_running(pid)]  # noqa: E731
        assert eventually(still, within=5.0 - took, becomes=[]) == []
        assert took < 5.0
        assert report["state"] == "cancelled"
        assert "enough" in report["error"]
        assert api.active() is False


@pytest.fixture(scope="module")
def ordering():
    """Give the command beside a node of which only what it refuses is asked."""
    with (
        tempfile.TemporaryDirectory(prefix="flk-") as folder,
        flockctl_on(f"embedded:{folder}/registry", Path(folder)) as command,
    ):
        command.node("bender0")
        yield command


def test_while_a_run_goes_on_one_more_is_queued_and_answers_all_who_want_it(flockctl):
    flockctl.recipe(
        "default",
        """
        execute('gate', cwd='{here}', command='echo x >> runs; until [ -e go ]; do sleep 0.1; done')
    """,
    )
    flockctl.node("bender0", "--run-list", "cb")
    with Flock(registry=flockctl.url) as fleet:
        api = fleet["bender0"]["flock_api"]
        first = api.run_chef.future(wait=True)
        assert eventually((flockctl.folder / "runs").exists, within=LONG)

        others = [api.run_chef.future(wait=True) for _ in range(3)]
        queued = eventually(lambda: api.status()["queued"], within=LONG)
        with pytest.raises(BusyError, match=queued["run_id"]):
            api.run_chef(why_run=True)
        (flockctl.folder / "go").touch()
        reports = [future.get(timeout=LONG) for future in (first, *others)]

    assert {report["state"] for report in reports} == {"ok"}
    assert {report["run_id"] for report in reports[1:]} == {queued["run_id"]}
    assert reports[0]["run_id"] != queued["run_id"]
    assert (flockctl.folder / "runs").read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("flock_api", "run_chef", "why_run=False"), "why_run is 'False', wanted is true or false"),
        (("flock_api", "run_chef", "wait=no"), "wait is 'no', wanted is true or false"),
        (("flock_api", "run_chef", "override_run_list=5"), "override_run_list is 5, wanted is"),
        (("sink", "wash", "default", "why_run=no"), "why_run is 'no', wanted is true or false"),
    ],
)
def test_a_word_that_is_neither_true_nor_false_orders_no_run(ordering, words, said):
    refused = ordering("call", "bender0", *words)

    assert refused.code == 2
    assert said in refused.err
    assert ordering("runs", "bender0", "--json").value == []


def test_the_last_hundred_runs_are_known_after_the_node_was_killed(embedded_url, tmp_path):
    with flockctl_on(embedded_url, tmp_path) as flockctl:
        flockctl.recipe("default", "log('x')")
        node = flockctl.node("bender0", "--run-list", "cb")
        with Flock(registry=flockctl.url) as fleet:
            ids = [
                fleet["bender0"]["flock_api"].run_chef(wait=True)["run_id"]
                for _ in range(KEPT_RUNS + 3)
            ]
        node.end(signal.SIGKILL)
        flockctl.node("bender0", "--run-list", "cb")
        with Flock(registry=flockctl.url) as fleet:
            api = fleet["bender0"]["flock_api"]
            runs = api.runs(limit=1000)
            last = api.last_run()
            oldest = api.run(ids[3])

    assert [run["run_id"] for run in runs] == ids[:2:-1]
    assert last["run_id"] == ids[-1]
    assert (oldest["state"], oldest["resources"][0]["resource"]) == ("ok", "log[x]")


class Kitchen:
    """Takes note of when it is asked for a run."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.enough = threading.Event()

    def order_run(self, asked_by: str) -> None:
        self.times.append(time.monotonic())
        if len(self.times) > 20:
            self.enough.set()
        if len(self.times) % 2:
            raise BusyError("another run is queued")


def test_the_interval_orders_runs_at_times_that_differ_by_the_splay_and_survives_a_refusal():
    kitchen: Any = Kitchen()
    timetable = Timetable(kitchen, 0.05, 0.1)
    try:
        assert kitchen.enough.wait(LONG)
    finally:
        timetable.stop()
    number = len(kitchen.times)
    gaps = [later - former for former, later in zip(kitchen.times, kitchen.times[1:], strict=False)]

    assert min(gaps) >= 0.05
    # Of twenty numbers between 0 and 0.1 two differ by more than a hundredth.
    assert max(gaps) - min(gaps) > 0.01
    assert len(kitchen.times) == number
