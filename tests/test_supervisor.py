"""Named actors: calls one by one, crashes, pauses, names, and their end."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from flock import hosting, supervisor
from flock.actor import Actor
from flock.context import current
from flock.errors import ActorDead, DeadlockError, OverloadedError, UsageError
from flock.hosting import HostedActor, Invocation
from flock.supervisor import Group, Supervisor
from tests.support import eventually


class Home:
    """The node that the actors believe to be on."""

    node_name = "here"
    flock = None

    def probe(self, call_id: int, path: Any) -> None: ...


class Notes:
    """Takes what would be sent."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[str, int, Any]] = queue.Queue()

    def answer(self, invocation: Invocation, value: Any, more_wait: bool) -> None:
        self.heard.put(("answer", invocation.call_id, value))

    def fail(self, invocation: Invocation, error: BaseException) -> None:
        self.heard.put(("fail", invocation.call_id, error))

    def refuse(self, invocation: Invocation, error: BaseException) -> None:
        self.heard.put(("refuse", invocation.call_id, error))

    def skipped(self, invocation: Invocation) -> None:
        self.heard.put(("skipped", invocation.call_id, None))

    def next(self) -> tuple[str, int, Any]:
        return self.heard.get(timeout=20)


class Peer:
    title = "caller"


class Worker(Actor):
    made = 0

    def __init__(self, gate: threading.Event | None = None) -> None:
        super().__init__()
        type(self).made += 1
        self.gate = gate
        self.done: list[Any] = []

    def do(self, what: Any = None) -> Any:
        self.done.append(what)
        return what

    def wait(self) -> str:
        assert self.gate is not None
        assert self.gate.wait(10)
        return "waited"

    def crash(self, text: str = "told to") -> None:
        raise ValueError(text)

    def leave(self) -> None:
        sys.exit(3)

    def read(self) -> list[Any]:
        return list(self.done)


class Hardy(Worker):
    survives_tells = True


class Plain(pykka.ThreadingActor):
    def do(self, what: Any = None) -> Any:
        return what


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def actors() -> Iterator[Supervisor]:
    actors = Supervisor(Home())
    yield actors
    actors.close()


numbers = iter(range(1, 1_000_000))


def send(
    target: Any,
    method: str,
    *args: Any,
    notes: Notes | None = None,
    tell: bool = False,
    deadline: float | None = None,
    chain: Any = (),
) -> Notes:
    """Give a call to a hosted actor."""
    notes = notes or Notes()
    call_id = 0 if tell else next(numbers)
    target.deliver(
        Invocation(notes, Peer(), call_id, target.table[method], list(args), {}, deadline, chain)
    )
    return notes


def hosted(actors: Supervisor, name: str) -> HostedActor:
    found = actors.get(name)
    assert isinstance(found, HostedActor)
    return found


def row(actors: Supervisor, name: str) -> dict[str, Any]:
    return next(row for row in actors.describe() if row["name"] == name)


def answers_again(actors: Supervisor, name: str) -> bool:
    def attempt() -> str:
        return send(hosted(actors, name), "do", 1).next()[0]

    return eventually(attempt, within=20, becomes="answer", ignoring=ActorDead) == "answer"


# --- calls -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Worker, Plain])
def test_calls_are_worked_on_one_by_one_in_order(actors: Supervisor, kind: Any) -> None:
    actors.add("a", kind)
    notes = Notes()
    for number in range(100):
        send(hosted(actors, "a"), "do", number, notes=notes)

    assert [notes.next()[2] for _ in range(100)] == list(range(100))


def test_references_of_pykka_work_beside(actors: Supervisor) -> None:
    ref = actors.add("a", Worker)

    assert ref.is_alive()
    assert ref.proxy().do(4).get(timeout=20) == 4
    with pytest.raises(ValueError, match="told to"):
        ref.proxy().crash().get(timeout=20)
    assert ref.proxy().do(5).get(timeout=20) == 5
    assert ref in pykka.ActorRegistry.get_all()


def test_an_exception_in_a_call_goes_to_the_caller_and_the_actor_lives(actors: Supervisor) -> None:
    actors.add("a", Worker)
    what, _, error = send(hosted(actors, "a"), "crash").next()

    assert (what, type(error)) == ("fail", ValueError)
    assert send(hosted(actors, "a"), "do", 1).next()[2] == 1
    assert row(actors, "a")["restarts"] == 0


@pytest.mark.parametrize("tell", [False, True])
def test_sys_exit_in_one_actor_leaves_the_others_alone(
    actors: Supervisor, tell: bool, quick: None
) -> None:
    other = actors.add("other", Worker)
    actors.add("a", Worker)
    notes = send(hosted(actors, "a"), "leave", tell=tell)
    if not tell:
        assert isinstance(notes.next()[2], SystemExit)

    assert other.is_alive()
    assert answers_again(actors, "a")


def test_a_call_whose_deadline_passed_is_not_begun(actors: Supervisor) -> None:
    gate = threading.Event()
    actors.add("a", lambda: Worker(gate))
    target, notes = hosted(actors, "a"), Notes()
    send(target, "wait", notes=notes)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    send(target, "do", "late", notes=notes, deadline=now + 0.01)
    send(target, "do", "in time", notes=notes, deadline=now + 60)
    assert not gate.wait(0.05)
    gate.set()

    assert [notes.next()[0] for _ in range(3)] == ["answer", "skipped", "answer"]
    assert send(target, "read").next()[2] == ["in time"]


def test_a_call_that_is_not_begun_leaves_no_chain_to_the_next(actors: Supervisor) -> None:
    class Chained(Worker):
        def do(self, what: Any = None) -> Any:
            return current.chain

    actors.add("a", Chained)
    target, notes = hosted(actors, "a"), Notes()
    send(target, "do", notes=notes, chain=(("there", "caller", 7),), deadline=0.0)
    send(target, "do", notes=notes)
    assert [notes.next()[0], notes.next()[2]] == ["skipped", ()]


def test_a_full_inbox_refuses_at_once(actors: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "MAX_INBOX", 10)
    gate = threading.Event()
    actors.add("a", lambda: Worker(gate))
    target, notes = hosted(actors, "a"), Notes()
    send(target, "wait", notes=notes)
    assert eventually(target.waiting_count, within=20, becomes=0) == 0
    for number in range(10):
        send(target, "do", number, notes=notes)
    with pytest.raises(OverloadedError) as caught:
        send(target, "do", 10)

    assert caught.value.may_have_run is False
    gate.set()
    assert [notes.next()[2] for _ in range(11)] == ["waited", *range(10)]


def test_an_answer_that_cannot_be_given_does_not_end_the_thread_unseen(
    actors: Supervisor, quick: None
) -> None:
    class Broken(Notes):
        def answer(self, invocation: Invocation, value: Any, more_wait: bool) -> None:
            raise RuntimeError("cannot answer")

    actors.add("a", Worker)
    send(hosted(actors, "a"), "do", notes=Broken())
    assert eventually(lambda: row(actors, "a")["restarts"], within=20, becomes=1) == 1
    assert answers_again(actors, "a")


# --- crashes ---------------------------------------------------------------------


def test_an_exception_in_a_tell_kills_the_actor_and_it_is_started_anew(
    actors: Supervisor, quick: None
) -> None:
    ref = actors.add("a", Worker)
    send(hosted(actors, "a"), "do", "old")
    send(hosted(actors, "a"), "crash", "in a tell", tell=True)

    assert (
        eventually(
            lambda: send(hosted(actors, "a"), "read").next()[2],
            within=20,
            becomes=[],
            ignoring=ActorDead,
        )
        == []
    )
    assert not ref.is_alive()
    assert (row(actors, "a")["restarts"], row(actors, "a")["error"]) == (1, "ValueError: in a tell")


def test_what_cannot_be_ended_with_an_actor_does_not_keep_it_from_being_started_anew(
    actors: Supervisor, quick: None
) -> None:
    class Stuck:
        is_over = False

        def cancel(self) -> None:
            raise OSError("not now")

    class Owner(Worker):
        def do(self, what: Any = None) -> Any:
            return self._own(Stuck())

    actors.add("a", Owner)
    send(hosted(actors, "a"), "do", tell=True)
    send(hosted(actors, "a"), "crash", tell=True)
    assert eventually(lambda: row(actors, "a")["restarts"], within=20, becomes=1) == 1


def test_an_actor_that_survives_tells_keeps_what_it_has(actors: Supervisor) -> None:
    actors.add("a", Hardy)
    send(hosted(actors, "a"), "do", "kept")
    for _ in range(20):
        send(hosted(actors, "a"), "crash", tell=True)

    assert send(hosted(actors, "a"), "read").next()[2] == ["kept"]
    assert row(actors, "a")["restarts"] == 0


def test_pauses_double_up_to_a_longest_and_crashes_have_a_limit() -> None:
    group = Group(Supervisor(Home()))
    assert [group.pause_after_crash(is_stock=False) for _ in range(6)] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        None,
    ]
    stock = Group(Supervisor(Home()))
    assert [stock.pause_after_crash(is_stock=True) for _ in range(7)] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        30.0,
        30.0,
    ]


def test_crashes_of_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("flock.supervisor.time.monotonic", lambda: now[0])
    group = Group(Supervisor(Home()))
    for _ in range(5):
        group.pause_after_crash(is_stock=False)
    now[0] += 61
    assert group.pause_after_crash(is_stock=False) == 0.1


def test_an_actor_that_fails_in_on_start_for_ever_is_given_up(
    actors: Supervisor, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Stillborn(Worker):
        made = 0

        def on_start(self) -> None:
            raise RuntimeError("not today")

    actors.add("other", Worker)
    actors.add("a", Stillborn)

    assert (
        eventually(lambda: row(actors, "a")["state"], within=20, becomes="given up") == "given up"
    )
    assert Stillborn.made == 6
    with pytest.raises(ActorDead, match="given up") as caught:
        actors.get("a")
    assert caught.value.may_have_run is False
    assert "is given up" in caplog.text
    assert row(actors, "a")["error"] == "RuntimeError: not today"
    assert send(hosted(actors, "other"), "do", 1).next()[2] == 1


def test_a_group_is_given_up_as_a_whole_whoever_of_it_crashed(
    actors: Supervisor, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[tuple[str, str, bool]] = []
    actors.on_end(lambda *told: ends.append(told))
    group = Group(actors, "one_for_one", 1, 60.0)
    for name in "abc":
        actors.add(name, Worker, group=group)
    actors.add("other", Worker)
    send(hosted(actors, "a"), "crash", tell=True)
    assert answers_again(actors, "a")
    send(hosted(actors, "b"), "crash", tell=True)

    def states() -> list[str]:
        return [row(actors, name)["state"] for name in ("a", "b", "c", "other")]

    expected = ["given up", "given up", "given up", "running"]
    assert eventually(states, within=5, becomes=expected) == expected
    assert "actor 'b' crashed, in its group more than 1 times in 60 s: all" in caplog.text
    # They did not end of their own will.
    told = ("c", "'b' of its group crashed: ValueError: told to", True)
    assert eventually(lambda: told in ends, within=5)
    assert actors.absence("c") == (f"it is given up: {told[1]}", True)


def test_who_is_started_anew_with_another_did_not_end_of_its_own_will(
    actors: Supervisor, quick: None
) -> None:
    ends: list[tuple[str, str, bool]] = []
    actors.on_end(lambda *told: ends.append(told))
    group = Group(actors, "one_for_all")
    for name in "ab":
        actors.add(name, Worker, group=group)
    send(hosted(actors, "a"), "crash", tell=True)
    told = ("b", "'a' of its group crashed: ValueError: told to", True)
    assert eventually(lambda: told in ends, within=5)
    assert answers_again(actors, "b")
    hosted(actors, "b").stop()
    assert eventually(lambda: ("b", "stopped", False) in ends, within=5)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_restarts", -1), ("max_restarts", 2.5), ("within", 0), ("within", float("nan"))],
)
def test_a_limit_that_is_none_is_refused(limit: str, value: Any) -> None:
    with pytest.raises(UsageError, match=limit):
        Group(Supervisor(Home()), **{limit: value})


def test_why_nothing_runs_under_a_name_is_known(
    actors: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 20.0)
    actors.add("a", Worker)
    actors.add("b", Worker)
    assert actors.absence("a") is None
    send(hosted(actors, "a"), "crash", tell=True)
    hosted(actors, "b").stop()
    anew = ("it is starting anew in 20 s: ValueError: told to", True)
    assert eventually(lambda: actors.absence("a"), within=5, becomes=anew) == anew
    stopped = ("it was stopped", False)
    assert eventually(lambda: actors.absence("b"), within=5, becomes=stopped) == stopped
    assert actors.absence("c") == ("there is no such actor", True)


def test_a_stock_actor_is_never_given_up(actors: Supervisor, quick: None) -> None:
    class Stillborn(Worker):
        made = 0

        def on_start(self) -> None:
            raise RuntimeError("not today")

    actors.add("a", Stillborn, is_stock=True)
    assert eventually(lambda: Stillborn.made, within=30, until=lambda made: made > 8) > 8
    assert "starting anew" in row(actors, "a")["state"] or row(actors, "a")["state"] == "running"


def test_a_factory_that_fails_later_counts_as_a_crash(actors: Supervisor, quick: None) -> None:
    attempts: list[int] = []

    def factory() -> Worker:
        attempts.append(1)
        if 1 < len(attempts) < 4:
            raise OSError("not now")
        return Worker()

    actors.add("a", factory)
    send(hosted(actors, "a"), "crash", tell=True)
    assert answers_again(actors, "a")
    assert len(attempts) == 4


def test_a_crash_while_others_are_made_anew_leaves_one_instance_of_each(
    actors: Supervisor, quick: None
) -> None:
    gate, making = threading.Event(), threading.Event()
    running: list[Worker] = []

    class Restless(Worker):
        """Crashes when it is started anew for the first time."""

        made = 0

        def on_start(self) -> None:
            if type(self).made == 2:
                assert making.wait(10)
                raise RuntimeError("not yet")

    class Counted(Worker):
        made = 0

        def on_start(self) -> None:
            running.append(self)

        def on_stop(self) -> None:
            running.remove(self)

    def slowly() -> Counted:
        if Counted.made == 1:
            making.set()
            assert gate.wait(10)
        return Counted()

    group = Group(actors, "one_for_all")
    actors.add("a", Restless, group=group)
    actors.add("b", slowly, group=group)
    send(hosted(actors, "a"), "crash", tell=True)
    # The second crash has both made anew while the first still makes `b`.
    assert eventually(lambda: row(actors, "b")["restarts"], within=20, becomes=2) == 2
    gate.set()
    assert answers_again(actors, "b")
    assert eventually(lambda: Counted.made, within=20, becomes=3) == 3
    assert eventually(lambda: len(running), within=20, becomes=1) == 1
    [instance] = running
    assert hosted(actors, "b").actor is instance


def test_a_pool_takes_turns_where_no_worker_looks_busier_than_another(
    actors: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As between a worker's taking a call out of its inbox and its beginning.
    monkeypatch.setattr(HostedActor, "load", lambda _: 0)
    gate = threading.Event()
    actors.add_pool("pool", lambda: Worker(gate), 3)
    notes = [send(actors.get("pool"), "wait") for _ in range(3)]

    def busy() -> list[str | None]:
        return [each.busy_with for each in actors.running()]

    assert eventually(busy, within=20, becomes=["wait"] * 3) == ["wait"] * 3
    gate.set()
    assert [each.next()[2] for each in notes] == ["waited"] * 3


def test_a_pool_is_over_when_its_last_worker_is_given_up_or_when_it_is_removed(
    actors: Supervisor, quick: None
) -> None:
    ended: list[tuple[str, str, bool]] = []
    actors.on_end(lambda *news: ended.append(news))
    numbers = iter(range(100))

    def factory() -> Worker:
        if next(numbers) > 1:
            raise OSError("no more")
        return Worker()

    def told(name: str) -> list[tuple[str, str, bool]]:
        return [news for news in ended if news[0] == name]

    actors.add_pool("pool", factory, 2)
    actors.add_pool("spare", Worker, 2)
    send(actors.get("pool"), "crash", tell=True)
    assert eventually(lambda: row(actors, "pool/1")["state"], 5, becomes="given up") == "given up"
    assert told("pool") == []
    send(actors.get("pool"), "crash", tell=True)
    over = [("pool", "its last worker is gone: OSError: no more", True)]
    assert eventually(lambda: told("pool"), 5, becomes=over) == over
    with pytest.raises(ActorDead, match="no worker"):
        send(actors.get("pool"), "do")

    actors.remove("spare")
    assert told("spare") == [("spare", "stopped", False)]


def test_an_actor_that_has_itself_removed_ends(actors: Supervisor) -> None:
    class Leaver(Worker):
        def do(self, what: Any = None) -> Any:
            actors.remove("a")

    actors.add("a", Leaver)
    instance = hosted(actors, "a")
    assert send(instance, "do").next()[0] == "answer"
    instance.thread.join(5)
    assert not instance.thread.is_alive()


def test_making_an_actor_anew_holds_nobody_up(actors: Supervisor, quick: None) -> None:
    gate, made = threading.Event(), threading.Event()

    def factory() -> Worker:
        if made.is_set():
            assert gate.wait(10)
        made.set()
        return Worker()

    actors.add("a", factory)
    send(hosted(actors, "a"), "crash", tell=True)
    assert eventually(lambda: row(actors, "a")["restarts"], within=20, becomes=1) == 1
    began = time.monotonic()
    assert actors.names() == ["a"]
    actors.add("b", Worker)
    assert time.monotonic() - began < 5.0
    gate.set()


def test_what_waits_behind_a_crash_surely_did_not_run(actors: Supervisor, quick: None) -> None:
    gate = threading.Event()
    actors.add("a", lambda: Worker(gate))
    target, notes = hosted(actors, "a"), Notes()
    send(target, "wait", notes=notes)
    send(target, "crash", tell=True)
    for number in range(5):
        send(target, "do", number, notes=notes)
    gate.set()

    assert notes.next()[2] == "waited"
    for _ in range(5):
        what, _, error = notes.next()
        assert (what, type(error), error.may_have_run) == ("refuse", ActorDead, False)


def test_no_call_is_lost_between_an_actor_and_its_end(actors: Supervisor) -> None:
    for attempt in range(20):
        name = f"a{attempt}"
        ref = actors.add(name, Worker)
        target, notes = hosted(actors, name), Notes()
        refused: list[int] = []

        def deliver(
            target: HostedActor = target, notes: Notes = notes, refused: Any = refused
        ) -> None:
            for number in range(200):
                try:
                    send(target, "do", number, notes=notes)
                except ActorDead:
                    refused.append(number)

        threads = [threading.Thread(target=deliver) for _ in range(2)]
        for thread in threads:
            thread.start()
        ref.stop(block=False).get(timeout=20)
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        for _ in range(400 - len(refused)):
            notes.next()
        assert notes.heard.empty()


# --- names -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "x" * 256])
def test_a_name_that_breaks_the_rule_is_refused(actors: Supervisor, name: str) -> None:
    with pytest.raises(UsageError, match="255"):
        actors.add(name, Worker)


def test_a_name_is_taken_once_and_free_again_after(actors: Supervisor) -> None:
    actors.add("a", Worker)
    with pytest.raises(UsageError, match="already"):
        actors.add("a", Worker)
    actors.remove("a")
    with pytest.raises(ActorDead, match="stopped"):
        actors.get("a")
    assert actors.names() == []
    actors.add("a", Worker)
    assert send(hosted(actors, "a"), "do", 1).next()[2] == 1


def test_an_actor_that_ends_itself_is_forgotten_and_not_started_anew(actors: Supervisor) -> None:
    ref = actors.add("a", Worker)
    ref.stop()
    assert eventually(actors.names, within=20, becomes=[]) == []
    with pytest.raises(ActorDead, match="stopped"):
        actors.get("a")
    assert actors.get("never") is None


def test_what_is_no_actor_is_refused(actors: Supervisor) -> None:
    with pytest.raises(UsageError, match="pykka"):
        actors.add("a", object)  # type: ignore[arg-type]
    assert actors.names() == []


def test_an_error_in_making_the_first_instance_is_the_callers(actors: Supervisor) -> None:
    def factory() -> Worker:
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        actors.add("a", factory)
    assert actors.names() == []


# --- waiting for each other ------------------------------------------------------


def test_a_call_that_comes_back_to_who_waits_for_it_is_refused(actors: Supervisor) -> None:
    actors.add("a", Worker)
    target = hosted(actors, "a")
    target.begin_wait(7)
    with pytest.raises(DeadlockError, match="here/a -> far/b -> here/a"):
        send(target, "do", chain=(("here", "a", 7), ("far", "b", 3)))
    assert send(target, "do", 1, chain=(("here", "a", 8), ("far", "b", 3))).next()[2] == 1
    target.end_wait(7)
    assert send(target, "do", 2, chain=(("here", "a", 7), ("far", "b", 3))).next()[2] == 2


def test_one_that_was_there_first_is_refused_when_the_wait_begins(actors: Supervisor) -> None:
    gate = threading.Event()
    actors.add("a", lambda: Worker(gate))
    target, notes = hosted(actors, "a"), Notes()
    send(target, "wait", notes=notes)
    send(target, "do", "circle", notes=notes, chain=(("here", "a", 7),))
    target.begin_wait(7)
    what, _, error = notes.next()
    assert (what, type(error), error.may_have_run) == ("refuse", DeadlockError, False)
    target.end_wait(7)
    gate.set()
    assert notes.next()[2] == "waited"
    assert notes.next()[0] == "skipped"
    assert send(target, "read").next()[2] == []


# --- the end ---------------------------------------------------------------------


def test_closing_stops_all_and_names_who_would_not_stop() -> None:
    actors = Supervisor(Home())
    gate = threading.Event()
    ended: list[str] = []

    class Polite(Worker):
        def on_stop(self) -> None:
            ended.append("stopped")

    actors.add("polite", Polite)
    actors.add("stubborn", lambda: Worker(gate))
    send(hosted(actors, "stubborn"), "wait")
    assert actors.close(timeout=2.0) == ["stubborn"]
    assert ended == ["stopped"]
    with pytest.raises(UsageError, match="closed"):
        actors.add("late", Worker)
    with pytest.raises(ActorDead, match="'polite' is stopped"):
        actors.get("polite")
    gate.set()


def test_nothing_is_started_after_closing(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 1.0)

    class Counted(Worker):
        made = 0

    actors = Supervisor(Home())
    actors.add("a", Counted)
    send(hosted(actors, "a"), "crash", tell=True)
    assert eventually(lambda: "anew" in row(actors, "a")["state"], within=20)
    actors.close()
    assert eventually(lambda: Counted.made, within=1.5, until=lambda made: made > 1) == 1
