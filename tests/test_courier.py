"""How notices leave: in order per target, and again until they have; a registry in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flock.armed_notices import Wish
from flock.courier import Courier
from flock.errors import DocumentTooLarge, QueueFull, RegistryUnavailable, UsageError
from flock.journal import Journal
from flock.outbox import Outbox


class Queues:
    """As much of a registry as a courier needs."""

    def __init__(self):
        self.stored = {}
        self.trouble = {}
        self.tries = []

    def append(self, queue, value, *, dedup_id):
        self.tries.append(queue)
        error = self.trouble.get(queue, self.trouble.get(value["resource"]))
        if error is not None:
            raise error
        self.stored.setdefault(queue, {}).setdefault(dedup_id, value)

    def resources(self, node):
        return [value["resource"] for value in self.stored.get(f"notices/{node}", {}).values()]

    def on_state(self, callback):
        return lambda: None


AWAY = RegistryUnavailable("memory:", "it is away")


@pytest.fixture
def here(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite3")
    here = SimpleNamespace(
        outbox=Outbox(journal, "bender0"), queues=Queues(), nodes=[], nudged=[], chores=[]
    )

    def find(location):
        if isinstance(here.nodes, Exception):
            raise here.nodes
        return here.nodes

    here.courier = Courier(
        here.outbox,
        here.queues,
        find=find,
        nudge=here.nudged.append,
        chores=[lambda: here.chores.append(True)],
    )

    def tell(resource, *nodes):
        wish = Wish(resource, "run", nodes=nodes, location={"roles": ["web"]})
        here.outbox.armed.make_due(here.outbox.armed.arm("r", "file[a]", "create", [wish]))

    here.tell = tell
    yield here
    journal.close()


def test_what_is_due_is_appended_in_order(here):
    for name in "abc":
        here.tell(f"log[{name}]", "bender1")

    assert here.courier.drain()

    assert here.queues.resources("bender1") == ["log[a]", "log[b]", "log[c]"]
    assert here.outbox.waiting() == 0


def test_a_target_stops_at_its_first_failure_and_the_others_go_on(here):
    here.queues.trouble["notices/bender1"] = QueueFull("notices/bender1", 10_000)
    here.tell("log[a]", "bender1")
    here.tell("log[b]", "bender1")
    here.tell("log[c]", "bender2")

    assert not here.courier.drain()

    assert here.queues.tries == ["notices/bender1", "notices/bender2"]
    waiting = here.outbox.rows()
    assert [row["resource"] for row in waiting] == ["log[a]", "log[b]"]
    assert "full (10000 entries)" in waiting[0]["error"]
    here.queues.trouble.clear()
    assert here.courier.drain()
    assert here.queues.resources("bender1") == ["log[a]", "log[b]"]


def test_a_registry_that_is_away_is_asked_once_and_everything_stays(here):
    here.queues.trouble["notices/bender1"] = AWAY
    here.tell("log[a]", "bender1")
    here.tell("log[b]", "bender2")

    assert not here.courier.drain()

    assert here.queues.tries == ["notices/bender1"]
    assert here.outbox.waiting() == 2
    assert "it is away" in here.outbox.rows()[0]["error"]


def test_one_that_can_never_be_sent_is_a_dead_letter_and_holds_up_nobody(here):
    here.queues.trouble["log[a]"] = DocumentTooLarge("it", 70_000, 65_536)
    here.tell("log[a]", "bender1")
    here.tell("log[b]", "bender1")
    here.tell("log[c]", "no/node")

    assert here.courier.drain()

    assert here.queues.resources("bender1") == ["log[b]"]
    errors = [row["error"] for row in here.outbox.rows(dead=True)]
    assert "70000 bytes" in errors[0]
    assert "cannot be a node" in errors[1]


def test_a_location_is_looked_up_when_the_registry_can_say(here):
    here.nodes = AWAY
    here.tell("log[a]")
    assert not here.courier.drain()
    assert [row["to"] for row in here.outbox.rows()] == ["roles:web"]

    here.nodes = ["bender1", "bender2"]
    assert here.courier.drain()

    assert here.queues.resources("bender1") == here.queues.resources("bender2") == ["log[a]"]


def test_a_location_without_a_machine_is_said_as_it_was_written(here, caplog):
    here.tell("log[a]")

    assert here.courier.drain()

    assert "a notice for roles:web goes to nobody" in caplog.text
    assert here.outbox.rows() == []


def test_a_location_that_is_none_is_a_dead_letter(here):
    here.nodes = UsageError("no query")
    here.tell("log[a]")

    assert here.courier.drain()

    assert [row["error"] for row in here.outbox.rows(dead=True)] == ["no query"]


def test_an_append_that_nobody_noted_is_made_again_and_known_by_its_id(here, monkeypatch):
    here.tell("log[a]", "bender1")
    with monkeypatch.context() as patch:
        patch.setattr(here.outbox, "sent", lambda notices: None)
        patch.setattr(here.outbox, "targets", lambda: ["bender1"])
        (notice,) = here.outbox.due("bender1")
        here.courier._append(notice)

    assert here.courier.drain()

    assert here.queues.tries == ["notices/bender1"] * 2
    assert here.queues.resources("bender1") == ["log[a]"]


def test_it_sends_by_itself_nudges_and_ends_when_nothing_is_left(here):
    here.courier.start()
    here.tell("log[a]", "bender1")

    assert here.courier.stop(timeout=5.0) == 0

    assert here.queues.resources("bender1") == ["log[a]"]
    assert here.nudged == ["bender1"]


def test_it_says_what_is_left_when_the_time_is_over(here):
    here.queues.trouble["notices/bender1"] = AWAY
    here.courier.start()
    here.tell("log[a]", "bender1")

    assert here.courier.stop(timeout=0.3) == 1
