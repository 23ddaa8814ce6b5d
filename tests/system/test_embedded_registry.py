"""What is special about the embedded registry: exact deaths, one folder, one database."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flock import Flock
from flock.boot import StateFolder
from registry.contract import (
    KeyRecord,
    LockOwner,
    LockState,
    LockTimeout,
    NameTaken,
    PresenceRecord,
    Registry,
    RegistrySettings,
    RegistryUnavailable,
    SessionState,
    WrongRegistry,
)
from registry.embedded import EmbeddedRegistry
from tests.support import eventually
from tests.system.registry_process import RegistryProcess, new_registry, presence_record

OWNER = LockOwner("bender0", "planet-express")
SEEN = 5.0


@pytest.fixture
def folder(embedded_url: str) -> Path:
    return Path(embedded_url.removeprefix("embedded:"))


@pytest.fixture
def new_member(embedded_url: str) -> Iterator[Callable[[], EmbeddedRegistry]]:
    members: list[EmbeddedRegistry] = []

    def make() -> EmbeddedRegistry:
        member = EmbeddedRegistry(RegistrySettings(embedded_url, session_timeout=0.2))
        member.open()
        members.append(member)
        return member

    yield make
    for member in members:
        member.close()


@pytest.fixture
def registry(new_member: Callable[[], EmbeddedRegistry]) -> EmbeddedRegistry:
    return new_member()


@pytest.fixture
def second(
    registry: EmbeddedRegistry, new_member: Callable[[], EmbeddedRegistry]
) -> EmbeddedRegistry:
    return new_member()


@pytest.fixture
def process(registry: EmbeddedRegistry, embedded_url: str) -> Iterator[RegistryProcess]:
    process = RegistryProcess(embedded_url)
    yield process
    process.close()


@contextlib.contextmanager
def somebody_writing(folder: Path) -> Iterator[None]:
    """Hold the write lock, as a process does that was stopped in the middle of a write."""
    connection = sqlite3.connect(folder / "registry.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# --- deaths --------------------------------------------------------------------


def test_a_killed_process_is_told_to_who_watches_within_a_second(registry, process):
    process.do("announce", name="bender1")
    gone = threading.Event()
    registry.watch_nodes(gone.set)
    process.kill()
    assert gone.wait(1.0)
    assert registry.node_names() == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.node_names() == [],
        lambda registry: registry.presence("bender1") is None,
        lambda registry: registry.key("k") is None,
        lambda registry: registry.lock_status("web").holders == (),
        lambda registry: registry.acquire("web", OWNER, wait=0).held,
        lambda registry: registry.announce(presence_record("bender1", "g2")) is None,
        lambda registry: registry.enter_key(KeyRecord("k", "x", "node", False, "g2")) is None,
    ],
    ids=["names", "presence", "key", "holders", "acquire", "announce", "enter key"],
)
def test_a_killed_process_is_absent_at_once_also_if_nobody_noticed_yet(registry, process, ask):
    process.do("announce", name="bender1")
    process.do("enter_key", public_key="k", name="bender1", lasting=False)
    process.do("acquire", lockid="web")
    process.kill()
    assert ask(registry)


def test_a_stopped_process_keeps_its_name_and_its_lock(registry, process):
    process.do("announce", name="bender1")
    process.do("acquire", lockid="web")
    process.pause()
    try:
        with pytest.raises(LockTimeout):
            registry.acquire("web", OWNER, wait=1.5)
        assert registry.node_names() == ["bender1"]
    finally:
        process.go_on()
    assert process.do("lock_state", lockid="web") == "held"


def test_a_silent_holder_of_a_name_that_lives_is_waited_for_and_keeps_it(registry, process):
    process.do("announce", name="bender1")
    process.pause()
    began = time.monotonic()
    with pytest.raises(NameTaken, match="silent"):
        registry.announce(presence_record("bender1", "g2"), answers=lambda _: False)
    assert 2.0 < time.monotonic() - began < 4.0, "session timeout and 2 s"


def test_a_forked_child_does_not_keep_its_dead_parent_alive(registry, process):
    process.do("announce", name="bender1")
    child = process.do("fork_a_child")
    try:
        process.kill()
        assert eventually(registry.node_names, 1.0, becomes=[]) == []
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_has_no_part_in_its_parents_registry(registry, process):
    process.do("announce", name="bender1")
    assert process.do("ask_in_a_child") == "RegistryUnavailable"
    assert process.do("node_names") == ["bender1"]
    assert registry.node_names() == ["bender1"]


def test_two_nodes_of_one_process_live_apart(registry, second):
    registry.announce(presence_record("bender0"))
    second.announce(presence_record("bender1"))
    assert registry.node_names() == ["bender0", "bender1"]
    lock = registry.acquire("web", OWNER)
    second.close()
    assert registry.node_names() == ["bender0"]
    assert lock.held


def test_two_registries_of_one_process_see_what_is_written_after_others_left(
    registry, second, embedded_url
):
    for number in range(3):
        other = RegistryProcess(embedded_url)
        try:
            other.do("write", path=f"releases/{number}", value=number)
        finally:
            other.close()
        seen = [each.read(f"releases/{number}") for each in (registry, second)]
        assert [document.value for document in seen] == [number, number]


def test_a_life_file_that_a_crash_left_is_swept_up_with_the_next_dead(registry, process, folder):
    process.do("announce", name="bender1")
    registry.watch_nodes(print)
    orphan = folder / "0123456789abcdef.alive"
    orphan.write_text("")
    process.kill()
    assert eventually(lambda: not orphan.exists(), SEEN)
    left = {path.name.partition(".")[2] for path in folder.iterdir()}
    assert left == {"sqlite", "sqlite-wal", "sqlite-shm", "alive", "nudge"}
    assert len(list(folder.glob("*.alive"))) == 1, "only our own"


# --- a session that others took away -------------------------------------------


def take_away_the_session(folder: Path) -> None:
    """Remove the life file of the only session, so that others take it for dead."""
    (life_file,) = folder.glob("*.alive")
    life_file.unlink()


def test_a_lost_session_is_made_anew_and_its_presence_comes_back(registry, second, folder):
    states: list[SessionState] = []
    registry.on_state(states.append)
    registry.announce(presence_record("bender0"))
    registry.enter_key(KeyRecord("k", "bender0", "node", False, "g1"))
    changed = threading.Event()
    registry.watch_document("a", changed.set)
    lock = registry.acquire("web", OWNER)
    told: list[LockState] = []
    lock.on_change(told.append)

    take_away_the_session(folder)
    assert second.node_names() == []

    assert eventually(second.node_names, SEEN, becomes=["bender0"]) == ["bender0"]
    assert second.key("k") is not None
    assert lock.state() is LockState.LOST
    assert eventually(lambda: told, SEEN) == [LockState.LOST]
    assert eventually(lambda: states[1:], SEEN) == [SessionState.CONNECTED]
    assert states[0] is SessionState.LOST
    changed.clear()
    second.write("a", 1)
    assert changed.wait(SEEN), "watches stand again"


def test_a_kept_lock_whose_session_was_lost_is_freed_by_its_release(registry, second, folder):
    lock = registry.acquire("web", OWNER, keep=True)
    take_away_the_session(folder)
    assert [holder.kept for holder in second.lock_status("web").holders] == [True]
    with pytest.raises(LockTimeout):
        second.acquire("web", LockOwner("fry", "earth"), wait=0)
    lock.release()
    assert second.acquire("web", LockOwner("fry", "earth"), wait=0).held


def test_a_session_whose_file_was_swept_before_it_was_entered_takes_another(
    registry, second, folder
):
    registry._session._lock_a_new_file()
    take_away_the_session(folder)
    registry.announce(presence_record("bender0"))
    assert second.node_names() == ["bender0"]


def test_a_name_that_another_took_meanwhile_is_told_once_and_stays_lost(registry, second, folder):
    lost: list[PresenceRecord] = []
    registry.announce(presence_record("bender0", "g1"), name_lost=lost.append)
    take_away_the_session(folder)
    second.announce(presence_record("bender0", "g2"))
    assert eventually(lambda: lost, SEEN)
    assert [other.generation for other in lost] == ["g2"]
    registry.write("a", 1)
    found = second.presence("bender0")
    assert found is not None
    assert found.generation == "g2"
    assert len(lost) == 1


# --- nudges --------------------------------------------------------------------


def seen_after(writer: Registry, seen: threading.Event, changes: int) -> list[float]:
    """Write document `a` again and again; return after how many seconds each was seen."""
    took = []
    for number in range(changes):
        seen.clear()
        began = time.monotonic()
        writer.write("a", number)
        assert seen.wait(SEEN)
        took.append(time.monotonic() - began)
    return took


def test_a_change_is_seen_long_before_the_next_look(registry, second):
    seen = threading.Event()
    registry.watch_document("a", seen.set)

    def usual() -> float:
        return statistics.median(seen_after(second, seen, changes=20))

    # What is late by itself, and not by what else the machine does, is so each time.
    assert eventually(usual, within=20.0, until=lambda usual: usual < 0.05) < 0.05


def test_a_change_whose_nudge_was_lost_is_seen_by_the_next_look(registry, second, folder):
    seen = threading.Event()
    registry.watch_document("a", seen.set)
    (nudges,) = folder.glob("*.nudge")
    nudges.unlink()
    second.write("a", 1)
    assert seen.wait(3.0)


def test_nudges_reach_a_folder_with_a_long_path(short_path):
    url = f"embedded:{short_path}/{'long/' * 40}registry"
    first, second = new_registry(url), new_registry(url)
    try:
        first.open()
        second.open()
        seen = threading.Event()
        first.watch_document("a", seen.set)
        took = seen_after(second, seen, changes=5)
        # Written right after a look, it would be a second until the next one.
        assert min(took[1:]) < 0.5, "nudges, not the once-a-second look"
    finally:
        first.close()
        second.close()


# --- the folder and the database -----------------------------------------------


def test_opening_and_asking_starts_no_thread_and_leaves_no_trace(registry, folder):
    before = set(threading.enumerate())
    assert registry.node_names() == []
    assert registry.lock_status("web").holders == ()
    assert set(threading.enumerate()) == before
    assert not list(folder.glob("*.alive"))


def test_the_last_one_leaves_nothing_but_the_database(registry, second, folder):
    registry.announce(presence_record("bender0"))
    second.watch_nodes(print)
    second.acquire("web", OWNER)
    registry.close()
    second.close()
    assert [path.name for path in folder.iterdir()] == ["registry.sqlite"]


def test_many_may_open_a_new_folder_at_once(embedded_url):
    start = threading.Barrier(6)
    ids: list[str] = []

    def open_it() -> None:
        registry = new_registry(embedded_url)
        start.wait(10)
        registry.open()
        ids.append(registry.registry_id())
        registry.close()

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ids) == 6
    assert len(set(ids)) == 1


def test_a_folder_that_another_lays_out_while_we_look_is_a_registry(embedded_url, monkeypatch):
    class Slow(sqlite3.Connection):
        """Lets another lay the tables out between our first question and our second."""

        asked = 0

        def execute(self, statement, *values):
            Slow.asked += 1
            if Slow.asked == 2:
                with contextlib.closing(new_registry(embedded_url)) as other:
                    other.open()
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **b: connect(*a, **b, factory=Slow))
    with contextlib.closing(new_registry(embedded_url)) as registry:
        registry.open()
        assert Slow.asked > 2
        assert registry.node_names() == []


def test_a_writer_that_is_stopped_blocks_writes_for_three_seconds_and_no_reads(registry, folder):
    registry.write("a", 1)
    with somebody_writing(folder):
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="has been writing for 3 s") as refused:
            registry.write("a", 2)
        assert 2.5 < time.monotonic() - began < 4.5
        assert not refused.value.may_have_happened
        document = registry.read("a")
        assert document is not None
        assert document.value == 1
    assert registry.write("a", 2) == 2


def test_a_release_that_cannot_be_written_is_made_up_for_later(registry, second, folder):
    lock = registry.acquire("web", OWNER)
    with somebody_writing(folder):
        began = time.monotonic()
        lock.release()
        assert time.monotonic() - began < 4.5
        assert lock.state() is LockState.RELEASED
    assert second.acquire("web", OWNER, wait=SEEN).held


def test_while_the_folder_is_away_nothing_looks_empty_and_all_is_in_doubt(registry, folder):
    registry.announce(presence_record("bender0"))
    lock = registry.acquire("web", OWNER)
    states: list[SessionState] = []
    registry.on_state(states.append)
    told: list[LockState] = []
    lock.on_change(told.append)

    away = folder.with_name("away")
    folder.rename(away)
    assert registry.state() is SessionState.SUSPENDED
    assert lock.state() is LockState.DOUBTFUL
    for ask in (registry.node_names, lambda: registry.read("a"), lambda: registry.write("a", 1)):
        with pytest.raises(RegistryUnavailable, match=f"{folder}"):
            ask()
    assert eventually(lambda: states, SEEN) == [SessionState.SUSPENDED]
    assert eventually(lambda: told, SEEN) == [LockState.DOUBTFUL]

    away.rename(folder)
    assert registry.state() is SessionState.CONNECTED
    assert lock.held
    assert registry.node_names() == ["bender0"]
    assert eventually(lambda: states[1:], SEEN) == [SessionState.CONNECTED]
    assert eventually(lambda: told[1:], SEEN) == [LockState.HELD]


def test_a_registry_in_the_place_of_the_one_that_was_opened_is_not_taken_for_it(
    registry, folder, embedded_url
):
    registry.write("a", 1)
    folder.rename(folder.with_name("away"))
    with contextlib.closing(new_registry(embedded_url)) as other:
        other.open()
        assert registry.state() is SessionState.SUSPENDED
        for ask in (lambda: registry.read("a"), lambda: registry.write("a", 2)):
            with pytest.raises(RegistryUnavailable, match="not the file any more"):
                ask()
        assert other.read("a") is None


def test_a_full_disk_is_said_in_one_line_and_harms_nothing(registry):
    registry.write("a", 1)
    with registry._store.write(durable=True) as transaction:
        # SQLite answers a database at its largest size as it answers a full disk.
        transaction.execute("PRAGMA max_page_count = 1")
    with pytest.raises(RegistryUnavailable, match="the disk is full") as refused:
        registry.write("b", os.urandom(100_000))
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value.__cause__, sqlite3.Error)
    assert registry.read("b") is None
    assert registry.write("a", 2) == 2


def test_a_damaged_database_is_said_in_one_line(embedded_url, folder):
    folder.mkdir(mode=0o700)
    (folder / "registry.sqlite").write_bytes(os.urandom(8192))
    registry = new_registry(embedded_url)
    with pytest.raises(RegistryUnavailable, match="is damaged; move the folder away") as refused:
        registry.open()
    assert "\n" not in str(refused.value)


def test_an_entry_that_nobody_can_read_hides_no_other(registry, caplog):
    first, bad, last = (registry.append("q", value) for value in ("first", "bad", "last"))
    with registry._store.write() as transaction:
        transaction.execute("UPDATE entries SET value = x'7f' WHERE id = ?", (bad,))
    assert [entry.id for entry in registry.entries("q")] == [first, last]
    assert f"entry {bad}" in caplog.text


def test_somebody_elses_database_is_refused(embedded_url, folder):
    folder.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(WrongRegistry, match="is not a registry"):
        new_registry(embedded_url).open()


def test_a_newer_layout_is_refused(registry, folder, embedded_url):
    with contextlib.closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(WrongRegistry, match=r"layout 99.*move the folder away"):
        new_registry(embedded_url).open()


@pytest.mark.parametrize("url", ["embedded:", "zookeeper://a/b", "/var/lib/flock"])
def test_a_url_that_names_no_folder_is_refused(url):
    with pytest.raises(WrongRegistry, match="is not embedded:DIR"):
        EmbeddedRegistry(RegistrySettings(url))


# --- kills at any moment -------------------------------------------------------


def test_whoever_is_killed_at_whatever_moment_harms_neither_lock_nor_data(
    registry, embedded_url, folder
):
    chance = random.Random(20260131)
    processes: list[RegistryProcess] = []
    tokens = []
    try:
        for _ in range(12):
            while len(processes) < 3:
                processes.append(RegistryProcess(embedded_url))
                processes[-1].begin("count_up_under_lock", path="n", lockid="web", times=10**6)
            # No wait for an event: the kill is to come at any moment of their work.
            time.sleep(chance.uniform(0.0, 0.05))
            processes.pop(chance.randrange(3)).kill()

            lock = registry.acquire("web", OWNER, wait=SEEN)
            tokens.append(lock.token)
            document = registry.read("n")
            registry.write("n", (document.value if document else 0) + 1, under=lock)
            lock.release()
    finally:
        for process in processes:
            process.kill()
    document = registry.read("n")
    assert document is not None
    assert document.value == document.version, "no two held the lock at once"
    assert tokens == sorted(set(tokens))
    assert registry.locks() == []
    with contextlib.closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_state_folder_that_comes_before_the_registry_keeps_its_folder_private(
    embedded_url, short_path
):
    # `flockctl node` reads its keys, in the registry's folder, before it opens the registry.
    StateFolder(short_path / "registry" / "state" / "bender0")
    for folder in ("registry", "registry/state", "registry/state/bender0"):
        assert (short_path / folder).stat().st_mode & 0o777 == 0o700
    with Flock(registry=embedded_url) as visitor:
        assert list(visitor) == []
