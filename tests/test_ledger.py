"""Notifications that outlive a run which did not come to its end."""

from __future__ import annotations

import logging

import pytest

from flock.converge.ledger import Ledger
from flock.converge.notification import Notification, Timing
from flock.converge.resource import declare
from flock.converge.resources.log import Log
from flock.errors import JournalError
from flock.journal import Journal
from tests.kitchens import rows, states


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def left_over(site):
    journal = Journal(site.folder / "state" / "journal.sqlite")
    found = Ledger(journal, "the test").left_over()
    journal.close()
    return [(each.notifier, each.target, each.action, each.is_due) for each in found]


def test_what_a_run_armed_is_left_over_for_the_next(journal):
    notifier = declare(Log, "x", {}, "here", "cb::default")
    wanted = [
        Notification("run", "execute[a]", Timing.DELAYED, "here"),
        Notification("run", "execute[b]", Timing.IMMEDIATELY, "here"),
    ]
    ledger = Ledger(journal, "first")
    trail = (("file[c]", "create"), ("log[x]", "write"))

    first, second = ledger.arm(notifier, "write", wanted, trail)
    ledger.make_due([second])

    assert second > first
    assert ledger.left_over() == []
    (one, two) = Ledger(journal, "second").left_over()
    assert (one.run_id, one.notifier, one.notifier_action) == ("first", "log[x]", "write")
    assert (one.target, one.action, one.trail, one.is_due) == ("execute[a]", "run", trail, False)
    assert (two.target, two.is_due) == ("execute[b]", True)
    ledger.strike_off([first, second])
    assert Ledger(journal, "third").left_over() == []


RESTARTED = """
    file('{here}/config', content='new').notifies('run', 'execute[restart]')
    execute('work', command='test ! -e {here}/cancel || sleep 60')
    execute('restart', command='echo restarted >> {here}/log', action='nothing')
"""


def cancelled_at_work(site):
    """Run until the config is written, then cancel."""
    (site.folder / "cancel").touch()
    kitchen = site.kitchen()

    def cancel_at_work(event):
        if event["event"] == "resource started" and event["resource"] == "execute[work]":
            kitchen.cancel()

    kitchen.on_event(cancel_at_work)
    report = kitchen.converge("the test")
    (site.folder / "cancel").unlink()
    return report


def test_a_cancelled_run_leaves_its_delayed_notifications_to_the_next(site):
    site.recipe(RESTARTED)

    assert cancelled_at_work(site)["state"] == "cancelled"
    assert not (site.folder / "log").exists()
    report = site.converge()

    assert rows(report) == [
        (f"file[{site.folder}/config]", "create", "unchanged"),
        ("execute[work]", "run", "changed"),
        ("execute[restart]", "run", "changed"),
    ]
    (taken,) = [each for each in site.events if each["event"] == "notification taken up"]
    assert taken["notified_by"] == f"file[{site.folder}/config]"
    assert taken["maybe_unchanged"] is False
    assert states(site.converge()) == ["unchanged", "changed"]
    assert site.text("log") == "restarted\n"


def test_a_left_notification_and_a_new_one_for_the_same_action_are_one(site):
    site.recipe(RESTARTED)
    cancelled_at_work(site)
    (site.folder / "config").write_text("drifted")

    site.converge()

    assert site.text("log") == "restarted\n"
    assert left_over(site) == []


@pytest.mark.parametrize("options", [{"why_run": True}, {"override": True}])
def test_a_why_run_or_an_override_run_list_leaves_them_alone(site, options):
    site.recipe(RESTARTED)
    site.recipe(RESTARTED, "cb::other")
    cancelled_at_work(site)

    kitchen = site.kitchen()
    if "override" in options:
        kitchen.converge("x", override_run_list=["cb::other"])
    else:
        kitchen.converge("x", why_run=True)

    assert not (site.folder / "log").exists()
    site.converge()
    assert site.text("log") == "restarted\n"


def test_a_left_notification_to_a_resource_that_is_gone_is_dropped_with_a_warning(site, caplog):
    site.recipe(RESTARTED)
    cancelled_at_work(site)
    site.recipe("log('nothing else')")

    assert site.converge()["state"] == "ok"

    assert "execute[restart] is declared no more: not notified" in caplog.text
    assert left_over(site) == []


def test_delayed_ones_that_were_switched_off_by_a_failure_wait_for_the_next_run(site):
    site.recipe(RESTARTED + "    execute('end', command='test -e {here}/good')\n")
    options = {"delayed_after_failure": False}

    assert site.converge(**options)["state"] == "failed"
    assert not (site.folder / "log").exists()
    (site.folder / "good").touch()
    site.converge(**options)

    assert site.text("log") == "restarted\n"


def test_nothing_is_left_after_a_run_that_came_to_its_end(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[now]', 'immediately').notifies(
            'run', 'execute[later]').notifies('run', 'execute[fails]', 'delayed')
        execute('now', command='true', action='nothing').notifies('run', 'execute[later]')
        execute('later', command='true', action='nothing')
        execute('fails', command='false', action='nothing')
    """)

    assert site.converge()["state"] == "failed"

    assert left_over(site) == []


def test_a_failed_change_notifies_nobody_and_is_looked_at_again_if_it_was_half_done(site):
    site.write(
        "cookbooks/cb/libraries/two_steps.py",
        """
        from dataclasses import dataclass
        from pathlib import Path
        from flock.converge.provider import Change
        from flock.converge.resource import Resource

        @dataclass
        class TwoSteps(Resource):
            kind = 'two_steps'
            actions = ('make',)

            def make(self, machine):
                one, two, good = (Path(self.name) / each for each in ('one', 'two', 'good'))
                if not one.exists():
                    yield Change('one', one.touch)
                if not two.exists() or not good.exists():
                    yield Change('two', lambda: (two.touch(), good.stat()))
    """,
    )
    site.recipe("""
        from flock.recipe import two_steps
        two_steps('{here}').notifies('run', 'execute[x]')
        execute('x', command='echo x >> {here}/log', action='nothing')
    """)

    report = site.converge()
    assert report["resources"][0]["changes"] == ["one"]
    assert left_over(site) == [(f"two_steps[{site.folder}]", "execute[x]", "run", False)]
    assert not (site.folder / "log").exists()
    (site.folder / "good").touch()
    site.converge()

    assert site.text("log") == "x\n"
    assert left_over(site) == []


def test_without_room_for_the_ledger_a_notifying_resource_changes_nothing(site, monkeypatch):
    site.recipe(RESTARTED)

    def full(*args):
        raise JournalError("disk is full")

    monkeypatch.setattr(Ledger, "arm", full)
    report = site.converge()

    assert (report["state"], states(report)) == ("failed", ["failed"])
    assert not (site.folder / "config").exists()


# --- resources that act between runs


def test_a_resource_acts_between_runs_with_all_that_it_sets_off(site):
    site.recipe("""
        file('{here}/a', content='x', action='nothing').notifies(
            'run', 'execute[now]', 'immediately').notifies('run', 'execute[later]')
        execute('later', command='echo later >> {here}/log', action='nothing')
        execute('now', command='echo now >> {here}/log', action='nothing')
    """)
    kitchen = site.kitchen()
    kitchen.declare()

    assert kitchen.stands(f"file[{site.folder}/a]", "create")
    report = kitchen.act(f"file[{site.folder}/a]", "create", "bender1")

    assert (report["state"], report["asked_by"], report["run_list"]) == ("ok", "bender1", [])
    assert states(report) == ["changed"] * 3
    assert site.text("log").split() == ["now", "later"]
    assert kitchen.runs() == []
    assert kitchen.act(f"file[{site.folder}/a]", "create", "x")["resources"][0]["state"] == (
        "unchanged"
    )


def test_what_does_not_stand_cannot_act(site):
    from flock.errors import UsageError

    site.recipe("log('x')")
    kitchen = site.kitchen()
    assert not kitchen.stands("log[x]", "write")
    kitchen.declare()

    for resource, action in (("log[y]", "write"), ("log[x]", "run")):
        assert not kitchen.stands(resource, action)
        with pytest.raises(UsageError, match=r"bender0 has no resource .* that can"):
            kitchen.act(resource, action, "bender1")


def test_an_action_that_fails_is_reported(site):
    site.recipe("execute('x', command='exit 4', action='nothing')")
    kitchen = site.kitchen()
    kitchen.declare()

    report = kitchen.act("execute[x]", "run", "bender1")

    assert report["state"] == "failed"
    assert "exit code 4" in report["error"]


def test_an_action_that_comes_round_on_its_trail_is_cut(site):
    site.recipe("log('x', action='nothing')")
    kitchen = site.kitchen()
    kitchen.declare()

    report = kitchen.act("log[x]", "write", "x", trail=(("log[x]", "write"), ("file[/y]", "touch")))

    assert (
        "notifications go in a circle: write log[x] → touch file[/y] → write log[x]"
        in (report["error"])
    )


def test_run_log_names_follow_the_action(site, caplog):
    caplog.set_level(logging.INFO, logger="flock.converge")
    site.recipe("log('hello', action='nothing')")
    kitchen = site.kitchen()
    kitchen.declare()

    kitchen.act("log[hello]", "write", "bender1")

    assert "hello" in caplog.text
