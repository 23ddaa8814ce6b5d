"""Values that all of a flock share, between two processes."""

import queue
import threading

import pytest

from flock.errors import RecordInvalid, RegistryUnavailable, UsageError, VersionConflict
from flock.fleet import Flock
from flock.globals import Entry, Globals
from tests.support import eventually


@pytest.fixture
def fleet(registry_url):
    with Flock(registry=registry_url) as joined:
        yield joined


@pytest.fixture
def other(registry_url, fleet):
    with Flock(registry=registry_url) as joined:
        yield joined


def test_a_value_written_here_is_read_there(fleet, other):
    fleet.globals["release"] = "1.4"
    assert other.globals["release"] == "1.4"
    assert "release" in other.globals
    assert "other" not in other.globals
    assert 5 not in other.globals
    del other.globals["release"]
    assert fleet.globals.get("release") is None
    with pytest.raises(KeyError, match="release"):
        fleet.globals["release"]
    with pytest.raises(KeyError, match="release"):
        del fleet.globals["release"]


def test_none_is_a_value(fleet):
    fleet.globals["nothing"] = None
    assert "nothing" in fleet.globals
    assert fleet.globals["nothing"] is None


def test_names_are_any_text(fleet, other):
    names = ["", "/", "a/b", "a", "..", ".", "%2F", "ü ber\nall", "\x00", "globals", "😀"]
    for number, name in enumerate(names):
        fleet.globals[name] = number
    assert [*other.globals] == sorted(names)
    assert len(other.globals) == len(names)
    assert other.globals.as_dict() == {name: number for number, name in enumerate(names)}
    assert dict(other.globals.items()) == other.globals.as_dict()
    for wrong in ("x" * 1001, 5):
        with pytest.raises(UsageError, match="name"):
            fleet.globals[wrong] = 1


def test_values_are_plain_data_and_what_is_not_is_refused_by_its_place(fleet):
    value = {"list": [1, 2.5, True, None, b"bytes"], "text": "ü"}
    fleet.globals["plain"] = value
    assert fleet.globals["plain"] == value
    with pytest.raises(RecordInvalid, match=r"\['a'\]\[1\] is a object"):
        fleet.globals["plain"] = {"a": [1, object()]}
    assert fleet.globals["plain"] == value


def test_who_writes_on_top_of_an_old_version_is_told(fleet, other):
    values = fleet.globals
    assert values.entry("release") == Entry(None, 0)
    assert values.compare_and_set("release", "1.4", version=0) == 1
    with pytest.raises(VersionConflict):
        other.globals.compare_and_set("release", "1.5", version=0)
    assert other.globals.compare_and_set("release", "1.5", version=1) == 2
    with pytest.raises(VersionConflict) as caught:
        values.compare_and_set("release", "1.6", version=1)
    assert caught.value.found == 2
    assert values.entry("release") == Entry("1.5", 2)


def test_changes_made_at_once_are_all_counted(fleet, other):
    def count(values: Globals) -> None:
        for _ in range(5):
            values.change("deploys", lambda number: number + 1, default=0)

    threads = [
        threading.Thread(target=count, args=(each.globals,)) for each in (fleet, other, fleet)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fleet.globals["deploys"] == 15


def test_of_many_who_set_a_default_or_pop_one_wins(fleet, other):
    assert fleet.globals.setdefault("leader", "here") == "here"
    assert other.globals.setdefault("leader", "there") == "here"
    assert other.globals.pop("leader") == "here"
    assert fleet.globals.pop("leader", "nobody") == "nobody"
    with pytest.raises(KeyError, match="leader"):
        fleet.globals.pop("leader")


def test_a_watch_tells_each_change_made_elsewhere_and_then_no_more(fleet, other):
    told: queue.Queue[Entry] = queue.Queue()
    fleet.globals["release"] = "1.3"
    cancel = fleet.globals.watch("release", told.put)
    other.globals["release"] = "1.4"
    assert told.get(timeout=5.0) == Entry("1.4", 2)
    del other.globals["release"]
    assert told.get(timeout=5.0) == Entry(None, 0)
    other.globals["another"] = 1
    other.globals["release"] = "1.5"
    assert told.get(timeout=5.0).value == "1.5"
    cancel()
    other.globals["release"] = "1.6"
    again: queue.Queue[Entry] = queue.Queue()
    end = fleet.globals.watch("release", again.put)
    other.globals["release"] = "1.7"
    assert again.get(timeout=5.0).value == "1.7"
    end()
    assert told.empty()


def test_a_watch_whose_callback_fails_goes_on(fleet, other, caplog):
    told: queue.Queue[Entry] = queue.Queue()

    def fail_first(entry: Entry) -> None:
        told.put(entry)
        if entry.value == 1:
            raise ValueError("told to")

    cancel = fleet.globals.watch("x", fail_first)
    other.globals["x"] = 1
    assert told.get(timeout=5.0).value == 1
    other.globals["x"] = 2
    assert told.get(timeout=5.0).value == 2
    cancel()
    assert "told to" in caplog.text


def test_values_outlive_who_wrote_them(registry_url):
    with Flock(registry=registry_url) as fleet:
        fleet.globals["release"] = "1.4"
    with Flock(registry=registry_url) as fleet:
        assert fleet.globals["release"] == "1.4"


def test_an_outage_is_no_absence_and_what_changed_in_it_is_told_after_it(own_zookeeper):
    url = f"zookeeper://{own_zookeeper.connection_string}/t"
    with Flock(registry=url) as fleet, Flock(registry=url) as other:
        told: queue.Queue[Entry] = queue.Queue()
        fleet.globals["release"] = "1.4"
        fleet.globals.watch("release", told.put)
        own_zookeeper.servers[0].kill()
        for ask in (
            lambda: fleet.globals["release"],
            lambda: "release" in fleet.globals,
            lambda: list(fleet.globals),
            lambda: fleet.globals.get("release"),
        ):
            with pytest.raises(RegistryUnavailable):
                ask()
        own_zookeeper.servers[0].start()

        def write() -> bool:
            other.globals["release"] = "1.5"
            return True

        assert eventually(write, within=20.0, ignoring=RegistryUnavailable)
        assert told.get(timeout=15.0).value == "1.5"
