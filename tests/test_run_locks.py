"""Runs under locks: what is skipped, what waits, what is done before a lock is given back."""

from __future__ import annotations

import pytest

from flock.errors import LockTimeout, RegistryUnavailable
from registry.contract import Holder, LockState
from tests.kitchens import rows, states


class Lock:
    """A stand-in for a lock of a registry; the test sets what is known of it."""

    def __init__(self, smith, lockid):
        self.smith, self.lockid, self.token = smith, lockid, 17
        self.known = [LockState.HELD]

    def state(self):
        return self.known.pop(0) if len(self.known) > 1 else self.known[0]

    def release(self):
        self.smith.told.append(f"release {self.lockid}")

    def abandon(self):
        self.smith.told.append(f"keep {self.lockid}")


class Locksmith:
    """Gives each lock but those that somebody else has."""

    def __init__(self):
        self.told: list[str] = []
        self.taken: dict[str, Exception] = {}
        self.locks: dict[str, Lock] = {}

    def acquire(self, wish, run_id, cancelled):
        self.told.append(f"ask {wish.lockid}")
        if wish.lockid in self.taken:
            raise self.taken[wish.lockid]
        lock = self.locks[wish.lockid] = Lock(self, wish.lockid)
        return lock


@pytest.fixture
def smith():
    return Locksmith()


def somebodys(lockid):
    holder = Holder("bender7", "host7", "r7", "2026-01-31T12:00:00Z", 0, 5, "")
    return LockTimeout(lockid, 0.1, [holder])


GUARDED = """
    from flock.recipe import clocker, held
    clocker('deploy', lockwait=0)
    file('{here}/a', content='x').only_if(held('deploy')).notifies('run', 'execute[restart]')
    execute('restart', command='echo restart >> {here}/log', action='nothing')
    clocker('done', lockid='deploy', action='clockoff')
    execute('after', command='echo after >> {here}/log')
"""


def test_what_a_held_lock_guards_is_done_and_its_notifications_before_it_is_released(site, smith):
    site.recipe(GUARDED)

    report = site.converge(locksmith=smith)

    assert report["state"] == "ok"
    assert site.text("log").split() == ["restart", "after"]
    assert smith.told == ["ask deploy", "release deploy"]
    (row,) = report["locks"]
    assert (row["lockid"], row["state"], row["token"]) == ("deploy", "released", 17)


def test_a_lock_that_was_not_had_skips_what_it_guards_and_the_run_goes_on(site, smith):
    site.recipe(GUARDED)
    smith.taken["deploy"] = somebodys("deploy")

    report = site.converge(locksmith=smith)

    assert report["state"] == "ok"
    assert states(report) == ["unchanged", "skipped", "unchanged", "changed"]
    assert report["locks"][0]["state"] == "not held"
    assert report["locks"][0]["holder"]["owner"] == "bender7"
    assert "only_if held('deploy')" in report["resources"][1]["error"]
    assert not (site.folder / "a").exists()


def test_a_registry_that_cannot_be_asked_grants_nothing(site, smith):
    site.recipe(GUARDED)
    smith.taken["deploy"] = RegistryUnavailable("zookeeper://x", "gone")

    assert site.converge(locksmith=smith)["locks"][0]["state"] == "not held"
    assert site.converge()["locks"][0]["state"] == "not held"


def test_a_lock_that_is_not_given_back_goes_at_the_end_after_delayed_notifications(site, smith):
    site.recipe("""
        from flock.recipe import clocker, lookup
        clocker('deploy')
        file('{here}/a', content='x').notifies('run', 'execute[late]')
        execute('late', command='true', action='nothing').only_if(lookup)
    """)

    def lookup():
        assert smith.told == ["ask deploy"]
        return True

    assert site.converge(locksmith=smith, words={"lookup": lookup})["state"] == "ok"
    assert smith.told == ["ask deploy", "release deploy"]


def test_a_failed_run_gives_its_locks_back_or_keeps_what_is_to_be_kept(site, smith):
    site.recipe("""
        from flock.recipe import clocker
        clocker('one')
        clocker('two', keep_on_failure=True)
        execute('false')
    """)

    site.converge(locksmith=smith)

    assert smith.told == ["ask one", "ask two", "release one", "keep two"]


def test_a_lock_in_doubt_makes_the_run_wait_and_go_on_when_it_is_confirmed(site, smith):
    site.recipe("""
        from flock.recipe import clocker, doubt
        clocker('deploy')
        log('x').only_if(doubt)
        file('{here}/a', content='x')
    """)

    def doubt():
        smith.locks["deploy"].known[:] = [LockState.DOUBTFUL, LockState.DOUBTFUL, LockState.HELD]
        return True

    assert site.converge(locksmith=smith, words={"doubt": doubt})["state"] == "ok"
    assert "lock in doubt" in {each["event"] for each in site.events}
    assert (site.folder / "a").exists()


LOSING = """
    from flock.recipe import clocker, held, lose
    clocker('deploy')
    file('{here}/a', content='x').only_if(held('deploy')).notifies('run', 'execute[restart]')
    file('{here}/other', content='x').notifies('run', 'execute[reload]')
    execute('work', command='true', ignore_failure=True).only_if(lose)
    file('{here}/never', content='x', ignore_failure=True)
    execute('restart', command='echo restart >> {here}/log', action='nothing')
    execute('reload', command='echo reload >> {here}/log', action='nothing')
"""


def test_a_lost_lock_fails_the_run_and_leaves_what_it_protected_to_one_that_holds_it(site, smith):
    site.recipe(LOSING)

    def lose():
        smith.locks["deploy"].known[:] = [LockState.LOST]
        return True

    report = site.converge(locksmith=smith, words={"lose": lose})

    assert report["state"] == "failed"
    assert "lock 'deploy' was lost while this was done: run execute[work]" in report["error"]
    assert report["locks"][0]["state"] == "lost"
    assert not (site.folder / "never").exists()
    assert site.text("log") == "reload\n"

    words = {"lose": lambda: False}
    smith.taken["deploy"] = somebodys("deploy")
    assert site.converge(locksmith=smith, words=words)["state"] == "ok"
    assert site.text("log") == "reload\n"

    smith.taken.clear()
    report = site.converge(locksmith=smith, words=words)
    assert rows(report)[-1] == ("execute[restart]", "run", "changed")
    site.converge(locksmith=smith, words=words)
    assert site.text("log") == "reload\nrestart\n"


def test_a_lock_lost_before_an_immediate_notification_leaves_that_too(site, smith):
    site.recipe("""
        from flock.recipe import clocker, held, content
        clocker('deploy')
        file('{here}/a', content=lazy(content)).only_if(held('deploy')).notifies(
            'run', 'execute[restart]', 'immediately')
        execute('restart', command='echo restart >> {here}/log', action='nothing')
    """)

    def lose():
        smith.locks["deploy"].known[:] = [LockState.LOST]
        return "x"

    report = site.converge(locksmith=smith, words={"content": lose})

    assert "was lost" in report["error"]
    assert (site.folder / "a").exists()
    assert not (site.folder / "log").exists()
    site.converge(locksmith=smith, words={"content": lambda: "x"})
    assert site.text("log") == "restart\n"


UNDER = """
    file('{here}/a', content='x').under_lock('deploy', wait=0).notifies(
        'run', 'execute[b]', 'before')
    execute('b', command='echo before >> {here}/log', action='nothing')
"""


def test_a_resource_under_a_lock_asks_for_it_only_if_something_is_to_change(site, smith):
    site.recipe(UNDER)

    assert states(site.converge(locksmith=smith)) == ["changed", "changed"]
    assert smith.told == ["ask deploy", "release deploy"]
    report = site.converge(locksmith=smith)

    assert states(report) == ["unchanged"]
    assert smith.told == ["ask deploy", "release deploy"]
    assert report["locks"] == []


def test_a_resource_whose_lock_is_not_had_is_skipped_and_names_who_has_it(site, smith):
    site.recipe(UNDER)
    smith.taken["deploy"] = somebodys("deploy")

    report = site.converge(locksmith=smith)

    assert report["state"] == "ok"
    assert states(report) == ["skipped"]
    assert report["resources"][0]["error"] == (
        "lock 'deploy' not held: bender7 has it since 2026-01-31T12:00:00Z"
    )
    assert not (site.folder / "a").exists()
    assert not (site.folder / "log").exists()


def test_a_why_run_asks_for_no_lock_and_shows_what_would_be_done(site, smith):
    site.recipe(
        GUARDED + UNDER.replace("{here}/a", "{here}/u").replace("execute('b'", "execute('b'")
    )

    report = site.converge(locksmith=smith, why_run=True)

    assert report["state"] == "ok"
    assert smith.told == []
    assert {row["state"] for row in report["resources"] if row["changes"]} == {"changed"}


def test_a_wrong_lock_is_an_error_with_its_place(site):
    path = site.recipe("file('/x').under_lock('', wait=1)")

    assert site.converge()["error"] == f"{path}:2: file[/x]: a lock needs a name"


def test_held_outside_a_run_is_no(site, caplog):
    from flock.recipe import held

    assert held("deploy")() is False
    assert "no run is going on here" in caplog.text
