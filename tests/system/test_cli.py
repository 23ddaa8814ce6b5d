"""The command line, in real processes, on real registries."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zookeeper_servers import ZooKeeperEnsemble, free_ports

from tests.flockctl import Flockctl, flockctl_on
from tests.support import eventually

NODE_FIELDS = "name state address environment roles recipes actors started version generation"
REPORT_FIELDS = (
    "run_id node state asked_by started seconds run_list recipes why_run error"
    " resources notices locks"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Flockctl]:
    """Give the command on a registry where bender0 and bender1 are, for tests that ask only."""
    with (
        tempfile.TemporaryDirectory(prefix="flk-") as folder,
        flockctl_on(f"embedded:{folder}/registry", Path(folder)) as command,
    ):
        command.recipe("default", "file('{here}/' + node.name, content='there')")
        options = ("--run-list", "recipe[cb]", "--environment", "prod")
        nodes = [command.start_node(name, *options) for name in ("bender0", "bender1")]
        for node in nodes:
            assert node.says("READY bender"), node.err
        yield command


AWAY_IS_SAID_WITHIN = 3.0 + 1.5
"""Seconds, with those that Python's start takes on a machine that runs other tests beside."""

SLOW = """
execute('nap', command='touch {here}/begun; while [ ! -e {here}/go ]; do sleep 0.05; done')
"""


def begun(command: Flockctl) -> bool:
    """Wait until the recipe `SLOW` is at it."""
    return bool(eventually((command.folder / "begun").exists, within=30.0))


def let_go(command: Flockctl) -> None:
    """Let the recipe `SLOW` come to its end."""
    (command.folder / "go").touch()


EARLY = """
import sys

class Early:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Early())
sys.argv[0] = "flockctl"
from flock.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_is_loaded_is_one_line():
    words = [sys.executable, "-c", EARLY, "nodes"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "flockctl: interrupted\n"


# --- a node's life ---------------------------------------------------------------


def test_a_node_is_listed_answers_and_leaves_cleanly_on_sigterm(flockctl):
    node = flockctl.node("bender0")

    rows = flockctl("nodes", "--json").value
    assert [sorted(row) for row in rows] == [sorted(NODE_FIELDS.split())]
    assert rows[0]["name"] == "bender0"
    assert rows[0]["actors"][:2] == ["flock_api", "info"]
    assert flockctl("call", "bender0", "flock_api", "active").out == "false\n"

    ended = node.end(signal.SIGTERM)
    assert (ended.code, ended.out) == (0, "")
    gone = flockctl("nodes", "--json")
    assert (gone.code, gone.out, gone.err) == (0, "[]\n", "")


def test_ctrl_c_lets_a_node_leave_as_cleanly(alone):
    node = alone.node("bender0")

    assert node.end(signal.SIGINT).code == 0
    assert alone("nodes", "--json").value == []


def test_a_second_node_of_the_same_name_is_refused_and_told_who_has_it(flockctl):
    first = flockctl.node("bender0")

    second = flockctl("node", "--name", "bender0", "--state-dir", str(flockctl.folder / "other"))

    assert second.code == 6
    last = second.err.splitlines()[-1]
    assert "bender0" in last
    assert f"process {first.process.pid} on " in last
    same_folder = flockctl.start_node("bender0").ended()
    assert same_folder.code == 6
    assert f"process {first.process.pid}" in same_folder.err
    assert len(flockctl("nodes", "--json").value) == 1


def test_a_node_that_finds_its_name_taken_stops_and_says_who_has_it(flockctl):
    first = flockctl.node("bender0", "--session-timeout", "2")
    # What stands still for longer than its session is dead to the others, on ZooKeeper by
    # time; in a folder a paused process keeps what it holds, until somebody takes it away.
    first.process.send_signal(signal.SIGSTOP)
    if flockctl.url.startswith("embedded:"):
        for life in Path(flockctl.url.removeprefix("embedded:")).glob("*.alive"):
            life.unlink()
    assert eventually(lambda: flockctl("forget", "bender0").code == 0, within=20.0, pause=0.5)
    second = flockctl.start("node", "--name", "bender0", "--state-dir", f"{flockctl.folder}/new")
    assert second.says("READY bender0 "), second.err

    first.process.send_signal(signal.SIGCONT)

    ended = first.ended()
    assert ended.code == 6, ended.err
    assert f"process {second.process.pid} on " in ended.err.splitlines()[-1]
    (row,) = flockctl("nodes", "--json").value
    assert second.says(row["address"])
    assert second.end(signal.SIGTERM).code == 0


def test_a_name_that_no_node_can_have_is_refused_with_the_rule(alone):
    for name in ("a/b", "a b", "x" * 300):
        ended = alone("node", "--name", name)
        assert ended.code == 2
        assert "letter or digit" in ended.err
        assert len(ended.err.splitlines()) == 1


def test_systemd_is_told_when_a_node_is_ready_and_when_it_stops(alone, short_path):
    address = str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(60)
        node = alone.node("bender0", NOTIFY_SOCKET=address)
        assert notify.recv(1000).startswith(b"READY=1\n")
        assert node.end(signal.SIGTERM).code == 0
        assert notify.recv(1000) == b"STOPPING=1"


def test_logs_for_machines_are_one_json_object_a_line(alone):
    node = alone.start_node("bender0", "--json")
    assert node.says('"event": "ready"'), node.err
    alone("run", "bender0")

    ended = node.end(signal.SIGTERM)

    lines = [json.loads(line) for line in ended.err.splitlines()]
    ready = next(line for line in lines if line.get("event") == "ready")
    assert ready["node"] == "bender0" and ready["address"].startswith("tcp://127.0.0.1:")
    assert {"time", "level", "logger", "message"} <= set(lines[-1])


def test_a_node_waits_for_its_registry_and_carries_on_when_it_is_there(
    own_zookeeper: ZooKeeperEnsemble, tmp_path
):
    own_zookeeper.servers[0].kill()
    with flockctl_on(own_zookeeper.url(), tmp_path) as flockctl:
        node = flockctl.start_node("bender0")
        assert node.says("cannot be reached"), node.err

        own_zookeeper.servers[0].start()
        own_zookeeper.wait_until_serving()

        assert node.says("READY bender0 "), node.err
        assert node.err.count("cannot be reached") == 1
        assert node.end(signal.SIGTERM).code == 0


def test_a_node_that_waits_for_its_registry_leaves_at_once(tmp_path):
    with flockctl_on(f"zookeeper://127.0.0.1:{free_ports(1)[0]}/x", tmp_path) as flockctl:
        node = flockctl.start_node("bender0")
        assert node.says("cannot be reached"), node.err

        assert node.end(signal.SIGTERM, within=10.0).code == 0


# --- asking ----------------------------------------------------------------------


def test_what_programs_read_of_a_node_is_there(shared):
    row = shared("nodes", "--json").value[0]

    assert (row["state"], row["environment"], row["recipes"]) == ("idle", "prod", ["cb::default"])
    table = shared("nodes").out.splitlines()
    assert table[0].split()[:2] == ["NAME", "STATE"]
    assert [line.split()[0] for line in table[1:]] == ["bender0", "bender1"]


def test_actors_are_listed_with_their_methods(shared):
    rows = shared("actors", "bender0", "--json").value

    methods = {row["name"]: row["methods"] for row in rows}
    assert {"active", "run_chef", "status"} <= set(methods["flock_api"])
    assert "flock_api" in shared("actors", "bender0").out


def test_arguments_of_a_call_are_json_or_text_by_place_or_by_name(shared):
    call = ("call", "bender0", "flock_api")

    assert len(shared(*call, "runs", "limit=1", "--json").value) <= 1
    assert shared(*call, "node", "kernel.name").out == "Linux\n"
    assert shared(*call, "node", "kernel.name", "--json").value == "Linux"
    assert shared(*call, "node", "path=kernel.name", "--json").value == "Linux"


def test_options_may_stand_before_or_after_the_command(shared):
    for words in (
        ("--json", "--registry", shared.url, "nodes"),
        ("nodes", "--registry", shared.url, "--json"),
        ("--registry", "embedded:/nowhere", "nodes", "--registry", shared.url, "--json"),
    ):
        ended = shared(*words, FLOCK_REGISTRY="")
        assert [row["name"] for row in ended.value] == ["bender0", "bender1"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, ("call", "bender0", "flock_api", "node", "no.such.attribute")),
        (2, ("call", "bender0", "flock_api", "node", "one", "two", "three")),
        (2, ("call", "bender0", "flock_api")),
        (2, ("run",)),
        (2, ("nodes", "--bogus")),
        (2, ("nodes", "--timeout", "soon")),
        (2, ("actors", "a/b")),
        (2, ("nodes", "--registry", "gopher://somewhere")),
        (3, ("actors", "nobody")),
        (3, ("call", "bender0", "nobody", "active")),
        (3, ("call", "bender0", "flock_api", "nothing")),
        (3, ("call", "bender0", "flock_api", "stop")),
        (3, ("call", "bender0", "flock_api", "__init__")),
        (3, ("call", "bender0", "flock_api", "options")),
        (2, ("nodes", "--on", "")),
        (2, ("run", "bender0", "--lock", "")),
        (3, ("runs", "bender0", "no-such-run")),
        (3, ("run", "nobody")),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(shared, code, words):
    plain = shared(*words)
    assert plain.code == code
    assert plain.out == "" or words[0] == "run"
    assert len(plain.err.splitlines()) == 1
    assert "Traceback" not in plain.err

    as_json = shared(*words, "--json")
    assert as_json.code == code
    failure = as_json.value
    if isinstance(failure, dict):
        assert failure["error"]["exit_code"] == code
    else:
        assert [row["state"] for row in failure] == ["not found"]


def test_debug_shows_the_traceback_of_both_sides(shared):
    ended = shared("call", "bender0", "flock_api", "node", "nothing", "--debug")

    assert ended.code == 1
    assert "call_command.py" in ended.err and "flock_api.py" in ended.err


def test_a_registry_that_is_not_there_is_named_within_three_seconds(tmp_path):
    url = f"zookeeper://127.0.0.1:{free_ports(1)[0]}/x"
    with flockctl_on(url, tmp_path) as flockctl:
        for words in (("nodes",), ("actors", "bender0"), ("converge",)):

            def took(words: tuple[str, ...] = words) -> float:
                started = time.monotonic()
                ended = flockctl(*words)
                took = time.monotonic() - started

                assert ended.code == 5
                assert url in ended.err
                assert len(ended.err.splitlines()) == 1
                return took

            # What is late by itself is so each time.
            assert eventually(took, within=20.0, until=AWAY_IS_SAID_WITHIN.__gt__) < (
                AWAY_IS_SAID_WITHIN
            )


def test_a_wrong_password_is_told_in_one_line_that_does_not_hold_it(
    zookeeper_hosts, zookeeper_url, tmp_path
):
    root = zookeeper_url.rpartition("/")[2]
    right, wrong = (f"zookeeper://us:{word}@{zookeeper_hosts}/{root}" for word in ("s3cr", "0th3r"))
    with flockctl_on(right, tmp_path) as flockctl:
        assert flockctl("nodes").code == 0  # whoever is first has it
        own = ("--name", "fry", "--state-dir", str(tmp_path / "fry"))
        for words in (
            ("nodes",),
            ("actors", "bender0"),
            ("run", "bender0"),
            ("dishes", "bender0"),
            ("converge", *own),
            ("node", *own),
        ):
            ended = flockctl(*words, "--registry", wrong)
            assert (ended.code, ended.out) == (7, ""), words
            assert "wrong user or password" in ended.err
            assert len(ended.err.splitlines()) == 1
            assert "0th3r" not in ended.err
        assert flockctl("nodes", "--registry", wrong, "--json").value["error"]["exit_code"] == 7


def test_a_node_that_is_silent_is_named_in_time(flockctl):
    node = flockctl.node("bender0", "--session-timeout", "60")  # it is listed all the while
    node.process.send_signal(signal.SIGSTOP)
    try:
        for words in (("call", "bender0", "info", "about"), ("actors", "bender0")):
            ended = flockctl(*words, "--timeout", "2", "--json")
            assert ended.code == 4, ended.err
            assert "bender0" in ended.err and len(ended.err.splitlines()) == 1
            assert ended.value["error"]["exit_code"] == 4
        run = flockctl("run", "bender0", "--timeout", "2", "--json")
        assert (run.code, run.value[0]["node"], run.value[0]["report"]) == (4, "bender0", None)
        assert "bender0" in run.err
    finally:
        node.process.send_signal(signal.SIGCONT)
    assert node.end(signal.SIGTERM).code == 0


def test_a_settings_file_that_others_can_write_is_refused(shared, tmp_path):
    file = tmp_path / "flock.toml"
    file.write_text("timeout = 3\n")
    file.chmod(0o666)

    ended = shared("nodes", FLOCK_CONFIG=str(file))

    assert ended.code == 2
    assert str(file) in ended.err and "refused" in ended.err


def test_listing_nodes_starts_nothing_it_does_not_need(shared):
    script = (
        "import sys\n"
        "from flock.cli import main\n"
        "try: main(['nodes', '--json'])\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        "heavy = {'zmq', 'pykka', 'psutil', 'jinja2', 'rich', 'kazoo', 'luqum', 'asyncio'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=shared.environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def in_shell(flockctl: Flockctl, command: str, within: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        env=flockctl.environment,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def test_a_reader_that_goes_away_is_no_error(shared):
    command = f"trap '' PIPE; {sys.executable} -m flock nodes | true; echo ${{PIPESTATUS[0]}}"
    done = in_shell(shared, command, within=20)

    assert (done.stdout, done.stderr) == ("0\n", "")


# --- running ---------------------------------------------------------------------


def test_run_converges_two_nodes_and_reports_each(flockctl):
    flockctl.recipe("default", "file('{here}/' + node.name, content='there')")
    for name in ("bender0", "bender1"):
        flockctl.node(name, "--run-list", "recipe[cb]")

    ended = flockctl("run", "bender*", "--json")

    assert ended.code == 0, ended.err
    assert [(row["node"], row["state"]) for row in ended.value] == [
        ("bender0", "ok"),
        ("bender1", "ok"),
    ]
    for row in ended.value:
        assert sorted(row) == ["node", "report", "run_id", "state"]
        assert sorted(row["report"]) == sorted(REPORT_FIELDS.split())
        assert row["report"]["resources"][0]["state"] == "changed"
        assert (flockctl.folder / row["node"]).read_text() == "there"
        assert f"{row['node']}: ok, 1 of 1 changed" in ended.err
    again = flockctl("run", "bender0", "bender0")
    assert again.code == 0
    assert [line.split()[:2] for line in again.out.splitlines()[1:]] == [["bender0", "ok"]]


def test_a_target_that_is_not_there_is_named_while_the_others_run(shared):
    ended = shared("run", "nobody", "bender0", "nothing*", "--why-run", "--json")

    assert ended.code == 3
    assert [(row["node"], row["state"]) for row in ended.value] == [
        ("nobody", "not found"),
        ("bender0", "ok"),
        ("nothing*", "not found"),
    ]
    assert "nobody: not found" in ended.err and "nothing*: not found" in ended.err


def test_a_run_that_fails_over_there_is_failed_here(alone):
    alone.recipe("default", "execute('no', command='exit 3')")
    alone.recipe("other", "log('fine')")
    alone.node("bender0", "--run-list", "recipe[cb]")

    ended = alone("run", "bender0", "nobody", "--json")

    assert ended.code == 1
    row = ended.value[0]
    assert row["state"] == "failed" and "exit code 3" in row["report"]["error"]
    assert "exit code 3" in ended.err
    fine = alone("run", "bender0", "--override-run-list", "cb::other", "--json")
    assert (fine.code, fine.value[0]["report"]["run_list"]) == (0, ["cb::other"])


def test_a_run_not_over_in_time_is_timed_out_goes_on_and_can_be_cancelled(alone):
    alone.recipe("default", SLOW)
    alone.node("bender0", "--run-list", "recipe[cb]")

    late = alone("run", "bender0", "--timeout", "3", "--json")

    assert late.code == 4
    [row] = late.value
    assert (row["state"], row["report"]) == ("timed out", None)
    assert alone("call", "bender0", "flock_api", "active", "--json").value is True
    assert alone("cancel", "bender0", row["run_id"], "--reason", "enough").code == 0
    report = eventually(
        lambda: alone("runs", "bender0", row["run_id"], "--json").value,
        within=30.0,
        until=lambda report: report["state"] != "running",
    )
    assert report["state"] == "cancelled" and "enough" in report["error"]
    heads = alone("runs", "bender0", "--json").value
    assert [head["run_id"] for head in heads] == [row["run_id"]]
    assert alone("cancel", "bender0", "--json").value is None


def test_a_run_that_excludes_the_queued_one_is_refused(alone):
    alone.recipe("default", SLOW)
    alone.node("bender0", "--run-list", "recipe[cb]")
    running = alone("run", "bender0", "--no-wait", "--json")
    assert (running.code, running.value[0]["state"]) == (0, "running")
    queued = alone("run", "bender0", "--no-wait", "--json")
    assert (queued.code, queued.value[0]["state"]) == (0, "queued")

    refused = alone("run", "bender0", "--why-run", "--json")

    assert (refused.code, refused.value[0]["state"]) == (6, "refused")
    assert queued.value[0]["run_id"] in refused.err
    let_go(alone)


def test_ctrl_c_ends_the_wait_and_says_that_the_run_goes_on(alone):
    alone.recipe("default", SLOW)
    alone.node("bender0", "--run-list", "recipe[cb]")
    run = alone.start("run", "bender0")
    assert begun(alone)

    ended = run.end(signal.SIGINT)

    assert ended.code == 130
    assert "go on over there" in ended.err and "Traceback" not in ended.err
    assert alone("call", "bender0", "flock_api", "active", "--json").value is True
    let_go(alone)


def test_ctrl_c_in_a_call_says_that_it_may_go_on(alone):
    alone.recipe("default", SLOW)
    alone.node("bender0", "--run-list", "recipe[cb]")
    call = alone.start("call", "bender0", "flock_api", "run_chef", "wait=true")
    assert begun(alone)

    ended = call.end(signal.SIGINT)
    let_go(alone)

    assert ended.code == 130
    said = ["flockctl: flock_api.run_chef may go on over there", "flockctl: interrupted"]
    assert ended.err.splitlines() == said


def test_a_node_killed_in_its_run_is_down_and_never_ok(alone):
    alone.recipe("default", SLOW)
    node = alone.node("bender0", "--run-list", "recipe[cb]")
    run = alone.start("run", "bender0", "--json")
    assert begun(alone)

    node.process.kill()
    ended = run.ended()

    assert (ended.code, ended.value[0]["state"]) == (4, "down")
    assert "bender0: down" in ended.err


def test_a_node_that_leaves_in_its_run_says_that_the_run_was_cancelled(alone):
    alone.recipe("default", SLOW)
    node = alone.node("bender0", "--run-list", "recipe[cb]", "--stop-timeout", "0")
    run = alone.start("run", "bender0", "--json")
    assert begun(alone)

    assert node.end(signal.SIGTERM).code == 0
    ended = run.ended()

    assert (ended.code, ended.value[0]["state"]) == (1, "cancelled")
    run_id = ended.value[0]["run_id"]
    assert f"bender0: run {run_id} goes on to its next resource, for 0 s at most" in node.err


def test_a_node_leaves_although_python_code_of_its_recipe_goes_on_for_ever(alone):
    alone.recipe(
        "default",
        """
        from flock.recipe import python_block
        import time
        def forever():
            open('{here}/begun', 'w').close()
            while True:
                time.sleep(0.1)
        python_block('x', code=forever)
        """,
    )
    node = alone.node("bender0", "--run-list", "recipe[cb]", "--stop-timeout", "0")
    run = alone.start("run", "bender0", "--json")
    assert eventually((alone.folder / "begun").exists, within=20)

    ended_node = node.end(signal.SIGTERM, within=40)
    ended = run.ended()

    assert ended_node.code == 0, ended_node.err
    assert "did not end within 15 s and is left behind" in ended_node.err
    assert (ended.code, ended.value[0]["state"]) == (1, "cancelled")


def test_progress_is_drawn_on_a_terminal_only(shared):
    terminal, ours = pty.openpty()
    with contextlib.closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        run = subprocess.Popen(
            [sys.executable, "-m", "flock", "run", "bender0", "--why-run"],
            env=shared.environment | {"NO_COLOR": "1", "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=ours,
        )
        os.close(ours)
        drawn = b""
        # A terminal whose other end is closed is an error to read from.
        with contextlib.suppress(OSError):
            while block := screen.read(4096):
                drawn += block
        out, _ = run.communicate(timeout=20)

    assert run.returncode == 0
    assert b"bender0: ok" in drawn
    assert b"\x1b[?25l" in drawn, "the cursor is hidden while bars are drawn"
    assert b"\x1b[3" not in drawn, "NO_COLOR wants no colours"
    assert b"\x1b" not in out


def test_what_standard_error_refuses_changes_no_exit_code(shared):
    for words, code in ((("nodes",), 0), (("nodse",), 2), (("run", "bender0"), 0)):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "flock", *words],
                env=shared.environment,
                stdout=subprocess.PIPE,
                stderr=full,
                timeout=30,
                check=False,
            )
        assert ended.returncode == code, words
        assert (b"bender0" in ended.stdout) == (code == 0)


@pytest.mark.parametrize("words", [("--help",), ("nodes", "--help"), ("nodes",)])
def test_an_answer_that_cannot_be_written_is_said_in_one_line(shared, words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "flock", *words],
            env=shared.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "flockctl: the answer cannot be written: No space left on device\n"


def test_a_command_whose_standard_output_is_closed_does_its_work(shared):
    words = f"exec {sys.executable} -m flock run bender0 >&-"
    ended = in_shell(shared, words, within=30)
    assert ended.returncode == 0, ended.stderr
    assert "bender0: ok" in ended.stderr


# --- converging without a node ---------------------------------------------------


def test_converge_runs_once_here_and_reports_without_being_listed(flockctl):
    flockctl.recipe(
        "default",
        """
        file('{here}/there', content='x').notifies('run', 'execute[count]')
        execute('count', command='wc -c < {here}/there > {here}/count', action='nothing')
        file('{here}/nodes', content=repr(list(FlockOfChefs)))
        """,
    )
    state = str(flockctl.folder / "fry")
    own = ("--name", "fry", "--cookbooks", str(flockctl.cookbooks), "--state-dir", state)
    words = ("converge", *own, "--run-list", "recipe[cb]")

    foreseen = flockctl(*words, "--why-run")
    assert foreseen.code == 0
    assert f"write {flockctl.folder}/there" in foreseen.out
    assert not (flockctl.folder / "there").exists()

    ended = flockctl(*words, "--json")
    assert ended.code == 0, ended.err
    report = ended.value
    assert sorted(report) == sorted(REPORT_FIELDS.split())
    assert (report["node"], report["state"]) == ("fry", "ok")
    assert (flockctl.folder / "count").read_text().strip() == "1"
    assert (flockctl.folder / "nodes").read_text() == "[]"


def test_converge_prints_the_report_of_a_run_that_failed(alone):
    alone.recipe("default", "file('{here}/x', content='x')\nexecute('no', command='exit 3')")
    words = ("converge", "--cookbooks", str(alone.cookbooks), "--run-list", "recipe[cb]")

    as_json = alone(*words, "--json")
    assert as_json.code == 1
    states = [row["state"] for row in as_json.value["resources"]]
    assert (as_json.value["state"], states) == ("failed", ["changed", "failed"])
    for_people = alone(*words)
    assert for_people.code == 1
    assert "execute[no] run: failed" in for_people.out
    assert "exit code 3" in for_people.err.splitlines()[-1]


def test_a_state_folder_is_refused_in_another_registry(alone):
    words = ("--name", "fry", "--state-dir", str(alone.folder / "fry"))
    other = ("--registry", f"embedded:{alone.folder}/other")
    assert alone("converge", *words).code == 0

    for command in ("converge", "node"):
        refused = alone(command, *words, *other)
        assert refused.code == 2
        assert "belongs to another registry" in refused.err.splitlines()[-1]


def test_ctrl_c_cancels_a_converge_with_its_command_and_reports(alone):
    alone.recipe("default", SLOW)
    words = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks))
    run = alone.start(*words, "--run-list", "recipe[cb]", "--json")
    assert begun(alone)

    busy = alone(*words)
    assert busy.code == 6
    assert f"process {run.process.pid}" in busy.err
    ended = run.end(signal.SIGINT)

    assert ended.code == 130
    report: dict[str, Any] = ended.value
    assert report["state"] == "cancelled"


def test_converge_shows_what_a_recipe_says(alone):
    alone.recipe("default", "log('hello')\nlog('aside', level='debug')")
    words = ("converge", "--cookbooks", str(alone.cookbooks), "--run-list", "recipe[cb]")

    ended = alone(*words)

    assert ended.err.splitlines()[0] == "hello"
    assert "aside" not in ended.err


def test_converge_says_what_it_waits_for(alone):
    alone.recipe("default", "file('{here}/x', content='x').wait_until('test -e {here}/go')")
    words = ("converge", "--name", "fry", "--cookbooks", str(alone.cookbooks))
    run = alone.start(*words, "--run-list", "recipe[cb]")

    assert run.says(f"fry: 1 of 1, file[{alone.folder}/x], waits: wait_until `test -e")
    second = alone.start(*words, "--wait")
    assert second.says(f"waits for process {run.process.pid}")
    let_go(alone)

    assert (run.ended().code, second.ended().code) == (0, 0)
