"""Every promise of `registry.contract`, kept by both backends.

Members are registry objects in this process; where a border between
processes matters the other side is a real process.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from registry.contract import (
    Document,
    DocumentTooLarge,
    KeyRecord,
    Lock,
    LockCancelled,
    LockLost,
    LockOwner,
    LockState,
    LockStatus,
    LockTimeout,
    NameTaken,
    PresenceRecord,
    QueueFull,
    RecordInvalid,
    Registry,
    RegistryUnavailable,
    SessionState,
    VersionConflict,
)
from registry.readings import Reading, noted, watch
from tests.support import eventually
from tests.system.ordered_process import OtherSideFailed
from tests.system.registry_process import (
    RegistryProcess,
    new_registry,
    presence_record,
)

OWNER = LockOwner("bender0", "planet-express", run_id="run-7", reason="restart")
OTHER = LockOwner("leela", "planet-express")
STRANGE_NAMES = [
    "with / slash",
    "/",
    "..",
    ".",
    "",
    " ",
    "%2F",
    "%",
    "ünïcødé ☃ 漢字",
    "line\nbreak",
    "nul\0",
    "x" * 300,
]
SEEN = 5.0
"""Seconds within which a change must have been seen; it is a bound, not a wait."""

RECHECKED = 10.0
"""Seconds after which who waits for a lock looks once more, whatever woke him or did not."""


@pytest.fixture
def new_member(registry_url: str) -> Iterator[Callable[[], Registry]]:
    """Give a maker of opened registries: each is a member of its own."""
    members: list[Registry] = []

    def make() -> Registry:
        member = new_registry(registry_url)
        member.open(10.0)
        members.append(member)
        return member

    yield make
    for member in members:
        member.close()


@pytest.fixture
def registry(new_member: Callable[[], Registry]) -> Registry:
    return new_member()


@pytest.fixture
def second(registry: Registry, new_member: Callable[[], Registry]) -> Registry:
    return new_member()


@pytest.fixture
def new_process(registry: Registry, registry_url: str) -> Iterator[Callable[[], RegistryProcess]]:
    """Give a maker of other processes with the same registry."""
    processes: list[RegistryProcess] = []

    def make() -> RegistryProcess:
        process = RegistryProcess(registry_url)
        processes.append(process)
        return process

    yield make
    for process in processes:
        process.close()


@pytest.fixture
def process(new_process: Callable[[], RegistryProcess]) -> RegistryProcess:
    return new_process()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture
def death_seen(registry_url: str) -> float:
    """Give the seconds within which a killed process must be gone."""
    return 1.0 if registry_url.startswith("embedded:") else 12.0


def key_record(
    public_key: str, name: str, *, lasting: bool = False, generation: str = "g1"
) -> KeyRecord:
    return KeyRecord(f"{public_key:.<40}", name, "node", lasting, generation)


# --- session -------------------------------------------------------------------


def test_an_open_registry_is_connected_and_a_closed_one_is_closed(registry):
    assert registry.state() is SessionState.CONNECTED
    registry.close()
    assert registry.state() is SessionState.CLOSED


def test_the_end_of_a_registry_is_told_to_who_asked_for_its_state(registry):
    told: list[SessionState] = []
    registry.on_state(told.append)
    registry.close()
    assert told == [SessionState.CLOSED]


def test_a_state_callback_that_was_cancelled_is_not_called(registry):
    told: list[SessionState] = []
    registry.on_state(told.append)()
    registry.close()
    assert told == []


def test_closing_twice_is_harmless(registry):
    registry.close()
    registry.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.node_names(),
        lambda registry: registry.presence("bender0"),
        lambda registry: registry.key("k"),
        lambda registry: registry.read("a"),
        lambda registry: registry.write("a", 1),
        lambda registry: registry.children("a"),
        lambda registry: registry.append("q", 1),
        lambda registry: registry.entries("q"),
        lambda registry: registry.lock_status("l"),
        lambda registry: registry.acquire("l", OWNER, wait=1.0),
        lambda registry: registry.announce(presence_record("bender0")),
        lambda registry: registry.watch_document("a", print),
    ],
)
def test_a_closed_registry_answers_unavailable_and_not_empty(registry, ask):
    registry.close()
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        ask(registry)
    assert time.monotonic() - began < 1.0


def test_all_members_see_the_same_registry_id(registry, second):
    assert registry.registry_id() == second.registry_id() != ""


def test_the_registry_id_lasts(registry, new_member):
    before = registry.registry_id()
    registry.close()
    assert new_member().registry_id() == before


def test_the_default_host_is_where_others_reach_us(registry):
    assert registry.default_host() == "127.0.0.1"


# --- keys ----------------------------------------------------------------------


def test_a_key_that_was_entered_is_found_by_every_member(registry, second):
    record = key_record("bender", "bender0")
    registry.enter_key(record)
    assert second.key(record.public_key) == record


def test_a_key_nobody_entered_is_absent(registry):
    assert registry.key("nobody") is None


def test_a_key_belongs_to_one_name(registry, second):
    registry.enter_key(key_record("bender", "bender0", lasting=True))
    with pytest.raises(NameTaken, match="bender0"):
        second.enter_key(key_record("bender", "bender1", lasting=True))


def test_a_key_may_be_entered_again_for_its_name(registry, second):
    registry.enter_key(key_record("bender", "bender0", lasting=True))
    again = key_record("bender", "bender0", lasting=True, generation="g2")
    second.enter_key(again)
    assert registry.key(again.public_key) == again


@pytest.mark.parametrize("lasting", [True, False])
def test_a_name_with_a_kept_key_takes_no_other_until_that_is_forgotten(registry, second, lasting):
    old = key_record("old", "bender0", lasting=True)
    new = key_record("new", "bender0", lasting=lasting)
    registry.enter_key(old)
    with pytest.raises(NameTaken, match="bender0"):
        second.enter_key(new)

    assert second.forget_key("bender0") is True
    second.enter_key(new)
    assert registry.key(old.public_key) is None
    assert registry.key(new.public_key) == new


def test_forgetting_a_name_without_a_key_says_so(registry):
    assert registry.forget_key("nobody") is False


def test_a_kept_key_outlives_its_member_and_a_passing_one_does_not(registry, second):
    kept = key_record("kept", "bender0", lasting=True)
    passing = key_record("passing", "bender1")
    second.enter_key(kept)
    second.enter_key(passing)
    second.close()
    assert registry.key(kept.public_key) == kept
    assert registry.key(passing.public_key) is None


def test_a_passing_key_dies_with_its_process(registry, process, death_seen):
    process.do("enter_key", public_key="passing", name="bender1", lasting=False)
    assert registry.key("passing") is not None
    process.kill()
    assert eventually(lambda: registry.key("passing"), death_seen, becomes=None) is None


def test_a_key_of_any_text_is_found(registry):
    record = KeyRecord("a/b%.ä #", "bender0", "node", True, "g1")
    registry.enter_key(record)
    assert registry.key(record.public_key) == record


# --- presence ------------------------------------------------------------------


def test_who_announced_himself_is_found_by_every_member(registry, second):
    record = presence_record("bender0", roles=("web", "db"), recipes=("cb::default",))
    registry.announce(record)
    assert second.presence("bender0") == record
    assert second.presences() == [record]
    assert second.node_names() == ["bender0"]
    assert second.presence_of_key(record.public_key) == record


def test_who_did_not_announce_himself_is_absent(registry):
    assert registry.presence("bender0") is None
    assert registry.presence_of_key("k" * 40) is None
    assert registry.node_names() == []


def test_nodes_are_listed_by_name(registry, second, new_member):
    for member, name in ((registry, "fry"), (second, "Amy"), (new_member(), "bender0")):
        member.announce(presence_record(name))
    assert registry.node_names() == ["Amy", "bender0", "fry"]
    assert [record.name for record in registry.presences()] == ["Amy", "bender0", "fry"]


def test_announcing_again_overwrites_our_own_entry(registry, second):
    record = presence_record("bender0")
    registry.announce(record)
    registry.announce(replace(record, state="converging"))
    found = second.presence("bender0")
    assert found is not None
    assert found.state == "converging"


def test_a_visitor_is_found_by_name_and_not_listed(registry, second):
    visitor = presence_record("visitor-1", kind="visitor")
    registry.announce(visitor)
    assert second.presence("visitor-1") == visitor
    assert second.presence_of_key(visitor.public_key) == visitor
    assert second.node_names() == []
    assert second.presences() == []


def test_who_withdraws_is_gone_and_may_do_so_twice(registry, second):
    registry.announce(presence_record("bender0"))
    registry.withdraw()
    registry.withdraw()
    assert second.presence("bender0") is None
    assert second.node_names() == []


def test_who_closes_is_gone_at_once(registry, second):
    second.announce(presence_record("bender0"))
    second.close()
    assert registry.node_names() == []


def test_a_name_whose_holder_answers_is_refused_and_the_error_says_who(registry, second):
    registry.announce(presence_record("bender0", "g1"))
    asked: list[str] = []

    def answers(other: PresenceRecord) -> bool:
        asked.append(other.generation)
        return True

    began = time.monotonic()
    with pytest.raises(NameTaken, match=f"process {os.getpid()} on .*127.0.0.1:4711"):
        second.announce(presence_record("bender0", "g2"), answers=answers)
    assert asked == ["g1"]
    assert time.monotonic() - began < 2.0
    found = registry.presence("bender0")
    assert found is not None
    assert found.generation == "g1"


def test_without_a_way_to_ask_a_standing_name_is_refused(registry, second):
    registry.announce(presence_record("bender0", "g1"))
    with pytest.raises(NameTaken):
        second.announce(presence_record("bender0", "g2"))


def test_a_name_whose_holder_is_silent_is_taken_when_its_entry_goes(registry, second, threads):
    registry.announce(presence_record("bender0", "g1"))
    asked = threading.Event()

    def answers(_: PresenceRecord) -> bool:
        asked.set()
        return False

    announced = threads.submit(second.announce, presence_record("bender0", "g2"), answers=answers)
    assert asked.wait(SEEN)
    registry.close()
    announced.result(SEEN)
    found = second.presence("bender0")
    assert found is not None
    assert found.generation == "g2"


def test_the_name_of_a_killed_process_of_this_machine_is_free_at_once(registry, process):
    process.do("announce", name="bender0", generation="g1")
    process.kill()

    def answers(_: PresenceRecord) -> bool:
        raise AssertionError("the dead need not be asked")

    began = time.monotonic()
    registry.announce(presence_record("bender0", "g2"), answers=answers)
    assert time.monotonic() - began < 1.0
    found = registry.presence("bender0")
    assert found is not None
    assert found.generation == "g2"


def test_a_killed_process_leaves_the_directory(registry, process, death_seen):
    process.do("announce", name="bender1")
    assert registry.node_names() == ["bender1"]
    process.kill()
    assert eventually(registry.node_names, death_seen, becomes=[]) == []
    assert registry.presence("bender1") is None


def test_of_many_that_want_one_name_exactly_one_gets_it(registry, new_member, threads):
    members = [new_member() for _ in range(4)]
    start = threading.Barrier(len(members))

    def announce(number: int) -> bool:
        start.wait(10)
        try:
            members[number].announce(presence_record("bender0", f"g{number}"))
        except NameTaken:
            return False
        return True

    assert sum(threads.map(announce, range(len(members)))) == 1
    assert registry.node_names() == ["bender0"]


def test_a_presence_that_is_too_large_is_refused_and_nothing_was_sent(registry):
    actors = tuple(os.urandom(20).hex() for _ in range(4000))
    with pytest.raises(DocumentTooLarge) as refused:
        registry.announce(presence_record("bender0", actors=actors))
    assert refused.value.size > refused.value.limit == 64 * 1024
    assert registry.state() is SessionState.CONNECTED
    assert registry.node_names() == []


# --- documents -----------------------------------------------------------------


def test_a_document_that_nobody_wrote_is_absent(registry):
    assert registry.read("nowhere") is None
    assert registry.delete("nowhere") is False


def test_a_document_holds_plain_data_of_every_kind(registry, second):
    value: dict[str, Any] = {
        "none": None,
        "true": True,
        "int": -(2**63),
        "float": 1.5,
        "text": "ü☃",
        "bytes": b"\0\xff",
        "list": [1, [2, {}], ""],
        "dict": {"a b/c": {}},
    }
    assert registry.create("a/b", value) == 1
    assert second.read("a/b") == Document("a/b", value, 1)


def test_creating_what_exists_is_a_conflict(registry, second):
    registry.create("a", 1)
    with pytest.raises(VersionConflict) as conflict:
        second.create("a", 2)
    assert (conflict.value.wanted, conflict.value.found) == (0, 1)
    assert second.read("a") == Document("a", 1, 1)


def test_writing_counts_the_version_up_and_creates_if_absent(registry, second):
    assert registry.write("a", "one") == 1
    assert second.write("a", "two") == 2
    assert second.write("a", "three", version=2) == 3
    assert registry.read("a") == Document("a", "three", 3)


def test_writing_over_another_version_is_a_conflict_that_names_both(registry, second):
    registry.write("a", 1)
    second.write("a", 2)
    with pytest.raises(VersionConflict) as conflict:
        registry.write("a", 3, version=1)
    assert (conflict.value.path, conflict.value.wanted, conflict.value.found) == ("a", 1, 2)
    with pytest.raises(VersionConflict):
        registry.write("a", 3, version=0)
    with pytest.raises(VersionConflict) as conflict:
        registry.write("absent", 3, version=1)
    assert conflict.value.found == 0
    assert registry.read("a") == Document("a", 2, 2)
    assert registry.read("absent") is None


def test_deleting_with_a_version_is_compared_too(registry):
    registry.write("a", 1)
    with pytest.raises(VersionConflict):
        registry.delete("a", version=2)
    assert registry.delete("a", version=1) is True
    assert registry.read("a") is None
    assert registry.create("a", "anew") == 1


def test_children_are_the_names_one_level_below(registry, second):
    for path in ("nodes/b", "nodes/b/body", "nodes/b-x", "nodes/a/body", "nodes/c!", "other"):
        registry.write(path, path)
    assert second.children("nodes") == ["a", "b", "b-x", "c!"]
    assert second.children("nodes/a") == ["body"]
    assert second.children("nodes/c!") == []
    assert second.children("absent") == []
    assert second.children("") == ["nodes", "other"]


def test_children_stay_when_their_parent_is_deleted(registry):
    registry.write("a", 1)
    registry.write("a/b", 2)
    assert registry.delete("a") is True
    assert registry.read("a") is None
    assert registry.read("a/b") == Document("a/b", 2, 1)
    assert registry.children("") == ["a"]
    registry.delete("a/b")
    assert registry.children("a") == []
    assert registry.children("") == []


@pytest.mark.parametrize("name", [name for name in STRANGE_NAMES if name and "/" not in name])
def test_any_text_is_a_part_of_a_document_path(registry, name):
    registry.write(f"strange/{name}/below", name)
    assert registry.children("strange") == [name]
    assert registry.read(f"strange/{name}/below") == Document(f"strange/{name}/below", name, 1)


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b"])
def test_a_path_with_an_empty_part_is_refused(registry, path):
    for use in (
        lambda: registry.read(path),
        lambda: registry.create(path, 1),
        lambda: registry.write(path, 1),
        lambda: registry.delete(path),
        lambda: registry.watch_document(path, print),
    ):
        with pytest.raises(RecordInvalid, match="empty part"):
            use()


@pytest.mark.parametrize(
    "use",
    [
        lambda registry, name: registry.acquire(name, OWNER, wait=1.0),
        lambda registry, name: registry.append(name, 1),
        lambda registry, name: registry.write(name, 1),
        lambda registry, name: registry.announce(presence_record(name)),
    ],
    ids=["lock", "queue", "document", "presence"],
)
def test_a_name_that_is_too_long_is_refused_and_harms_nobody(registry, use):
    states: list[SessionState] = []
    registry.on_state(states.append)
    for name in ("x" * 200_000, "é" * 1366):
        with pytest.raises(DocumentTooLarge, match=r"the name '(x|é)") as refused:
            use(registry, name)
        assert refused.value.size > refused.value.limit == 8192
    use(registry, "é" * 1365)
    assert states == []


def test_a_path_has_so_many_parts_and_no_more(registry):
    assert registry.write("/".join("a" * 32), 1) == 1
    with pytest.raises(RecordInvalid, match="33 parts, at most 32"):
        registry.write("/".join("a" * 33), 1)


def test_a_document_that_is_too_large_is_refused_and_nothing_was_sent(registry):
    with pytest.raises(DocumentTooLarge) as refused:
        registry.write("large", os.urandom(600 * 1024))
    assert refused.value.size > refused.value.limit == 512 * 1024
    assert registry.state() is SessionState.CONNECTED
    assert registry.read("large") is None


def test_a_document_counts_by_its_compressed_size(registry, second):
    registry.write("long", "x" * 2_000_000)
    document = second.read("long")
    assert document is not None
    assert len(document.value) == 2_000_000


def test_what_is_no_plain_data_is_refused(registry):
    with pytest.raises(RecordInvalid, match="object"):
        registry.write("a", {"x": object()})
    assert registry.read("a") is None


def test_compare_and_set_of_four_processes_loses_no_count(registry, new_process):
    processes = [new_process() for _ in range(4)]
    for process in processes:
        process.begin("count_up", path="counter", times=25)
    for process in processes:
        process.result(within=60.0)
    assert registry.read("counter") == Document("counter", 100, 100)


# --- queues --------------------------------------------------------------------


def test_a_queue_keeps_the_order_of_all_who_append(registry, second):
    ids = [member.append("q", n) for n, member in enumerate([registry, second] * 5)]
    assert ids == sorted(set(ids))
    entries = registry.entries("q")
    assert [entry.value for entry in entries] == list(range(10))
    assert [entry.id for entry in entries] == ids
    assert second.queue_length("q") == 10


def test_entries_come_first_ones_first_up_to_the_limit(registry):
    for n in range(5):
        registry.append("q", n)
    assert registry.entries("q", limit=0) == registry.entries("q", limit=-1) == []
    assert [entry.value for entry in registry.entries("q", limit=2)] == [0, 1]


def test_a_queue_that_nobody_used_is_empty(registry):
    assert registry.entries("q") == []
    assert registry.queue_length("q") == 0
    assert registry.queues() == []


def test_an_entry_is_removed_once(registry, second):
    first = registry.append("q", "first")
    registry.append("q", "second")
    assert second.remove("q", first) is True
    assert registry.remove("q", first) is False
    assert [entry.value for entry in registry.entries("q")] == ["second"]


def test_ids_grow_also_after_the_queue_was_emptied(registry):
    first = registry.append("q", 1)
    registry.remove("q", first)
    second = registry.append("q", 2)
    registry.drop_queue("q")
    assert first < second < registry.append("q", 3)


def test_appending_twice_with_one_dedup_id_gives_the_first_entry(registry, second):
    first = registry.append("q", "notice", dedup_id="run/7#1")
    assert second.append("q", "notice", dedup_id="run/7#1") == first
    assert second.append("q", "notice", dedup_id="run/7#2") > first
    assert second.append("other", "notice", dedup_id="run/7#1") is not None
    assert registry.queue_length("q") == 2
    assert registry.queue_length("other") == 1


def test_a_dedup_id_counts_only_while_its_entry_stands(registry):
    first = registry.append("q", 1, dedup_id="d")
    registry.remove("q", first)
    assert registry.append("q", 2, dedup_id="d") > first
    registry.drop_queue("q")
    registry.append("q", 3, dedup_id="d")
    assert [entry.value for entry in registry.entries("q")] == [3]


def test_a_full_queue_refuses_more(registry, monkeypatch):
    for module in [module for name, module in sys.modules.items() if name.startswith("registry")]:
        if hasattr(module, "MAX_QUEUE_LENGTH"):
            monkeypatch.setattr(module, "MAX_QUEUE_LENGTH", 3)
    first = registry.append("q", 0, dedup_id="first")
    for n in (1, 2):
        registry.append("q", n)
    with pytest.raises(QueueFull) as full:
        registry.append("q", 3)
    assert (full.value.queue, full.value.length) == ("q", 3)
    assert registry.append("q", 0, dedup_id="first") == first, "what stands need not fit again"
    assert registry.queue_length("q") == 3
    registry.remove("q", first)
    registry.append("q", 3)
    assert [entry.value for entry in registry.entries("q")] == [1, 2, 3]


def test_an_entry_that_is_too_large_is_refused_and_nothing_was_sent(registry):
    with pytest.raises(DocumentTooLarge):
        registry.append("q", os.urandom(70 * 1024))
    assert registry.state() is SessionState.CONNECTED
    assert registry.queue_length("q") == 0


def test_only_who_is_present_takes_an_entry_if_it_matters(registry, second):
    entry = second.append("q", "notice")
    with pytest.raises(NameTaken):
        registry.remove("q", entry, if_present=True)
    assert registry.queue_length("q") == 1

    registry.announce(presence_record("bender0"))
    assert registry.remove("q", entry, if_present=True) is True
    assert registry.remove("q", entry, if_present=True) is False

    entry = second.append("q", "notice")
    registry.withdraw()
    with pytest.raises(NameTaken):
        registry.remove("q", entry, if_present=True)
    assert registry.queue_length("q") == 1


def test_a_dropped_queue_is_gone_with_its_entries(registry, second):
    registry.append("q", 1)
    registry.append("other", 1)
    second.drop_queue("q")
    second.drop_queue("never there")
    assert registry.entries("q") == []
    assert registry.queues() == ["other"]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_any_text_is_the_name_of_a_queue(registry, name):
    registry.append(name, name)
    assert registry.queues() == [name]
    assert [entry.value for entry in registry.entries(name)] == [name]


def test_queues_are_listed_by_the_beginning_of_their_names(registry):
    for name in ("notices/b", "notices/a", "dead/a", "noticesx"):
        registry.append(name, 1)
    assert registry.queues("notices/") == ["notices/a", "notices/b"]
    assert registry.queues() == ["dead/a", "notices/a", "notices/b", "noticesx"]


# --- locks ---------------------------------------------------------------------


def test_a_lock_that_is_free_is_had_at_once_and_known_to_all(registry, second):
    lock = registry.acquire("web", OWNER, wait=0)
    assert lock.held
    assert (lock.lockid, lock.slot, lock.slots) == ("web", 0, 1)
    status = second.lock_status("web")
    assert (status.lockid, status.slots, status.waiting) == ("web", 1, ())
    (holder,) = status.holders
    assert (holder.owner, holder.host, holder.run_id, holder.reason, holder.slot, holder.token) == (
        "bender0",
        "planet-express",
        "run-7",
        "restart",
        0,
        lock.token,
    )
    assert holder.since.endswith("Z")


def test_a_lock_that_nobody_wants_has_neither_holders_nor_waiters(registry):
    status = registry.lock_status("web")
    assert (status.lockid, status.holders, status.waiting) == ("web", (), ())
    assert registry.locks() == []


def test_the_holders_of_a_lock_are_told_without_its_line(registry, second, threads):
    assert registry.lock_holders("web") == LockStatus("web", 1)
    lock = registry.acquire("web", OWNER, slots=2)
    other = registry.acquire("web", OWNER, slots=2)
    stop = threading.Event()
    waiter = threads.submit(second.acquire, "web", OTHER, cancelled=stop)
    line_of(registry, "web", 1)

    held = registry.lock_holders("web")

    assert held == replace(registry.lock_status("web"), waiting=())
    assert [(each.slot, each.token) for each in held.holders] == [
        (lock.slot, lock.token),
        (other.slot, other.token),
    ]
    stop.set()
    with pytest.raises(LockCancelled):
        waiter.result(SEEN)


def test_a_lock_that_is_held_is_not_had_and_the_error_says_who_has_it(registry, second):
    registry.acquire("web", OWNER)
    with pytest.raises(LockTimeout, match="held by bender0 since") as late:
        second.acquire("web", OWNER, wait=0)
    assert [holder.owner for holder in late.value.holders] == ["bender0"]
    assert len(second.lock_status("web").waiting) == 0


def test_who_waits_for_ever_may_say_so_as_infinity(registry, second, threads):
    lock = registry.acquire("web", OWNER)
    waiter = threads.submit(second.acquire, "web", OTHER, wait=math.inf)
    line_of(registry, "web", 1)
    lock.release()
    assert waiter.result(SEEN).held


def test_what_is_said_of_an_owner_has_a_limit(registry):
    said = os.urandom(9000).hex()  # which takes about 9,000 bytes
    with pytest.raises(DocumentTooLarge):
        registry.acquire("web", replace(OWNER, reason=said), wait=0)
    assert registry.acquire("web", replace(OWNER, reason=said[:12_000]), wait=0).held


def test_a_lock_is_not_reentrant(registry):
    lock = registry.acquire("web", OWNER)
    with pytest.raises(LockTimeout):
        registry.acquire("web", OWNER, wait=0.1)
    assert lock.held


def test_locks_of_different_names_are_independent(registry, second):
    assert registry.acquire("web", OWNER, wait=0).held
    assert second.acquire("db", OWNER, wait=0).held


def test_a_released_lock_is_free_and_not_held(registry, second):
    lock = registry.acquire("web", OWNER)
    lock.release()
    lock.release()
    assert lock.state() is LockState.RELEASED
    assert not lock.held
    assert second.acquire("web", OWNER, wait=0).held


def test_a_lock_has_as_many_holders_as_slots(registry, second, new_member):
    third = new_member()
    taken = [member.acquire("web", OWNER, wait=0, slots=3) for member in (registry, second, third)]
    assert sorted(lock.slot for lock in taken) == [0, 1, 2]
    with pytest.raises(LockTimeout) as late:
        registry.acquire("web", OWNER, wait=0, slots=3)
    assert len(late.value.holders) == 3
    taken[1].release()
    assert second.acquire("web", OWNER, wait=5.0, slots=3).slot == taken[1].slot


def test_the_smallest_number_of_slots_that_anybody_counts_is_in_force(registry, second):
    first = registry.acquire("web", OWNER, wait=0, slots=2)
    with pytest.raises(LockTimeout):
        second.acquire("web", OWNER, wait=0, slots=1)
    other = second.acquire("web", OWNER, wait=0, slots=3)
    with pytest.raises(LockTimeout):
        registry.acquire("web", OWNER, wait=0, slots=3)
    assert first.held, "a smaller count evicts nobody"
    assert other.held


@pytest.mark.parametrize("slots", [0, -1, 2**70])
def test_a_lock_needs_at_least_one_slot(registry, slots):
    with pytest.raises(ValueError, match="slots"):
        registry.acquire("web", OWNER, wait=0, slots=slots)


def test_waiters_are_served_in_the_order_they_came(registry, new_member, threads):
    lock = registry.acquire("web", OWNER)
    served: list[str] = []

    def take_a_turn(member: Registry, name: str) -> None:
        turn = member.acquire("web", replace(OWNER, owner=name), wait=30.0)
        served.append(name)
        turn.release()

    turns: list[Future[None]] = []
    names = ["fry", "amy", "zoidberg", "leela"]
    for number, name in enumerate(names):
        turns.append(threads.submit(take_a_turn, new_member(), name))
        line = line_of(registry, "web", number + 1)
        assert [waiter.owner for waiter in line] == names[: number + 1]
    lock.release()
    for turn in turns:
        turn.result(30)
    assert served == names


def test_the_wait_for_a_lock_ends_in_time_and_leaves_nothing_in_the_line(registry, second):
    registry.acquire("web", OWNER)
    began = time.monotonic()
    with pytest.raises(LockTimeout) as late:
        second.acquire("web", OWNER, wait=0.6)
    waited = time.monotonic() - began
    assert 0.5 < waited < 4.0
    assert late.value.waited == pytest.approx(waited, abs=0.5)
    assert registry.lock_status("web").waiting == ()


def test_a_wait_that_is_cancelled_ends_within_a_second_and_leaves_nothing(
    registry, second, threads
):
    registry.acquire("web", OWNER)
    cancelled = threading.Event()
    waiting = threads.submit(second.acquire, "web", OWNER, cancelled=cancelled)
    assert len(line_of(registry, "web", 1)) == 1
    began = time.monotonic()
    cancelled.set()
    with pytest.raises(LockCancelled):
        waiting.result(SEEN)
    assert time.monotonic() - began < 1.5
    assert registry.lock_status("web").waiting == ()


def test_closing_ends_every_wait_for_a_lock(registry, second, threads):
    registry.acquire("web", OWNER)
    waiting = threads.submit(second.acquire, "web", OWNER)
    assert len(line_of(registry, "web", 1)) == 1
    second.close()
    with pytest.raises(RegistryUnavailable):
        waiting.result(SEEN)
    assert eventually(lambda: registry.lock_status("web").waiting, SEEN, becomes=()) == ()


def test_closing_gives_the_locks_up(registry, second):
    lock = second.acquire("web", OWNER)
    second.close()
    assert not lock.held
    assert registry.acquire("web", OWNER, wait=SEEN).held


def test_a_lock_is_handed_over_between_processes(registry, process):
    lock = registry.acquire("web", OWNER)
    process.begin("acquire", lockid="web", wait=20.0)
    assert len(line_of(registry, "web", 1)) == 1
    lock.release()
    _, token = process.result()
    assert token > lock.token
    assert process.do("lock_state", lockid="web") == "held"


def test_the_lock_of_a_killed_process_is_had_by_the_next(registry, process, death_seen):
    _, token = process.do("acquire", lockid="web")
    process.kill()
    lock = registry.acquire("web", OWNER, wait=death_seen + 5.0)
    assert lock.held
    assert lock.token > token


def test_a_waiter_is_woken_by_the_death_of_the_holder(registry, process, threads, death_seen):
    process.do("acquire", lockid="web")
    waiting = threads.submit(registry.acquire, "web", OWNER, wait=60.0)
    assert len(line_of(registry, "web", 1)) == 1
    process.kill()
    assert waiting.result(death_seen + 5.0).held


def test_a_killed_waiter_does_not_block_the_line(registry, second, process, threads, death_seen):
    lock = registry.acquire("web", OWNER)
    process.begin("acquire", lockid="web", wait=60.0)
    assert len(line_of(registry, "web", 1)) == 1
    waiting = threads.submit(second.acquire, "web", OWNER, wait=60.0)
    assert len(line_of(registry, "web", 2)) == 2
    process.kill()
    lock.release()
    assert waiting.result(death_seen + 5.0).held


def test_tokens_only_grow_also_when_everything_was_closed(registry, new_member):
    tokens = []
    for _ in range(3):
        lock = registry.acquire("web", OWNER, wait=5.0)
        tokens.append(lock.token)
        lock.release()
    registry.close()
    tokens.append(new_member().acquire("web", OWNER, wait=5.0).token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_any_text_is_the_name_of_a_lock(registry, second, name):
    lock = registry.acquire(name, OWNER, wait=0)
    assert [status.lockid for status in second.locks()] == [name]
    with pytest.raises(LockTimeout):
        second.acquire(name, OWNER, wait=0)
    lock.release()
    assert second.locks() == []


def test_all_locks_are_listed_by_name_with_their_holders(registry, second):
    registry.acquire("b", OWNER)
    second.acquire("a", replace(OWNER, owner="fry"), slots=2)
    found = second.locks()
    assert [(status.lockid, status.slots) for status in found] == [("a", 2), ("b", 1)]
    assert [status.holders[0].owner for status in found] == ["fry", "bender0"]


def test_who_waits_is_shown_with_owner_and_reason(registry, second, threads):
    lock = registry.acquire("web", OWNER)
    waiting = threads.submit(
        second.acquire, "web", LockOwner("fry", "earth", "run-8", "pizza"), wait=30.0
    )
    (waiter,) = line_of(registry, "web", 1)
    assert (waiter.owner, waiter.host, waiter.run_id, waiter.reason) == (
        "fry",
        "earth",
        "run-8",
        "pizza",
    )
    assert waiter.since.endswith("Z")
    lock.release()
    waiting.result(20).release()


def test_a_broken_lock_is_lost_to_its_holder_who_is_told(registry, second):
    lock = registry.acquire("web", OWNER)
    told: list[LockState] = []
    lock.on_change(told.append)
    (broken,) = second.break_lock("web")
    assert (broken.owner, broken.token) == ("bender0", lock.token)
    assert eventually(lock.state, SEEN, becomes=LockState.LOST) is LockState.LOST
    assert not lock.held
    assert eventually(lambda: told[-1:], SEEN, becomes=[LockState.LOST]) == [LockState.LOST]
    lock.release()


def test_the_next_gets_a_broken_lock(registry, second):
    lock = registry.acquire("web", OWNER)
    second.break_lock("web")
    after = second.acquire("web", OWNER, wait=20.0)
    assert after.held
    assert after.token > lock.token
    assert not lock.held
    lock.release()
    assert after.held, "who lost a lock cannot release it from under the next"


def test_one_slot_is_broken_by_its_token_and_the_others_stay(registry, second):
    first = registry.acquire("web", OWNER, slots=2)
    other = second.acquire("web", OWNER, slots=2)
    (broken,) = second.break_lock("web", token=first.token)
    assert broken.token == first.token
    assert eventually(lambda: first.held, SEEN, becomes=False) is False
    assert other.held
    assert second.break_lock("web", token=first.token) == []


def test_breaking_what_nobody_holds_is_harmless(registry):
    assert registry.break_lock("web") == []


def test_a_lock_that_is_abandoned_is_kept_for_its_owner(registry, second):
    lock = registry.acquire("web", OWNER, keep=True)
    lock.abandon()
    assert lock.state() is LockState.RELEASED
    with pytest.raises(LockTimeout) as refused:
        second.acquire("web", OTHER, wait=0.2)
    (holder,) = refused.value.holders
    assert (holder.owner, holder.token, holder.kept) == ("bender0", lock.token, True)
    assert second.lock_status("web").holders == refused.value.holders


def test_its_owner_takes_a_kept_slot_past_who_waits_and_frees_it_by_a_release(
    registry, second, threads
):
    lock = registry.acquire("web", OWNER, keep=True)
    lock.abandon()
    waiter = threads.submit(second.acquire, "web", OTHER, wait=30.0)
    line_of(registry, "web", 1)
    again = registry.acquire("web", OWNER, wait=5.0, keep=True)
    assert again.token > lock.token
    assert again.held
    assert [holder.kept for holder in second.lock_status("web").holders] == [False]
    assert not waiter.done()
    again.release()
    assert waiter.result(SEEN).held


def test_who_was_passed_by_the_owner_of_a_kept_slot_gets_a_larger_token(
    registry, new_member, threads
):
    registry.acquire("web", OWNER, keep=True).abandon()
    waiters = []
    for count in (1, 2):
        waiters.append(threads.submit(new_member().acquire, "web", OTHER, wait=30.0))
        line_of(registry, "web", count)
    again = registry.acquire("web", OWNER, wait=5.0)
    tokens = [again.token]
    again.release()
    for waiter in waiters:
        lock = waiter.result(SEEN)
        assert [holder.token for holder in registry.lock_status("web").holders] == [lock.token]
        tokens.append(lock.token)
        lock.release()
    assert tokens == sorted(set(tokens))


def test_a_slot_stays_kept_when_its_process_was_killed(registry, process, second, death_seen):
    process.do("acquire", lockid="web", keep=True, owner="bender0")
    process.kill()

    def kept() -> list[bool]:
        return [holder.kept for holder in second.lock_status("web").holders]

    assert eventually(kept, death_seen + SEEN, becomes=[True]) == [True]
    with pytest.raises(LockTimeout):
        second.acquire("web", OTHER, wait=1.0)
    assert registry.acquire("web", OWNER, wait=SEEN).held


def test_who_comes_again_right_after_his_death_gets_his_kept_slot(registry, process, death_seen):
    _, token = process.do("acquire", lockid="web", keep=True, owner="bender0")
    process.kill()
    assert registry.acquire("web", OWNER, wait=death_seen + SEEN).token > token


@pytest.mark.parametrize(("host", "late"), [("here", 0.0), ("moved", RECHECKED)])
def test_who_dies_while_others_wait_comes_back_to_his_kept_slot_past_them(
    registry, process, second, threads, host, late
):
    process.do("acquire", lockid="web", keep=True, owner="bender0")
    waiter = threads.submit(second.acquire, "web", OTHER, wait=60.0)
    line_of(registry, "web", 1)
    process.kill()  # with ZooKeeper it is not seen to be dead before its session is over
    again = registry.acquire("web", LockOwner("bender0", host), wait=late + RECHECKED - 1.0)
    assert again.held
    assert not waiter.done()
    again.release()
    assert waiter.result(SEEN).held


def test_who_comes_back_in_another_group_waits_for_those_of_his_old_one(registry, second, threads):
    rack = replace(OWNER, group="rack1")
    kept = registry.acquire("web", rack, wait=0, keep=True)
    beside = second.acquire("web", replace(rack, owner="bender1"), wait=0)
    kept.abandon()
    moved = replace(OWNER, group="rack2")
    with pytest.raises(LockTimeout):
        registry.acquire("web", moved, wait=0.3)
    back = threads.submit(registry.acquire, "web", moved, wait=30.0)
    line_of(registry, "web", 1)
    assert not eventually(back.done, within=0.3)
    assert [holder.kept for holder in registry.lock_status("web").holders] == [True, False]
    beside.release()
    assert back.result(SEEN).slot == kept.slot


def test_nobody_of_its_group_follows_whose_slot_is_kept(registry, second):
    def member(number: int) -> LockOwner:
        return LockOwner(f"bender{number}", "planet-express", group="rack1")

    failed = registry.acquire("web", member(0), wait=0, keep=True)
    beside = second.acquire("web", member(1), wait=0)
    failed.abandon()
    with pytest.raises(LockTimeout):
        second.acquire("web", member(2), wait=0.3)
    beside.release()
    with pytest.raises(LockTimeout):
        second.acquire("web", member(2), wait=0.3)
    again = registry.acquire("web", member(0), wait=SEEN)
    assert second.acquire("web", member(2), wait=SEEN).held
    assert again.held


def test_who_counts_fewer_slots_when_he_comes_back_waits_for_who_holds_another(
    registry, second, threads
):
    for owner in (OWNER, OTHER):
        registry.acquire("web", owner, slots=2, keep=True).abandon()
    first = registry.acquire("web", OWNER, wait=SEEN)  # what is kept for others is in nobody's way
    with pytest.raises(LockTimeout):
        second.acquire("web", OTHER, wait=0.3)
    back = threads.submit(second.acquire, "web", OTHER, wait=30.0)
    line_of(registry, "web", 1)
    assert not eventually(back.done, within=0.3)
    first.release()
    assert back.result(SEEN).held


def test_a_kept_slot_is_freed_by_breaking_it(registry, second):
    lock = registry.acquire("web", OWNER, keep=True)
    lock.abandon()
    (broken,) = second.break_lock("web", token=lock.token)
    assert broken.kept
    assert second.acquire("web", OTHER, wait=SEEN).held


def test_a_lock_that_was_broken_is_not_kept_when_its_holder_abandons_it(registry, second):
    lock = registry.acquire("web", OWNER, keep=True)
    is_told, is_over = threading.Event(), threading.Event()

    def end_what_goes_on(_):
        is_told.set()
        is_over.wait(20.0)

    lock.on_change(end_what_goes_on)
    second.break_lock("web")
    assert is_told.wait(20.0)

    lock.abandon()
    is_over.set()

    assert second.lock_status("web").holders == ()
    second.acquire("web", OTHER, wait=20.0).release()


def test_abandoning_a_lock_that_is_not_to_be_kept_releases_it(registry, second):
    registry.acquire("web", OWNER).abandon()
    assert second.acquire("web", OTHER, wait=0).held


def test_closing_keeps_what_was_taken_to_be_kept(registry, second):
    second.acquire("web", OTHER, keep=True)
    second.close()
    with pytest.raises(LockTimeout):
        registry.acquire("web", OWNER, wait=0)


def test_a_kept_slot_counts_among_several(registry, second):
    registry.acquire("web", OWNER, slots=2, keep=True).abandon()
    assert second.acquire("web", OTHER, wait=0, slots=2).slot == 1
    with pytest.raises(LockTimeout):
        second.acquire("web", OTHER, wait=0, slots=2)


def test_of_two_slots_that_are_kept_for_one_owner_he_takes_one_and_the_other_stays(
    registry, second
):
    for lock in [registry.acquire("web", OWNER, slots=2, keep=True) for _ in range(2)]:
        lock.abandon()
    again = registry.acquire("web", OWNER, slots=2, wait=SEEN)
    kept = [holder.kept for holder in second.lock_status("web").holders]
    assert sorted(kept) == [False, True]
    again.release()
    assert [holder.kept for holder in second.lock_status("web").holders] == [True]
    assert second.acquire("web", OTHER, slots=2, wait=0).slot == again.slot


def test_those_of_one_group_enter_together(registry, second):
    rack = replace(OWNER, group="rack1")
    first = registry.acquire("web", rack, wait=0)
    beside = second.acquire("web", replace(rack, owner="bender1"), wait=0)
    assert {first.slot, beside.slot} == {0, 1}
    with pytest.raises(LockTimeout):
        second.acquire("web", replace(OTHER, group="rack2"), wait=0)


def test_a_group_does_not_pass_another_that_waits(registry, second, threads):
    rack = replace(OWNER, group="rack1")
    first = registry.acquire("web", rack, wait=0)
    other = threads.submit(second.acquire, "web", replace(OTHER, group="rack2"), wait=30.0)
    line_of(registry, "web", 1)
    with pytest.raises(LockTimeout):
        registry.acquire("web", replace(rack, owner="bender1"), wait=0.3)
    first.release()
    assert other.result(SEEN).held


def test_a_write_under_a_lock_that_stands_is_done(registry):
    lock = registry.acquire("web", OWNER)
    assert registry.write("a", 1, under=lock) == 1
    assert registry.write("a", 2, version=1, under=lock) == 2


def test_a_write_under_a_lock_that_was_broken_is_refused(registry, second):
    lock = registry.acquire("web", OWNER)
    registry.write("a", 1, under=lock)
    second.break_lock("web")
    second.acquire("web", OWNER, wait=20.0)
    with pytest.raises(LockLost, match="web"):
        registry.write("a", 2, under=lock)
    assert second.read("a") == Document("a", 1, 1)


@pytest.mark.parametrize("where", ["", "-elsewhere"])
def test_a_lock_that_somebody_else_got_fences_nothing(registry, registry_url, where):
    with contextlib.closing(new_registry(f"{registry_url}{where}")) as other:
        other.open(10.0)
        lock = other.acquire("web", OWNER)
        with pytest.raises(LockLost, match="not got here"):
            registry.write("a", 1, under=lock)
    assert registry.read("a") is None


def test_a_write_under_a_lock_that_was_released_is_refused(registry):
    lock = registry.acquire("web", OWNER)
    lock.release()
    with pytest.raises(LockLost, match="web"):
        registry.write("a", 1, under=lock)
    assert registry.read("a") is None


def test_a_lock_protects_what_four_processes_do(registry, new_process):
    processes = [new_process() for _ in range(4)]
    for process in processes:
        process.begin("count_up_under_lock", path="counter", lockid="web", times=10)
    for process in processes:
        process.result(within=60.0)
    assert registry.read("counter") == Document("counter", 40, 40)


def line_of(registry: Registry, lockid: str, length: int) -> tuple[Any, ...]:
    """Return who waits for a lock, once there are `length` of them."""

    def is_there(status: LockStatus) -> bool:
        return len(status.waiting) == length

    return eventually(lambda: registry.lock_status(lockid), SEEN, until=is_there).waiting


# --- watches -------------------------------------------------------------------

Watch = Callable[[Registry, Callable[[], None]], Callable[[], None]]

WATCHES: dict[str, tuple[Watch, list[tuple[str, dict[str, Any]]]]] = {
    "document": (
        lambda registry, changed: registry.watch_document("a/b", changed),
        [
            ("write", {"path": "a/b", "value": 1}),
            ("write", {"path": "a/b", "value": 2}),
            ("delete", {"path": "a/b"}),
        ],
    ),
    "children": (
        lambda registry, changed: registry.watch_children("a", changed),
        [("write", {"path": "a/b", "value": 1}), ("delete", {"path": "a/b"})],
    ),
    "queue": (
        lambda registry, changed: registry.watch_queue("q", changed),
        [("append", {"queue": "q", "value": 1}), ("append", {"queue": "q", "value": 2})],
    ),
    "presence": (
        lambda registry, changed: registry.watch_presence("bender1", changed),
        [
            ("announce", {"name": "bender1"}),
            ("announce", {"name": "bender1", "state": "converging"}),
            ("withdraw", {}),
        ],
    ),
    "nodes": (
        lambda registry, changed: registry.watch_nodes(changed),
        [("announce", {"name": "bender1"}), ("withdraw", {})],
    ),
    "key": (
        lambda registry, changed: registry.watch_key("k", changed),
        [("enter_key", {"public_key": "k", "name": "bender1", "lasting": True})],
    ),
    "lock": (
        lambda registry, changed: registry.watch_lock("web", changed),
        [("acquire", {"lockid": "web"}), ("release", {"lockid": "web"})],
    ),
}


@pytest.mark.parametrize("kind", WATCHES)
def test_a_change_by_another_process_is_told_each_time(registry, process, kind):
    watch, orders = WATCHES[kind]
    changed = threading.Event()
    watch(registry, changed.set)
    for order, values in orders:
        changed.clear()
        process.do(order, **values)
        assert changed.wait(SEEN), f"{order} {values} was not told"


def test_the_death_of_a_process_is_told_to_who_watches(registry, process, death_seen):
    process.do("announce", name="bender1")
    process.do("acquire", lockid="web")
    process.do("enter_key", public_key="k", name="bender1", lasting=False)
    gone = {kind: threading.Event() for kind in ("presence", "nodes", "lock", "key")}
    for kind, event in gone.items():
        WATCHES[kind][0](registry, event.set)
    process.kill()
    for kind, event in gone.items():
        assert event.wait(death_seen + 3.0), f"{kind}: not told"


READS: dict[str, Callable[[Registry], object]] = {
    "document a/b": lambda registry: (registry.read("a/b"), registry.read_many(["a/b"])),
    "children a": lambda registry: registry.children("a"),
    "queue q": lambda registry: (registry.entries("q"), registry.queue_length("q")),
    "presence bender1": lambda registry: registry.presence("bender1"),
    "nodes": lambda registry: (registry.node_names(), registry.presences()),
    "lock web": lambda registry: (registry.lock_status("web"), registry.lock_holders("web")),
}


@pytest.mark.parametrize("read", READS)
def test_what_was_read_is_noted_and_told_when_another_process_changes_it(registry, process, read):
    what, _, name = read.partition(" ")
    with noted() as notes:
        READS[read](registry)
    assert notes == {Reading(what, name)}

    changed = threading.Event()
    cancel = watch(registry, Reading(what, name), changed.set)
    for order, values in WATCHES[what][1]:
        changed.clear()
        process.do(order, **values)
        assert changed.wait(SEEN), f"{order} {values} was not told"
    assert cancel is not None
    cancel()


def test_what_cannot_be_watched_is_noted_too(registry):
    with noted() as notes:
        registry.locks()
        registry.queues()
        registry.key("k")
        registry.presence_of_key("k")
        registry.state()
    others = {each for each in notes if each.what not in WATCHES or each.what == "key"}
    assert {each.what for each in others} == {"locks", "queues", "key", "session"}
    assert all(watch(registry, each, print) is None for each in others)


def test_a_watch_that_was_cancelled_is_not_called(registry, second):
    calls: list[str] = []
    changed = threading.Event()
    cancel = registry.watch_document("a", lambda: calls.append("cancelled"))
    cancel()
    cancel()
    registry.watch_document("a", changed.set)
    second.write("a", 1)
    assert changed.wait(SEEN)
    assert calls == []


def test_one_watch_is_cancelled_and_another_on_the_same_thing_goes_on(registry, second):
    changed = threading.Event()
    cancel = registry.watch_queue("q", print)
    registry.watch_queue("q", changed.set)
    cancel()
    second.append("q", 1)
    assert changed.wait(SEEN)


def test_our_own_changes_are_told_too(registry):
    changed = threading.Event()
    registry.watch_document("a", changed.set)
    registry.write("a", 1)
    assert changed.wait(SEEN)


def test_a_callback_may_ask_the_registry_and_sees_the_change(registry, second):
    seen: list[Any] = []

    def look() -> None:
        document = registry.read("a")
        seen.append(None if document is None else document.value)

    registry.watch_document("a", look)
    second.write("a", "new")
    assert eventually(lambda: "new" in seen, SEEN)


def test_a_callback_may_wait_for_a_lock(registry, second):
    lock = second.acquire("web", OWNER)
    had: list[Lock] = []
    registry.watch_document("a", lambda: had.append(registry.acquire("web", OWNER, wait=20.0)))
    second.write("a", 1)
    assert len(line_of(second, "web", 1)) == 1
    lock.release()
    assert eventually(lambda: had, 20.0)
    assert had[0].held


def test_a_callback_that_fails_does_not_silence_the_others(registry, second):
    changed = threading.Event()

    def fail() -> None:
        raise RuntimeError("a callback of a test failed on purpose")

    registry.watch_document("a", fail)
    registry.watch_document("a", changed.set)
    second.write("a", 1)
    assert changed.wait(SEEN)
    changed.clear()
    second.write("a", 2)
    assert changed.wait(SEEN)


def test_a_callback_may_cancel_itself_and_close_the_registry(registry, second):
    closed = threading.Event()

    def close() -> None:
        cancel()
        registry.close()
        closed.set()

    cancel = registry.watch_document("a", close)
    second.write("a", 1)
    assert closed.wait(SEEN * 2)
    assert registry.state() is SessionState.CLOSED


def test_the_other_process_of_these_tests_reports_errors(process):
    with pytest.raises(OtherSideFailed, match="RecordInvalid"):
        process.do("read", path="")
