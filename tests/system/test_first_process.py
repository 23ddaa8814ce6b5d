"""A node that is the first process of a container, as `docker run` makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support import eventually

FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def cannot_be_first() -> str:
    try:
        tried = subprocess.run([*FIRST, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return tried.stderr


@pytest.fixture
def container(alone):
    """Give a node as process 1 of a namespace: the process as it is seen from outside."""
    if why := cannot_be_first():
        pytest.skip(f"no namespace of processes can be made here: {why}")
    alone.recipe("default", "execute('leave orphans', command='setsid sh -c \"sleep 0.1 &\"')")
    log = alone.folder / "log"
    words = ["node", "--name", "fry", "--state-dir", str(alone.folder / "fry")]
    words += ["--cookbooks", str(alone.cookbooks), "--run-list", "cb"]
    with log.open("wb") as file:
        outside = subprocess.Popen(
            [*FIRST, sys.executable, "-m", "flock", *words],
            cwd=alone.folder,
            env=alone.environment,
            stdin=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        assert eventually(lambda: "READY fry" in log.read_text(), within=30.0), log.read_text()
        yield outside
    finally:
        outside.kill()
        outside.wait()


def zombies(outside):
    return [
        each
        for each in psutil.Process(outside.pid).children(recursive=True)
        if each.status() == psutil.STATUS_ZOMBIE
    ]


def test_orphans_of_a_container_do_not_stay(alone, container):
    for _ in range(3):
        assert alone("run", "fry").code == 0
    assert eventually(lambda: zombies(container), within=10.0, becomes=[]) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, 137)])
def test_the_first_process_passes_signals_on_and_ends_as_the_node_does(
    alone, container, number, code
):
    (first,) = psutil.Process(container.pid).children()
    (node,) = [each for each in first.children() if "node" in each.cmdline()]
    os.kill(node.pid if number == signal.SIGKILL else first.pid, number)

    assert container.wait(30) == code
    assert alone("nodes", "--json").value == []
