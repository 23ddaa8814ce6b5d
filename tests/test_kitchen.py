"""One machine's runs: who may order one, who joins, how each ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import psutil
import pytest

from flock.converge.kitchen import Kitchen
from flock.converge.run_lock import RunLock
from flock.errors import (
    BusyError,
    ConvergeError,
    DocumentTooLarge,
    JournalError,
    RecipeError,
    RunCancelled,
)
from tests.kitchens import is_running, states
from tests.support import eventually


@pytest.fixture
def gate(site):
    """A recipe that says when it is there and goes on when it is let."""
    site.recipe("""
        import os
        file('{here}/reached', content='x')
        log('gate').wait_until(lambda: os.path.exists('{here}/open'), pause=0.01)
        file('{here}/after', content='x')
    """)
    return Gate(site)


class Gate:
    def __init__(self, site):
        self._site = site

    def reached(self):
        assert eventually((self._site.folder / "reached").exists, within=30)

    def open(self):
        (self._site.folder / "open").touch()


# --- ordering


def test_an_order_answers_at_once_with_a_run_that_is_accepted(site, gate):
    kitchen = site.kitchen()

    run = kitchen.order_run("fry")

    assert run.as_data() == {
        "run_id": run.run_id, "node": "bender0", "state": "running", "asked_by": "fry",
        "deed": None, "override_run_list": None, "why_run": False, "lock": None,
    }  # fmt: skip
    assert kitchen.active()
    gate.open()
    assert run.wait(30)["state"] == "ok"
    assert not kitchen.active()


def test_nobody_joins_a_run_that_has_started_and_one_is_queued_behind_it(site, gate):
    kitchen = site.kitchen()

    first = kitchen.order_run("a")
    second = kitchen.order_run("b")
    third = kitchen.order_run("c")

    assert second is not first
    assert third is second
    assert (first.state, second.state) == ("running", "queued")
    assert [head["run_id"] for head in kitchen.runs()] == [second.run_id, first.run_id]
    assert [head["state"] for head in kitchen.runs(1)] == ["queued"]
    gate.open()
    first_report, second_report = first.wait(30), second.wait(30)
    assert first_report["run_id"] != second_report["run_id"]
    assert [head["run_id"] for head in kitchen.runs()] == [second.run_id, first.run_id]


def test_another_kind_of_run_than_the_queued_one_is_refused_with_its_id(site, gate):
    kitchen = site.kitchen()
    kitchen.order_run("a")
    queued = kitchen.order_run("b", override_run_list=["cb::x"])

    for options in ({}, {"why_run": True}, {"override_run_list": ["cb::y"]}):
        with pytest.raises(BusyError, match=queued.run_id):
            kitchen.order_run("c", **options)

    assert kitchen.order_run("c", override_run_list=["cb::x"]) is queued
    gate.open()
    queued.wait(30)


def test_a_queued_run_reads_recipes_that_were_written_while_it_waited(site, gate):
    kitchen = site.kitchen()
    kitchen.order_run("a")
    gate.reached()
    queued = kitchen.order_run("b")

    site.recipe("log('pushed')")
    gate.open()

    assert queued.wait(30)["resources"][0]["resource"] == "log[pushed]"


def test_fifty_orders_at_once_make_two_runs(site, gate):
    kitchen = site.kitchen()
    runs = []
    threads = [
        threading.Thread(target=lambda: runs.append(kitchen.order_run("x"))) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    gate.open()

    assert len(runs) == 50
    assert len({run.run_id for run in runs}) == 2
    for run in runs:
        assert run.wait(30)["state"] == "ok"


def test_a_listener_to_the_end_hears_it_when_nothing_is_active_any_more(site):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    heard: list[object] = []

    run = kitchen.order_run("x")
    run.on_ended(lambda report: heard.append((report["state"], kitchen.active())))
    run.on_ended(lambda report: 1 / 0)
    run.on_ended(lambda report: heard.append("after one that failed"))
    run.wait(30)
    eventually(lambda: len(heard), within=30, becomes=2)
    run.on_ended(lambda report: heard.append("late"))

    assert heard == [("ok", False), "after one that failed", "late"]


def test_an_override_run_list_changes_nothing_that_lasts(site):
    site.recipe("log('own')")
    site.recipe("log('other')", "cb::other")
    kitchen = site.kitchen()
    kitchen.declare()

    report = kitchen.converge("x", override_run_list=["cb::other"])

    assert report["run_list"] == ["cb::other"]
    assert report["recipes"] == ["cb::other"]
    assert kitchen.run_list == ["cb"]
    assert kitchen.recipes == ["cb::default"]


@pytest.mark.parametrize("other", [["cb::other"], ["cb::other", "cb::broken"]])
def test_the_attributes_that_others_see_are_those_of_the_whole_own_run_list(site, other):
    site.write("cookbooks/web/attributes/default.toml", "[default.web]\nport = 80")
    site.recipe("node.default['web']['workers'] = 2", "web::default")
    site.recipe("node.normal['seen']['other'] = 1", "cb::other")
    site.recipe("raise ValueError('broken')", "cb::broken")
    store = Store()
    kitchen = site.kitchen("web", store=store)
    assert kitchen.converge("x")["state"] == "ok"
    whole = {"port": 80, "workers": 2}

    kitchen.converge("x", override_run_list=other)
    assert kitchen.node_attributes("web") == store.kept[-1]["attributes"]["web"] == whole
    # What a run wrote to last does last, and nothing else of it.
    assert store.changes == [{"seen": {"other": 1}}]
    assert kitchen.node_attributes("seen.other") == 1

    kitchen.set_run_list([*other, "cb::broken"])
    assert kitchen.converge("x")["state"] == "failed"
    assert kitchen.node_attributes("web") == whole
    assert kitchen.node_object()["attributes"]["web"] == whole
    # A process of its own knows as little of them.
    kitchen.stop()
    for words in ({}, {"override_run_list": other}):
        again = site.kitchen("cb::broken", store=store)
        again.converge("x", **words)
        again.stop()
    assert len(store.kept) == 1


# --- ends


def test_cancelling_kills_the_command_and_its_children(site):
    site.recipe("""
        execute('long', command='sleep 60 & echo $! > new; mv new child; wait', cwd='{here}')
        file('{here}/never', content='x')
    """)
    kitchen = site.kitchen()
    run = kitchen.order_run("x")
    eventually((site.folder / "child").exists, within=30)
    began = time.monotonic()

    assert kitchen.cancel(reason="fry said so") is run
    report = run.wait(6)

    assert time.monotonic() - began < 5
    assert (report["state"], report["error"]) == ("cancelled", "fry said so")
    assert report["resources"][0]["error"] == "cancelled: fry said so"
    assert not (site.folder / "never").exists()
    child = int(site.text("child"))
    assert eventually(lambda: is_running(child), within=5, becomes=False) is False
    assert not kitchen.active()


def test_a_queued_run_is_cancelled_without_touching_the_other(site, gate):
    kitchen = site.kitchen()
    running = kitchen.order_run("a")
    queued = kitchen.order_run("b")

    assert kitchen.cancel(queued.run_id) is queued
    assert queued.wait(30)["state"] == "cancelled"
    assert running.state == "running"
    assert kitchen.cancel("no such run") is None
    gate.open()
    assert running.wait(30)["state"] == "ok"
    assert kitchen.cancel() is None
    assert kitchen.run(queued.run_id)["state"] == "cancelled"


def test_stopping_lets_the_run_end_at_its_next_boundary(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[restart]')
        execute('slow', cwd='{here}',
                command='touch reached; until test -e go; do sleep 0.05; done; touch finished')
        file('{here}/never', content='x')
        execute('restart', command='touch {here}/restarted', action='nothing')
    """)
    kitchen = site.kitchen()
    run = kitchen.order_run("x")
    queued = kitchen.order_run("y")
    eventually((site.folder / "reached").exists, within=30)

    def let_go():
        assert eventually(lambda: kitchen._queue.is_leaving, within=30)
        (site.folder / "go").touch()

    letting_go = threading.Thread(target=let_go)
    letting_go.start()
    kitchen.stop(timeout=60)
    letting_go.join(30)

    report = run.wait(0)
    assert (report["state"], report["error"]) == ("cancelled", "the node is leaving")
    assert queued.wait(0)["state"] == "cancelled"
    assert (site.folder / "finished").exists()
    assert (site.folder / "restarted").exists()
    assert not (site.folder / "never").exists()
    with pytest.raises(BusyError, match="is leaving"):
        kitchen.order_run("z")


def test_stopping_cancels_what_takes_too_long(site):
    site.recipe("execute('long', command='touch {here}/reached; sleep 60')")
    kitchen = site.kitchen()
    run = kitchen.order_run("x")
    eventually((site.folder / "reached").exists, within=30)

    kitchen.stop(timeout=0.1)

    assert run.wait(0)["state"] == "cancelled"
    kitchen.stop()


def test_a_run_in_python_code_that_goes_on_is_left_behind_when_the_kitchen_stops(
    site, monkeypatch, caplog
):
    monkeypatch.setattr("flock.converge.run_queue.LAST_GRACE", 0.2)
    site.recipe("""
        from flock.recipe import here
        python_block('x', code=here.wait).notifies('write', 'log[y]')
        log('y', action='nothing')
    """)
    here = threading.Event()
    heard: list[str] = []
    kitchen = site.kitchen(
        words={"here": here},
        exception_handlers=[lambda report: heard.append(report["state"])],
    )
    run = kitchen.order_run("x")
    assert eventually(lambda: kitchen.status()["number"], within=30)

    kitchen.stop(timeout=0.1)
    kitchen.stop(timeout=60)  # twice is harmless, and waits for nobody

    report = run.wait(0)
    assert (report["state"], heard) == ("cancelled", ["cancelled"])
    assert "the node is leaving; it did not end within 0.2 s and is left behind" in report["error"]
    assert "is it in Python code?" in caplog.text
    assert kitchen.last_run() == report
    with pytest.raises(BusyError, match="is leaving"):
        kitchen.order_run("y")
    here.set()
    worker = next(each for each in threading.enumerate() if each.name == "kitchen-bender0")
    worker.join(30)
    assert not worker.is_alive()
    assert (kitchen.last_run(), heard) == (report, ["cancelled"])


def test_a_failed_run_settles_and_the_next_one_runs(site):
    path = site.recipe("1 / 0")
    kitchen = site.kitchen()

    report = kitchen.order_run("x").wait(30)

    assert (report["state"], kitchen.active()) == ("failed", False)
    assert report["error"].startswith(f"{path}:2: ")
    site.recipe("log('mended')")
    assert kitchen.order_run("x").wait(30)["state"] == "ok"


def test_a_journal_that_cannot_be_written_stops_a_run_before_it_does_anything(site, monkeypatch):
    site.recipe("file('{here}/a', content='x')")
    kitchen = site.kitchen()

    def full(report, **options):
        raise JournalError("cannot write to the journal: disk is full")

    monkeypatch.setattr(kitchen._journal, "save_run", full)
    report = kitchen.order_run("x").wait(30)

    assert (report["state"], report["error"]) == (
        "failed",
        "cannot write to the journal: disk is full",
    )
    assert not (site.folder / "a").exists()
    assert kitchen.last_run() == report
    assert not kitchen.active()


def test_cancelling_ends_a_run_between_two_recipes(site):
    site.recipe("""
        import os, time
        from flock.recipe import reached
        reached()
        include_recipe('cb::never')
    """)
    site.recipe("file('{here}/never', content='x')", "cb::never")
    kitchens: list[Kitchen] = []
    kitchens.append(site.kitchen(words={"reached": lambda: kitchens[0].cancel(reason="enough")}))

    report = kitchens[0].converge("x")

    assert (report["state"], report["error"]) == ("cancelled", "enough")
    assert not (site.folder / "never").exists()


# --- between processes (the lock is per open file: a second one here stands for another process)


def test_a_run_waits_visibly_for_another_process_and_a_converge_is_refused(site):
    site.recipe("log('x')")
    other = RunLock(site.folder / "state" / "run.lock")
    assert other.take("run execute[x]")
    kitchen = site.kitchen()

    with pytest.raises(
        BusyError, match=rf"process {psutil.Process().pid} since .*\(run execute\[x\]\)"
    ):
        kitchen.converge("x")
    run = kitchen.order_run("x")
    assert run.state == "queued"
    eventually(lambda: [each for each in site.events if each["event"] == "run waiting"], within=30)
    assert kitchen.order_run("y") is run
    assert kitchen.active()
    other.release()

    assert run.wait(30)["state"] == "ok"
    told = {each["event"]: each for each in site.events}
    assert {"run queued", "run waiting", "run started"} <= set(told)
    assert "(run execute[x])" in told["run waiting"]["holder"]


def test_a_converge_may_wait_for_another_process(site):
    site.recipe("log('x')")
    other = RunLock(site.folder / "state" / "run.lock")
    other.take("run execute[x]")
    releaser = threading.Timer(0.3, other.release)
    releaser.start()

    assert site.kitchen().converge("x", wait=True)["state"] == "ok"
    releaser.join()


def test_a_run_that_waits_for_another_process_can_be_cancelled(site):
    site.recipe("log('x')")
    other = RunLock(site.folder / "state" / "run.lock")
    other.take("run execute[x]")
    kitchen = site.kitchen()
    run = kitchen.order_run("x")

    kitchen.cancel()

    assert run.wait(30)["state"] == "cancelled"
    assert not kitchen.active()
    other.release()


def test_a_converge_is_refused_while_this_process_runs(site, gate):
    kitchen = site.kitchen()
    run = kitchen.order_run("x")

    with pytest.raises(BusyError, match=run.run_id):
        kitchen.converge("y")

    gate.open()
    run.wait(30)


def test_the_run_of_a_process_that_died_becomes_failed(site):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    kitchen._journal.save_run({"run_id": "dead", "state": "running", "error": None})

    kitchen.declare()

    assert kitchen.run("dead") == {"run_id": "dead", "state": "failed", "error": "process died"}


# --- what is known


def test_declaring_knows_roles_and_recipes_and_converges_nothing(site):
    site.write("roles/web.toml", "run_list = ['cb']")
    site.recipe("include_recipe('::more')\nfile('{here}/a', content='x')")
    site.recipe("log('x')", "cb::more")
    kitchen = site.kitchen("role[web]")

    kitchen.declare()

    assert (kitchen.roles, kitchen.recipes) == (["web"], ["cb::default"])
    assert not (site.folder / "a").exists()
    assert kitchen.last_run() is None
    assert not kitchen.active()


def test_declaring_a_wrong_recipe_raises_and_keeps_what_stood(site):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    kitchen.declare()
    path = site.recipe("1 / 0")

    with pytest.raises(RecipeError, match=f"{path}:2: ZeroDivisionError"):
        kitchen.declare()

    assert kitchen.recipes == ["cb::default"]


def test_a_kitchen_without_cookbooks_runs_an_empty_list(site):
    kitchen = site.kitchen()
    kitchen.set_run_list([])

    assert kitchen.converge("x")["state"] == "ok"
    kitchen.set_run_list(["cb"])
    assert kitchen.converge("x")["error"].startswith("run list: no cookbook 'cb'")


def test_attributes_are_data_without_what_is_sensitive(site):
    site.recipe("node.normal['db'] = {'password': 'geheim', 'user': 'fry'}\nlog('x')")
    kitchen = site.kitchen(sensitive_attributes=["db.password"])

    assert kitchen.node_attributes("kernel.release") == "6.1"
    kitchen.converge("x")

    assert kitchen.node_attributes("db.user") == "fry"
    assert kitchen.node_attributes("recipes.0") == "cb::default"
    assert "geheim" not in str(kitchen.node_attributes())
    with pytest.raises(LookupError, match="no attribute 'password' in 'db'"):
        kitchen.node_attributes("db.password")
    assert type(kitchen.node_attributes("db")) is dict


def test_the_last_run_is_known_after_a_restart(site):
    site.recipe("log('x')")
    report = site.converge()

    again = site.kitchen()

    assert again.last_run() == report
    assert again.run(report["run_id"]) == report
    assert again.runs()[0]["run_id"] == report["run_id"]
    assert again.run("nope") is None
    assert again.status() == {
        "node": "bender0", "active": False, "running": None, "queued": None, "acting": None,
        "resource": None, "number": 0, "of": 0, "waiting": None,
        "last_run": {
            key: report[key] for key in ("run_id", "state", "started", "seconds", "error")
        },
    }  # fmt: skip


def test_status_and_run_show_what_is_going_on(site, gate):
    kitchen = site.kitchen()
    run = kitchen.order_run("fry")
    queued = kitchen.order_run("leela")
    gate.reached()
    eventually(lambda: kitchen.status()["waiting"], within=30)

    status = kitchen.status()

    assert (status["active"], status["resource"], status["number"], status["of"]) == (
        True, "log[gate]", 2, 3,
    )  # fmt: skip
    assert status["running"]["run_id"] == run.run_id
    assert status["queued"]["asked_by"] == "leela"
    assert states(kitchen.run(run.run_id)) == ["changed"]
    assert kitchen.last_run() is None
    gate.open()
    queued.wait(30)


def test_events_tell_each_step(site):
    site.recipe("file('{here}/a', content='x')\nlog('y').only_if(lambda: False)")

    report = site.converge()

    assert [(each["event"], each.get("number"), each.get("of")) for each in site.events] == [
        ("run started", None, None),
        ("resource started", 1, 2),
        ("resource changed", 1, 2),
        ("resource started", 2, 2),
        ("resource skipped", 2, 2),
        ("run ended", None, None),
    ]
    assert {(each["node"], each["run_id"]) for each in site.events} == {
        ("bender0", report["run_id"])
    }
    assert site.events[-1]["report"] == report


def test_a_listener_that_fails_spoils_nothing_and_one_that_leaves_hears_no_more(site, caplog):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    heard: list[object] = []
    kitchen.on_event(lambda event: 1 / 0)
    forget = kitchen.on_event(heard.append)

    assert kitchen.converge("x")["state"] == "ok"
    count = len(heard)
    forget()
    forget()
    kitchen.converge("x")

    assert count == 4
    assert len(heard) == count
    assert "ZeroDivisionError" in caplog.text


def test_handlers_hear_of_start_and_end_and_may_fail(site, caplog):
    site.recipe("execute('x', command='test -e {here}/good')")
    heard = []

    def handler(moment):
        def handle(data):
            heard.append((moment, data["state"]))
            raise RuntimeError("handler failed")

        return handle

    kitchen = site.kitchen(
        start_handlers=[handler("start")],
        report_handlers=[handler("report")],
        exception_handlers=[handler("exception")],
    )
    kitchen.converge("x")
    (site.folder / "good").touch()
    kitchen.converge("x")

    assert heard == [
        ("start", "running"), ("exception", "failed"), ("start", "running"), ("report", "ok"),
    ]  # fmt: skip
    told = [
        (event["moment"], event["error"])
        for event in site.events
        if event["event"] == "handler failed"
    ]
    assert told == [(moment, "RuntimeError: handler failed") for moment, _ in heard]
    assert caplog.text.count("handler failed") >= 4


def test_what_a_handler_does_to_its_report_reaches_nobody_else(site):
    site.recipe("log('x')")
    heard = []

    def spoil(report):
        heard.append(report["state"])
        report["resources"].clear()
        report["state"] = "failed"

    kitchen = site.kitchen(report_handlers=[spoil, spoil])
    report = kitchen.converge("x")

    assert heard == ["ok", "ok"]
    assert (report["state"], len(report["resources"])) == ("ok", 1)
    assert kitchen.last_run() == report


def test_a_run_happens_inside_of_what_it_is_given(site):
    site.recipe("""
        from flock.recipe import here
        log(f'{len(here)}').only_if(lambda: here)
    """)
    here: list[str] = []

    @contextlib.contextmanager
    def around(run):
        here.append(run.run_id)
        yield
        here.pop()

    kitchen = site.kitchen(around=around, words={"here": here})

    report = kitchen.converge("x")
    action = kitchen.act("log[1]", "write", "x")

    assert report["resources"][0]["resource"] == "log[1]"
    assert [each["resources"][0]["state"] for each in (report, action)] == ["unchanged"] * 2
    assert here == []


def test_nothing_that_others_raise_stops_the_kitchen(site):
    site.recipe("log('x')")

    def leave(data):
        raise SystemExit

    kitchen = site.kitchen(start_handlers=[leave], report_handlers=[leave])
    kitchen.on_event(leave)
    run = kitchen.order_run("x")
    run.on_ended(leave)

    assert run.wait(30)["state"] == "ok"
    assert kitchen.converge("x")["state"] == "ok"


def test_a_queued_run_runs_the_run_list_that_stands_when_it_starts(site, gate):
    site.recipe("log('new')", "cb::new")
    kitchen = site.kitchen()
    kitchen.order_run("x")
    queued = kitchen.order_run("y")

    kitchen.set_run_list(["cb::new"])
    gate.open()

    report = queued.wait(30)
    assert (report["run_list"], report["recipes"]) == (["cb::new"], ["cb::new"])


def test_the_log_says_what_happened(site, caplog):
    caplog.set_level(logging.INFO, logger="flock.converge")
    site.recipe("file('{here}/a', content='x')\nlog('hello there')\nexecute('false')")

    report = site.converge()

    assert f"file[{site.folder}/a] create: write {site.folder}/a" in caplog.text
    assert "hello there" in caplog.text
    assert "execute[false] run failed: `false` ended with exit code 1" in caplog.text
    assert f"run {report['run_id']} failed after" in caplog.text
    assert caplog.records[-1].levelname == "ERROR"


def test_the_log_of_a_why_run_says_what_would_happen(site, caplog):
    caplog.set_level(logging.INFO, logger="flock.converge")
    site.recipe("file('{here}/a', content='x')")

    report = site.converge(why_run=True)

    assert f"why-run {report['run_id']} started" in caplog.text
    assert f"file[{site.folder}/a] create: would write {site.folder}/a" in caplog.text


def test_a_machine_is_known_by_its_run_list_although_its_first_recipe_is_wrong(site):
    site.recipe("oops(")
    kitchen = site.kitchen()

    assert kitchen.converge("x")["state"] == "failed"

    assert kitchen.recipes == kitchen.node_object()["recipes"] == ["cb::default"]


def test_a_machine_is_known_by_what_it_was_while_its_role_cannot_be_read(site):
    site.recipe("")
    role = site.write("roles/web.toml", "run_list = ['cb']")
    assert site.converge("role[web]")["state"] == "ok"
    role.unlink()

    again = site.kitchen("role[web]")
    assert again.converge("x")["state"] == "failed"

    assert (again.roles, again.recipes) == (["web"], ["cb::default"])
    assert site.kitchen("role[db]").roles == []


def test_an_idle_kitchen_has_no_thread(site):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    kitchen.order_run("x").wait(30)

    def threads():
        return [each.name for each in threading.enumerate() if each.name.startswith("kitchen")]

    assert eventually(threads, within=30, becomes=[]) == []


# --- single actions between runs


def test_an_action_waits_for_the_run_and_a_run_for_the_action(site, gate):
    kitchen = site.kitchen()
    run = kitchen.order_run("x")
    gate.reached()
    state_after: list[str] = []

    def act():
        kitchen.act("log[gate]", "write", "y")
        state_after.append(kitchen.run(run.run_id)["state"])

    actor = threading.Thread(target=act)
    actor.start()
    assert eventually(lambda: kitchen._queue._deeds, within=30)

    gate.open()
    actor.join(30)

    assert state_after == ["ok"]


def test_runs_ordered_during_an_action_wait_for_it(site):
    site.recipe("""
        import os
        log('x')
        log('gate', action='nothing').wait_until(lambda: os.path.exists('{here}/go'), pause=0.01)
    """)
    kitchen = site.kitchen()
    kitchen.declare()
    actor = threading.Thread(target=kitchen.act, args=("log[gate]", "write", "y"))
    actor.start()
    eventually(
        lambda: [each for each in site.events if each["event"] == "resource waiting"], within=30
    )

    run = kitchen.order_run("z")
    assert run.state == "queued"
    (site.folder / "go").touch()
    actor.join(30)

    assert run.wait(30)["state"] == "ok"


def test_an_action_is_shown_while_it_goes_on_and_ended_by_who_cancels_it(site):
    site.recipe("""
        import os
        log('gate', action='nothing').wait_until(lambda: os.path.exists('{here}/go'), pause=60)
    """)
    kitchen = site.kitchen()
    kitchen.declare()
    seen: list[object] = []
    kitchen.on_action(lambda: seen.append(kitchen.status()["acting"] is not None))
    ends: list[dict[str, object]] = []
    actor = threading.Thread(
        target=lambda: ends.append(kitchen.act("log[gate]", "write", "notice 5 from bender1"))
    )
    actor.start()
    assert eventually(lambda: kitchen.status()["waiting"], within=3)
    status = kitchen.status()
    assert status["acting"]["deed"] == "write log[gate]"
    assert status["acting"]["asked_by"] == "notice 5 from bender1"
    assert status["waiting"]["resource"] == "log[gate]"
    assert (status["running"], status["active"]) == (None, False)
    run = kitchen.order_run("z")
    assert kitchen.cancel("another") is None

    assert kitchen.cancel(reason="enough").run_id == status["acting"]["run_id"]
    actor.join(5)

    assert [(end["state"], end["error"]) for end in ends] == [("cancelled", "enough")]
    assert run.wait(5)["state"] == "ok"
    assert kitchen.status()["acting"] is None
    assert seen == [True, False]


def test_stopping_ends_an_action_and_those_that_wait(site):
    site.recipe("execute('long', command='touch {here}/reached; sleep 60', action='nothing')")
    kitchen = site.kitchen()
    kitchen.declare()
    ends = []

    def act():
        try:
            kitchen.act("execute[long]", "run", "y")
        except RunCancelled as cancelled:
            ends.append(str(cancelled))

    actors = [threading.Thread(target=act) for _ in range(2)]
    for each in actors:
        each.start()
    eventually((site.folder / "reached").exists, within=30)

    kitchen.stop(timeout=0.2)
    for each in actors:
        each.join(30)

    assert ends == ["the node is leaving"] * 2
    with pytest.raises(BusyError, match="is leaving"):
        kitchen.act("execute[long]", "run", "y")


def test_a_wait_is_asked_again_at_once_when_there_are_news(site):
    site.recipe("""
        import os
        log('a').wait_until(lambda: os.path.exists('{here}/go'), pause=60)
    """)
    kitchen = site.kitchen()
    run = kitchen.order_run("x")
    eventually(lambda: kitchen.status()["waiting"], within=30)

    (site.folder / "go").touch()
    kitchen.at_work().waits.ask_again()

    assert run.wait(30)["state"] == "ok"


# --- the node object


class Store:
    def __init__(self):
        self.kept = []
        self.changes = []
        self.normal = {}
        self.error = None

    def normal_attributes(self):
        return self.normal

    def assigned(self):
        return None

    def check(self, node_object):
        pass

    def save(self, node_object):
        if self.error:
            raise self.error
        self.kept.append(node_object)
        self.normal = node_object["normal"]

    def saved(self):
        return self.kept[-1] if self.kept else None

    def change_normal(self, node_object, change):
        self.normal = change(self.normal)
        self.changes.append(self.normal)


def test_the_node_object_is_saved_after_each_run_also_a_failed_one(site):
    site.write("roles/web.toml", "run_list = ['cb']")
    site.recipe("node.normal['tags'] = ['blue']\nexecute('x', command='test -e {here}/good')")
    store = Store()
    kitchen = site.kitchen("role[web]", store=store, environment="prod")

    assert kitchen.converge("x")["state"] == "failed"
    kitchen.converge("x", why_run=True)

    (saved,) = store.kept
    assert {key: saved[key] for key in list(saved)[:6]} == {
        "name": "bender0", "run_list": ["role[web]"], "roles": ["web"], "recipes": ["cb::default"],
        "environment": "prod", "tags": ["blue"],
    }  # fmt: skip
    assert saved["normal"] == {"tags": ["blue"]}
    assert saved["attributes"]["kernel"] == {"release": "6.1"}
    assert kitchen.node_object() == saved


@pytest.mark.parametrize("end", ["", "raise ValueError('broken')"])
def test_what_a_run_of_another_list_wrote_is_kept_in_one_go(site, end):
    site.recipe("node.normal['a']['x'] = 1\nnode.normal['b']['y'] = 1\nnode.normal['gone'] = 1")
    site.recipe(
        f"""
        for key in 'xyz':
            node.normal['a'][key] = node.normal['b'][key] = 2
        node.normal['none'] = None
        del node.normal['gone']
        {end}
        """,
        "cb::other",
    )
    store = Store()
    kitchen = site.kitchen("cb", store=store)
    assert kitchen.converge("x")["state"] == "ok"

    kitchen.converge("x", override_run_list=["cb::other"])

    both = {"x": 2, "y": 2, "z": 2}
    assert store.changes == [{"a": both, "b": both, "none": None}]
    assert kitchen.node_object()["normal"] == store.normal
    assert len(store.kept) == 1


def test_what_is_sensitive_lasts_here_and_is_handed_to_nobody(site):
    site.recipe("""
        node.normal['db'] = {'password': node.read('db.password', 'geheim'), 'user': 'fry'}
        file('{here}/out', content=node['db']['password'])
        node.normal['db']['password'] = 'geheim2'
    """)
    store = Store()
    options = {"store": store, "sensitive_attributes": ["db.password", "no.such"]}

    site.converge(**options)
    site.converge(**options)

    assert site.text("out") == "geheim2"
    assert store.normal == {"db": {"user": "fry"}}
    assert "geheim" not in str(store.kept)


def test_a_node_object_that_cannot_be_saved_fails_the_run_and_hides_no_failure(site, caplog):
    site.recipe("execute('x', command='test -e {here}/good')")
    store = Store()
    store.error = DocumentTooLarge("the node object of bender0", 5_000_000, 524_288)
    kitchen = site.kitchen(store=store)

    assert "exit code 1" in kitchen.converge("x")["error"]
    assert "what lasts is not saved" in caplog.text
    (site.folder / "good").touch()
    report = kitchen.converge("x")

    assert (report["state"], report["error"]) == (
        "failed", "the node object of bender0 has 5000000 bytes, the limit is 524288",
    )  # fmt: skip
    assert not kitchen.active()


def test_a_node_object_that_would_be_too_large_fails_the_run_before_it_does_anything(site, caplog):
    place = site.recipe("""
        file('{here}/done', content='yes')
        node.default['web']['blob'] = 'x' * 400_000
        node.default['web']['port'] = 80
    """)
    store = Store()

    def check(node_object):
        raise DocumentTooLarge("node object 'bender0'", 600_000, 524_288)

    store.check = check  # type: ignore[method-assign]
    kitchen = site.kitchen(store=store)
    report = kitchen.converge("x")

    assert report["error"] == (
        f"{place}:3: attribute 'web.blob' with its 400002 bytes is too large:"
        " node object 'bender0' has 600000 bytes, the limit is 524288"
    )
    assert not (site.folder / "done").exists()
    assert not kitchen.active()


def test_a_state_folder_that_cannot_be_locked_is_one_clear_error(site):
    site.recipe("log('x')")
    kitchen = site.kitchen()
    (site.folder / "state" / "run.lock").mkdir()

    with pytest.raises(ConvergeError, match=r"cannot take the run lock .*run\.lock: "):
        kitchen.order_run("x")

    assert not kitchen.active()


def test_what_a_notified_action_writes_into_normal_attributes_lasts_and_nothing_else_of_it(site):
    site.recipe("""
        node.normal['seen']['gone'] = 1

        def count():
            node.normal['seen']['times'] = node.read('seen.times', 0) + 1
            node.normal['db']['password'] = 'geheim'
            del node.normal['seen']['gone']

        python_block('count', code=count, action='nothing')
    """)
    kitchen = site.kitchen(sensitive_attributes=["db.password"])
    assert kitchen.converge("the test")["state"] == "ok"
    site.recipe("node.normal['other'] = 'newer'", "cb::other")
    assert kitchen.converge("x", override_run_list=["cb::other"])["state"] == "ok"

    assert kitchen.act("python_block[count]", "run", "bender1")["state"] == "ok"

    kept = site._journals[0].recall("normal_attributes")
    assert kept == {"seen": {"times": 1}, "db": {}, "other": "newer"}
    kitchen.stop()
    site.recipe("file('{here}/password', content=node.read('db.password'))")
    again = site.kitchen(sensitive_attributes=["db.password"])
    assert again.converge("the test")["state"] == "ok"
    assert site.text("password") == "geheim"
