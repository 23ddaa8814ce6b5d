"""What a run does with resources: order, guards, waits, notifications, failures."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from flock.errors import DeadlockError, NodeUnreachable, RegistryUnavailable
from registry.readings import Reading, note
from tests.kitchens import rows, states
from tests.support import eventually


def row(report, resource, action=None):
    found = [
        each
        for each in report["resources"]
        if each["resource"] == resource and action in (None, each["action"])
    ]
    assert len(found) == 1, found
    return found[0]


# --- order and states


def test_resources_converge_in_order_and_the_second_run_changes_nothing(site):
    site.recipe("""
        file('{here}/a', content='1')
        file('{here}/b', content='2')
        log('done')
    """)

    first, second = site.converge(), site.converge()

    assert states(first) == ["changed", "changed", "unchanged"]
    assert states(second) == ["unchanged"] * 3
    assert (site.text("a"), site.text("b")) == ("1", "2")
    assert first["state"] == second["state"] == "ok"


def test_the_report_has_the_shape_that_others_rely_on(site):
    site.recipe("file('{here}/fubar', content='foobar')", "planet_express::default")

    report = site.converge("recipe[planet_express]")

    assert list(report) == [
        "run_id", "node", "state", "asked_by", "started", "seconds", "run_list", "recipes",
        "why_run", "error", "resources", "notices", "locks",
    ]  # fmt: skip
    assert list(report["resources"][0]) == [
        "resource", "recipe", "action", "state", "changes", "seconds", "error",
    ]  # fmt: skip
    assert report["run_list"] == ["recipe[planet_express]"]
    assert report["recipes"] == ["planet_express::default"]
    assert (report["node"], report["asked_by"]) == ("bender0", "the test")
    assert report["started"].endswith("Z")
    assert report["resources"][0]["changes"] == [f"write {site.folder}/fubar"]
    assert (report["notices"], report["locks"]) == ([], [])


def test_several_actions_are_made_in_order(site):
    site.recipe("file('{here}/a', content='x', action=['create', 'delete'])")

    assert rows(site.converge()) == [
        (f"file[{site.folder}/a]", "create", "changed"),
        (f"file[{site.folder}/a]", "delete", "changed"),
    ]


def test_a_resource_that_is_to_do_nothing_is_skipped_without_a_reason(site):
    site.recipe("file('{here}/a', action='nothing')")

    assert row(site.converge(), f"file[{site.folder}/a]")["state"] == "skipped"
    assert not (site.folder / "a").exists()


def test_a_why_run_names_changes_and_makes_none(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[late]')
        execute('early', command='touch {here}/b')
        execute('late', command='touch {here}/c', action='nothing')
    """)

    report = site.converge(why_run=True)

    assert report["why_run"] is True
    assert [each["changes"] for each in report["resources"] if each["changes"]] == [
        [f"write {site.folder}/a"],
        [f"run `touch {site.folder}/b`"],
        [f"run `touch {site.folder}/c`"],
    ]
    assert sorted(each.name for each in site.folder.iterdir()) == ["cookbooks", "state"]


# --- guards


def test_guards_are_functions_or_commands(site):
    site.recipe("""
        execute('a', command='true').only_if(lambda: True).only_if('test -d {here}')
        execute('b', command='true').only_if(lambda: 0)
        execute('c', command='true').not_if(['test', '-d', '{here}'])
        execute('d', command='true').not_if('test -f here', cwd='{here}')
    """)

    report = site.converge()

    assert states(report) == ["changed", "skipped", "skipped", "changed"]
    assert row(report, "execute[b]")["error"].startswith("only_if <lambda> (")
    assert row(report, "execute[c]")["error"] == f"not_if `test -d {site.folder}`"


def test_a_guard_is_asked_when_its_resource_is_converged(site):
    site.recipe("""
        import os
        execute('a', command='touch {here}/x')
        execute('b', command='true').only_if(lambda: os.path.exists('{here}/x'))
    """)

    assert states(site.converge()) == ["changed", "changed"]


def test_a_guard_that_raises_fails_the_resource_and_names_its_line(site):
    path = site.recipe("""
        log('first')
        log('x').only_if(lambda: 1 / 0)
        log('never')
    """)

    report = site.converge()

    assert states(report) == ["unchanged", "failed"]
    assert row(report, "log[x]")["error"] == f"ZeroDivisionError: division by zero ({path}:3)"
    assert report["state"] == "failed"
    assert report["error"] == (f"log[x] ({path}:3): ZeroDivisionError: division by zero ({path}:3)")


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("node['kernel']['relase']", "no attribute 'relase' (did you mean 'release'?)"),
        ("node.kernel", "node has no 'kernel': an attribute is read as node['kernel']"),
        ("node.role('web')", "node has no 'role' (here: 'web' in node.roles)"),
    ],
)
def test_what_a_guard_asks_of_the_node_in_vain_is_said_with_what_is_near(site, asked, error):
    path = site.recipe(f"log('x').only_if(lambda: {asked})")

    assert row(site.converge(), "log[x]")["error"] == f"{error} ({path}:2)"


# --- notifications


def test_notifications_fire_only_after_a_change_and_with_the_asked_for_action(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('delete', 'file[{here}/b]', 'immediately')
        file('{here}/b', content='y', action='nothing')
    """)
    (site.folder / "b").write_text("y")

    assert rows(site.converge()) == [
        (f"file[{site.folder}/a]", "create", "changed"),
        (f"file[{site.folder}/b]", "delete", "changed"),
    ]
    assert rows(site.converge()) == [(f"file[{site.folder}/a]", "create", "unchanged")]


def test_delayed_ones_come_at_the_end_once_per_target_and_action(site):
    site.recipe("""
        execute('restart', command='echo restart >> {here}/log', action='nothing')
        file('{here}/a', content='1').notifies('run', 'execute[restart]')
        file('{here}/b', content='2').notifies('run', 'execute[restart]', 'delayed')
        execute('last', command='echo last >> {here}/log')
    """)

    site.converge()

    assert site.text("log") == "last\nrestart\n"


def test_immediate_ones_come_right_after_and_carry_on(site):
    site.recipe("""
        execute('a', command='echo a >> {here}/log').notifies('run', 'execute[b]', 'immediately')
        execute('b', command='echo b >> {here}/log', action='nothing').notifies(
            'run', 'execute[c]', 'immediately')
        execute('c', command='echo c >> {here}/log', action='nothing')
        execute('d', command='echo d >> {here}/log')
    """)

    site.converge()

    assert site.text("log").split() == ["a", "b", "c", "d"]


def test_before_comes_first_and_only_if_there_will_be_a_change(site):
    site.recipe("""
        execute('stop', command='cat {here}/app >> {here}/log', action='nothing')
        file('{here}/app', content='new').notifies('run', 'execute[stop]', 'before')
    """)
    (site.folder / "app").write_text("old")

    first, second = site.converge(), site.converge()

    assert site.text("log") == "old"
    assert rows(first)[0][0] == "execute[stop]"
    assert states(second) == ["unchanged"]


def test_subscribing_is_notifying_seen_from_the_target(site):
    site.recipe("""
        execute('reload', command='echo x >> {here}/log', action='nothing').subscribes(
            'run', 'file[{here}/later]', 'immediately')
        file('{here}/later', content='x')
    """)

    report = site.converge()

    assert rows(report)[-1] == ("execute[reload]", "run", "changed")
    assert site.converge()["state"] == "ok"
    assert site.text("log") == "x\n"


def test_a_target_may_be_given_as_the_resource_itself(site):
    site.recipe("""
        greet = execute('greet', command='touch {here}/greeted', action='nothing')
        file('{here}/a', content='x').notifies('run', greet)
    """)

    site.converge()

    assert (site.folder / "greeted").exists()


def test_a_guard_of_the_target_counts_when_it_is_notified(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[x]', 'immediately')
        execute('x', command='touch {here}/b', action='nothing').only_if(lambda: False)
    """)

    assert rows(site.converge())[1] == ("execute[x]", "run", "skipped")


def test_a_circle_of_immediate_notifications_is_cut_and_named(site):
    site.recipe("""
        execute('a', command='echo a >> {here}/log').notifies('run', 'execute[b]', 'immediately')
        execute('b', command='echo b >> {here}/log', action='nothing').notifies(
            'run', 'execute[a]', 'immediately')
    """)

    report = site.converge()

    assert "run execute[a] → run execute[b] → run execute[a]" in report["error"]
    assert site.text("log") == "a\nb\n"


def test_the_event_of_a_notified_action_names_who_notified(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[x]')
        execute('x', command='true', action='nothing')
    """)

    site.converge()

    changed = [event for event in site.events if event["event"] == "resource changed"]
    assert [event.get("notified_by") for event in changed] == [None, f"file[{site.folder}/a]"]


# --- failures


def test_a_failure_ends_the_walk_and_delayed_notifications_are_still_made(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[restart]')
        execute('fails', command='echo reason >&2; exit 7')
        file('{here}/never', content='x')
        execute('restart', command='touch {here}/restarted', action='nothing')
    """)

    report = site.converge()

    assert report["state"] == "failed"
    assert "execute[fails]" in report["error"]
    assert "ended with exit code 7: reason" in report["error"]
    assert (site.folder / "restarted").exists()
    assert not (site.folder / "never").exists()


def test_delayed_notifications_after_a_failure_can_be_switched_off(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[restart]')
        execute('fails', command='false')
        execute('restart', command='touch {here}/restarted', action='nothing')
    """)

    site.converge(delayed_after_failure=False)

    assert not (site.folder / "restarted").exists()


def test_all_failures_of_a_run_are_named(site):
    site.recipe("""
        file('{here}/a', content='x').notifies('run', 'execute[b]').notifies('run', 'execute[c]')
        execute('a', command='exit 1')
        execute('b', command='exit 2', action='nothing')
        execute('c', command='exit 3', action='nothing')
    """)

    error = site.converge()["error"]

    assert [code for code in (1, 2, 3) if f"exit code {code}" in error] == [1, 2, 3]


def test_a_failure_that_is_to_be_ignored_is_reported_and_notifies_nobody(site):
    site.recipe("""
        execute('fails', command='false', ignore_failure=True).notifies('run', 'execute[x]')
        execute('x', command='touch {here}/x', action='nothing')
        file('{here}/after', content='x')
    """)

    report = site.converge()

    assert report["state"] == "ok"
    assert states(report) == ["failed", "changed"]


def test_a_failed_action_is_tried_again(site):
    site.recipe("""
        execute('flaky', command='echo x >> {here}/tries; test $(wc -l < {here}/tries) = 3',
                retries=5, retry_delay=0.01)
    """)

    report = site.converge()

    assert states(report) == ["changed"]
    assert site.text("tries") == "x\n" * 3
    assert len([each for each in site.events if each["event"] == "resource retried"]) == 2


def test_tries_come_to_an_end(site):
    site.recipe("""
        execute('broken', command='echo x >> {here}/tries; false', retries=2, retry_delay=0)
    """)

    assert site.converge()["state"] == "failed"
    assert site.text("tries") == "x\n" * 3


def test_secrets_of_a_sensitive_resource_are_shown_nowhere(site, caplog):
    site.recipe("""
        file('{here}/a', content='geheim', sensitive=True)
        execute('login', command='echo geheim; exit 1', sensitive=True, retries=1, retry_delay=0)
    """)

    report = site.converge()

    assert report["state"] == "failed"
    assert "geheim" not in f"{report} {site.events} {caplog.text}"
    assert site.text("a") == "geheim"


def test_a_command_that_does_not_answer_ends_with_the_wait_that_asks(site):
    site.recipe("""
        file('{here}/a', content='1').wait_until('sleep 30', timeout=0.3, on_timeout='skip')
        file('{here}/b', content='2').wait_until('sleep 0.05', timeout=0)
    """)
    began = time.monotonic()
    skipped, asked_once = site.converge()["resources"]
    assert time.monotonic() - began < 10
    assert skipped["state"] == "skipped"
    assert "gave up after" in skipped["error"]
    assert "`sleep 30` took longer than 1 s" in skipped["error"]
    assert asked_once["state"] == "changed"


def test_a_sensitive_resource_shows_its_questions_and_errors_nowhere(site, caplog):
    caplog.set_level(logging.DEBUG)
    site.recipe("""
        quiet = {'sensitive': True, 'ignore_failure': True}
        soon = {'timeout': 0.1, 'pause': 0.05}
        execute('a', command='echo secret-a; exit 1', **quiet)
        execute('b', command='true', **quiet).only_if('test secret-b')
        execute('c', command='true', **quiet).wait_while('test secret-c', **soon)
        execute('d', command='true', **quiet).wait_while('test secret-d', on_timeout='skip', **soon)
        execute('e', command='true', **quiet).wait_while(
            'test secret-e', on_timeout='go_on', **soon
        )
    """)
    report = site.converge()
    assert states(report) == ["failed", "changed", "failed", "skipped", "changed"]
    assert "secret-" not in repr((report, site.events))
    assert "secret-" not in caplog.text


def test_a_text_difference_is_told_with_the_change(site):
    site.recipe("file('{here}/a', content='one\\nthree\\n')")
    (site.folder / "a").write_text("one\ntwo\n")

    site.converge()

    (changed,) = [each for each in site.events if each["event"] == "resource changed"]
    assert "-two\n+three" in changed["diffs"][0]


# --- lazy values


def test_a_lazy_value_that_does_not_fit_is_said_with_one_place(site):
    place = site.recipe("file('{here}/a', content=lazy(lambda: 5))")

    problem = "content must be str or bytes or None, not 5"
    assert site.converge()["error"] == f"file[{site.folder}/a] ({place}:2): {problem}"


def test_lazy_values_are_worked_out_when_the_resource_is_converged(site):
    site.recipe("""
        from pathlib import Path
        execute('version', command='echo 1.4 > {here}/version')
        file('{here}/a', content=lazy(lambda: Path('{here}/version').read_text()))
    """)

    site.converge()

    assert site.text("a") == "1.4\n"


# --- waits


def test_waits_come_before_guards_and_both_kinds_wait(site):
    site.recipe("""
        asked = []
        def ask(answer):
            asked.append(answer)
            return len(asked) % 3 == 0
        execute('a', command='true').wait_until(lambda: ask('until'), pause=0.01).wait_while(
            lambda: not ask('while'), pause=0.01).only_if(
            lambda: asked == ['until'] * 3 + ['while'] * 3)
    """)

    assert states(site.converge()) == ["changed"]


@pytest.mark.parametrize(
    ("on_timeout", "state"), [("fail", "failed"), ("skip", "skipped"), ("go_on", "changed")]
)
def test_a_wait_ends_with_its_time_as_it_is_asked_to(site, on_timeout, state):
    site.recipe(f"""
        execute('a', command='true').wait_until(
            lambda: 'no answer'[9:], pause=0.01, timeout=0.05, on_timeout={on_timeout!r})
    """)

    report = site.converge()

    assert states(report) == [state]
    if on_timeout != "go_on":
        assert "the last answer was ''" in report["resources"][0]["error"]
        assert "wait_until <lambda> (" in report["resources"][0]["error"]


@pytest.mark.parametrize("kind", ["wait_until", "wait_while"])
def test_not_knowing_keeps_both_kinds_waiting(site, kind):
    errors = [NodeUnreachable("no way to bender1"), RegistryUnavailable("embedded:x", "gone")]
    answers = [*errors, kind == "wait_until"]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    site.recipe(f"from flock.recipe import ask\nlog('a').{kind}(ask, pause=0.01)")

    assert states(site.converge(words={"ask": ask})) == ["unchanged"]
    waits = [each["last"] for each in site.events if each["event"] == "resource waiting"]
    assert waits == [str(error) for error in errors]


@pytest.mark.parametrize("other", [False, True])
def test_a_wait_ends_when_its_question_was_refused_twice_as_part_of_the_same_circle(site, other):
    asked: list[int] = []

    def ask():
        asked.append(len(asked))
        # Calls that happened to cross once are no circle that stays.
        if other and len(asked) == 2:
            raise DeadlockError("another circle", ["bender0/x", "bender2/y"])
        raise DeadlockError("a circle of runs", ["bender0/run 1", "bender1/run 2"])

    site.recipe("from flock.recipe import ask\nlog('a').wait_until(ask, pause=0.01)")

    error = site.converge(words={"ask": ask})["resources"][0]["error"]

    assert "a circle of runs" in error
    assert "gave up after" in error
    assert len(asked) == (4 if other else 2)


class Lookout:
    """Watches what it is told to, until the test says that it changed."""

    def __init__(self):
        self.watched: dict[Reading, Any] = {}
        self.refused: set[Reading] = set()
        self.ended: list[Reading] = []

    def watch(self, reading, changed):
        if reading in self.refused:
            self.refused.remove(reading)
            raise RegistryUnavailable("embedded:x", "gone")
        if reading.what != "document":
            return None
        self.watched[reading] = changed
        return lambda: self.ended.append(reading)


def reading_words(names, answers, asked):
    def ask():
        asked.append(len(asked))
        for name in names():
            note("document", name)
        note("actor", "bender1/x")
        return bool(answers)

    return {"ask": ask}


def test_what_a_question_read_is_watched_while_it_waits_and_asked_once_more_after_that(site):
    lookout = Lookout()
    answers: list[str] = []
    asked: list[int] = []
    site.recipe("from flock.recipe import ask\nlog('a').wait_until(ask, pause=60)")
    kitchen = site.kitchen(words=reading_words(lambda: ["a", "b"], answers, asked), lookout=lookout)
    run = kitchen.order_run("x")
    # Once to learn what it reads, once since that may have changed before it was watched.
    assert eventually(lambda: len(asked), within=300, becomes=2) == 2

    answers.append("yes")
    lookout.watched[Reading("document", "b")]()

    assert run.wait(30)["state"] == "ok"
    assert len(asked) == 3
    assert sorted(lookout.ended) == [Reading("document", "a"), Reading("document", "b")]


def test_what_cannot_be_watched_now_is_watched_later(site):
    lookout = Lookout()
    answers: list[str] = []
    asked: list[int] = []
    lookout.refused.add(Reading("document", "a"))
    site.recipe("from flock.recipe import ask\nlog('a').wait_until(ask, pause=0.05)")
    kitchen = site.kitchen(words=reading_words(lambda: ["a"], answers, asked), lookout=lookout)
    run = kitchen.order_run("x")

    assert eventually(lambda: lookout.watched, within=300)
    answers.append("yes")

    assert run.wait(30)["state"] == "ok"


def test_who_reads_very_much_is_asked_after_its_pause_alone(site):
    lookout = Lookout()
    answers: list[str] = []
    asked: list[int] = []
    site.recipe("from flock.recipe import ask\nlog('a').wait_until(ask, pause=0.05)")
    names = [str(number) for number in range(101)]
    kitchen = site.kitchen(words=reading_words(lambda: names, answers, asked), lookout=lookout)
    run = kitchen.order_run("x")

    assert eventually(lambda: len(asked) > 3, within=300)
    answers.append("yes")

    assert run.wait(30)["state"] == "ok"
    assert lookout.watched == {}


def test_any_other_exception_of_a_question_fails_the_resource(site):
    site.recipe("log('a').wait_while(lambda: 1 / 0, pause=0.01)")

    assert "ZeroDivisionError" in site.converge()["resources"][0]["error"]


def test_what_is_waited_for_is_shown_while_it_goes_on(site):
    site.recipe("""
        import os
        log('a').wait_until(lambda: os.path.exists('{here}/go'), pause=0.02)
    """)
    kitchen = site.kitchen()

    run = kitchen.order_run("the test")
    waiting = eventually(
        lambda: kitchen.status()["waiting"], within=30, until=lambda seen: seen and seen["last"]
    )

    assert waiting["resource"] == "log[a]"
    assert waiting["last"] == "False"
    assert kitchen.status()["resource"] == "log[a]"
    (site.folder / "go").touch()
    assert run.wait(30)["state"] == "ok"
    assert kitchen.status()["waiting"] is None


def test_a_wait_ends_when_the_run_is_cancelled(site):
    site.recipe("log('a').wait_until(lambda: False, pause=60)\nlog('b')")
    kitchen = site.kitchen()
    run = kitchen.order_run("the test")
    eventually(lambda: kitchen.status()["waiting"], within=30)

    threading.Thread(target=run.cancel).start()
    report = run.wait(30)

    assert report["state"] == "cancelled"
    assert states(report) == ["failed"]
    assert not kitchen.active()
