"""`flockctl lock`, `locks` and `unlock`, runs under locks, and the `locker` actor."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flock import Flock
from flock.converge.locks import LockWish
from flock.errors import LockLost, LockTimeout, StaleToken
from flock.locksmith import RegistryLocksmith
from flock.node_objects import Home, NodeObjects
from flock.settings import Settings
from registry.contract import LockOwner
from tests.flockctl import Flockctl, flockctl_on
from tests.kitchens import is_running
from tests.support import eventually
from tests.system.registry_process import new_registry


def rows(flockctl: Flockctl) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = flockctl("locks", "--json").value
    return found


# --- flockctl lock ------------------------------------------------------------------


def test_a_command_runs_under_its_lock_and_ends_it_with_its_own_code(flockctl):
    script = "test $FLOCK_LOCK_TOKEN -gt 0 && echo said && exit 7"
    done = flockctl("lock", "web", "--", "sh", "-c", script)
    assert (done.code, done.out) == (7, "said\n"), done.err
    assert rows(flockctl) == []


def test_who_holds_and_who_waits_is_listed(flockctl):
    holder = flockctl.start("lock", "web", "--reason", "restart", "--", "sleep", "60")
    assert eventually(lambda: rows(flockctl), within=30.0, pause=0.2)
    flockctl.start("lock", "web", "--", "true")
    (waiter,) = eventually(lambda: rows(flockctl)[0]["waiting"], within=30.0, pause=0.2)
    assert sorted(waiter) == ["host", "owner", "reason", "run_id", "since"]
    (row,) = rows(flockctl)
    assert list(row) == ["lockid", "slots", "holders", "holder", "waiting"]
    assert row["holder"] == row["holders"][0]
    assert (row["lockid"], row["slots"], row["holder"]["reason"]) == ("web", 1, "restart")
    people = flockctl("locks")
    assert "restart" in people.out
    assert holder.end(signal.SIGTERM).code == 128 + signal.SIGTERM


def test_a_watch_of_locks_shows_each_change_and_outlives_an_outage(own_zookeeper, tmp_path):
    with flockctl_on(own_zookeeper.url(), tmp_path) as flockctl:
        watching = flockctl.start("locks", "--watch")
        assert watching.says("no locks in ")
        registry = new_registry(flockctl.url)
        registry.open()
        lock = registry.acquire("web", LockOwner("leela", "here"), wait=5)
        assert watching.process.stdout is not None
        assert any("leela" in shown for shown in watching.process.stdout)
        own_zookeeper.servers[0].kill()
        assert watching.says("may have changed")
        own_zookeeper.start()
        assert watching.says("answers again")
        lock.release()
        registry.close()
        # At the beginning, and now.
        assert eventually(lambda: watching.err.count("no locks in "), within=30.0, becomes=2) == 2
        assert watching.end(signal.SIGINT).code == 130


def test_a_lock_that_is_not_had_in_time_ends_with_124_and_says_who_has_it(flockctl):
    flockctl.start("lock", "web", "--", "sleep", "60")
    assert eventually(lambda: rows(flockctl), within=30.0, pause=0.2)
    done = flockctl("lock", "web", "--wait", "0.2", "--", "echo", "ran")
    assert (done.code, done.out) == (124, "")
    assert "held by" in done.err


@pytest.mark.parametrize(("command", "code"), [("/nowhere/to/be/found", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run_ends_as_in_a_shell(alone, command, code):
    done = alone("lock", "web", "--", command)
    assert done.code == code
    assert command in done.err
    assert rows(alone) == []


def test_a_signal_that_ends_the_command_counts_as_in_a_shell(alone):
    assert alone("lock", "web", "--", "sh", "-c", "kill -9 $$").code == 137


def test_without_a_registry_it_ends_with_125_and_runs_nothing(tmp_path):
    with flockctl_on("zookeeper://127.0.0.1:1/flock", tmp_path) as flockctl:
        done = flockctl("lock", "web", "--", "echo", "ran")
    assert (done.code, done.out) == (125, "")


def test_a_command_whose_lock_is_taken_away_is_ended_with_its_group(flockctl, tmp_path):
    pids = tmp_path / "pids"
    # Neither listens to SIGTERM.
    script = f"trap '' TERM; (trap '' TERM; sleep 60) & echo $! $$ > {pids}; wait; sleep 60"
    running = flockctl.start("lock", "web", "--", "sh", "-c", script)
    (child, shell) = eventually(lambda: pids.exists() and pids.read_text().split(), within=30.0)
    began = time.monotonic()
    done = flockctl("unlock", "web", "--reason", "it hangs")
    assert done.code == 0, done.err
    assert running.ended(40.0).code == 125
    assert time.monotonic() - began >= 5.0, "SIGTERM first, SIGKILL after 5 s"
    # The kernel ends them one by one.
    still = lambda: [pid for pid in (int(child), int(shell)) if is_running(pid)]  # noqa: E731
    assert eventually(still, within=5.0, becomes=[]) == []


def test_what_runs_under_a_lock_dies_with_who_holds_it(alone, tmp_path):
    pids = tmp_path / "pids"
    running = alone.start("lock", "web", "--", "sh", "-c", f"echo $$ > {pids}; sleep 60")
    (shell,) = eventually(lambda: pids.exists() and pids.read_text().split(), within=30.0)
    running.process.kill()
    assert eventually(lambda: is_running(int(shell)), within=5.0, becomes=False) is False


NEVER_WATCHING = """
import contextlib, sys, time
from flock.cli import main
from flock.ctl import lock_command

@contextlib.contextmanager
def watching(self, child):
    print(child.pid, flush=True)
    time.sleep(60)
    yield

lock_command.Reaper.watching = watching
main(sys.argv[1:])
"""


def test_a_command_does_not_begin_before_its_end_with_ours_is_certain(alone, tmp_path):
    effect = tmp_path / "effect"
    words = ["lock", "web", "--registry", alone.url, "--", "sh", "-c", f"echo ran > {effect}"]
    with subprocess.Popen(
        [sys.executable, "-c", NEVER_WATCHING, *words], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
    assert eventually(lambda: is_running(child), within=5.0, becomes=False) is False
    assert not effect.exists()


def test_a_command_under_a_lock_reads_what_it_is_given(alone):
    done = subprocess.run(
        [sys.executable, "-m", "flock", "lock", "web", "--registry", alone.url, "--", "cat"],
        check=True,
        input="first line\nsecond",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == "first line\nsecond"


@pytest.mark.parametrize("words", [("",), ("x", "--timeout", "0"), ("x", "--wait", "soon")])
def test_wrong_use_of_a_lock_is_that_and_runs_nothing(alone, words):
    done = alone("lock", *words, "--", "touch", str(alone.folder / "ran"))

    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert not (alone.folder / "ran").exists()


def test_who_has_the_lock_is_said_while_it_is_waited_for(flockctl):
    holder = flockctl.start("lock", "web", "--", "sleep", "60")
    assert eventually(lambda: flockctl("locks", "--json").value, within=20.0)
    waiter = flockctl.start("lock", "web", "--wait", "50", "--", "echo", "had")

    assert waiter.says("flockctl: lock 'web' is held by ")
    assert "waiting for up to 50 s" in waiter.err
    holder.end(signal.SIGTERM)
    assert (waiter.ended().code, len(waiter.err.splitlines())) == (0, 1)


def test_breaking_what_nobody_holds_says_so(alone):
    done = alone("unlock", "web", "--reason", "why not")
    assert done.code == 3
    assert "nobody holds lock 'web'" in done.err
    assert alone("unlock", "web").code == 2


def test_breaking_another_token_than_the_holders_says_which_and_breaks_nothing(alone):
    other = f"{sys.executable} -m flock unlock web --reason why --token 1000"
    done = alone("lock", "web", "--", "sh", "-c", f"{other}; exit 9")

    assert done.code == 9
    assert "nobody holds lock 'web' with token 1000" in done.err


# --- runs under locks ---------------------------------------------------------------


def test_a_run_under_a_lock_waits_for_it_and_gives_it_back(flockctl):
    flockctl.recipe("default", "file('{here}/ran', content='x')")
    flockctl.node("bender0", "--run-list", "recipe[cb]")
    other = new_registry(flockctl.url)
    other.open()
    lock = other.acquire("deploy", LockOwner("leela", "here"))
    running = flockctl.start("run", "bender0", "--lock", "deploy", "--json")
    assert eventually(lambda: rows(flockctl)[0]["waiting"], within=15.0, pause=0.2)
    assert not (flockctl.folder / "ran").exists()
    lock.release()
    other.close()
    done = running.ended()
    (row,) = done.value
    assert (done.code, row["state"]) == (0, "ok"), row
    (held,) = row["report"]["locks"]
    assert (held["lockid"], held["state"], held["holder"]) == ("deploy", "held", None)
    assert held["token"] > lock.token
    assert (flockctl.folder / "ran").exists()
    assert rows(flockctl) == []


def test_a_node_with_a_run_lock_makes_each_run_under_it(alone):
    alone.recipe("default", "log('hello')")
    alone.node("bender0", "--run-list", "recipe[cb]", "--run-lock", "deploy")
    (row,) = alone("run", "bender0", "--json").value
    assert [lock["lockid"] for lock in row["report"]["locks"]] == ["deploy"]


def test_a_recipe_goes_on_without_its_lock_and_says_who_has_it(flockctl):
    flockctl.recipe(
        "default",
        """
        from flock.recipe import clocker, held
        clocker('web', lockwait=0)
        file('{here}/guarded', content='x').only_if(held('web'))
        file('{here}/under', content='x').under_lock('web', wait=0)
        file('{here}/free', content='x')
        clocker('back', lockid='web', action='clockoff')
        """,
    )
    flockctl.node("bender0", "--run-list", "recipe[cb]")
    other = new_registry(flockctl.url)
    other.open()
    lock = other.acquire("web", LockOwner("leela", "here"))
    (row,) = flockctl("run", "bender0", "--json").value
    report = row["report"]
    assert report["state"] == "ok"
    assert [r["state"] for r in report["resources"]] == [
        "unchanged", "skipped", "skipped", "changed", "unchanged",
    ]  # fmt: skip
    assert "leela has it since" in report["resources"][2]["error"]
    (locked,) = report["locks"]
    assert (locked["state"], locked["holder"]["owner"]) == ("not held", "leela")
    lock.release()
    (row,) = flockctl("run", "bender0", "--json").value
    assert [r["state"] for r in row["report"]["resources"]] == [
        "unchanged", "changed", "changed", "unchanged", "unchanged",
    ]  # fmt: skip
    assert [each["state"] for each in row["report"]["locks"]] == ["released"]
    other.close()


def test_a_failed_run_keeps_its_slot_until_it_is_good_again(flockctl):
    flockctl.recipe(
        "default",
        """
        from flock.recipe import clocker
        clocker('web', keep_on_failure=True)
        execute('check', command='test -e {here}/good')
        """,
    )
    flockctl.node("bender0", "--run-list", "recipe[cb]")
    assert flockctl("run", "bender0").code == 1
    (row,) = rows(flockctl)
    first = row["holder"]
    assert (first["owner"], first["kept"]) == ("bender0", True)
    assert flockctl("lock", "web", "--wait", "0.3", "--", "true").code == 124
    (flockctl.folder / "good").touch()
    (row,) = flockctl("run", "bender0", "--json").value
    assert row["report"]["locks"][0]["token"] > first["token"]
    assert rows(flockctl) == []


def test_a_node_that_died_in_its_run_keeps_its_slot_and_comes_back_to_it(flockctl):
    flockctl.recipe(
        "default",
        """
        from flock.recipe import clocker
        clocker('web', keep_on_failure=True)
        execute('work', command='touch {here}/begun; test -e {here}/good || sleep 60')
        """,
    )
    soon = {"FLOCK_SESSION_TIMEOUT": "4"}
    node = flockctl.node("bender0", "--run-list", "recipe[cb]", **soon)
    flockctl.start("run", "bender0")
    assert eventually((flockctl.folder / "begun").exists, within=40.0)
    node.process.kill()
    kept = eventually(
        lambda: rows(flockctl)[0]["holder"],
        within=40.0,
        until=lambda holder: holder is not None and holder["kept"],
        pause=0.2,
    )
    assert (kept["owner"], kept["kept"]) == ("bender0", True)
    assert flockctl("lock", "web", "--wait", "0.3", "--", "true").code == 124
    (flockctl.folder / "good").touch()
    flockctl.node("bender0", "--run-list", "recipe[cb]", **soon)
    (row,) = flockctl("run", "bender0", "--json").value
    assert row["state"] == "ok", row
    assert row["report"]["locks"][0]["token"] > kept["token"]
    assert flockctl("lock", "web", "--wait", "0", "--", "true").code == 0


STEPS = """
    from flock.recipe import clocker
    clocker('web')
    for step in range(150):
        execute(f'step {step}', command=f'echo {step} >> "{here}/steps"; sleep 0.1')
    """


def test_a_run_waits_while_its_lock_is_in_doubt_and_goes_on_when_it_is_confirmed(
    own_zookeeper, tmp_path
):
    with flockctl_on(own_zookeeper.url(), tmp_path) as flockctl:
        flockctl.recipe("default", STEPS)
        node = flockctl.node("bender0", "--run-list", "recipe[cb]", FLOCK_SESSION_TIMEOUT="12")
        running = flockctl.start("run", "bender0", "--json")
        assert eventually((flockctl.folder / "steps").exists, within=40.0)
        own_zookeeper.servers[0].pause()
        assert node.says("lock 'web' is in doubt: the run waits")
        done = (flockctl.folder / "steps").read_text()
        own_zookeeper.servers[0].resume()
        assert node.process.poll() is None
        (row,) = running.ended(90.0).value
        assert row["state"] == "ok", row
        assert [lock["state"] for lock in row["report"]["locks"]] == ["held"]
        assert 0 < len(done.split()) < 150, "nothing had to wait"
        assert len((flockctl.folder / "steps").read_text().split()) == 150


def test_a_run_whose_lock_is_taken_away_stops_before_its_next_resource(flockctl):
    flockctl.recipe("default", STEPS)
    flockctl.node("bender0", "--run-list", "recipe[cb]")
    running = flockctl.start("run", "bender0", "--json")
    assert eventually((flockctl.folder / "steps").exists, within=40.0)
    assert flockctl("unlock", "web", "--reason", "it hangs").code == 0
    done = running.ended()
    (row,) = done.value
    assert (done.code, row["state"]) == (1, "failed"), row
    assert "lock 'web' was lost" in row["report"]["error"]
    assert [lock["state"] for lock in row["report"]["locks"]] == ["lost"]
    steps = len((flockctl.folder / "steps").read_text().split())
    assert steps < 150
    assert f"execute[step {steps - 1}]" in row["report"]["error"], "the possible overlap is named"


def test_a_part_of_the_machines_is_counted_when_the_lock_is_asked_for(registry_url):
    registry = new_registry(registry_url)
    registry.open()
    objects = NodeObjects(registry)
    smith = RegistryLocksmith("bender0", Settings(registry=registry_url), lambda: registry)
    wish = LockWish("web", wait=0, slots="10%", among="name:web*")
    granted = []
    for machines in (1, 29):
        for number in range(machines):
            objects.claim(f"web{machines}-{number}", Home("here", "id", "/state"), ["recipe[web]"])
        lock = smith.acquire(wish, "run", threading.Event())
        granted.append(registry.lock_status("web").slots)
        lock.release()
    smith.close()
    registry.close()
    assert granted == [1, 3], "at least one, and of thirty three"


def test_a_lock_may_live_in_another_ensemble_and_count_a_part_of_the_machines(
    alone, zookeeper_hosts
):
    lockid = f"web-{secrets.token_hex(4)}"
    alone.recipe(
        "default",
        f"""
        from flock.recipe import clocker
        clocker('there', lockid='{lockid}', zookeeper='{zookeeper_hosts}', lockwait=0)
        clocker('part', slots='10%', among='recipes:cb*', lockwait=0)
        """,
    )
    alone.node("bender0", "--run-list", "recipe[cb]")
    other = new_registry(f"zookeeper://{zookeeper_hosts}")
    other.open()
    lock = other.acquire(lockid, LockOwner("leela", "here"))
    (row,) = alone("run", "bender0", "--json").value
    there, part = row["report"]["locks"]
    assert (there["state"], there["holder"]["owner"]) == ("not held", "leela")
    assert part["state"] == "held"
    lock.release()
    (row,) = alone("run", "bender0", "--json").value
    assert row["report"]["locks"][0]["state"] == "held"
    other.close()


# --- in Python ----------------------------------------------------------------------


@pytest.fixture
def fleet(registry_url: str, tmp_path: Path) -> Iterator[Flock]:
    with Flock(name="bender0", registry=registry_url, state_dir=tmp_path / "bender0") as fleet:
        yield fleet


@pytest.fixture
def visitor(fleet: Flock, registry_url: str) -> Iterator[Flock]:
    with Flock(registry=registry_url) as visitor:
        yield visitor


def test_the_locker_takes_and_gives_back_and_knows_who_has_what(visitor):
    locker = visitor["bender0"]["locker"]
    taken = locker.acquire("web", wait=5, reason="restart")
    assert locker.held("web")
    holder = locker.holder("web")
    assert (holder["owner"], holder["token"]) == ("bender0", taken["token"])
    assert holder["reason"].startswith("restart (for ")
    waiting = locker.acquire.future("web", wait=30)
    (waiter,) = eventually(lambda: locker.waiting("web"), within=10.0)
    assert waiter["owner"] == "bender0"
    assert locker.release("web", taken["token"])
    assert waiting.get(timeout=20)["token"] > taken["token"]
    with pytest.raises(LockTimeout):
        locker.acquire("web", wait=0)
    assert locker.release("web")
    assert not locker.release("web")
    assert locker.holder("web") is None


def test_a_lock_that_is_broken_is_told_to_its_holder_who_keeps_the_reason(visitor):
    locker = visitor["bender0"]["locker"]
    taken = locker.acquire("web", wait=5)
    (broken,) = locker.break_lock("web", "it hangs")
    assert broken["token"] == taken["token"]
    assert eventually(lambda: locker.held("web"), within=10.0, becomes=False) is False
    (entry,) = eventually(locker.broken, within=10.0)
    assert (entry["lockid"], entry["token"], entry["reason"]) == ("web", taken["token"], "it hangs")


def test_a_call_under_an_older_token_is_refused(visitor):
    with visitor.lock("web") as old:
        under_old = visitor["bender0"]["info"].options(under=old)
        assert under_old.uptime() > 0
    with visitor.lock("web") as new:
        assert new.token > old.token
        assert under_old.uptime() > 0, "nobody has seen the newer one there"
        assert visitor["bender0"]["info"].options(under=new).uptime() > 0
        with pytest.raises(StaleToken, match="older than"):
            under_old.uptime()
        with pytest.raises(LockLost):
            visitor["bender0"]["info"].options(under=old)


def test_a_lock_that_was_lost_inside_is_told_at_the_end(visitor):
    def work() -> None:
        with visitor.lock("web") as lock:
            visitor["bender0"]["locker"].break_lock("web", "it hangs")
            assert eventually(lambda: lock.held, within=10.0, becomes=False) is False

    with pytest.raises(LockLost, match="lost while it was in use"):
        work()
