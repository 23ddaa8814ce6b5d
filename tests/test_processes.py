"""Which process is meant, and whether it is surely dead."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from registry.contract import PresenceRecord
from registry.processes import ProcessIdentity, is_surely_dead, start_of, this_process


def presence_of(who: ProcessIdentity) -> PresenceRecord:
    return PresenceRecord(
        name="bender0",
        generation="g",
        kind="node",
        address="tcp://127.0.0.1:1",
        public_key="",
        actors=(),
        host=who.host,
        boot_id=who.boot_id,
        pid_namespace=who.pid_namespace,
        pid=who.pid,
        process_start=who.process_start,
        started="2026-01-31T12:00:00Z",
        protocol=1,
        version="0",
    )


def test_this_process_is_named_by_all_five_parts():
    me = this_process()
    assert me.pid == os.getpid()
    assert me.host and me.boot_id and me.pid_namespace and me.process_start


def test_a_living_process_is_not_dead():
    assert not is_surely_dead(presence_of(this_process()))


def test_a_process_that_ended_is_dead_before_and_after_it_was_collected():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = start_of(child.pid)
    assert start is not None
    record = presence_of(replace(this_process(), pid=child.pid, process_start=start))
    assert not is_surely_dead(record)

    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_surely_dead(record), "a zombie does nothing any more"

    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert is_surely_dead(record)


def test_a_process_id_that_was_used_again_is_dead():
    me = this_process()
    assert is_surely_dead(presence_of(replace(me, process_start=me.process_start - 1)))


def test_of_another_boot_or_namespace_nothing_is_known():
    gone = replace(this_process(), pid=2**22 + 1)
    assert is_surely_dead(presence_of(gone))
    assert not is_surely_dead(presence_of(replace(gone, boot_id="another")))
    assert not is_surely_dead(presence_of(replace(gone, boot_id="")))
    assert not is_surely_dead(presence_of(replace(gone, pid_namespace=1)))
