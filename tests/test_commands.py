"""Commands of recipes: what they get, what comes back, and how they end."""

from __future__ import annotations

import os
import pwd
import threading
import time

import psutil
import pytest

from flock.converge.cancellation import Cancellation
from flock.converge.commands import MAX_OUTPUT, Commands, command_text
from flock.errors import CommandFailed, RunCancelled
from tests.kitchens import is_running
from tests.support import eventually


@pytest.fixture
def commands():
    commands = Commands()
    yield commands
    commands.close()


def test_text_goes_to_a_shell_and_a_list_does_not(commands):
    assert commands.run("echo a; echo $((1+1))").stdout == "a\n2\n"
    assert commands.run(["echo", "a; b", "$x"]).stdout == "a; b $x\n"


def test_both_streams_and_the_exit_code_come_back(commands):
    done = commands.run("echo out; echo err >&2; exit 3")

    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)
    assert done.last_words() == "err"
    assert commands.run("kill -9 $$").exit_code == -9


def test_it_reads_what_it_is_given_and_nothing_else(commands):
    assert commands.run("cat", stdin="first\nsecond").stdout == "first\nsecond"
    assert commands.run("cat").stdout == ""
    large = "x" * 3_000_000
    assert commands.run("cat", stdin=large).stdout == large
    assert commands.run("true", stdin=large).exit_code == 0


def test_directory_environment_and_mask_are_its_own(commands, tmp_path):
    done = commands.run(
        "pwd; echo $COLOUR; umask", cwd=str(tmp_path), environment={"COLOUR": "red"}, umask=0o27
    )

    assert done.stdout.split() == [str(tmp_path), "red", "0027"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_user_brings_its_own_groups_and_home(commands):
    done = commands.run("id -un; id -Gn; echo $HOME", user="nobody")

    nobody = pwd.getpwnam("nobody")
    assert done.stdout.split() == ["nobody", "nogroup", nobody.pw_dir]
    assert commands.run("id -g", group="daemon").stdout == "1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_user_is_not_told_the_password_of_the_registry(commands, monkeypatch):
    ask = "echo $FLOCK_REGISTRY"
    monkeypatch.setenv("FLOCK_REGISTRY", "zookeeper://flock:secret@zk1:2181/flock")
    assert commands.run(ask, user="nobody").stdout == "\n"
    assert "secret" in commands.run(ask, user="root").stdout
    given = {"FLOCK_REGISTRY": "zookeeper://nobody:other@zk1:2181/flock"}
    assert "other" in commands.run(ask, user="nobody", environment=given).stdout
    monkeypatch.setenv("FLOCK_REGISTRY", "embedded:/srv/flock")
    assert commands.run(ask, user="nobody").stdout == "embedded:/srv/flock\n"


def test_what_cannot_be_started_is_an_error_that_names_it(commands, tmp_path):
    with pytest.raises(CommandFailed, match="cannot run `true`: no user 'nobody-x'"):
        commands.run("true", user="nobody-x")
    with pytest.raises(CommandFailed, match=r"cannot run `true`: .*No such file"):
        commands.run("true", cwd=str(tmp_path / "nowhere"))
    done = commands.run(["no-such-program-x"])
    assert done.exit_code == 127
    assert "no-such-program-x" in done.stderr


def test_bytes_that_are_no_text_do_not_hurt(commands):
    assert commands.run(r"printf 'a\377b'").stdout == "a\ufffdb"


def test_output_over_the_limit_is_read_and_dropped(commands, monkeypatch):
    monkeypatch.setattr("flock.converge.commands.MAX_OUTPUT", 1000)

    assert len(commands.run("head -c 200000 /dev/zero").stdout) == 1000
    assert MAX_OUTPUT > 1_000_000


def test_a_command_that_takes_too_long_is_ended_with_its_children(commands, tmp_path):
    began = time.monotonic()

    with pytest.raises(CommandFailed, match=r"`sleep 60 & .*` took longer than 1.5 s"):
        commands.run(f"sleep 60 & echo $! > {tmp_path}/child; sleep 60", timeout=1.5)

    assert time.monotonic() - began < 6
    child = int((tmp_path / "child").read_text())
    assert eventually(lambda: is_running(child), within=5, becomes=False) is False


def cancelled_while_it_runs(commands, folder, monkeypatch, script):
    """Cancel a script once it has written `child`; returns whether that process goes on."""
    monkeypatch.setattr("flock.converge.commands.TERMINATION_GRACE", 0.3)
    cancellation = Cancellation()

    def cancel_when_it_runs():
        eventually((folder / "child").exists, within=30)
        cancellation.cancel("somebody said so")

    canceller = threading.Thread(target=cancel_when_it_runs)
    canceller.start()

    with pytest.raises(RunCancelled, match="somebody said so"):
        commands.run(script, cwd=str(folder), cancellation=cancellation)

    canceller.join()
    child = int((folder / "child").read_text())
    return eventually(lambda: is_running(child), within=5, becomes=False)


def test_cancelling_ends_the_whole_group_even_if_it_ignores_the_first_signal(
    commands, tmp_path, monkeypatch
):
    script = "trap '' TERM; sleep 60 & echo $! > new; mv new child; wait; sleep 60"

    assert cancelled_while_it_runs(commands, tmp_path, monkeypatch, script) is False


def test_cancelling_ends_a_child_that_left_for_a_session_of_its_own_and_ignores_the_first_signal(
    commands, tmp_path, monkeypatch
):
    stubborn = "trap '' TERM; echo $$ > new; mv new child; while :; do sleep 0.1; done"
    script = f'setsid sh -c "{stubborn}" & wait'.replace("$$", r"\$\$")

    assert cancelled_while_it_runs(commands, tmp_path, monkeypatch, script) is False


def test_a_cancelled_run_starts_no_command(commands, tmp_path):
    cancellation = Cancellation()
    cancellation.cancel("before")

    with pytest.raises(RunCancelled):
        commands.run(f"touch {tmp_path}/x", cancellation=cancellation)

    assert not (tmp_path / "x").exists()


def test_what_a_command_leaves_behind_is_left_alone_and_not_waited_for(commands, tmp_path):
    began = time.monotonic()

    done = commands.run(f"sleep 60 & echo $! > {tmp_path}/child; echo started")

    assert done.stdout == "started\n"
    assert time.monotonic() - began < 5
    commands.close()
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert child.is_running()
    child.kill()


def test_closing_ends_the_reaper_and_a_later_command_starts_another(commands):
    commands.run("true")
    reaper = commands._reaper._process
    assert reaper is not None
    commands.close()
    assert reaper.poll() == 0

    assert commands.run("echo again").stdout == "again\n"


def test_a_reaper_that_was_killed_is_replaced(commands):
    commands.run("true")
    reaper = commands._reaper._process
    assert reaper is not None
    reaper.kill()
    reaper.wait()

    assert commands.run("echo again").stdout == "again\n"
    assert commands._reaper._process is not reaper


def test_many_commands_at_once_do_not_disturb_each_other(commands):
    outputs = {}

    def work(number):
        outputs[number] = commands.run(f"sleep 0.05; echo {number}").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outputs == {number: f"{number}\n" for number in range(8)}


def test_no_file_descriptor_is_left(commands):
    commands.run("true")
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        commands.run("echo x", cancellation=Cancellation())

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ls -l", "`ls -l`"),
        (["ls", "-l"], "`ls -l`"),
        ("\nfirst\nsecond", "`first…`"),
        ("x" * 300, f"`{'x' * 200}…`"),
    ],
)
def test_a_command_is_named_by_its_first_line(command, text):
    assert command_text(command) == text


def test_a_cancellation_tells_late_listeners_too():
    cancellation = Cancellation()
    heard = []
    cancellation.on_cancel(lambda: heard.append("early"))
    cancellation.on_cancel(lambda: heard.append("forgotten"))()

    cancellation.cancel("first")
    cancellation.cancel("second")
    cancellation.on_cancel(lambda: heard.append("late"))

    assert heard == ["early", "late"]
    assert cancellation.reason == "first"
    with pytest.raises(RunCancelled, match="first"):
        cancellation.pause(10)


def test_a_stop_counts_at_boundaries_only():
    cancellation = Cancellation()
    cancellation.stop("leaving")

    cancellation.check()
    with pytest.raises(RunCancelled, match="leaving"):
        cancellation.check_boundary()
