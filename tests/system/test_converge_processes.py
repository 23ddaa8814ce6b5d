"""Runs and what becomes of them when their process is killed: real processes, real signals."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.kitchens import is_running
from tests.support import eventually

WITHIN = 40.0
"""Seconds for the start of a process, or what takes one, on a busy machine."""


@pytest.fixture
def process(tmp_path):
    """Begin converging processes; what is left of them is killed at the end."""
    begun = []

    def begin(deed, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.kitchen_process", str(tmp_path), deed],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        begun.append(process)
        return process

    yield begin
    for each in begun:
        each.kill()
        each.communicate()


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def with_mark(mark):
    """Return the pids of processes that have this word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes() and is_running(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def test_a_killed_process_takes_its_commands_with_it_and_its_run_has_failed(site, process):
    site.recipe("""
        execute('long', command='sleep 61 & echo $! > {here}/new; mv {here}/new {here}/child; wait')
    """)
    victim = process("converge")
    assert eventually((site.folder / "child").exists, within=WITHIN)
    child = int(site.text("child"))
    kitchen = site.kitchen()
    (running,) = kitchen.runs()
    assert running["state"] == "running"

    killed(victim)

    assert eventually(lambda: is_running(child), within=2, becomes=False) is False
    site.recipe("log('x')")
    assert kitchen.converge("the test")["state"] == "ok"
    dead = kitchen.run(running["run_id"])
    assert (dead["state"], dead["error"]) == ("failed", "process died")


def test_a_command_that_ignores_signals_and_has_its_own_children_dies_too(site, process):
    site.recipe("""
        execute('stubborn', cwd='{here}', command='''
            trap "" TERM HUP INT
            (sleep 61 & echo $! > new; mv new child; wait) &
            wait
        ''')
    """)
    victim = process("converge")
    assert eventually((site.folder / "child").exists, within=WITHIN)

    killed(victim)

    assert eventually(lambda: is_running(int(site.text("child"))), within=2, becomes=False) is False


def test_no_command_outlives_its_process_whenever_that_is_killed(site, process):
    mark = f"flock-mark-{os.getpid()}-{random.randrange(10**9)}"
    reached = site.folder / "reached"
    site.recipe(f"""
        file('{reached}', content='x')
        for n in range(500):
            execute(f'a{{n}}', command='sleep 61; : {mark}', timeout=0.005, ignore_failure=True)
    """)
    dice = random.Random(7)

    for _ in range(12):
        victim = process("forever")
        assert eventually(reached.exists, within=WITHIN)
        time.sleep(dice.uniform(0, 0.05))  # the moment is what is tried out
        killed(victim)
        assert eventually(lambda: with_mark(mark), within=2, becomes=[]) == []
        reached.unlink()


def test_what_a_run_left_behind_holds_no_run_lock(site, process):
    site.recipe("""
        execute('start a daemon', command='sleep 61 & echo $! > {here}/daemon')
        execute('wait', command='touch {here}/reached; sleep 61')
    """)
    victim = process("converge")
    assert eventually((site.folder / "reached").exists, within=WITHIN)
    daemon = psutil.Process(int(site.text("daemon")))

    killed(victim)

    assert daemon.is_running()
    site.recipe("log('x')")
    assert site.kitchen().converge("the test")["state"] == "ok"
    daemon.kill()


def test_a_second_process_is_refused_and_told_who_converges(site, process):
    site.recipe("execute('long', command='touch {here}/reached; sleep 61')")
    first = process("converge")
    assert eventually((site.folder / "reached").exists, within=WITHIN)

    second = process("converge")
    said = json.loads(second.communicate(timeout=WITHIN)[0])

    assert second.returncode == 6
    assert said["error"].startswith(f"BusyError: bender0 is busy: process {first.pid} since ")


def test_a_node_waits_for_the_other_process_and_then_runs(site, process):
    site.recipe("execute('long', command='touch {here}/reached; sleep 61')")
    first = process("converge")
    assert eventually((site.folder / "reached").exists, within=WITHIN)
    kitchen = site.kitchen()
    site.recipe("log('mine')")

    run = kitchen.order_run("the test")
    told = eventually(
        lambda: [each for each in site.events if each["event"] == "run waiting"], within=WITHIN
    )
    assert f"process {first.pid}" in told[0]["holder"]
    killed(first)

    assert run.wait(WITHIN)["resources"][0]["resource"] == "log[mine]"


def test_interrupting_a_converge_cancels_its_run_and_settles_it(site, process):
    site.recipe(
        "execute('long', command='echo $$ > {here}/new; mv {here}/new {here}/child; sleep 61')"
    )
    first = process("converge", stderr=subprocess.PIPE)
    assert eventually((site.folder / "child").exists, within=WITHIN)

    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=WITHIN)

    assert "KeyboardInterrupt" in errors
    assert eventually(lambda: is_running(int(site.text("child"))), within=2, becomes=False) is False
    kitchen = site.kitchen()
    assert kitchen.last_run()["state"] == "cancelled"
    assert kitchen.last_run()["error"] == "interrupted"


def test_a_file_is_whole_whenever_its_writer_is_killed(site, process):
    path = site.folder / "file"
    dice = random.Random(11)

    def inode():
        return path.stat().st_ino if path.exists() else 0

    for _ in range(8):
        writer = process("rewrite")
        before = inode()
        another = functools.partial(operator.ne, before)
        assert eventually(inode, within=WITHIN, until=another) != before
        time.sleep(dice.uniform(0, 0.02))  # the moment is what is tried out
        killed(writer)
        content = path.read_text()
        assert len(content) == 100_000
        assert len(set(content)) == 1


CRASHING = """
    import os, signal
    from dataclasses import dataclass
    from pathlib import Path
    from flock.converge.provider import Change
    from flock.converge.resource import Resource

    @dataclass
    class Crashing(Resource):
        kind = 'crashing'
        actions = ('make',)
        where_to_die: str = ''

        def make(self, machine):
            path = Path(self.name)
            if not path.exists():
                yield Change(f'make {path}', self._apply)

        def _apply(self):
            self._die('before')
            Path(self.name).touch()
            self._die('after')

        def _die(self, place):
            if self.where_to_die == place and not os.path.exists(self.name + '.died'):
                Path(self.name + '.died').touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("timing", ["delayed", "immediately"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_notification_whose_process_died_at_its_change_is_made_exactly_once(
    site, process, place, timing
):
    site.write("cookbooks/cb/libraries/crashing.py", CRASHING)
    site.recipe(f"""
        from flock.recipe import crashing
        crashing('{{here}}/made', where_to_die={place!r}).notifies('run', 'execute[x]', {timing!r})
        execute('x', command='echo x >> {{here}}/log', action='nothing')
    """)

    assert process("converge").wait(WITHIN) == -signal.SIGKILL
    assert (site.folder / "made").exists() is (place == "after")
    assert not (site.folder / "log").exists()
    for _ in range(2):
        assert site.converge()["state"] == "ok"

    assert site.text("log") == "x\n"


def test_a_notification_whose_process_died_after_the_change_is_made_exactly_once(site, process):
    site.recipe("""
        import os
        file('{here}/config', content='new').notifies('run', 'execute[restart]')
        execute('die', command='kill -9 $PPID').not_if(lambda: os.path.exists('{here}/died'))
        execute('restart', command='echo x >> {here}/log', action='nothing')
    """)

    assert process("converge").wait(WITHIN) == -signal.SIGKILL
    (site.folder / "died").touch()
    for _ in range(2):
        assert site.converge()["state"] == "ok"

    assert site.text("log") == "x\n"


def test_a_command_that_died_with_its_process_notifies_and_is_marked(site, process):
    site.recipe("""
        import os
        execute('die', command='touch {here}/died; kill -9 $PPID').notifies(
            'run', 'execute[x]').not_if(lambda: os.path.exists('{here}/died'))
        execute('x', command='echo x >> {here}/log', action='nothing')
    """)

    assert process("converge").wait(WITHIN) == -signal.SIGKILL
    for _ in range(2):
        assert site.converge()["state"] == "ok"

    assert site.text("log") == "x\n"
    (taken,) = [each for each in site.events if each["event"] == "notification taken up"]
    assert taken["maybe_unchanged"] is True


def test_a_forked_child_holds_neither_the_run_lock_nor_the_reaper(site, process):
    site.recipe("""
        import os, signal
        from pathlib import Path

        def fork():
            child = os.fork()
            if child == 0:
                signal.pause()
            Path('{here}/forked').write_text(str(child))
            return False

        execute('start the reaper', command='true')
        log('fork').only_if(fork)
        execute('long', command='echo $$ > {here}/new; mv {here}/new {here}/child; sleep 61')
    """)
    victim = process("converge")
    assert eventually((site.folder / "child").exists, within=WITHIN)
    forked = psutil.Process(int(site.text("forked")))

    killed(victim)

    assert eventually(lambda: is_running(int(site.text("child"))), within=2, becomes=False) is False
    assert forked.is_running()
    site.recipe("log('x')")
    assert site.kitchen().converge("the test")["state"] == "ok"
    forked.kill()
