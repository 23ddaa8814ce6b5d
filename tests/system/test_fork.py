"""A process that has joined the flock forks, as `multiprocessing` does: what its child may do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flock import Flock
from flock.boot import StateFolder

PARENT = """
import json, os, sys, threading
from flock import Actor, Flock
from flock.errors import UsageError
from flock.timers import clock


class Echo(Actor):
    def echo(self, value):
        return value

    def fork_and_call(self, other):
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        # It is not this actor's thread any more, and a visitor joins anew.
        os._exit(visitor[other]["other"].options(timeout=20).echo(7))


def say(**words):
    print(json.dumps(words), flush=True)


url, folder = sys.argv[1:]
fork = os.fork
clock.start(60, lambda _: None)  # its thread runs when we fork
with Flock("parent", url, state_dir=folder) as node, Flock(registry=url) as visitor:
    node.supervise(Echo, name="echo")
    node.supervise(Echo, name="other")
    say(who="parent", echo=visitor["parent"]["echo"].echo(1))
    child = fork()
    if not child:
        due = threading.Event()
        clock.start(0.0, lambda _: due.set())
        try:
            node["parent"]
        except UsageError as error:
            refused = str(error)
        echo = visitor["parent"]["echo"].options(timeout=20).echo(2)
        say(who="child", refused=refused, echo=echo, due=due.wait(20))
        sys.exit(5)  # through `with`, and what Python does at its end
    say(who="parent", child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    say(who="parent", child=visitor["parent"]["echo"].options(timeout=30).fork_and_call("parent"))
    say(who="parent", echo=visitor["parent"]["echo"].echo(3), names=list(visitor))
"""


def test_a_child_leaves_the_flock_to_its_parent_and_may_join_as_a_visitor(
    registry_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    done = subprocess.run(
        [sys.executable, str(program), registry_url, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"who": "parent", "echo": 1},
        {
            "who": "child",
            "refused": "this flock belongs to the process that this one was forked from: "
            "make a new flock.Flock here",
            "echo": 2,
            "due": True,
        },
        {"who": "parent", "child": 5},
        {"who": "parent", "child": 7},
        {"who": "parent", "echo": 3, "names": ["parent"]},
    ]


HOLDER = """
import os, sys
from pathlib import Path
from flock import Flock
from flock.boot import StateFolder

folder = StateFolder(Path(sys.argv[1]))
folder.hold("bender0")
child = os.fork()
if not child:
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""


def test_a_child_does_not_keep_the_state_folder_of_a_node_that_is_gone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"child\n"
        parent.wait(20)
        folder = StateFolder(state)
        folder.hold("bender0")
        folder.let_go()


SERVER = """
import multiprocessing, sys
from flock import Actor, Flock


class Reckoner(Actor):
    def squares(self):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, 2])


with Flock("reckoner", sys.argv[1]) as node:
    node.supervise(Reckoner, name="reckoner")
    print("ready", flush=True)
    node.serve_forever()
"""


def test_a_child_does_not_take_the_signals_that_are_its_parents(embedded_url: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, embedded_url], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"
        with Flock(registry=embedded_url) as visitor:
            # The pool ends its processes with SIGTERM, and waits for their end.
            reckoner = visitor["reckoner"]["reckoner"].options(timeout=20)
            for _ in range(3):
                assert reckoner.squares() == [1, 2]
        server.terminate()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
