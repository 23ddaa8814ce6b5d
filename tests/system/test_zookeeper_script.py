"""`scripts/zookeeper` as a person types it, and the servers that the tests stand on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from zookeeper_servers import (
    Installation,
    NotStarted,
    ZooKeeperEnsemble,
    ask,
    end_process,
    process_start,
)

from tests.support import eventually

SCRIPT = Path(__file__).parents[2] / "scripts" / "zookeeper"

PATIENCE = 20.0
"""Seconds that a server is given to answer on a busy machine."""


@pytest.fixture
def zookeeper(tmp_path):
    """Run the script with a home of its own, and stop what it started."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments, "--home", tmp_path / "home"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    yield run
    run("stop")


@pytest.fixture
def started(tmp_path):
    """Return what the script remembers."""
    return lambda: json.loads((tmp_path / "home" / "started.json").read_text())


@pytest.fixture
def idle_java(tmp_path):
    """Give a home of a Java whose servers never serve, and never end; it leaves a file `begun`."""
    java = tmp_path / "jre" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 60\n")
    java.chmod(0o755)
    return str(tmp_path / "jre")


def _port(connection_string: str) -> int:
    return int(connection_string.strip().removeprefix("127.0.0.1:"))


def test_start_prints_the_connection_string_and_nothing_else(zookeeper):
    begun = zookeeper("start")
    assert begun.returncode == 0
    assert ask(_port(begun.stdout), "ruok", PATIENCE) == "imok"


def test_started_twice_it_says_so_and_prints_the_same(zookeeper):
    first = zookeeper("start")
    second = zookeeper("start")
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert "runs already" in second.stderr


def test_stop_ends_the_server_and_removes_all_it_wrote(zookeeper, started, tmp_path):
    port = _port(zookeeper("start").stdout)
    server, folder = started()["servers"][0], Path(started()["folder"])
    assert (folder / "1" / "zoo.cfg").exists()

    assert zookeeper("stop").returncode == 0

    assert process_start(server["pid"]) is None
    assert ask(port, "ruok") == ""
    assert not folder.exists()
    assert not (tmp_path / "home").exists()


def test_status_tells_what_runs_what_died_and_that_nothing_does(zookeeper, started):
    assert zookeeper("status").returncode == 3
    address = zookeeper("start").stdout.strip()
    running = zookeeper("status")
    assert running.returncode == 0
    assert running.stdout.startswith(f"{address} standalone pid ")

    server = started()["servers"][0]
    assert end_process(server["pid"], server["start"])

    died = zookeeper("status")
    assert died.returncode == 1
    assert died.stdout.startswith(f"{address} dead pid ")


INTERRUPTED_START = """
import os, runpy, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, command, *args, **options):
        super().__init__(command, *args, **options)
        if command[0].endswith("java"):
            os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Popen
sys.path.insert(0, os.path.dirname(sys.argv[1]))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the script; it is interrupted when a server runs that it does not know yet."""


def test_a_start_that_is_interrupted_when_its_server_was_just_begun_leaves_nothing(
    idle_java, tmp_path
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    words = [sys.executable, "-c", INTERRUPTED_START, SCRIPT, "start", "--home", tmp_path / "home"]
    ended = subprocess.run(
        words,
        env=os.environ | {"TMPDIR": str(folder), "JAVA_HOME": idle_java},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_that_is_interrupted_leaves_nothing_and_says_so_in_one_line(
    number, idle_java, tmp_path
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    starting = subprocess.Popen(
        [sys.executable, SCRIPT, "start", "--home", tmp_path / "home"],
        env=os.environ | {"TMPDIR": str(folder), "JAVA_HOME": idle_java},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert eventually((tmp_path / "begun").exists, within=30.0)

    starting.send_signal(number)

    out, err = starting.communicate(timeout=40)
    assert (starting.returncode, out, err) == (130, "", "interrupted\n")
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_three_servers_elect_one_leader(zookeeper):
    begun = zookeeper("start", "--servers", "3")
    assert begun.stdout.count(",") == 2
    roles = [line.split()[1] for line in zookeeper("status").stdout.splitlines()]
    assert sorted(roles) == ["follower", "follower", "leader"]


def test_a_process_that_only_has_the_same_pid_is_never_killed(zookeeper, started, tmp_path):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            (tmp_path / "home").mkdir()
            remembered = {
                "folder": str(tmp_path / "data"),
                "servers": [{"port": 1, "pid": stranger.pid, "start": "12"}],
            }
            (tmp_path / "home" / "started.json").write_text(json.dumps(remembered))
            assert zookeeper("stop").returncode == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_wrong_zookeeper_home_is_named(zookeeper, tmp_path):
    refused = zookeeper("start", ZOOKEEPER_HOME=str(tmp_path))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert f"ZOOKEEPER_HOME is {tmp_path}" in refused.stderr


def test_without_apt_it_says_what_to_get(zookeeper, tmp_path):
    refused = zookeeper("start", PATH=str(tmp_path))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "ZooKeeper is not on this machine" in refused.stderr
    assert "ZOOKEEPER_HOME" in refused.stderr


def test_when_apt_fails_it_says_the_one_command_to_type(zookeeper, tmp_path):
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit 100\n')
    (tmp_path / "apt-get").chmod(0o755)
    (tmp_path / "env").symlink_to(shutil.which("env") or "/usr/bin/env")

    refused = zookeeper("start", PATH=str(tmp_path))

    assert refused.returncode == 1
    assert refused.stdout == ""
    command = "sudo apt-get install --no-install-recommends zookeeper default-jre-headless"
    assert refused.stderr.strip().endswith(f"Type: {command}")
    if os.geteuid() == 0:
        asked = (tmp_path / "asked").read_text().splitlines()
        assert [line.split(" -q ")[1].split()[0] for line in asked] == ["update", "install"]


# --- the servers ---------------------------------------------------------------


def test_a_session_of_one_second_is_granted(zookeeper_hosts):
    client = KazooClient(hosts=zookeeper_hosts, timeout=1.0)
    client.start(timeout=PATIENCE)
    try:
        assert client._session_timeout == 1000
    finally:
        client.stop()
        client.close()


def test_a_killed_server_comes_back_at_its_port_with_its_data(own_zookeeper):
    server = own_zookeeper.servers[0]
    client = KazooClient(hosts=own_zookeeper.connection_string)
    client.start(timeout=PATIENCE)
    try:
        client.create("/kept", b"this")
    finally:
        client.stop()
        client.close()

    server.kill()
    assert server.mode() is None
    own_zookeeper.start()

    client = KazooClient(hosts=own_zookeeper.connection_string)
    client.start(timeout=PATIENCE)
    try:
        assert client.get("/kept")[0] == b"this"
    finally:
        client.stop()
        client.close()


def test_a_paused_server_answers_nothing_until_it_goes_on(own_zookeeper):
    server = own_zookeeper.servers[0]
    server.pause()
    assert server.is_running()
    assert server.ask("ruok") == ""
    server.resume()
    assert server.ask("ruok", PATIENCE) == "imok"


def test_when_the_leader_is_killed_another_server_leads(own_ensemble):
    old = own_ensemble.leader()
    assert eventually(lambda: len(own_ensemble.followers()), within=30.0, becomes=2) == 2
    old.kill()
    assert own_ensemble.leader(within=30.0) is not old
    assert eventually(lambda: len(own_ensemble.followers()), within=30.0, becomes=1) == 1


def test_a_server_that_cannot_start_is_reported_with_what_it_said(tmp_path):
    broken = Installation(java="/bin/ls", classpath="none")
    ensemble = ZooKeeperEnsemble(tmp_path / "data", installation=broken)
    with pytest.raises(NotStarted, match=r"(?s)server 1 ended:.*ls: "):
        ensemble.start()
    ensemble.stop()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, which Linux has")
def test_servers_of_a_killed_process_die_with_it(tmp_path):
    script = (
        "import pathlib, sys, zookeeper_servers as z;"
        "e = z.ZooKeeperEnsemble(pathlib.Path(sys.argv[1]), dies_with_us=True); e.start();"
        "print(e.servers[0].process.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "data"],
        cwd=SCRIPT.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        assert process_start(server) is not None
        owner.kill()
        owner.wait()
        assert eventually(lambda: process_start(server), within=PATIENCE, becomes=None) is None
