"""What the doctor advises for each thing that it finds wrong."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flock.doctor import _registry_mend, examine, examine_node, own_key, versions, writable
from flock.errors import (
    FlockError,
    NotPermitted,
    QueueFull,
    RegistryUnavailable,
    WrongRegistry,
)
from flock.messages import PROTOCOL
from flock.settings import load_settings
from registry.contract import PresenceRecord

EMBEDDED = "embedded:/somewhere"
ZOOKEEPER = "zookeeper://zk1:2181/flock"
AWAY = RegistryUnavailable(EMBEDDED, "gone")


@pytest.mark.parametrize(
    ("url", "error", "mend"),
    [
        (
            EMBEDDED,
            NotPermitted("no"),
            "give its folder to the user of this command, or name another (from: argument)",
        ),
        (
            ZOOKEEPER,
            NotPermitted("no"),
            "are user and password of registry right (from: argument)?",
        ),
        (ZOOKEEPER, WrongRegistry("x"), "mend registry (from: argument)"),
        (EMBEDDED, AWAY, "has its disk room, and is registry right (from: argument)?"),
        (ZOOKEEPER, AWAY, "is a server running there, and is registry right (from: argument)?"),
    ],
)
def test_a_registry_that_does_not_open_is_to_be_mended_where_it_was_set(here, url, error, mend):
    assert _registry_mend(error, load_settings({"registry": url})) == mend


class Registry:
    """Fails, or loses what is written."""

    def __init__(self, url: str, error: FlockError | None = None) -> None:
        self.url = url
        self.error = error

    def create(self, path: str, value: object) -> None:
        if self.error is not None:
            raise self.error

    def key(self, public: str) -> None:
        if self.error is not None:
            raise self.error

    def read(self, path: str) -> None:
        return None

    def delete(self, path: str) -> None:
        """Have nothing to delete."""

    def node_names(self) -> list[str]:
        return []

    def children(self, path: str) -> list[str]:
        return []

    def presence(self, name: str) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("url", "error", "mend", "code"),
    [
        (EMBEDDED, AWAY, "has its disk room, and is the folder yours to write?", 5),
        (ZOOKEEPER, AWAY, "does the server still run, has it a majority and room?", 5),
        (ZOOKEEPER, QueueFull("q", 1), f"give the user of {ZOOKEEPER} the right to write there", 6),
        (ZOOKEEPER, None, "does something else empty it?", 5),
    ],
)
def test_a_registry_that_does_not_keep_what_is_written_is_named(url, error, mend, code):
    finding, _ = writable(cast("Any", Registry(url, error)))
    assert (finding.check, finding.mend, finding.code) == ("registry writable", mend, code)


def fleet(error: FlockError | None = None, public: str = "key") -> Any:
    identity = SimpleNamespace(public_key=public.encode(), name="me")
    return SimpleNamespace(
        node=SimpleNamespace(identity=identity, address="tcp://here:1"),
        registry=Registry(ZOOKEEPER, error),
    )


def test_what_cannot_be_known_of_keys_and_nodes_now_is_to_be_asked_again():
    again = "try again when the registry answers"
    (way,) = examine_node(fleet(AWAY), "bender0")
    assert (way.check, way.mend, way.code) == ("bender0 listed", again, 5)
    assert (own_key(fleet(AWAY)).mend, own_key(fleet(AWAY)).code) == (again, 5)
    lost = own_key(fleet())
    assert (lost.mend, lost.code) == ("does something remove key records? Join again", 7)
    assert own_key(fleet(public="")).ok


def test_a_stranger_is_looked_for_among_the_names_that_are_known():
    (way,) = examine_node(fleet(), "bender9")
    assert way.mend == "`flockctl nodes --all` lists the names that are known"


def test_other_versions_are_to_become_one():
    fields = {each.name: "" for each in dataclasses.fields(PresenceRecord)}
    other = PresenceRecord(**cast("Any", fields | {"version": "9.9", "protocol": PROTOCOL}))
    assert versions(other).mend == (
        "bring both sides to one version when it suits: they speak one protocol"
    )
    foreign = versions(dataclasses.replace(other, protocol=PROTOCOL + 1))
    assert foreign.mend == "bring both sides to one version"


def test_settings_that_cannot_be_used_are_to_be_mended_first(here):
    (wrong,) = examine({"timeout": "soon"})
    assert (wrong.check, wrong.mend) == ("settings", "mend the place that it names")
