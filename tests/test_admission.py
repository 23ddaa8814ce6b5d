"""Who gets in: only keys the registry knows, and only as long as it knows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from flock import admission as module
from flock.admission import DOMAIN, Admission
from flock.errors import RegistryUnavailable
from registry.contract import KeyRecord, PresenceRecord, Registry
from tests.support import eventually
from tests.system.registry_process import presence_record

GOOD = zmq.EVENT_HANDSHAKE_SUCCEEDED


class FakeRegistry:
    """Holds keys; a change tells who watches, at once."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyRecord] = {}
        self.presences: dict[str, PresenceRecord] = {}
        self.watches: list[tuple[str, Callable[[], None]]] = []
        self.asked: list[str] = []
        self.is_away = False
        self.slow: dict[str, threading.Event] = {}
        self.during_read: Callable[[], None] = lambda: None

    def watch_key(self, key: str, changed: Callable[[], None]) -> Callable[[], None]:
        watch = (key, changed)
        self.watches.append(watch)

        def cancel() -> None:
            if watch in self.watches:
                self.watches.remove(watch)

        return cancel

    def key(self, key: str) -> KeyRecord | None:
        self.asked.append(key)
        if key in self.slow:
            self.slow[key].wait(10)
        if self.is_away:
            raise RegistryUnavailable("fake:", "away")
        found = self.keys.get(key)
        during, self.during_read = self.during_read, lambda: None
        during()
        return found

    def presence(self, name: str) -> PresenceRecord | None:
        if self.is_away:
            raise RegistryUnavailable("fake:", "away")
        return self.presences.get(name)

    def enter(self, public: bytes, *, lasting: bool = True, name: str = "bender0") -> None:
        text = public.decode()
        self.keys[text] = KeyRecord(text, name, "node", lasting, "g")
        self.tell(text)

    def remove(self, public: bytes) -> None:
        self.keys.pop(public.decode(), None)
        self.tell(public.decode())

    def tell(self, key: str) -> None:
        for watched, changed in list(self.watches):
            if watched == key:
                changed()


class Door:
    """A server socket that asks the admission, and clients that knock."""

    def __init__(self) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.registry = FakeRegistry()
        self.removed: list[bytes] = []
        self.admission = Admission(self.context, cast("Registry", self.registry))
        self.admission.start(self.removed.append)
        self.public, secret = zmq.curve_keypair()
        self.server = self.context.socket(zmq.ROUTER)
        self.server.linger = 0
        self.server.curve_server = True
        self.server.curve_secretkey = secret
        self.server.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        self.server.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.port = self.server.bind_to_random_port("tcp://127.0.0.1")

    def knock(self, keys: tuple[bytes, bytes], within: float = 5.0) -> int:
        """Return 200 for let in, 400 or 500 for a refusal, 0 for no answer."""
        with self.context.socket(zmq.DEALER) as client:
            client.linger = 0
            client.setsockopt(zmq.RECONNECT_IVL, -1)
            client.curve_publickey, client.curve_secretkey = keys
            client.curve_serverkey = self.public
            with client.get_monitor_socket(GOOD | zmq.EVENT_HANDSHAKE_FAILED_AUTH) as monitor:
                client.connect(f"tcp://127.0.0.1:{self.port}")
                try:
                    if not monitor.poll(int(within * 1000)):
                        return 0
                    event = parse_monitor_message(monitor.recv_multipart())
                    return 200 if event["event"] == GOOD else int(event["value"])
                finally:
                    client.disable_monitor()

    def close(self) -> None:
        for event in self.registry.slow.values():
            event.set()
        self.admission.close()
        self.server.close()
        self.context.destroy(linger=0)
        assert self.registry.watches == []


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


def test_a_known_key_gets_in_and_is_asked_about_once(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])

    assert [door.knock(keys) for _ in range(3)] == [200, 200, 200]
    assert len(door.registry.asked) == 1
    record = door.admission.known(keys[0])
    assert record is not None
    assert record.name == "bender0"


def test_an_unknown_key_is_refused_and_logged_once(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flock.admission._REFUSED_FOR", 0.0)  # each is looked up
    keys = zmq.curve_keypair()
    assert [door.knock(keys) for _ in range(3)] == [400, 400, 400]
    assert len(door.registry.asked) == 3
    assert door.admission.known(keys[0]) is None
    assert len([r for r in caplog.records if "does not know" in r.message]) == 1
    assert door.registry.watches == []


def test_a_no_is_believed_for_a_second_only(door: Door) -> None:
    keys = zmq.curve_keypair()
    assert door.knock(keys) == 400
    door.registry.enter(keys[0])
    assert eventually(lambda: door.knock(keys), within=10.0, becomes=200) == 200


def test_a_registry_that_is_away_is_no_answer_and_known_keys_get_in_all_the_same(
    door: Door,
) -> None:
    known, new = zmq.curve_keypair(), zmq.curve_keypair()
    door.registry.enter(known[0])
    door.registry.enter(new[0])
    assert door.knock(known) == 200
    door.registry.is_away = True

    assert door.knock(new) == 500
    assert door.knock(known) == 200
    door.registry.is_away = False
    assert door.knock(new) == 200


def test_nobody_waits_behind_a_key_that_is_looked_up(door: Door) -> None:
    slow, quick = zmq.curve_keypair(), zmq.curve_keypair()
    door.registry.enter(slow[0])
    door.registry.enter(quick[0])
    door.registry.slow[slow[0].decode()] = threading.Event()
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(door.knock(slow)))
    thread.start()
    assert eventually(lambda: door.registry.asked, within=10.0)

    began = time.monotonic()
    assert door.knock(quick) == 200
    assert time.monotonic() - began < 5.0
    assert results == []
    door.registry.slow[slow[0].decode()].set()
    thread.join(5)
    assert results == [200]


def test_a_lasting_key_that_is_removed_is_known_no_longer_at_once(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])
    door.knock(keys)
    door.registry.remove(keys[0])

    assert door.admission.known(keys[0]) is None
    assert door.removed == [keys[0]]
    assert door.knock(keys) == 400


def test_a_passing_key_removed_while_its_process_is_listed_goes_at_once(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0], lasting=False)
    door.registry.presences["bender0"] = replace(
        presence_record("bender0"), public_key=keys[0].decode()
    )
    door.knock(keys)
    door.registry.remove(keys[0])
    assert door.removed == [keys[0]]


def test_a_passing_key_may_come_back_after_an_outage(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COME_BACK_WITHIN", 1.0)
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0], lasting=False)
    door.knock(keys)
    door.registry.remove(keys[0])
    assert door.admission.known(keys[0]) is not None
    door.registry.enter(keys[0], lasting=False)
    assert not eventually(lambda: door.removed, within=1.5)
    assert door.admission.known(keys[0]) is not None

    door.registry.remove(keys[0])
    assert eventually(lambda: door.removed, within=10.0, becomes=[keys[0]]) == [keys[0]]
    assert door.admission.known(keys[0]) is None


def test_a_key_removed_while_it_is_looked_up_does_not_get_in(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])
    door.registry.during_read = lambda: door.registry.remove(keys[0])

    assert door.knock(keys) == 400
    assert door.admission.known(keys[0]) is None


def test_a_key_whose_removal_cannot_be_read_while_it_is_looked_up_does_not_get_in(
    door: Door,
) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])

    def removed_in_an_outage() -> None:
        door.registry.is_away = True
        door.registry.remove(keys[0])

    door.registry.during_read = removed_in_an_outage

    assert door.knock(keys) == 500
    assert door.admission.known(keys[0]) is None


def test_a_key_removed_while_two_look_it_up_does_not_get_in(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])
    second: list[KeyRecord | None] = []
    other = threading.Thread(target=lambda: second.append(door.admission._asked(keys[0])))

    def removed_and_asked_again() -> None:
        door.registry.remove(keys[0])
        going_on = door.registry.slow[keys[0].decode()] = threading.Event()
        other.start()
        assert eventually(lambda: door.registry.watches, within=5.0)
        threading.Timer(0.1, going_on.set).start()

    door.registry.during_read = removed_and_asked_again

    assert door.knock(keys) == 400
    other.join()
    assert second == [None]
    assert door.admission.known(keys[0]) is None


def test_who_finds_a_known_key_gone_before_its_watch_tells_makes_it_unknown(door: Door) -> None:
    keys = zmq.curve_keypair()
    text = keys[0].decode()
    door.registry.enter(keys[0])
    going_on = door.registry.slow[text] = threading.Event()
    slow = threading.Thread(target=door.admission._asked, args=(keys[0],))
    slow.start()
    assert eventually(lambda: door.registry.asked, within=10.0)
    del door.registry.slow[text]
    assert door.knock(keys) == 200
    del door.registry.keys[text]  # and nobody was told yet
    going_on.set()
    slow.join()
    assert door.admission.known(keys[0]) is None
    assert door.removed == [keys[0]]


def test_a_removal_that_cannot_be_read_is_said_once_and_read_later(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN", 0.05)
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])
    door.knock(keys)
    door.registry.is_away = True
    door.registry.remove(keys[0])
    assert door.admission.known(keys[0]) is not None
    asked = len(door.registry.asked)
    assert eventually(lambda: len(door.registry.asked) >= asked + 3, within=5.0)
    assert caplog.text.count("cannot look at a key that changed") == 1
    door.registry.is_away = False
    assert eventually(lambda: door.removed, within=10.0, becomes=[keys[0]]) == [keys[0]]


def test_a_registry_with_a_fault_does_not_end_admission(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = zmq.curve_keypair()

    def broken(key: str) -> KeyRecord | None:
        raise RuntimeError(key)

    with monkeypatch.context() as patch:
        patch.setattr(door.registry, "key", broken)
        assert door.knock(keys) == 500
    door.registry.enter(keys[0])
    assert door.knock(keys) == 200


def test_without_a_handler_nobody_gets_in(door: Door) -> None:
    keys = zmq.curve_keypair()
    door.registry.enter(keys[0])
    assert door.knock(keys) == 200
    door.admission.close()
    assert door.knock(keys, within=0.7) != 200
