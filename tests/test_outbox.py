"""The outbox, the receipts and what a notice is: one journal, no registry."""

from __future__ import annotations

import pytest

from flock.armed_notices import Wish, check_wish
from flock.errors import UsageError
from flock.journal import Journal
from flock.notice import (
    DIED,
    MAYBE_TWICE,
    MAYBE_UNCHANGED,
    Notice,
    comes_round,
    joined_trails,
    notice_id,
    with_mark,
)
from flock.outbox import Outbox
from flock.outgoing import location_text
from flock.receipts import Receipts

TO_BENDER1 = Wish("execute[x]", "run", nodes=("bender1",))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite3")
    yield journal
    journal.close()


@pytest.fixture
def outbox(journal):
    return Outbox(journal, "bender0")


@pytest.fixture
def receipts(journal):
    return Receipts(journal, Outbox(journal, "bender1"))


def told(outbox, *wishes, run="r1", trail=()):
    """Arm and make due, as a change does."""
    return outbox.armed.make_due(outbox.armed.arm(run, "file[a]", "create", wishes, trail))


def came(number=1, resource="execute[x]", **values):
    notice = {
        "id": f"n{number}",
        "sender": "bender0",
        "target": "bender1",
        "resource": resource,
        "action": "run",
        "journal": "j",
        "number": number,
        "floor": number,
    }
    return Notice.from_data(notice | values)


# --- what travels ----------------------------------------------------------------


def test_a_notice_survives_its_way_as_plain_data():
    notice = came(trail=[["bender0", "file[a]", "create"]], mark=MAYBE_UNCHANGED)

    assert Notice.from_data(notice.as_data()) == notice


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        [],
        {},
        {"id": "x"},
        came().as_data() | {"number": "1"},
        came().as_data() | {"trail": "ab"},
        came().as_data() | {"trail": [["a", "b"]]},
        came().as_data() | {"trail": [["a", "b", 3]]},
    ],
)
def test_what_is_no_notice_is_refused(data):
    with pytest.raises(ValueError, match="no notice"):
        Notice.from_data(data)


def test_a_second_change_has_another_id_and_a_second_try_the_same():
    first = notice_id("bender0", "j", "r1", "file[a]", 1, "bender1")

    assert notice_id("bender0", "j", "r1", "file[a]", 1, "bender1") == first
    for other in (
        ("bender2", "j", "r1", "file[a]", 1, "bender1"),
        ("bender0", "k", "r1", "file[a]", 1, "bender1"),
        ("bender0", "j", "r2", "file[a]", 1, "bender1"),
        ("bender0", "j", "r1", "file[b]", 1, "bender1"),
        ("bender0", "j", "r1", "file[a]", 2, "bender1"),
        ("bender0", "j", "r1", "file[a]", 1, "bender2"),
    ):
        assert notice_id(*other) != first


def test_a_mark_is_there_once():
    assert with_mark("", MAYBE_TWICE) == MAYBE_TWICE
    both = with_mark(MAYBE_UNCHANGED, MAYBE_TWICE)
    assert both == f"{MAYBE_UNCHANGED}, {MAYBE_TWICE}"
    assert with_mark(both, MAYBE_TWICE) == both


def test_only_the_same_triple_comes_round():
    trail = [("a", "service[x]", "stop"), ("b", "execute[y]", "run")]

    assert comes_round(trail, ("a", "service[x]", "start")) is None
    assert comes_round(trail, ("c", "service[x]", "stop")) is None
    assert comes_round(trail, ("a", "service[x]", "stop")) == (
        "it comes round: a stop service[x] → b run execute[y] → a stop service[x]"
    )


def test_joined_trails_keep_every_step_once():
    a, b, c = ("a", "x[1]", "y"), ("b", "x[1]", "y"), ("c", "x[1]", "y")

    assert joined_trails([[a, b], [b, c]]) == (a, b, c)


@pytest.mark.parametrize(("resource", "action"), [("x", "run"), ("x[]", "run"), ("x[y]", "a b")])
def test_a_wish_that_names_nothing_is_refused(resource, action):
    with pytest.raises(UsageError):
        check_wish("bender1", resource, action)


def test_a_location_is_shown_as_a_query():
    shown = location_text('{"roles": ["web", "db"], "environment": "prod", "query": "a:b OR c:d"}')

    assert shown == "roles:web AND roles:db AND environment:prod AND (a:b OR c:d)"


# --- before and after a change ---------------------------------------------------


def test_what_is_armed_does_not_leave_before_the_change_was_made(outbox):
    armed = outbox.armed.arm("r1", "file[a]", "create", [TO_BENDER1])
    assert outbox.targets() == []

    rows = outbox.armed.make_due(armed)

    assert outbox.targets() == ["bender1"]
    (notice,) = outbox.due("bender1")
    assert rows == [{"id": notice.id, "to": "bender1", "resource": "execute[x]", "action": "run"}]
    assert (notice.sender, notice.notifier, notice.cause) == ("bender0", "file[a]", "r1")


def test_what_is_dropped_is_never_sent(outbox):
    outbox.armed.drop(outbox.armed.arm("r1", "file[a]", "create", [TO_BENDER1]))

    assert outbox.armed.left_over("") == []
    assert outbox.rows(all_of_them=True) == []


def test_what_is_due_cannot_be_dropped_any_more(outbox):
    armed = outbox.armed.arm("r1", "file[a]", "create", [TO_BENDER1])
    outbox.armed.make_due(armed)

    outbox.armed.drop(armed)

    assert outbox.targets() == ["bender1"]


def test_somebody_is_woken_when_something_is_due(outbox):
    woken = []
    outbox.on_due(lambda: woken.append(True))
    armed = outbox.armed.arm("r1", "file[a]", "create", [TO_BENDER1])
    assert woken == []

    outbox.armed.make_due(armed)

    assert woken == [True]


def test_one_change_makes_a_notice_for_each_machine_once(outbox):
    told(outbox, Wish("execute[x]", "run", nodes=("bender1", "bender2", "bender1")))

    assert outbox.targets() == ["bender1", "bender2"]
    first, second = (outbox.due(target) for target in ("bender1", "bender2"))
    assert len(first) == len(second) == 1
    assert first[0].id != second[0].id


def test_left_over_is_what_other_runs_armed(outbox):
    mine = outbox.armed.arm("r2", "file[a]", "create", [TO_BENDER1])
    dead = outbox.armed.arm("r1", "file[b]", "create", [TO_BENDER1, TO_BENDER1])

    (left,) = outbox.armed.left_over("r2")

    assert (left.run_id, left.notifier, left.notifier_action) == ("r1", "file[b]", "create")
    assert list(left.numbers) == dead
    assert mine[0] not in left.numbers


def test_what_may_not_have_changed_says_so(outbox):
    armed = outbox.armed.arm("r1", "execute[a]", "run", [TO_BENDER1])

    outbox.armed.make_due(armed, maybe_unchanged=True)

    assert outbox.due("bender1")[0].mark == MAYBE_UNCHANGED


def test_delayed_ones_wait_for_the_end_of_their_run_and_merge(outbox):
    late = Wish("service[x]", "restart", "delayed", ("bender1",))
    told(outbox, late, trail=[("bender0", "file[a]", "create")])
    told(outbox, late, trail=[("bender0", "file[b]", "create")])
    told(outbox, late, run="r2")
    assert outbox.targets() == []

    rows = outbox.armed.let_delayed_go("r1")

    (notice,) = outbox.due("bender1")
    assert [row["id"] for row in rows] == [notice.id]
    assert notice.trail == (("bender0", "file[a]", "create"), ("bender0", "file[b]", "create"))
    outbox.armed.let_delayed_go()
    assert len(outbox.due("bender1")) == 2


def test_what_would_come_round_is_cut_with_a_reason_and_not_reported_as_sent(outbox):
    trail = [("bender1", "execute[x]", "run"), ("bender0", "file[a]", "create")]

    assert told(outbox, TO_BENDER1, trail=trail) == []

    assert outbox.targets() == []
    (row,) = outbox.rows(dead=True)
    assert row["error"].startswith("it comes round: bender1 run execute[x]")


def test_a_location_is_looked_up_later_and_cut_where_it_comes_round(outbox):
    there = Wish("execute[x]", "run", location={"roles": ["web"]})
    rows = told(outbox, there, trail=[("bender2", "execute[x]", "run")])
    assert rows[0]["to"] == "roles:web"
    ((number, location),) = outbox.unresolved()
    assert location == {"roles": ["web"]}

    outbox.resolve(number, ["bender1", "bender2"])

    assert outbox.unresolved() == []
    assert outbox.targets() == ["bender1"]
    assert [row["to"] for row in outbox.rows(dead=True)] == ["bender2"]


# --- sending ---------------------------------------------------------------------


def test_notices_of_a_target_are_in_order_and_carry_the_lowest_number_still_tried(outbox):
    for _ in range(3):
        told(outbox, TO_BENDER1)
    first, second, third = outbox.due("bender1")
    assert first.number < second.number < third.number
    assert {each.floor for each in (first, second, third)} == {first.number}

    outbox.sent([first])

    assert [each.number for each in outbox.due("bender1")] == [second.number, third.number]
    assert outbox.due("bender1")[0].floor == second.number


def test_numbers_only_grow_though_everything_was_sent(outbox, journal):
    told(outbox, TO_BENDER1)
    (first,) = outbox.due("bender1")
    outbox.armed.drop(outbox.armed.arm("r1", "file[a]", "create", [TO_BENDER1]))

    told(Outbox(journal, "bender0"), TO_BENDER1)

    assert outbox.due("bender1")[1].number > first.number + 1


def test_what_could_not_be_sent_stays_and_says_why(outbox):
    told(outbox, TO_BENDER1)
    outbox.not_sent(outbox.due("bender1")[0].number, "the queue is full")

    (row,) = outbox.rows()

    assert (row["state"], row["error"], row["tries"]) == ("due", "the queue is full", 1)


def test_only_one_process_sends_at_a_time(outbox, journal):
    other = Outbox(journal, "bender0")
    with outbox.draining() as alone, other.draining() as second:
        assert (alone, second) == (True, False)
    with other.draining() as alone:
        assert alone


def test_a_dead_letter_is_known_at_the_sender_and_goes_once_more_as_a_new_notice(outbox):
    told(outbox, TO_BENDER1)
    (notice,) = outbox.due("bender1")
    outbox.sent([notice])
    assert outbox.rows() == []
    answer = came(id=notice.id, sender="bender1", kind="answer", error="it failed")

    outbox.answered(answer)
    outbox.answered(answer)

    (row,) = outbox.rows(dead=True)
    assert (row["id"], row["error"]) == (notice.id, "it failed")
    assert outbox.retry(notice.id)
    assert not outbox.retry(notice.id)
    (again,) = outbox.due("bender1")
    assert again.id != notice.id


def test_a_dead_letter_that_the_sender_has_forgotten_is_shown_all_the_same(outbox):
    outbox.answered(came(id="old", sender="bender1", kind="answer", error="it failed"))

    (row,) = outbox.rows(dead=True)
    assert (row["id"], row["to"], row["error"]) == ("old", "bender1", "it failed")


# --- receipts --------------------------------------------------------------------


def test_a_receipt_counts_how_often_the_action_began_and_marks_the_second_time(receipts):
    (first,) = receipts.start([came()])
    assert first.mark == ""

    (second,) = receipts.start([came()])

    assert second.mark == MAYBE_TWICE
    receipts.done([second])
    found = receipts.find("n1")
    assert (found.state, found.starts, found.notice.mark) == ("done", 2, MAYBE_TWICE)


def test_an_action_that_kills_its_process_is_not_begun_a_third_time(receipts):
    receipts.start([came()])
    receipts.start([came()])

    assert receipts.start([came(), came(2)]) == [came(2)]

    found = receipts.find("n1")
    assert (found.state, found.error) == ("dead", DIED)


def test_a_dead_letter_goes_back_to_its_sender(receipts, journal):
    receipts.bury([came()], "it failed")

    (answer,) = Outbox(journal, "bender1").due("bender0")
    assert (answer.kind, answer.id, answer.error) == ("answer", "n1", "it failed")


def test_nobody_is_told_of_what_a_person_sent(receipts, journal):
    receipts.bury([came(journal="", number=0)], "it failed")

    assert Outbox(journal, "bender1").targets() == []


def test_what_is_set_aside_is_kept_whole_and_can_be_made_ready(receipts):
    receipts.set_aside([came()], "unknown")
    receipts.set_aside([came()], "unknown")
    receipts.add_time_aside(10.0)
    receipts.add_time_aside(5.0)

    (aside,) = receipts.kept("aside")
    assert (aside.notice, aside.aside, aside.error) == (came(), 15.0, "unknown")
    receipts.make_ready(["n1"])
    assert [each.notice for each in receipts.kept("ready")] == [came()]


def test_a_dead_letter_may_be_tried_again_from_the_beginning(receipts):
    receipts.start([came()])
    receipts.bury([came()], "it failed")

    assert receipts.retry("n1")
    assert not receipts.retry("n2")

    (again,) = receipts.start([came()])
    assert again.mark == ""


def test_receipts_outlive_every_try_of_the_sender(receipts, monkeypatch):
    monkeypatch.setattr("flock.receipts.KEPT_DONE", 2)
    for number in range(1, 11):
        receipts.done([came(number, floor=1)])
    assert len(receipts.kept("done")) == 10

    receipts.done([came(11, floor=11)])

    # Below the floor nothing is tried any more; the newest are kept for people.
    assert [each.notice.number for each in receipts.kept("done")] == [10, 11]


def test_the_report_of_an_action_is_kept_with_its_receipt(receipts):
    receipts.done([came()], {"state": "ok"})

    assert receipts.report("n1") == {"state": "ok"}
    assert receipts.report("n2") is None
