"""What is known of other nodes, and how it stays fresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from flock import directory as module
from flock.directory import Directory
from flock.errors import RegistryUnavailable
from registry.contract import PresenceRecord, Registry
from tests.support import eventually
from tests.system.registry_process import presence_record


class FakeRegistry:
    """Holds presences; a change tells who watches, at once."""

    def __init__(self) -> None:
        self.records: dict[str, PresenceRecord] = {}
        self.watches: list[tuple[str, Callable[[], None]]] = []
        self.reads = 0
        self.is_away = False
        self.during_read: Callable[[], None] = lambda: None

    def watch_presence(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        if self.is_away:
            raise RegistryUnavailable("fake:", "away")
        watch = (name, changed)
        self.watches.append(watch)

        def cancel() -> None:
            if watch in self.watches:
                self.watches.remove(watch)

        return cancel

    def presence(self, name: str) -> PresenceRecord | None:
        if self.is_away:
            raise RegistryUnavailable("fake:", "away")
        self.reads += 1
        found = self.records.get(name)
        during, self.during_read = self.during_read, lambda: None
        during()
        return found

    def set(self, name: str, record: PresenceRecord | None) -> None:
        if record is None:
            self.records.pop(name, None)
        else:
            self.records[name] = record
        self.tell(name)

    def tell(self, name: str) -> None:
        for watched, changed in list(self.watches):
            if watched == name:
                changed()


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def directory(registry: FakeRegistry, heard: list[str]) -> Iterator[Directory]:
    directory = Directory(cast("Registry", registry), heard.append)
    yield directory
    directory.close()
    assert registry.watches == []


OLD = presence_record("bender0", "g1")
NEW = replace(OLD, generation="g2", address="tcp://127.0.0.1:4712")


def test_what_is_known_is_not_asked_for_again(directory: Directory, registry: Any) -> None:
    registry.set("bender0", OLD)
    assert directory.known("bender0") is None
    assert [directory.find("bender0") for _ in range(5)] == [OLD] * 5
    assert registry.reads == 1
    assert directory.known("bender0") == OLD


def test_a_change_is_learned_and_told(
    directory: Directory, registry: Any, heard: list[str]
) -> None:
    registry.set("bender0", OLD)
    directory.find("bender0")
    registry.set("bender0", NEW)

    assert directory.known("bender0") == NEW
    assert heard == ["bender0"]
    registry.set("bender0", None)
    assert directory.known("bender0") is None
    assert heard == ["bender0", "bender0"]
    registry.set("bender0", OLD)
    assert directory.known("bender0") == OLD


def test_an_absent_name_is_never_kept_nor_watched(directory: Directory, registry: Any) -> None:
    assert directory.find("nobody") is None
    assert registry.watches == []
    registry.set("nobody", OLD)
    assert directory.find("nobody") == OLD
    assert len(registry.watches) == 1


def test_a_visitor_is_no_node(directory: Directory, registry: Any) -> None:
    registry.set("v", replace(OLD, kind="visitor"))
    assert directory.find("v") is None
    assert registry.watches == []


def test_absent_and_unknown_are_different(directory: Directory, registry: Any) -> None:
    registry.set("bender0", OLD)
    directory.find("bender0")
    registry.is_away = True

    assert directory.find("bender0") == OLD
    with pytest.raises(RegistryUnavailable):
        directory.find("bender1")
    with pytest.raises(RegistryUnavailable):
        directory.look_again("bender0")
    assert directory.known("bender0") == OLD


def test_news_that_comes_while_it_is_read_is_not_overwritten(
    directory: Directory, registry: Any
) -> None:
    registry.set("bender0", OLD)
    registry.during_read = lambda: registry.set("bender0", NEW)

    assert directory.find("bender0") == NEW
    assert directory.known("bender0") == NEW


def test_a_name_that_goes_while_it_is_read_is_not_kept(directory: Directory, registry: Any) -> None:
    registry.set("bender0", OLD)
    registry.during_read = lambda: registry.set("bender0", None)

    assert directory.find("bender0") is None
    assert directory.known("bender0") is None
    assert registry.watches == []


def test_a_change_that_cannot_be_read_is_read_later(
    directory: Directory, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN", 0.05)
    registry.set("bender0", OLD)
    directory.find("bender0")
    registry.is_away = True
    registry.set("bender0", NEW)
    assert directory.known("bender0") == OLD
    registry.is_away = False

    assert eventually(lambda: directory.known("bender0"), within=20, becomes=NEW) == NEW


def test_after_closing_nothing_is_watched(registry: Any, heard: list[str]) -> None:
    directory = Directory(cast("Registry", registry), heard.append)
    registry.set("bender0", OLD)
    directory.find("bender0")
    directory.close()
    directory.close()
    registry.set("bender0", NEW)
    assert registry.watches == []
    assert heard == []
