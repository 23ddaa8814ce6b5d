"""The prompt, typed at through a pseudo-terminal, with IPython and without it."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flock import Actor, Flock
from flock.completion import complete
from flock.errors import FlockError
from flock.future import Future
from flock.shell import error_text, explained, interrupted_text
from tests.flockctl import ROOT, flockctl_on
from tests.support import eventually

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Dozer(Actor):
    """Takes its time."""

    def __init__(self, alarm: threading.Event, dozing: threading.Event) -> None:
        super().__init__()
        self.alarm = alarm
        self.dozing = dozing

    def doze(self, seconds: float = 1.0) -> str:
        """Sleep for a while.

        Args:
            seconds: how long.
        """
        self.dozing.set()
        woken = self.alarm.wait(seconds)
        self.dozing.clear()
        return "woken" if woken else "rested"

    def double(self, number: int) -> int:
        return number * 2

    def fail(self) -> None:
        raise ValueError("told to")


class Terminal:
    """A shell, as a person at a terminal has it."""

    def __init__(self, url: str, folder: Path, *options: str) -> None:
        master, slave = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOCK_")}
        environment |= {
            "FLOCK_CONFIG": "",
            "FLOCK_REGISTRY": url,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "IPYTHONDIR": str(folder / "ipython"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TERM": "xterm",
            "COLUMNS": "160",
            "INPUTRC": "/dev/null",
            # prompt_toolkit would ask the terminal where its cursor is, and wait for an answer.
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        environment.update({key: value for key, value in os.environ.items() if "TEST" in key})
        # A terminal of its own, so that a typed Ctrl-C is a signal.
        words = ["setsid", "--ctty", sys.executable, "-m", "flock", "shell", *options]
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._master = master
        self._text = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, text: str) -> None:
        self.type(f"{text}\r")

    def shows(self, pattern: str, within: float = 20.0) -> str:
        """Wait until it shows `pattern` after what was shown before; returns all of that."""
        deadline = time.monotonic() + within
        while True:
            match = re.search(pattern, self._text[self._seen :], re.DOTALL)
            if match:
                shown = self._text[self._seen : self._seen + match.end()]
                self._seen += match.end()
                return shown
            left = deadline - time.monotonic()
            ready = select.select([self._master], [], [], max(left, 0))[0]
            assert ready and left > 0, f"no {pattern!r} in {self._text[self._seen :]!r}"
            try:
                self._text += _CONTROL.sub("", os.read(self._master, 65536).decode())
            except OSError:
                raise AssertionError(f"over; {self._text[self._seen :]!r}") from None

    def complete(self, typed: str, added: str) -> None:
        """Type, ask for completion, and wait until `added` has been put behind it."""
        self.type(typed)
        # The end of what was typed, as a line editor may draw the rest of the line anew.
        self.shows(re.escape(typed[-3:]))
        self.type("\t")
        self.shows(added)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def dozing() -> threading.Event:
    return threading.Event()


@pytest.fixture
def alarm() -> threading.Event:
    return threading.Event()


@pytest.fixture
def fleet(
    embedded_url: str, short_path: Path, alarm: threading.Event, dozing: threading.Event
) -> Iterator[Flock]:
    with Flock("bender-0.x", embedded_url, state_dir=short_path / "state") as node:
        node.supervise(Dozer, alarm, dozing, name="dozer")
        node.globals["release"] = "1.4"
        presence = node.registry.presence
        assert eventually(lambda: "dozer" in getattr(presence("bender-0.x"), "actors", ()), 20)
        yield node
        alarm.set()


@pytest.fixture
def plain(fleet: Flock, embedded_url: str, short_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(embedded_url, short_path, "--plain")
    terminal.shows(r"1 node \(bender-0\.x\).*>>> ")
    yield terminal
    terminal.close()


@pytest.fixture
def ipython(fleet: Flock, embedded_url: str, short_path: Path) -> Iterator[Terminal]:
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed: pip install 'flock-of-chefs[shell]'")
    terminal = Terminal(embedded_url, short_path)
    terminal.shows(r"1 node \(bender-0\.x\).*In \[1\]: ", within=40.0)
    yield terminal
    terminal.close()


@pytest.fixture(params=["plain", "ipython"])
def terminal(request: pytest.FixtureRequest) -> Terminal:
    shell: Terminal = request.getfixturevalue(request.param)
    return shell


def test_a_call_is_made_and_the_prompt_knows_the_flock_and_me(terminal):
    terminal.enter("print('me is', me, 6 * FlockOfChefs['bender-0.x']['dozer'].double(7))")
    terminal.shows("me is None 84")


def test_tab_completes_nodes_actors_and_methods_inside_the_brackets(terminal):
    terminal.complete("print(FlockOfChefs['ben", r"der-0\.x.?\'\]")
    terminal.enter(".name.upper())")
    terminal.shows(r"BENDER-0\.X")
    terminal.complete("print(FlockOfChefs['bender-0.x']['doz", r"er.?\'\]")
    terminal.enter(".double(21))")
    terminal.shows("42")
    terminal.enter("api = FlockOfChefs['bender-0.x']['dozer']")
    terminal.complete("print(api.dou", r"ble.?\(")
    terminal.enter("33))")
    terminal.shows("66")
    terminal.complete("api.do", r"(double\(.*doze\()|(doze\(.*double\()")


def test_help_and_a_question_mark_show_what_a_remote_method_does(terminal):
    terminal.enter("api = FlockOfChefs['bender-0.x']['dozer']")
    terminal.enter("help(api.doze)")
    shown = terminal.shows(r"Sleep for a while.*how long")
    assert re.search(r"bender-0\.x/dozer\.doze\(seconds.*= 1\.0\)", shown)
    terminal.enter("api.doze?")
    terminal.shows(r"doze\(seconds.*Sleep for a while")
    terminal.enter("FlockOfChefs['bender-0.x']['dozer'].doze?")
    terminal.shows(r"bender-0\.x/dozer\.doze\(seconds.*how long")
    terminal.enter("help(api)")
    terminal.shows(r"actor bender-0\.x/dozer.*double\(number.*fail\(\)")
    terminal.enter("help(api.nothing)")
    terminal.shows(r"no method 'nothing'")


def test_ctrl_c_gives_up_the_wait_and_says_that_the_work_goes_on(terminal, alarm, dozing):
    terminal.enter("FlockOfChefs['bender-0.x']['dozer'].options(timeout=60).doze(60)")
    assert dozing.wait(20.0)
    terminal.type("\x03")
    terminal.shows(r"gave up waiting for bender-0\.x/dozer\.doze\(\).*goes on")
    terminal.enter("print('still', 'there')")
    terminal.shows("still there")
    assert dozing.is_set()
    alarm.set()
    assert eventually(dozing.is_set, 10.0, becomes=False) is False


@pytest.mark.parametrize(
    ("typed", "waited_for"),
    [
        ("api.doze.future(60).get()", "bender-0.x/dozer.doze()"),
        ("api.doze.future(60).map(str).get()", "bender-0.x/dozer.doze()"),
        ("batch = api.batch(); batch.doze(60); batch()", "the calls of a batch"),
    ],
)
def test_ctrl_c_says_so_of_futures_and_batches_too(
    fleet: Flock, typed: str, waited_for: str
) -> None:
    main = threading.main_thread().ident or 0

    def waits() -> bool:
        frame = sys._current_frames().get(main)
        while frame is not None and frame.f_code is not Future.wait.__code__:
            frame = frame.f_back
        return frame is not None

    def press() -> None:
        assert eventually(waits, 30, pause=0.005)
        signal.pthread_kill(main, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        exec(typed, {"api": fleet["bender-0.x"]["dozer"].options(timeout=60)})
    pressing.join()
    assert interrupted_text(caught.tb) == (
        f"gave up waiting for {waited_for}: the work over there goes on"
    )


def test_an_error_of_the_flock_is_one_line_and_any_other_shows_where(terminal):
    terminal.enter("FlockOfChefs['nobody']")
    shown = terminal.shows(r"NodeNotFound: no node 'nobody'")
    assert "Traceback" not in shown
    terminal.enter("FlockOfChefs['bender-0.x']['dozer'].nothing()")
    shown = terminal.shows(r"MethodNotFound: actor 'dozer' offers no method 'nothing'")
    assert "Traceback" not in shown
    terminal.enter("FlockOfChefs['bender-0.x']['dozer'].fail()")
    shown = terminal.shows(r"ValueError: told to\s+(?=\S*(>>>|In ))")
    assert 'raise ValueError("told to")' in shown
    assert "proxy.py" not in shown  # where it arrived is of no interest
    terminal.enter("print(1 // 0, 5 * 5)")
    terminal.shows(r"print\(1 // 0[^$]*ZeroDivisionError: ")
    terminal.enter("print(5 * 5)")
    terminal.shows("25")


def test_ctrl_d_leaves_with_code_0(terminal):
    terminal.type("\x04")
    assert terminal.process.wait(15.0) == 0


def test_what_is_piped_in_is_done_and_nothing_else_is_printed(fleet, embedded_url, tmp_path):
    with flockctl_on(embedded_url, tmp_path) as command:
        done = subprocess.run(
            [sys.executable, "-m", "flock", "shell"],
            input="print(list(FlockOfChefs))\n",
            env=command.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "['bender-0.x']\n")


def test_with_json_each_value_is_printed_as_json(fleet, embedded_url, tmp_path):
    with flockctl_on(embedded_url, tmp_path) as command:
        done = subprocess.run(
            [sys.executable, "-m", "flock", "shell", "--json"],
            input="(1, None)\nNone\nFlockOfChefs['bender-0.x']\n",
            env=command.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, '[\n  1,\n  null\n]\n"bender-0.x"\n')


# --- completion and help, without a terminal -----------------------------------


TABLE = {"key": 1, 5: 2, "a[b]": 3, "two words": 4, 'say "hi"': 5, "it's": 6, r"b\s": 7}


@pytest.mark.parametrize(
    ("before", "after", "replaced", "candidates"),
    [
        ("f[", "", "", ["'bender-0.x']"]),
        ("f['", "", "'", ["'bender-0.x']"]),
        ('f["be', "", '"be', ['"bender-0.x"]']),
        ("f['be", "']", "'be", ["'bender-0.x"]),
        ("f[be", "]", "be", ["'bender-0.x'"]),
        ("x = f['zz", "", "'zz", []),
        ("print(f['bender-0.x']['d", "", "'d", ["'dozer']"]),
        ("f['bender-0.x']['dozer'].d", "", "d", ["double(", "doze("]),
        ("f['bender-0.x']['dozer'].opt", "", "opt", ["options("]),
        ("f['nobody']['", "", "'", []),
        ("f['nobody'].x", "", "x", []),
        ("f.sea", "", "sea", ["search("]),
        ("f.globals['", "", "'", ["'release']"]),
        ("table['k", "", "'k", ["'key']"]),
        ("table['a[", "", "'a[", ["'a[b]']"]),
        ("table['two w", "", "'two w", ["'two words']"]),
        ("table['say \"", "", "'say \"", ["'say \"hi\"']"]),
        ("table[it", "", "it", ['"it\'s"]']),
        ("table['it", "", "'it", []),
        (r"table['b", "", "'b", [r"'b\\s']"]),
        (r"table['b\\s'].as_int", "", "as_int", ["as_integer_ratio("]),
        ("tab", "", "tab", ["table"]),
        ("f().", "", "", []),
        ("'text", "", "", []),
        ("f['bender-0.x'].pi", "", "pi", ["ping("]),
    ],
)
def test_completion_offers_what_is_there(fleet, before, after, replaced, candidates):
    offered = complete(before, after, {"f": fleet, "table": TABLE})
    assert (offered.replaced, list(offered.candidates)) == (replaced, candidates)


def test_completion_runs_nothing(fleet):
    class Trap:
        def __call__(self) -> None:
            raise AssertionError("called")

        def __getitem__(self, key: object) -> None:
            raise LookupError(key)

    assert list(complete("t().x", "", {"t": Trap()}).candidates) == []
    assert list(complete("t['a']['", "", {"t": Trap()}).candidates) == []


def test_help_explains_nodes_and_leaves_the_rest_to_python(fleet):
    assert "dozer" in (explained(fleet["bender-0.x"]) or "")
    assert explained(len) is None


def test_an_error_shows_what_was_raised_over_there(fleet):
    class OverThere(FlockError):
        pass

    assert error_text(OverThere("no")) == "OverThere: no"
