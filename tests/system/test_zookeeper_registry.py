"""What is special about the registry in ZooKeeper: ended sessions, lost servers, lost answers.

Every promise of the contract stands in `test_registry_contract.py`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoAuthError
from zookeeper_servers import ask

from registry.contract import (
    DocumentTooLarge,
    KeyRecord,
    LockCancelled,
    LockLost,
    LockOwner,
    LockState,
    LockTimeout,
    NameTaken,
    NotPermitted,
    PresenceRecord,
    RegistrySettings,
    RegistryUnavailable,
    SessionState,
    WrongRegistry,
)
from registry.records import encode, to_plain
from registry.zookeeper import ZooKeeperRegistry
from tests.support import eventually
from tests.system.ordered_process import OtherSideFailed
from tests.system.registry_process import RegistryProcess, presence_record
from tests.system.zookeeper_faults import CREATE2, MULTI, SET_DATA, Proxy, end_session

SESSION = 3.0
DELAY = 0.5
OWNER = LockOwner("bender0", "planet-express")
OTHER = LockOwner("fry", "earth")
KEY = "k" * 40

MakeMember = Callable[..., ZooKeeperRegistry]


@pytest.fixture
def new_member() -> Iterator[MakeMember]:
    """Give a maker of opened registries, closed at the end."""
    members: list[ZooKeeperRegistry] = []

    def make(url: str, **settings: Any) -> ZooKeeperRegistry:
        values = {"session_timeout": SESSION, "lock_delay": DELAY, **settings}
        member = ZooKeeperRegistry(RegistrySettings(url, **values))
        member.open(10.0)
        members.append(member)
        return member

    yield make
    for member in members:
        member.close()


@pytest.fixture
def member(new_member: MakeMember, zookeeper_url: str) -> ZooKeeperRegistry:
    return new_member(zookeeper_url)


@pytest.fixture
def other(
    new_member: MakeMember, zookeeper_url: str, member: ZooKeeperRegistry
) -> ZooKeeperRegistry:
    return new_member(zookeeper_url)


@pytest.fixture
def proxy(zookeeper_hosts: str) -> Iterator[Proxy]:
    proxy = Proxy(zookeeper_hosts)
    yield proxy
    proxy.close()


@pytest.fixture
def behind_proxy(new_member: MakeMember, zookeeper_url: str, proxy: Proxy) -> ZooKeeperRegistry:
    """Give a registry whose connection the test can break, beside `member`."""
    root = zookeeper_url.rpartition("/")[2]
    return new_member(f"zookeeper://{proxy.address}/{root}")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def plain_client(zookeeper_hosts: str) -> Iterator[KazooClient]:
    """Give a stranger with ZooKeeper's own tools."""
    client = KazooClient(zookeeper_hosts)
    client.start(10)
    yield client
    client.stop()
    client.close()


def states_of(registry: ZooKeeperRegistry) -> list[SessionState]:
    """Collect a registry's states from now on."""
    states: list[SessionState] = []
    registry.on_state(states.append)
    return states


def waiting(registry: ZooKeeperRegistry, lockid: str, count: int) -> None:
    """Wait until so many stand in a lock's line."""
    line = eventually(lambda: len(registry.lock_status(lockid).waiting), within=5, becomes=count)
    assert line == count


# --- the session ends ----------------------------------------------------------


def test_presence_and_passing_key_come_back_after_the_session_has_ended(
    member, other, zookeeper_hosts
):
    record = presence_record("bender0", public_key=KEY)
    member.enter_key(KeyRecord(KEY, "bender0", "node", False, "g1"))
    member.announce(record)
    before = member._session.guard.session
    states = states_of(member)

    end_session(member, zookeeper_hosts)

    assert eventually(lambda: member._session.guard.session not in {None, before}, within=5)
    assert eventually(lambda: other.presence("bender0"), within=5) == record
    assert eventually(lambda: other.key(KEY), within=5) is not None
    assert other.node_names() == ["bender0"]
    assert eventually(lambda: states[-1:], within=5, becomes=[SessionState.CONNECTED])
    assert SessionState.LOST in states


def test_a_name_that_was_taken_during_an_outage_is_lost_once(
    member, behind_proxy, proxy, zookeeper_hosts
):
    lost: list[PresenceRecord] = []
    behind_proxy.announce(
        presence_record("bender0", "old"), answers=lambda _: True, name_lost=lost.append
    )
    proxy.shut()
    end_session(behind_proxy, zookeeper_hosts)
    newer = presence_record("bender0", "new")
    member.announce(newer)

    proxy.reopen()

    assert eventually(lambda: lost, within=10) == [newer]
    assert member.presence("bender0") == newer
    with pytest.raises(NameTaken):
        behind_proxy.remove("bender0", 1, if_present=True)
    behind_proxy.withdraw()
    assert member.presence("bender0") == newer


def test_a_silent_holder_of_the_name_is_waited_for_one_session_only(
    member, new_member, zookeeper_url
):
    holder = RegistryProcess(zookeeper_url)
    try:
        holder.do("announce", name="bender0", generation="silent", pid=1, process_start=0)
        holder.pause()
        asked: list[PresenceRecord] = []

        def answers(record: PresenceRecord) -> bool:
            asked.append(record)
            return False

        began = time.monotonic()
        member.announce(presence_record("bender0", "next"), answers=answers)
        assert time.monotonic() - began < SESSION + 2.5
        assert [record.generation for record in asked] == ["silent"]
        found = member.presence("bender0")
        assert found is not None
        assert found.generation == "next"
    finally:
        holder.close()


def test_an_entry_of_ours_that_somebody_removed_comes_back(member, plain_client, zookeeper_url):
    root = zookeeper_url.rpartition("/")[2]
    record = presence_record("bender0")
    member.announce(record)
    plain_client.delete(f"/{root}/presence/bender0")
    assert eventually(lambda: member.presence("bender0"), within=5) == record


def test_a_lock_is_lost_with_the_session_and_the_next_holder_waits_for_the_delay(
    member, other, zookeeper_hosts
):
    changes: list[LockState] = []
    lock = member.acquire("web", OWNER, wait=5)
    lock.on_change(changes.append)

    end_session(member, zookeeper_hosts)

    assert eventually(lock.state, within=5, becomes=LockState.LOST) is LockState.LOST
    assert eventually(lambda: changes[-1:], within=5, becomes=[LockState.LOST])
    with pytest.raises(LockLost):
        member.write("x", 1, under=lock)
    began = time.monotonic()
    next_lock = other.acquire("web", OTHER, wait=10)
    assert time.monotonic() - began >= DELAY * 0.9
    assert next_lock.token > lock.token
    assert lock.state() is LockState.LOST


def test_the_same_node_need_not_wait_for_the_delay(new_member, zookeeper_url, zookeeper_hosts):
    patient = {"lock_delay": 60.0}
    first = new_member(zookeeper_url, **patient)
    second = new_member(zookeeper_url, **patient)
    lock = first.acquire("web", OWNER, wait=5)
    end_session(first, zookeeper_hosts)
    assert eventually(lock.state, within=5, becomes=LockState.LOST) is LockState.LOST
    with pytest.raises(LockTimeout):
        second.acquire("web", OTHER, wait=0.5)
    assert second.acquire("web", OWNER, wait=5).token > lock.token


def test_who_releases_a_lost_lock_frees_the_next_from_waiting(
    new_member, zookeeper_url, zookeeper_hosts
):
    first = new_member(zookeeper_url, lock_delay=60.0)
    second = new_member(zookeeper_url, lock_delay=60.0)
    lock = first.acquire("web", OWNER, wait=5)
    end_session(first, zookeeper_hosts)
    assert eventually(lock.state, within=5, becomes=LockState.LOST) is LockState.LOST
    lock.release()
    assert second.acquire("web", OTHER, wait=5).held


def test_who_waits_stands_in_line_again_after_his_session_has_ended(
    member, other, threads, zookeeper_hosts
):
    lock = member.acquire("web", OWNER, wait=5)
    future = threads.submit(other.acquire, "web", OTHER, wait=20)
    waiting(member, "web", 1)
    end_session(other, zookeeper_hosts)
    assert eventually(lambda: other._session.guard.session, within=5)
    waiting(member, "web", 1)
    lock.release()
    assert future.result(10).held


def test_an_answer_that_nobody_can_read_costs_the_session_and_no_more(member, behind_proxy, proxy):
    record = presence_record("bender0")
    behind_proxy.announce(record)
    changed = threading.Event()
    behind_proxy.watch_document("doc", changed.set)
    before = behind_proxy._session.guard.session
    proxy.garble_next_answer()
    with pytest.raises(RegistryUnavailable):
        behind_proxy.read("doc")
    assert eventually(lambda: behind_proxy._session.guard.session not in {None, before}, within=5)
    assert (
        eventually(lambda: behind_proxy.presence("bender0"), within=5, ignoring=RegistryUnavailable)
        == record
    )
    member.create("doc", 1)
    assert changed.wait(5)
    # The old session is not ended by a goodbye; the entry of the new one replaces its.
    found = eventually(lambda: member.presence("bender0"), within=10 * SESSION)
    assert found == record


def test_being_closed_is_the_last_state_that_is_told(new_member, zookeeper_url):
    member = new_member(zookeeper_url)
    states = states_of(member)
    member.close()
    member.close()
    assert states == [SessionState.CLOSED]
    assert member.state() is SessionState.CLOSED


# --- a process stands still, or dies -------------------------------------------


def test_a_holder_that_stood_still_finds_its_lock_lost_before_it_does_anything(
    member, zookeeper_url
):
    holder = RegistryProcess(zookeeper_url)
    try:
        _, token = holder.do("acquire", lockid="web")
        holder.pause()
        lock = member.acquire("web", OTHER, wait=20)
        assert lock.token > token
        member.write("state", "new", under=lock)
        time.sleep(SESSION)  # it stands still for twice its session, and more
        holder.go_on()
        assert holder.do("lock_state", lockid="web") == "lost"
        with pytest.raises(OtherSideFailed, match="LockLost"):
            holder.do("write_under", path="state", value="old", lockid="web")
        document = member.read("state")
        assert document is not None
        assert document.value == "new"
        assert lock.held
    finally:
        holder.close()


def test_a_write_is_refused_by_the_server_too_when_the_slot_is_gone(member, other):
    lock = member.acquire("web", OWNER, wait=5)
    assert member.write("x", 1, under=lock) == 1
    other.break_lock("web")
    # As a process writes whose guard has not seen it yet.
    with pytest.raises(LockLost):
        member.write("x", 2, under=lock)
    document = other.read("x")
    assert document is not None
    assert document.value == 1


def test_killed_waiters_and_a_killed_holder_cost_one_session_and_the_delay(member, zookeeper_url):
    processes = [RegistryProcess(zookeeper_url) for _ in range(3)]
    try:
        processes[0].do("acquire", lockid="web")
        for count, process in enumerate(processes[1:], 1):
            process.begin("acquire", lockid="web", wait=30)
            waiting(member, "web", count)
        for process in reversed(processes):
            process.kill()
        began = time.monotonic()
        lock = member.acquire("web", OTHER, wait=20)
        assert lock.held
        assert time.monotonic() - began < 2 * SESSION + DELAY + 2
    finally:
        for process in processes:
            process.close()


# --- breaking a lock -----------------------------------------------------------


def test_a_broken_lock_is_had_at_once_when_its_holder_says_that_it_knows(new_member, zookeeper_url):
    holder = new_member(zookeeper_url, lock_delay=60.0)
    breaker = new_member(zookeeper_url, lock_delay=60.0)
    told = threading.Event()
    lock = holder.acquire("web", OWNER, wait=5)
    lock.on_change(lambda state: told.set() if state is LockState.LOST else None)
    broken = breaker.break_lock("web")
    assert [(one.owner, one.token) for one in broken] == [("bender0", lock.token)]
    assert breaker.acquire("web", OTHER, wait=10).held
    assert told.is_set()
    assert lock.state() is LockState.LOST


def test_a_broken_lock_is_not_had_by_the_same_process_before_its_holder_knows(member):
    lock = member.acquire("web", OWNER, wait=5)
    member.break_lock("web")
    after = member.acquire("web", OWNER, wait=10)
    assert not lock.held
    assert after.held


def test_a_broken_lock_is_waited_for_when_its_holder_is_silent(new_member, zookeeper_url):
    breaker = new_member(zookeeper_url, lock_delay=60.0)
    holder = RegistryProcess(zookeeper_url)
    try:
        holder.do("acquire", lockid="web")
        holder.pause()
        assert len(breaker.break_lock("web")) == 1
        with pytest.raises(LockTimeout):
            breaker.acquire("web", OTHER, wait=0.5)
        holder.go_on()
        assert breaker.acquire("web", OTHER, wait=10).held
    finally:
        holder.close()


# --- slots that are kept ---------------------------------------------------------


def test_a_kept_slot_outlives_its_session_and_waits_for_its_owner(
    member, other, threads, zookeeper_hosts
):
    lock = member.acquire("web", OWNER, wait=5, keep=True)
    end_session(member, zookeeper_hosts)
    assert eventually(lock.state, within=5, becomes=LockState.LOST) is LockState.LOST
    (kept,) = other.lock_status("web").holders
    assert (kept.owner, kept.token, kept.kept) == ("bender0", lock.token, True)
    waiter = threads.submit(other.acquire, "web", OTHER, wait=30)
    waiting(member, "web", 1)
    again = member.acquire("web", OWNER, wait=5, keep=True)
    assert again.token > lock.token
    assert again.slot == lock.slot
    (holder,) = other.lock_status("web").holders
    assert (holder.token, holder.kept) == (again.token, False)
    again.abandon()
    assert again.state() is LockState.RELEASED
    assert [one.kept for one in other.lock_status("web").holders] == [True]
    assert not waiter.done()
    assert [one.owner for one in member.break_lock("web")] == ["bender0"]
    assert waiter.result(5).held


def test_closing_keeps_a_slot_and_releasing_frees_it(new_member, zookeeper_url, other):
    first = new_member(zookeeper_url)
    first.acquire("web", OWNER, wait=5, keep=True)
    first.close()
    with pytest.raises(LockTimeout) as caught:
        other.acquire("web", OTHER, wait=0)
    assert [holder.owner for holder in caught.value.holders] == ["bender0"]
    lock = new_member(zookeeper_url).acquire("web", OWNER, wait=0, keep=True)
    lock.release()
    assert other.acquire("web", OTHER, wait=0).held


def test_a_broken_lock_is_had_by_nobody_while_a_holder_who_cannot_hear_is_sure_of_it(
    new_member, zookeeper_url, proxy
):
    root = zookeeper_url.rpartition("/")[2]
    holder = new_member(f"zookeeper://{proxy.address}/{root}", session_timeout=6.0)
    breaker = new_member(zookeeper_url)
    lock = holder.acquire("web", OWNER, wait=5)
    assert lock.held
    proxy.shut()
    breaker.break_lock("web")
    assert breaker.acquire("web", OTHER, wait=20).held
    assert not lock.held


def test_breaking_the_lock_of_a_living_holder_keeps_nothing(new_member, zookeeper_url):
    holder = new_member(zookeeper_url, lock_delay=60.0)
    breaker = new_member(zookeeper_url, lock_delay=60.0)
    lock = holder.acquire("web", OWNER, wait=5, keep=True)
    assert len(breaker.break_lock("web", token=lock.token)) == 1
    assert breaker.acquire("web", OTHER, wait=10).held
    assert lock.state() is LockState.LOST


def test_those_of_one_group_enter_beside_each_other_and_count_as_one(member, other, threads):
    rack = [LockOwner(f"bender{number}", "here", group="rack1") for number in range(3)]
    locks = [member.acquire("web", owner, wait=0) for owner in rack[:2]]
    assert sorted(lock.slot for lock in locks) == [0, 1]
    stranger = threads.submit(other.acquire, "web", OTHER, wait=30)
    waiting(member, "web", 1)
    # Behind a stranger in line nobody passes, of whatever group.
    with pytest.raises(LockTimeout):
        member.acquire("web", rack[2], wait=0)
    for lock in locks:
        assert not stranger.done()
        lock.release()
    assert stranger.result(5).held


# --- slots ---------------------------------------------------------------------


def test_the_smallest_count_of_any_holder_or_contender_is_in_force(member, other):
    first = member.acquire("web", OWNER, wait=5, slots=3)
    second = other.acquire("web", OTHER, wait=5, slots=3)
    assert {first.slot, second.slot} == {0, 1}
    with pytest.raises(LockTimeout):
        member.acquire("web", OWNER, wait=0, slots=2)
    assert first.held
    third = member.acquire("web", OWNER, wait=0, slots=3)
    assert other.lock_status("web").slots == 3
    for lock in (first, second, third):
        lock.release()


def test_an_unclean_end_takes_its_slot_out_of_the_count_for_the_delay(
    new_member, zookeeper_url, zookeeper_hosts
):
    first = new_member(zookeeper_url, lock_delay=60.0)
    second = new_member(zookeeper_url, lock_delay=60.0)
    lost = first.acquire("web", OWNER, wait=5, slots=2)
    end_session(first, zookeeper_hosts)
    assert eventually(lost.state, within=5, becomes=LockState.LOST) is LockState.LOST
    kept = second.acquire("web", OTHER, wait=5, slots=2)
    assert kept.slot != lost.slot
    with pytest.raises(LockTimeout):
        second.acquire("web", OTHER, wait=0.3, slots=2)


def test_nothing_is_left_of_a_lock_that_nobody_uses(member, plain_client, zookeeper_url):
    root = zookeeper_url.rpartition("/")[2]
    member.acquire("web", OWNER, wait=5).release()
    lock = member.acquire("other", OWNER, wait=5)
    with pytest.raises(LockTimeout):
        member.acquire("other", OWNER, wait=0)
    lock.release()
    assert (
        eventually(lambda: plain_client.get_children(f"/{root}/locks"), within=10, becomes=[]) == []
    )


# --- answers that are lost -----------------------------------------------------


def test_a_lost_answer_does_not_look_like_somebody_elses_entry(member, behind_proxy, proxy):
    record = presence_record("bender0", public_key=KEY)
    proxy.lose_answer_to(MULTI)
    behind_proxy.announce(record, answers=lambda _: True)
    assert proxy.lost.is_set()
    assert member.presence("bender0") == record

    proxy.lose_answer_to(MULTI)
    behind_proxy.enter_key(KeyRecord(KEY, "bender0", "node", True, "g1"))
    assert proxy.lost.is_set()
    found = member.key(KEY)
    assert found is not None
    assert found.lasting


def test_an_append_whose_answer_was_lost_is_there_once(member, behind_proxy, proxy):
    behind_proxy.append("q", "first")
    proxy.lose_answer_to(MULTI)
    entry_id = behind_proxy.append("q", "second", dedup_id="n1")
    assert proxy.lost.is_set()
    assert [(entry.id, entry.value) for entry in member.entries("q")][1:] == [(entry_id, "second")]


def test_a_write_whose_answer_was_lost_may_have_happened(member, behind_proxy, proxy):
    behind_proxy.create("doc", 1)
    proxy.lose_answer_to(MULTI, SET_DATA)
    with pytest.raises(RegistryUnavailable) as caught:
        behind_proxy.write("doc", 2)
    assert caught.value.may_have_happened
    assert isinstance(caught.value.__cause__, KazooException), "--debug shows what ZooKeeper said"
    document = member.read("doc")
    assert document is not None
    assert document.version == 2


@pytest.mark.parametrize("is_in_use", [False, True], ids=["unused", "in-use"])
def test_a_free_lock_is_had_once_although_the_answer_was_lost(
    member, behind_proxy, proxy, is_in_use
):
    tokens = [member.acquire("web", OTHER, wait=5, slots=2).token] if is_in_use else []
    proxy.lose_answer_to(MULTI)
    lock = behind_proxy.acquire("web", OWNER, wait=10, slots=2)
    assert proxy.lost.is_set()
    status = member.lock_status("web")
    assert [holder.token for holder in status.holders] == [*tokens, lock.token]
    assert status.waiting == ()
    lock.release()
    assert member.acquire("web", OTHER, wait=0, slots=2).held


@pytest.mark.parametrize("request_", [CREATE2, MULTI], ids=["entry", "claim"])
def test_a_waiter_whose_answer_was_lost_gets_the_lock_once(
    member, behind_proxy, proxy, threads, request_
):
    held = member.acquire("web", OTHER, wait=5)
    if request_ == CREATE2:
        proxy.lose_answer_to(request_)
    waiter = threads.submit(behind_proxy.acquire, "web", OWNER, wait=30)
    waiting(member, "web", 1)
    if request_ == MULTI:
        proxy.lose_answer_to(request_)
    else:
        assert proxy.lost.wait(5)
    held.release()
    lock = waiter.result(10)
    assert proxy.lost.is_set()
    assert lock.held
    status = member.lock_status("web")
    assert [holder.token for holder in status.holders] == [lock.token]
    assert eventually(lambda: member.lock_status("web").waiting, within=5, becomes=()) == ()
    lock.release()
    assert member.acquire("web", OTHER, wait=0).held


def test_a_waiter_whose_claim_never_arrived_claims_again(member, behind_proxy, proxy, threads):
    held = member.acquire("web", OTHER, wait=5)
    waiter = threads.submit(behind_proxy.acquire, "web", OWNER, wait=30)
    waiting(member, "web", 1)
    proxy.lose_request(MULTI)
    held.release()
    lock = waiter.result(8)
    assert proxy.lost.is_set()
    assert lock.held
    status = member.lock_status("web")
    assert [holder.token for holder in status.holders] == [lock.token]
    assert status.waiting == ()


def test_a_release_whose_answer_was_lost_frees_the_lock(member, behind_proxy, proxy):
    lock = behind_proxy.acquire("web", OWNER, wait=5)
    # Past its first confirmation, which is a transaction too.
    assert eventually(lock.state, within=5, becomes=LockState.HELD) is LockState.HELD
    proxy.lose_answer_to(MULTI)
    lock.release()
    assert lock.state() is LockState.RELEASED
    assert member.acquire("web", OTHER, wait=10).held


def test_a_wait_that_is_cancelled_while_cut_off_leaves_no_ghost(
    member, behind_proxy, proxy, threads
):
    lock = member.acquire("web", OWNER, wait=5)
    cancelled = threading.Event()
    future = threads.submit(behind_proxy.acquire, "web", OTHER, cancelled=cancelled)
    waiting(member, "web", 1)
    proxy.shut()
    began = time.monotonic()
    cancelled.set()
    error = future.exception(10)
    assert isinstance(error, LockCancelled)
    assert time.monotonic() - began < 1.5  # a second, and some for a busy machine
    proxy.reopen()
    waiting(member, "web", 0)
    lock.release()


def test_who_waits_first_in_line_is_woken_after_a_cut_that_his_session_survived(
    member, new_member, zookeeper_url, proxy, threads
):
    root = zookeeper_url.rpartition("/")[2]
    cut_off = new_member(f"zookeeper://{proxy.address}/{root}", session_timeout=20.0)
    session = cut_off._session.guard.session
    lock = member.acquire("web", OWNER, wait=5)
    waiter = threads.submit(cut_off.acquire, "web", OTHER, wait=40)
    watched = cut_off._session._client._child_watchers
    assert eventually(lambda: f"/{root}/locks/web/slots" in watched, within=5)
    cut_off.node_names()
    proxy.shut()
    # Longer than one operation of the waiter takes, which finds no server.
    with pytest.raises(RegistryUnavailable):
        cut_off.read("x")
    proxy.reopen()
    assert eventually(cut_off.node_names, within=5, becomes=[], ignoring=RegistryUnavailable) == []
    assert cut_off._session.guard.session == session

    lock.release()

    assert waiter.result(5).held


def test_what_changed_while_cut_off_is_told_when_the_connection_is_back(
    member, behind_proxy, proxy
):
    changed = threading.Event()
    behind_proxy.watch_document("doc", changed.set)
    names_changed = threading.Event()
    behind_proxy.watch_children("", names_changed.set)
    proxy.shut()
    member.create("doc", 1)
    assert not changed.is_set()
    proxy.reopen()
    assert changed.wait(5)
    assert names_changed.wait(5)


def test_an_outage_is_waited_for_once_and_not_by_each_operation(member, behind_proxy, proxy):
    member.create("doc", 1)
    proxy.shut()
    with pytest.raises(RegistryUnavailable):
        behind_proxy.read("doc")

    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(RegistryUnavailable):
            behind_proxy.read("doc")
    with pytest.raises(RegistryUnavailable):
        behind_proxy.acquire("web", OWNER, wait=0)
    assert time.monotonic() - began < 3.0

    proxy.reopen()
    assert eventually(
        lambda: behind_proxy.read("doc").value, within=10, ignoring=RegistryUnavailable
    )
    proxy.shut()
    proxy.reopen()
    # Another outage, which is waited for again.
    assert behind_proxy.read("doc").value == 1


# --- servers go ----------------------------------------------------------------


def test_a_server_that_is_killed_and_back_soon_costs_nothing_that_is_held(
    own_zookeeper, new_member
):
    member = new_member(own_zookeeper.url(), session_timeout=20.0)
    record = presence_record("bender0")
    member.announce(record)
    lock = member.acquire("web", OWNER, wait=5)
    session = member._session.guard.session

    own_zookeeper.servers[0].kill()
    states = states_of(member)
    own_zookeeper.start()

    # The state may still say that we are connected to the server that was killed.
    assert (
        eventually(lambda: member.presence("bender0"), within=20, ignoring=RegistryUnavailable)
        == record
    )
    assert member.state() is SessionState.CONNECTED
    assert member._session.guard.session == session
    assert eventually(lock.state, within=5, becomes=LockState.HELD) is LockState.HELD
    assert SessionState.LOST not in states


def test_an_outage_is_bounded_for_everybody_and_over_soon_after_the_servers_are_back(
    own_zookeeper, new_member, threads
):
    url = own_zookeeper.url()
    member, other = new_member(url), new_member(url)
    record = presence_record("bender0")
    member.announce(record)
    lock = member.acquire("web", OWNER, wait=5)
    released = member.acquire("released", OWNER, wait=5)
    seen: list[LockState] = []
    lock.on_change(seen.append)
    states = states_of(member)
    waiter = threads.submit(other.acquire, "web", OTHER, wait=60)
    waiting(member, "web", 1)

    own_zookeeper.servers[0].kill()

    operations: list[Callable[[], Any]] = [
        member.node_names,
        lambda: member.read("x"),
        lambda: member.write("x", 1),
        lambda: member.append("q", 1),
        lambda: member.key(KEY),
        lambda: member.announce(record),
        lambda: member.acquire("another", OWNER, wait=60),
        lambda: member.watch_document("x", lambda: None),
    ]

    def ends_in(operation: Callable[[], Any]) -> float:
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable):
            operation()
        return time.monotonic() - began

    def release_in() -> float:
        began = time.monotonic()
        released.release()
        return time.monotonic() - began

    futures = [threads.submit(ends_in, operation) for operation in operations[:6]]
    release = threads.submit(release_in)
    assert max(future.result(8) for future in futures) < 4.0
    assert release.result(8) < 3.5
    assert max(map(ends_in, operations[6:])) < 4.0
    assert eventually(lock.state, within=5, becomes=LockState.LOST) is LockState.LOST
    assert eventually(member.state, within=5, becomes=SessionState.LOST) is SessionState.LOST
    assert eventually(lambda: seen, within=10, becomes=[LockState.DOUBTFUL, LockState.LOST]) == [
        LockState.DOUBTFUL,
        LockState.LOST,
    ]
    assert eventually(
        lambda: states, within=10, becomes=[SessionState.SUSPENDED, SessionState.LOST]
    ) == [SessionState.SUSPENDED, SessionState.LOST]

    own_zookeeper.start()
    back = time.monotonic()
    for each in (member, other):
        names = eventually(
            each.node_names, within=10, becomes=["bender0"], ignoring=RegistryUnavailable
        )
        assert names == ["bender0"]
    assert time.monotonic() - back < 5
    # Given back during the outage: a clean end, which nobody waits for.
    assert other.acquire("released", OTHER, wait=5).held
    # Declared lost: the slot is taken away although the server restored the session.
    assert waiter.result(20).token > lock.token
    assert lock.state() is LockState.LOST


def test_tokens_grow_over_a_restart_of_everything(own_ensemble, new_member):
    url = own_ensemble.url()
    tokens = []
    for _ in range(2):
        member = new_member(url)
        for _ in range(2):
            lock = member.acquire("web", OWNER, wait=10)
            tokens.append(lock.token)
            lock.release()
        member.close()
        for server in own_ensemble.servers:
            server.kill()
        own_ensemble.start()
    tokens.append(new_member(url).acquire("web", OWNER, wait=10).token)
    assert tokens == sorted(set(tokens))


def test_a_closed_registry_leaves_no_thread_even_when_the_servers_are_gone_or_stand_still(
    own_zookeeper, new_member
):
    gone, still = new_member(own_zookeeper.url()), new_member(own_zookeeper.url())
    still.acquire("web", OWNER, wait=5)
    own_zookeeper.servers[0].pause()
    began = time.monotonic()
    still.close()
    assert time.monotonic() - began < 8
    own_zookeeper.servers[0].kill()
    began = time.monotonic()
    gone.close()
    assert time.monotonic() - began < 5
    with pytest.raises(RegistryUnavailable):
        gone.node_names()
    nobody = ZooKeeperRegistry(RegistrySettings(own_zookeeper.url(), session_timeout=SESSION))
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            nobody.open(0.5)
    assert time.monotonic() - began < 6


def test_the_loss_of_the_leader_costs_no_session_and_no_lock(own_ensemble, new_member):
    member = new_member(own_ensemble.url(), session_timeout=20.0)
    member.announce(presence_record("bender0"))
    lock = member.acquire("web", OWNER, wait=5)
    session = member._session.guard.session
    own_ensemble.leader().kill()

    assert (
        eventually(
            lambda: member.write("doc", "after", under=lock),
            within=30,
            ignoring=RegistryUnavailable,
        )
        >= 1
    )
    assert member._session.guard.session == session
    assert eventually(lock.state, within=5, becomes=LockState.HELD) is LockState.HELD
    assert member.node_names() == ["bender0"]


def test_a_server_that_hangs_is_left_in_time_although_it_is_asked_all_the_while(
    own_ensemble, new_member
):
    member = new_member(own_ensemble.url(), session_timeout=15.0)
    lock = member.acquire("web", OWNER, wait=5)
    session = member._session.guard.session
    port = member._session._client._connection._socket.getpeername()[1]
    server = next(each for each in own_ensemble.servers if each.client_port == port)
    server.pause()

    # Each question is a sign of life to the server, and there is none from it.
    assert eventually(
        lambda: member._session.requests(0.3).exists("/"),
        within=25,
        ignoring=RegistryUnavailable,
    )
    assert member._session.guard.session == session
    assert eventually(lock.state, within=5, becomes=LockState.HELD) is LockState.HELD


def test_a_server_that_hangs_keeps_nobody_from_joining(own_ensemble):
    hung = own_ensemble.followers()[0]
    hung.pause()
    settings = RegistrySettings(own_ensemble.url(), session_timeout=8.0)
    took: list[float] = []

    # Which server is asked first is left to chance.
    while len(took) < 12 and max(took, default=0.0) < 0.5:
        began = time.monotonic()
        registry = ZooKeeperRegistry(settings)
        registry.open(2.5)
        took.append(time.monotonic() - began)
        assert registry.node_names() == []
        registry.close()

    hung.resume()


def test_why_no_server_lets_us_in_is_said_for_each(own_zookeeper):
    own_zookeeper.servers[0].pause()
    hosts = f"127.0.0.1:1,{own_zookeeper.connection_string}"

    with pytest.raises(RegistryUnavailable) as refused:
        ZooKeeperRegistry(RegistrySettings(f"zookeeper://{hosts}/x")).open(2.5)
    with pytest.raises(RegistryUnavailable) as unknown:
        ZooKeeperRegistry(RegistrySettings("zookeeper://no-such-host.invalid:1/x")).open(0.5)

    assert "127.0.0.1:1: Connection refused" in refused.value.reason
    silent = f"{own_zookeeper.connection_string}: it takes the connection and does not answer"
    assert silent in refused.value.reason
    assert "no address is known" in unknown.value.reason


# --- who may, and how much -----------------------------------------------------


def test_with_a_user_nobody_else_reads_or_deletes_what_is_ours(
    new_member, zookeeper_url, zookeeper_hosts, plain_client, caplog
):
    root = zookeeper_url.rpartition("/")[2]
    secured = f"zookeeper://flock:s%40cret@{zookeeper_hosts}/{root}"
    with caplog.at_level(logging.WARNING):
        member = new_member(secured)
    assert not [record for record in caplog.records if "open" in record.message]
    assert "s%40cret" not in member.url
    assert "s@cret" not in member.url
    member.create("doc", "secret")
    member.announce(presence_record("bender0"))
    member.append("q", "entry", dedup_id="1")
    lock = member.acquire("web", OWNER, wait=5)

    paths = [f"/{root}"]
    for path in paths:
        paths.extend(f"{path}/{name}" for name in member_children(member, path))
    assert len(paths) > 15
    for path in paths:
        with pytest.raises(NoAuthError):
            plain_client.get(path)
        if path != f"/{root}":
            with pytest.raises(NoAuthError):
                plain_client.delete(path)
    for stranger in (zookeeper_url, f"zookeeper://flock:wrong@{zookeeper_hosts}/{root}"):
        registry = ZooKeeperRegistry(RegistrySettings(stranger, session_timeout=SESSION))
        with pytest.raises(NotPermitted) as caught:
            registry.open()
        assert "wrong@" not in str(caught.value)
        assert isinstance(caught.value.__cause__, NoAuthError)
    assert lock.held


def member_children(member: ZooKeeperRegistry, path: str) -> list[str]:
    """Return the names below any node, with the rights of a registry."""
    return member._session.requests().names(path)


def test_an_open_registry_warns_once(new_member, zookeeper_url, caplog):
    with caplog.at_level(logging.WARNING):
        new_member(zookeeper_url)
    assert len([record for record in caplog.records if "is open" in record.message]) == 1


def watched_at_the_server(url: str) -> list[str]:
    """Return the nodes of a registry that the server watches for anybody."""
    hosts, _, root = url.removeprefix("zookeeper://").partition("/")
    lines = ask(int(hosts.partition(",")[0].rpartition(":")[2]), "wchp").splitlines()
    return [line for line in lines if line.startswith(f"/{root}/")]


def test_a_watch_that_nobody_needs_any_more_is_taken_back(member, other, zookeeper_url):
    # Once after what was watched is gone, once before anything ever came.
    gone, given_up = threading.Event(), threading.Event()
    before = watched_at_the_server(zookeeper_url)
    other.create("things/gone", 1)
    cancels = [
        member.watch_document("things/gone", gone.set),
        member.watch_document("things/never", given_up.set),
        member.watch_children("things/never", given_up.set),
    ]
    assert len(watched_at_the_server(zookeeper_url)) == len(before) + 2
    other.delete("things/gone")
    assert gone.wait(5)
    for cancel in cancels:
        cancel()

    assert (
        eventually(lambda: watched_at_the_server(zookeeper_url), within=5, becomes=before) == before
    )
    # The connection that took them back works as before, and a new watch is a new watch.
    again = threading.Event()
    member.watch_document("things/gone", again.set)
    other.create("things/gone", 2)
    assert again.wait(5)


def test_a_watch_that_fires_while_it_is_taken_back_harms_nobody(
    member, behind_proxy, proxy, caplog
):
    cancel = behind_proxy.watch_document("things/one", lambda: None)
    proxy.hold_answers()
    member.create("things/one", 1)  # it fires, and the news is on its way
    cancel()
    proxy.let_answers_through()

    assert behind_proxy.read("things/one").value == 1
    assert "ended by itself" not in caplog.text


def test_a_root_of_several_parts_is_made(new_member, zookeeper_url):
    member = new_member(f"{zookeeper_url}/deep/er")
    member.create("doc", 1)
    again = new_member(f"{zookeeper_url}/deep/er/")
    assert again.read("doc") is not None
    assert again.registry_id() == member.registry_id()
    assert new_member(f"{zookeeper_url}/else").registry_id() != member.registry_id()


def test_what_is_no_registry_of_ours_is_refused(plain_client, zookeeper_url):
    root = zookeeper_url.rpartition("/")[2]
    plain_client.create(f"/{root}/registry", b"somebody else's", makepath=True)
    registry = ZooKeeperRegistry(RegistrySettings(zookeeper_url))
    with pytest.raises(ValueError, match="not valid"):
        registry.open()
    plain_client.set(f"/{root}/registry", b"\x01\x82\xa2id\xa1x\xa6layout\x63")
    with pytest.raises(WrongRegistry, match="another version"):
        registry.open()


def test_a_root_that_was_removed_is_said_until_somebody_joins_anew(
    member, new_member, plain_client, zookeeper_url
):
    root = zookeeper_url.rpartition("/")[2]
    plain_client.delete(f"/{root}", recursive=True)
    for write in (
        lambda: member.write("a", 1),
        lambda: member.write("a/b", 1, version=0),
        lambda: member.append("q", 1),
        lambda: member.enter_key(KeyRecord(KEY, "bender0", "node", False, "g1")),
        lambda: member.enter_key(KeyRecord(KEY, "bender0", "node", True, "g1")),
        lambda: member.announce(presence_record("bender0")),
        lambda: member.acquire("web", OWNER, wait=0.2),
    ):
        with pytest.raises(RegistryUnavailable, match="its folders were removed"):
            write()
    new_member(zookeeper_url)
    assert member.write("a", 1) == 1
    assert member.acquire("web", OWNER).held


def test_what_is_too_large_is_refused_here_and_the_session_does_not_flap(member):
    states = states_of(member)
    noise = random.Random(1).randbytes(600_000)
    with pytest.raises(DocumentTooLarge):
        member.create("doc", noise)
    with pytest.raises(DocumentTooLarge):
        member.append("q", noise[:70_000])
    with pytest.raises(DocumentTooLarge):
        member.announce(presence_record("bender0", actors=(noise[:70_000].hex(),)))
    with pytest.raises(DocumentTooLarge):
        member.acquire("web", LockOwner("bender0", "host", reason=noise[:20_000].hex()))
    assert member.create("doc", noise[:500_000]) == 1
    document = member.read("doc")
    assert document is not None
    assert document.value == noise[:500_000]
    assert states == []


def test_the_guard_counts_with_the_timeout_that_was_granted(new_member, zookeeper_url):
    member = new_member(zookeeper_url, session_timeout=500.0)
    assert 1.0 < member._session.guard.granted <= 60.0


def test_rubbish_in_the_registry_hides_nobody_else(member, plain_client, zookeeper_url):
    root = zookeeper_url.rpartition("/")[2]
    record = presence_record("bender0")
    member.announce(record)
    plain_client.create(f"/{root}/nodes/rubbish~1")
    plain_client.create(f"/{root}/presence/rubbish", b"\x01" + b"\x91" * 60_000)
    plain_client.create(f"/{root}/nodes/%zz~1")
    assert member.presences() == [record]
    plain_client.create(f"/{root}/locks/web/slots/x", b"\xff", makepath=True)
    plain_client.create(f"/{root}/locks/web/line/nobody", b"\xff", makepath=True)
    plain_client.create(f"/{root}/locks/web/marks/strange", b"\xff", makepath=True)
    assert member.lock_status("web").holders == ()
    assert member.acquire("web", OWNER, wait=5).held


def test_a_thousand_nodes_are_listed_whole(member, zookeeper_url):
    root = zookeeper_url.rpartition("/")[2]
    client = member._session._client
    assert client is not None
    records = [presence_record(f"node{number:04}") for number in range(1200)]
    answers = []
    for record in records:
        data = encode(to_plain(record), "a record", 65_536)
        answers.append(client.create_async(f"/{root}/presence/{record.name}", data, ephemeral=True))
        answers.append(client.create_async(f"/{root}/nodes/{record.name}~g1", b"", ephemeral=True))
    for answer in answers:
        answer.get(timeout=20)
    assert member.presences() == records
    assert len(member.node_names()) == 1200
