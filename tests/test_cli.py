"""The command line without any node: its help, its exit codes, wrong use, and how it prints."""

import datetime
import io
import json
import logging
import os
import socket
import subprocess
import sys

import click
import pytest

from flock import __version__
from flock.cli import COMMANDS, main
from flock.ctl.call_command import read_arguments, read_value
from flock.ctl.options import CommandLine, open_within
from flock.ctl.output import Ended, Output, error_line, plain, shared_code
from flock.ctl.progress import going_on
from flock.ctl.reports import resource_line, summary
from flock.ctl.service import JsonLines, tell_systemd
from flock.ctl.targets import expand
from flock.errors import (
    BusyError,
    CallTimeout,
    NodeNotFound,
    RegistryUnavailable,
    RemoteError,
    SettingsError,
    UsageError,
)
from flock.failures import RemoteTraceback
from flock.proxy import NodeProxy

WHY = "because of something that takes more words"


def code_of(*words):
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOCK_CONFIG", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    # A command sets the logging of its process up; others run in this one, too.
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("flock", "registry", "actors")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


# --- help and wrong use ------------------------------------------------------------


def test_help_lists_every_command_and_every_exit_code(capsys):
    assert code_of("--help") == 0

    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in shown
    for code, meaning in ((3, "no such node"), (7, "not let in"), (130, "Ctrl-C")):
        assert any(
            line.split()[:1] == [str(code)] and meaning in line for line in shown.splitlines()
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_common_options(command, capsys):
    assert code_of(command, "--help") == 0

    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--registry", "--timeout", "--json", "--debug"))


def test_the_help_of_run_says_what_is_waited_for_and_what_lasts(capsys):
    assert code_of("run", "--help") == 0

    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "Converge each TARGET, a name or a pattern ('web*'), and wait for the ends.",
        "--timeout SECONDS how long to wait for all of it (default: for ever)",
        "--no-wait order the runs, do not wait for their ends",
        "--override-run-list ITEMS for this run only, instead of the node's own run list;",
        "--why-run name the changes, make none",
        "--lock ID each node takes this lock for its own run",
    ):
        assert said in shown


def test_the_version_is_said(capsys):
    assert code_of("--version") == 0
    assert capsys.readouterr().out == f"flockctl {__version__}\n"
    for words in (("--version", "--json"), ("--json", "--version")):
        assert code_of(*words) == 0
        assert json.loads(capsys.readouterr().out) == {"version": __version__}


@pytest.mark.parametrize("words", [(), ("nonsense",), ("run",), ("nodes", "--nonsense")])
def test_wrong_use_is_one_line_that_says_where_help_is(words, capsys):
    assert code_of(*words) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and "--help" in err


def test_wrong_use_is_json_where_json_is_wanted(capsys):
    assert code_of("nodes", "--nonsense", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


# --- arguments of a call -------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ('{"a": [1]}', {"a": [1]}),
        ("web", "web"),
        ("", ""),
        ("NaN", "NaN"),
        ("{broken", "{broken"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_an_argument_is_json_where_it_parses_as_json(written, value):
    assert read_value(written) == value


def test_arguments_with_a_name_go_by_name_and_after_two_dashes_none_do():
    mixed = ("1", "limit=5", "http://x?a=b", "-7", "path=a=b")

    assert read_arguments(mixed, ("limit=5", "--x")) == (
        [1, "http://x?a=b", -7, "limit=5", "--x"],
        {"limit": 5, "path": "a=b"},
    )


def test_what_looks_like_an_option_is_refused_before_two_dashes():
    with pytest.raises(click.UsageError, match="--bogus"):
        read_arguments(("--bogus",), ())


def test_an_argument_given_twice_by_name_is_refused():
    with pytest.raises(click.UsageError, match="twice"):
        read_arguments(("a=1", "a=2"), ())


# --- targets -------------------------------------------------------------------------


def test_targets_are_names_and_patterns_each_node_once_in_order():
    live = ["db1", "web1", "web2"]

    assert expand(["web2", "web*", "gone"], lambda: live) == ["web2", "web1", "gone"]


def test_a_pattern_that_fits_nobody_stays_to_be_named():
    assert expand(["web*"], list) == ["web*"]


def test_plain_names_ask_nobody():
    def ask():
        raise AssertionError("asked")

    assert expand(["db1", "db1"], ask) == ["db1"]


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 129, "", "-x"])
def test_a_target_that_no_node_can_be_called_is_wrong_use(name):
    with pytest.raises(UsageError, match="letter or digit"):
        expand([name], list)


# --- exit codes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "shared"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 6], 6),
        ([6, 4], 4),
        ([4, 7], 7),
        ([7, 5], 5),
        ([5, 1, 3], 1),
        ([2, 3], 3),
        ([0, 2], 2),
    ],
)
def test_several_ends_share_the_gravest_code(codes, shared):
    assert shared_code(codes) == shared


# --- errors --------------------------------------------------------------------------


def test_a_variable_that_is_nearly_a_setting_is_said_once(monkeypatch, caplog):
    monkeypatch.setenv("FLOCK_REGSITRY", "embedded:/nowhere")
    monkeypatch.setenv("FLOCK_OF_OURS", "something else")
    line = CommandLine(Output())

    line.settings()
    line.visitor()

    assert caplog.messages == ["FLOCK_REGSITRY is no setting; did you mean FLOCK_REGISTRY?"]


def test_an_error_names_the_node_and_what_to_try():
    assert error_line(NodeNotFound("no node 'x' in y"), "x").endswith("lists who is known")
    line = error_line(CallTimeout("call", 5), "bender0")
    assert line.startswith("bender0: no answer") and "--timeout" in line
    assert "flockctl runs bender0" in error_line(BusyError("busy"), "bender0")
    assert error_line(BusyError("busy", "wait"), "bender0") == "bender0: busy; wait"
    assert error_line(BusyError("it is up: stop it", ""), "it") == "it is up: stop it"


def test_our_own_settings_are_no_error_of_the_node():
    assert error_line(SettingsError("timeout is '0'"), "bender0") == "timeout is '0'"


def test_our_own_registry_is_no_error_of_the_node():
    line = error_line(RegistryUnavailable("embedded:/x", "gone"), "bender0")

    assert line.startswith("registry embedded:/x") and "--registry" in line
    assert "running" not in line, "a folder does not run"
    assert "running" in error_line(RegistryUnavailable("zookeeper://x", "gone"))


def test_a_command_waits_less_for_its_registry_when_its_start_took_long(monkeypatch):
    ages = (0.2, 1.0, 2.5, 100.0)
    waits = []
    for age in ages:
        monkeypatch.setattr("flock.ctl.options.age", lambda age=age: age)
        waits.append(open_within())

    # The last one is no command that has just started: a node that looks again.
    assert waits == [2.5, pytest.approx(1.85), 1.0, 2.5]


def test_an_error_of_many_lines_is_one():
    assert error_line(RemoteError("Odd", "one\ntwo\x1b[31m"), "b") == "b: Odd: one two [31m"


def test_a_built_in_error_from_over_there_is_no_internal_one():
    error = LookupError("no attribute")
    error.__cause__ = RemoteTraceback("over there")

    assert error_line(error, "bender0") == "bender0: LookupError: no attribute"
    assert error_line(LookupError("x")).startswith("internal error: LookupError")


def test_a_failure_is_json_too_unless_a_value_was_printed(capsys):
    output = Output(wants_json=True)

    assert output.failed(NodeNotFound("no node 'x'")) == 3
    failure = json.loads(capsys.readouterr().out)["error"]
    assert failure["type"] == "NodeNotFound" and failure["may_have_run"] is False
    assert output.ended(Ended(1, "more")) == 1
    assert capsys.readouterr().out == ""


# --- values --------------------------------------------------------------------------


def test_every_value_that_travels_can_be_shown_as_json():
    node = NodeProxy(None, "bender0", None)  # type: ignore[arg-type]
    when = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    value = {
        1: (1, 2),
        b"k": b"\xff",
        None: when,
        "x": float("nan"),
        "n": node,
        "a": node["info"],
    }

    assert plain(value) == {
        "1": [1, 2],
        "aw==": "/w==",
        "null": "2026-01-31T00:00:00+00:00",
        "x": None,
        "n": "bender0",
        "a": "bender0/info",
    }


def test_a_table_shows_all_of_each_cell_on_a_line_of_its_own(capsys):
    Output().table(("NAME", "WHAT"), [("a" * 300, "[bold]x\ny"), ("b", "")])

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "WHAT"]
    assert first == "a" * 300 + "  [bold]x y"
    assert second == "b"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_table_on_a_narrow_terminal_breaks_no_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stdout", shown := Terminal())

    Output().table(("RUN_ID", "ADDRESS", "WHY"), [("0123456789abcdef", "tcp://10.0.0.1:70", WHY)])

    lines = shown.getvalue().splitlines()
    assert lines[1].startswith("0123456789abcdef  tcp://10.0.0.1:70  because")
    assert "".join(line[37:] for line in lines[1:]).replace(" ", "") == WHY.replace(" ", "")


def test_a_table_is_as_wide_as_its_words_where_the_terminal_has_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stdout", shown := Terminal())

    Output().table(("NODE", "WHY"), [("bender0", WHY)])

    assert shown.getvalue().splitlines()[1] == f"bender0  {WHY}"


def test_a_reader_that_left_is_not_told_the_rest(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output = Output(wants_json=True)
        output.text("nobody reads this")
        output.value([1])


# --- runs for people -----------------------------------------------------------------


def row(state, **changed):
    return {
        "resource": "file[/x]",
        "action": "create",
        "state": state,
        "changes": [],
        "error": None,
    } | changed


def report(*rows, **changed):
    return {
        "state": "ok",
        "why_run": False,
        "resources": rows,
        "seconds": 0.42,
        "error": None,
    } | changed


def test_the_end_of_a_run_is_one_line():
    assert summary(report(row("changed"), row("unchanged"))) == "ok, 1 of 2 changed, 0.4 s"
    failed = report(row("failed"), state="failed", error="file[/x]: no")
    assert summary(failed) == "failed, 0 of 1 changed, 1 failed, 0.4 s: file[/x]: no"
    assert "1 of 1 would change" in summary(report(row("changed"), why_run=True))


def test_a_resource_is_one_line_with_what_matters_of_it():
    assert resource_line(row("changed", changes=["write /x", "set mode"])) == (
        "file[/x] create: changed (write /x; set mode)"
    )
    assert resource_line(row("failed", error="no")) == "file[/x] create: failed (no)"
    assert resource_line(row("skipped", error="only_if")) == "file[/x] create: skipped (only_if)"
    assert "would change" in resource_line(row("changed"), why_run=True)


def test_progress_tells_our_own_run_from_the_one_before_it():
    status = {
        "running": {"run_id": "r1"},
        "queued": {"run_id": "r2"},
        "of": 5,
        "number": 2,
        "resource": "file[/x]",
        "waiting": None,
        "acting": None,
    }

    assert going_on("r1", status) == "2 of 5, file[/x]"
    assert going_on("r2", status) == "run r2 waits for its turn behind run r1"
    assert going_on("r1", status | {"of": 0}) == "run r1 has begun"
    assert going_on("r2", status | {"running": None}) == "run r2 waits for its turn"
    acting = {"running": None, "acting": {"deed": "run execute[x]", "asked_by": "notice 5 from a"}}
    behind = "run r2 waits for its turn behind run execute[x] (notice 5 from a)"
    assert going_on("r2", status | acting) == behind
    waits = {"waiting": {"wait": "lock 'web'", "last": "", "circle": ""}}
    assert going_on("r2", status | acting | waits) == f"{behind}, waits: lock 'web'"


def test_progress_says_what_a_run_waits_for_and_the_last_answer():
    wait = {"wait": "wait_until <lambda> (default.py:3)", "last": "False", "circle": ""}
    status: dict[str, object] = {
        "running": {"run_id": "r1"},
        "number": 2,
        "of": 5,
        "resource": "file[/x]",
        "waiting": wait,
    }
    assert going_on("r1", status) == (
        "2 of 5, file[/x], waits: wait_until <lambda> (default.py:3): False"
    )
    circled = status | {"waiting": wait | {"circle": "these wait for each other: a -> b"}}
    assert going_on("r1", circled).endswith(": False; these wait for each other: a -> b")
    locked = status | {"of": 0, "waiting": {"wait": "lock 'web'", "last": "", "circle": ""}}
    assert going_on("r1", locked) == "run r1 has begun, waits: lock 'web'"


# --- services ------------------------------------------------------------------------


def test_a_log_line_for_machines_holds_what_was_given_beside_the_message():
    record = logging.makeLogRecord(
        {"name": "flock", "levelname": "INFO", "msg": "READY %s", "args": ("b",), "node": "b"}
    )

    told = json.loads(JsonLines().format(record))

    assert {key: told[key] for key in ("level", "logger", "message", "node")} == {
        "level": "info",
        "logger": "flock",
        "message": "READY b",
        "node": "b",
    }
    assert "args" not in told


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_gets_levels_and_notes_the_time_by_itself(is_journal):
    script = (
        "import logging; from flock.ctl.service import log_to_stderr;"
        "log_to_stderr(as_json=False, debug=False); logger = logging.getLogger('flock');"
        "logger.info('READY'); logger.error('first\\nsecond')"
    )
    reads, writes = os.pipe()
    there = os.fstat(writes)
    stream = f"{there.st_dev}:{there.st_ino if is_journal else there.st_ino + 1}"
    with os.fdopen(reads) as said:
        environment = os.environ | {"JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", script], stderr=writes, env=environment, check=True)
        os.close(writes)
        lines = said.read().splitlines()

    assert (lines == ["<6>READY", "<3>first", "<3>second"]) is is_journal
    assert (lines[0].endswith(" INFO    READY")) is not is_journal


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told_by_path_and_by_abstract_name(kind, short_path, monkeypatch):
    name = f"@flock-test-{os.getpid()}" if kind == "abstract" else str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(name.replace("@", "\0"))
        notify.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)

        tell_systemd("READY=1")

        assert notify.recv(100) == b"READY=1"


def test_a_systemd_that_does_not_listen_is_no_error(short_path, monkeypatch, caplog):
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "nobody"))
    with caplog.at_level(logging.WARNING, logger="flock"):
        tell_systemd("READY=1")

    assert "not told" in caplog.text
