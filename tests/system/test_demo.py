"""`make demo` shows what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import eventually, processes_of_tests

DEMO = str(Path(__file__).parents[2] / "scripts" / "demo")


INTERRUPTED_START = """
import os, runpy, signal, subprocess, sys

demo, which = sys.argv.pop(1), int(sys.argv.pop(1))
started = 0

class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
        global started
        super().__init__(*args, **options)
        started += 1
        if started == which:
            os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Popen
runpy.run_path(demo, run_name="__main__")
"""
"""Runs the demo; it is interrupted when a process runs whose starter does not know it yet."""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python with these arguments and `folder` as the place for temporary files."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ
        | {
            "TMPDIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(Path(DEMO).parent),  # for when it is not run by its name
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("registry", ["embedded", "zookeeper"])
def test_the_demo_converges_a_node_and_leaves_nothing_behind(registry, short_path):
    known = processes_of_tests()
    demo = start(short_path, DEMO, "--registry", registry)
    out, err = demo.communicate(timeout=100)

    assert (demo.returncode, err) == (0, "")
    for said in (
        "node    bender0",
        "node    bender1",
        "FlockOfChefs['bender0']['flock_api'].run_chef()",
        "holds 'foobar\\n'",
        "report  ok",
    ):
        assert said in out
    assert list(short_path.iterdir()) == []
    assert processes_of_tests(known) == {}


@pytest.mark.parametrize("moment", ["registry in", "node    bender0", "call    "])
def test_the_demo_cleans_up_when_it_is_interrupted(moment, short_path):
    known = processes_of_tests()
    demo = start(short_path, DEMO)
    assert demo.stdout is not None
    while not (line := demo.stdout.readline()).startswith(moment):
        assert line, "it ended before that"

    demo.send_signal(signal.SIGINT)
    expect_nothing_left(demo, short_path, known)


@pytest.mark.parametrize("which", ["1st node", "2nd node", "3rd process"])
def test_the_demo_ends_what_it_was_just_starting(which, short_path):
    known = processes_of_tests()
    demo = start(short_path, "-c", INTERRUPTED_START, DEMO, which[0])
    expect_nothing_left(demo, short_path, known)


def expect_nothing_left(demo: subprocess.Popen[str], folder: Path, known: dict[int, str]) -> None:
    """Wait until the interrupted demo ends; see that no process and no file is left."""
    _, err = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in err
    assert eventually(lambda: processes_of_tests(known), within=5.0, becomes={}) == {}
    assert list(folder.iterdir()) == []
