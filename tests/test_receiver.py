"""What becomes of notices that come: one at a time, against a registry in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flock.errors import NameTaken, RegistryUnavailable, RunCancelled
from flock.journal import Journal
from flock.notice import DIED, DROPPED, MAYBE_TWICE, Notice
from flock.outbox import Outbox
from flock.receipts import Receipts
from flock.receiver import PATIENCE, Receiver
from registry.contract import QueueEntry


class Queues:
    """As much of a registry as a receiver needs."""

    def __init__(self):
        self.stored = {}
        self.generation = "g1"
        self.is_away = False
        self.reads = 0
        self.most_reads = 1000

    def append(self, value, queue="notices/bender1"):
        number = len(self.stored) + 1
        self.stored[number] = (queue, value)

    def entries(self, queue, *, limit=1000):
        self.check()
        self.reads += 1
        assert self.reads <= self.most_reads
        mine = [QueueEntry(i, v) for i, (q, v) in self.stored.items() if q == queue and v]
        return mine[:limit]

    def remove(self, queue, entry_id, *, if_present=False):
        self.check()
        assert if_present
        if self.generation != "g1":
            raise NameTaken("bender1", "another")
        was_there = self.stored[entry_id][1] is not None
        self.stored[entry_id] = (queue, None)
        return was_there

    def presence(self, name):
        self.check()
        return SimpleNamespace(generation=self.generation)

    def check(self):
        if self.is_away:
            raise RegistryUnavailable("memory:", "it is away")


class Kitchen:
    """Notes what was done, and does to order."""

    def __init__(self):
        self.declared = {"execute[x]", "execute[y]"}
        self.complete = True
        self.done = []
        self.state = "changed"
        self.when_begun = lambda: None

    def is_declared(self):
        return self.complete

    def knows(self, resource):
        return resource in self.declared

    def stands(self, resource, action):
        return resource in self.declared and action == "run"

    def act(self, resource, action, asked_by, *, begin):
        self.when_begun()
        begin("run-id")
        self.done.append(resource)
        if self.state == "dies":
            raise SystemError
        if self.state == "leaving":
            raise RunCancelled("the node is leaving")
        row = {"resource": resource, "action": action, "state": self.state, "error": "no"}
        state = "cancelled" if self.state == "cancelled" else "ok"
        return {"state": state, "error": "cancelled by fry", "resources": [row]}


class Heir:
    def __init__(self):
        self.inherited = []

    def inherit(self, run_id, trail, cause):
        self.inherited.append((trail, cause))

    def disinherit(self, run_id):
        assert run_id == "run-id"


@pytest.fixture
def here(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite3")
    here = SimpleNamespace(
        journal=journal, queues=Queues(), kitchen=Kitchen(), heir=Heir(), now=0.0
    )
    here.outbox = Outbox(journal, "bender1")
    here.receipts = Receipts(journal, here.outbox)

    def receiver():
        """Make a receiver as a new process has it."""
        return Receiver(
            "bender1",
            "g1",
            here.queues,
            here.receipts,
            here.outbox,
            here.kitchen,
            here.heir,
            clock=lambda: here.now,
        )

    here.new = receiver
    here.receiver = receiver()

    def send(number, resource="execute[x]", **values):
        notice = Notice(
            f"n{number}", "bender0", "bender1", resource, "run", journal="j", number=number
        )
        here.queues.append(notice.as_data() | values)

    def begin_and_die():
        """Let the process die in the action of a notice."""
        send(1)
        here.kitchen.state = "dies"
        with pytest.raises(SystemError):
            here.receiver.work()

    here.send = send
    here.begin_and_die = begin_and_die
    here.left = lambda: [value["id"] for _, value in here.queues.stored.values() if value]
    here.state = lambda number: here.receipts.find(f"n{number}").state
    yield here
    journal.close()


def test_a_notice_runs_once_and_leaves_the_queue(here):
    here.send(1)

    assert here.receiver.work()
    assert here.receiver.work()

    assert here.kitchen.done == ["execute[x]"]
    assert here.left() == []
    assert here.state(1) == "done"


def test_notices_next_to_each_other_run_as_one(here):
    for number, resource in enumerate(["execute[x]"] * 3 + ["execute[y]"] + ["execute[x]"] * 2):
        here.send(number, resource)

    here.receiver.work()

    assert here.kitchen.done == ["execute[x]", "execute[y]", "execute[x]"]
    assert here.left() == []
    assert {here.state(number) for number in range(6)} == {"done"}


def test_one_that_comes_before_the_action_begins_is_part_of_it_and_a_later_one_is_not(here):
    here.send(1)

    def another_comes():
        here.kitchen.when_begun = lambda: None
        here.send(2)
        here.receiver.wake()

    here.kitchen.when_begun = another_comes
    here.receiver.work()
    assert here.kitchen.done == ["execute[x]"]

    here.send(3)
    here.receiver.work()
    assert here.kitchen.done == ["execute[x]"] * 2


def test_those_that_run_as_one_hand_on_all_their_trails(here):
    here.send(1, trail=[["a", "file[1]", "create"]])
    here.send(2, trail=[["b", "file[2]", "create"]])

    here.receiver.work()

    assert here.heir.inherited == [((("a", "file[1]", "create"), ("b", "file[2]", "create")), "n1")]


def test_one_that_comes_round_is_cut(here):
    here.send(1, trail=[["bender1", "execute[x]", "run"], ["bender0", "file[a]", "create"]])

    here.receiver.work()

    assert here.kitchen.done == []
    assert here.receipts.find("n1").error.startswith("it comes round: bender1 run execute[x]")
    assert here.outbox.targets() == ["bender0"]


@pytest.mark.parametrize(("state", "error"), [("failed", "no"), ("skipped", "skipped: no")])
def test_what_failed_or_was_skipped_is_a_dead_letter_at_both_ends(here, state, error):
    here.kitchen.state = state
    here.send(1)

    here.receiver.work()

    assert (here.state(1), here.receipts.find("n1").error) == ("dead", error)
    assert here.left() == []
    (answer,) = here.outbox.due("bender0")
    assert (answer.id, answer.kind, answer.error) == ("n1", "answer", error)


def test_an_unknown_action_is_a_dead_letter(here):
    here.send(1, action="fly")

    here.receiver.work()

    assert here.receipts.find("n1").error == "execute[x] has no action 'fly'"


def test_an_unknown_resource_is_set_aside_the_others_go_on_and_it_runs_when_declared(here):
    here.send(1, "execute[later]")
    here.send(2)

    here.receiver.work()
    assert (here.state(1), here.state(2)) == ("aside", "done")
    assert here.left() == []

    here.kitchen.declared.add("execute[later]")
    here.receiver.work()
    assert here.kitchen.done == ["execute[x]", "execute[later]"]
    assert here.state(1) == "done"


def test_one_that_was_set_aside_outlives_a_death_in_its_action(here):
    here.send(1, "execute[later]")
    here.receiver.work()
    here.kitchen.declared.add("execute[later]")
    here.kitchen.state = "dies"
    with pytest.raises(SystemError):
        here.receiver.work()

    here.kitchen.state = "changed"
    here.new().work()

    assert here.kitchen.done == ["execute[later]"] * 2
    assert here.state(1) == "done"


def test_one_that_was_set_aside_and_still_stands_in_the_queue_runs_once(here):
    here.send(1, "execute[later]")
    here.receipts.set_aside([Notice.from_data(here.queues.stored[1][1])], "unknown")
    here.kitchen.declared.add("execute[later]")

    here.receiver.work()

    assert here.kitchen.done == ["execute[later]"]
    assert here.left() == []


def test_an_unknown_resource_is_given_up_after_an_hour_of_a_fully_declared_run_list(here):
    here.send(1, "execute[later]")
    here.receiver.work()
    here.kitchen.complete = False
    here.now += 10 * PATIENCE
    here.receiver.work()
    assert here.state(1) == "aside"

    here.kitchen.complete = True
    here.now += PATIENCE - 1
    here.receiver.work()
    assert here.state(1) == "aside"
    here.now += 1
    here.receiver.work()

    assert here.state(1) == "dead"
    assert "no recipe of the run list declares execute[later]" in here.receipts.find("n1").error
    assert [each.kind for each in here.outbox.due("bender0")] == ["answer"]


def test_time_aside_counts_over_processes(here):
    here.send(1, "execute[later]")
    here.receiver.work()
    here.now += PATIENCE / 2
    here.receiver.work()

    here.receiver = here.new()
    here.now += PATIENCE / 2
    here.receiver.work()

    assert here.state(1) == "dead"


def test_a_process_that_died_in_the_action_runs_it_once_more_and_says_so(here):
    here.begin_and_die()
    assert here.left() == ["n1"]

    here.kitchen.state = "changed"
    here.new().work()

    assert here.kitchen.done == ["execute[x]"] * 2
    found = here.receipts.find("n1")
    assert (found.state, found.notice.mark) == ("done", MAYBE_TWICE)


def test_an_action_that_restarts_us_does_not_do_so_for_ever(here):
    here.send(1)
    here.kitchen.state = "dies"
    for _ in range(2):
        with pytest.raises(SystemError):
            here.new().work()

    here.new().work()

    assert here.kitchen.done == ["execute[x]"] * 2
    assert (here.state(1), here.receipts.find("n1").error) == ("dead", DIED)
    assert here.left() == []


def test_one_whose_process_died_in_it_waits_for_its_resource_when_that_is_gone(here):
    here.begin_and_die()
    here.kitchen.declared.remove("execute[x]")
    here.queues.most_reads = here.queues.reads + 10

    here.new().work()
    assert (here.state(1), here.left()) == ("aside", [])

    here.kitchen.declared.add("execute[x]")
    here.kitchen.state = "changed"
    here.new().work()
    found = here.receipts.find("n1")
    assert (found.state, found.notice.mark) == ("done", MAYBE_TWICE)


def test_one_whose_resource_is_gone_again_when_its_turn_comes_waits_on(here):
    here.send(1, "execute[later]")
    here.receiver.work()
    here.receipts.make_ready(["n1"])
    here.queues.most_reads = here.queues.reads + 10

    here.receiver.work()

    assert here.state(1) == "aside"


def test_one_that_is_dropped_when_its_process_had_died_in_it_does_not_run_again(here):
    here.begin_and_die()
    here.queues.remove("notices/bender1", 1, if_present=True)

    here.kitchen.state = "changed"
    here.new().work()

    assert here.kitchen.done == ["execute[x]"]
    assert (here.state(1), here.receipts.find("n1").error) == ("dead", DROPPED)
    assert here.receipts.retry("n1")
    here.new().work()
    assert here.kitchen.done == ["execute[x]"] * 2


def test_one_that_an_earlier_version_began_is_no_dropped_one(here):
    here.begin_and_die()
    with here.journal.writing() as connection:
        connection.execute("ALTER TABLE notices_in DROP COLUMN only_here")
    here.queues.remove("notices/bender1", 1, if_present=True)
    here.receipts = Receipts(here.journal, here.outbox)

    here.kitchen.state = "changed"
    here.new().work()

    assert here.state(1) == "done"


def test_an_action_that_the_leaving_node_ended_runs_again_with_the_next(here):
    here.send(1)
    here.kitchen.state = "leaving"
    with pytest.raises(RunCancelled):
        here.receiver.work()
    assert here.left() == ["n1"]

    here.kitchen.state = "changed"
    here.new().work()

    assert here.state(1) == "done"


def test_an_action_that_somebody_ended_is_a_dead_letter_with_the_reason(here):
    here.send(1)
    here.kitchen.state = "cancelled"

    here.receiver.work()

    assert (here.state(1), here.receipts.find("n1").error) == ("dead", "cancelled by fry")
    assert (here.kitchen.done, here.left()) == (["execute[x]"], [])


def test_a_second_entry_of_what_is_done_is_taken_away_without_running(here):
    here.send(1)
    here.receiver.work()
    here.send(1)

    here.receiver.work()

    assert here.kitchen.done == ["execute[x]"]
    assert here.left() == []


def test_nothing_runs_while_another_process_has_our_name(here):
    here.send(1)
    here.queues.generation = "g2"

    assert here.receiver.work() is False

    assert here.kitchen.done == []
    assert here.left() == ["n1"]


def test_a_registry_that_is_away_leaves_all_as_it_is(here):
    here.send(1)
    here.queues.is_away = True
    with pytest.raises(RegistryUnavailable):
        here.receiver.work()

    here.queues.is_away = False
    here.receiver.work()
    assert here.state(1) == "done"


def test_an_entry_that_could_not_be_removed_is_removed_later_and_not_run_again(here):
    here.send(1)

    def away():
        here.queues.is_away = True

    here.kitchen.when_begun = away
    with pytest.raises(RegistryUnavailable):
        here.receiver.work()
    assert here.state(1) == "done"
    here.queues.is_away = False
    here.kitchen.when_begun = lambda: None

    here.receiver.work()

    assert here.kitchen.done == ["execute[x]"]
    assert here.left() == []


def test_what_cannot_be_read_is_thrown_away_and_hides_nothing(here):
    here.queues.append("rubbish")
    here.send(2)

    here.receiver.work()

    assert here.state(2) == "done"
    assert here.left() == []


def test_an_answer_makes_our_own_notice_a_dead_letter(here):
    here.send(1, sender="bender2", kind="answer", error="it failed")

    here.receiver.work()

    (row,) = here.outbox.rows(dead=True)
    assert (row["id"], row["to"], row["error"]) == ("n1", "bender2", "it failed")
    assert here.left() == []


def test_a_dead_letter_that_is_tried_again_runs(here):
    here.kitchen.state = "failed"
    here.send(1)
    here.receiver.work()

    here.kitchen.state = "changed"
    assert here.receipts.retry("n1")
    here.receiver.work()

    assert here.state(1) == "done"


def test_a_long_queue_is_not_read_again_for_each_notice(here):
    for number in range(100):
        here.send(number, "execute[x]" if number % 2 else "execute[y]")

    here.receiver.work()

    assert len(here.kitchen.done) == 100
    assert here.queues.reads <= 3
