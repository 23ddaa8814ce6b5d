"""The locks of a run over a locksmith that is no registry: what is had, waited for, lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from flock.converge.cancellation import Cancellation
from flock.converge.locks import Held, LockWish, RunLocks
from flock.converge.report import Report
from flock.converge.waiting import Waits
from flock.errors import LockCancelled, LockTimeout, RegistryUnavailable, RunCancelled, RunFailed
from registry.contract import Holder, Lock, LockState, LockStatus
from tests.support import eventually

HOLDER = Holder("bender1", "planet-express", "run-3", "2026-01-31T12:00:00Z", 0, 4, "")


class FakeLock(Lock):
    def __init__(self, lockid: str = "web") -> None:
        self.lockid, self.slot, self.slots, self.token = lockid, 0, 1, 17
        self.now = LockState.HELD
        self.end = ""

    def state(self) -> LockState:
        return self.now

    def release(self) -> None:
        self.end = "released"

    def abandon(self) -> None:
        self.end = "abandoned"

    def on_change(self, callback: Callable[[LockState], None]) -> Callable[[], None]:
        return lambda: None


class Smith:
    """Gives what it was told to, or raises it."""

    def __init__(self, *answers: Lock | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[LockWish] = []

    def acquire(self, wish: LockWish, run_id: str, cancelled: threading.Event) -> Lock:
        self.asked.append(wish)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def status(self, wish: LockWish) -> LockStatus:
        return LockStatus(wish.lockid, 1, (HOLDER,))


def locks_of(smith: Smith | None, **more: Any) -> RunLocks:
    report = Report("run-1", "bender0", "the test", [])
    cancellation = Cancellation()
    return RunLocks(smith, report, cancellation, Waits(cancellation), lambda *_: None, **more)


def test_a_lock_that_is_got_is_held_and_reported():
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    assert locks.take(LockWish("web"))
    assert locks.is_held("web")
    (row,) = locks.report.locks
    assert row.pop("waited") >= 0
    assert row == {"lockid": "web", "state": "held", "token": 17, "holder": None}
    locks.end(failed=False)
    assert lock.end == "released"
    assert row["state"] == "held", "what the end of the run gives back was held to the end"


def test_a_lock_that_is_not_got_is_no_failure_and_the_report_says_who_has_it():
    locks = locks_of(Smith(LockTimeout("web", 10.0, [HOLDER])))
    assert not locks.take(LockWish("web"))
    assert not locks.is_held("web")
    (row,) = locks.report.locks
    assert row["state"] == "not held"
    assert (row["holder"]["owner"], row["holder"]["since"]) == ("bender1", "2026-01-31T12:00:00Z")
    assert "bender1 has it since" in locks.holder_of("web")


@pytest.mark.parametrize("smith", [Smith(RegistryUnavailable("zk", "away")), None])
def test_a_registry_that_cannot_be_asked_grants_nothing(smith):
    locks = locks_of(smith)
    assert not locks.take(LockWish("web"))
    assert [row["state"] for row in locks.report.locks] == ["not held"]


def test_a_lock_that_is_held_is_joined_and_not_waited_for():
    smith = Smith(FakeLock())
    locks = locks_of(smith)
    assert locks.take(LockWish("web"))
    assert locks.take(LockWish("web", wait=0))
    assert len(smith.asked) == len(locks.report.locks) == 1


def test_a_lock_that_was_given_back_is_taken_anew_in_the_same_row():
    locks = locks_of(Smith(FakeLock(), LockTimeout("web", 1.0, [HOLDER])))
    locks.take(LockWish("web"))
    locks.release("web")
    assert [row["state"] for row in locks.report.locks] == ["released"]
    assert not locks.take(LockWish("web"))
    assert [row["state"] for row in locks.report.locks] == ["not held"]


def test_what_is_to_be_done_under_a_lock_is_done_before_it_is_given_back():
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    locks.take(LockWish("web"))
    seen: list[str] = []
    locks.before_release = lambda lockid: seen.append(f"{lockid} {lock.end or 'held'}")
    locks.release("web")
    assert (seen, lock.end) == (["web held"], "released")


def test_a_lock_in_doubt_is_waited_for_at_the_boundary_until_it_is_confirmed():
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    locks.take(LockWish("web"))
    lock.now = LockState.DOUBTFUL
    passed = threading.Thread(target=locks.boundary)
    passed.start()
    assert eventually(locks.waits.as_data, within=20.0) is not None
    assert passed.is_alive()
    lock.now = LockState.HELD
    passed.join(20.0)
    assert not passed.is_alive()
    assert locks.is_held("web")


def test_a_lost_lock_fails_the_run_by_name_and_names_what_was_done_meanwhile():
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    locks.take(LockWish("web"))
    locks.boundary()
    locks.doing("restart service[app]")
    lock.now = LockState.LOST
    with pytest.raises(RunFailed, match=r"lock 'web' was lost while this was done: restart"):
        locks.boundary()
    assert locks.is_lost("web")
    assert not locks.is_held("web")
    locks.boundary()


def test_asking_for_a_lock_that_was_lost_just_now_fails_the_run():
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    locks.take(LockWish("web"))
    lock.now = LockState.LOST
    with locks.active(), pytest.raises(RunFailed, match="lock 'web' was lost"):
        Held("web")()


def test_a_lock_that_was_never_asked_for_is_not_held_and_warned_about(caplog):
    locks = locks_of(Smith())
    with locks.active():
        assert not Held("web")()
    assert "never asked for" in caplog.text


def test_outside_a_run_nothing_is_held(caplog):
    assert not Held("web")()
    assert "no run is going on" in caplog.text


@pytest.mark.parametrize(("failed", "end"), [(True, "abandoned"), (False, "released")])
def test_a_failed_run_keeps_the_slot_it_was_to_keep(failed, end):
    lock = FakeLock()
    locks = locks_of(Smith(lock))
    locks.take(LockWish("web", keep_on_failure=True))
    locks.end(failed=failed)
    assert lock.end == end


def test_a_why_run_asks_for_nothing_and_shows_what_would_be_done():
    locks = locks_of(Smith(), why_run=True)
    assert locks.take(LockWish("web"))
    assert locks.is_held("web")
    assert locks.report.locks == []


def test_a_wait_for_a_lock_ends_with_the_run_that_waits():
    locks = locks_of(Smith(LockCancelled("web")))
    locks.cancellation.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        locks.take(LockWish("web"))


@pytest.mark.parametrize(("machines", "slots"), [(0, 1), (9, 1), (10, 1), (25, 2), (100, 10)])
def test_a_part_of_the_machines_is_rounded_down_and_at_least_one(machines, slots):
    wish = LockWish("web", slots="10%", among="roles:web")
    wish.check()
    assert wish.slots_of({"roles:web": machines}.__getitem__) == slots


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (LockWish(""), "needs a name"),
        (LockWish("web", wait=-1), "0 s or more"),
        (LockWish("web", slots=0), "slots are 1 to 2147483647, not 0"),
        (LockWish("web", slots=2**31), "slots are 1 to"),
        (LockWish("web", slots="10%"), "needs among"),
        (LockWish("web", slots="ten", among="roles:web"), "a part as '10%'"),
        (LockWish("web", slots="0%", among="roles:web"), "a part as '10%'"),
        (LockWish("web", slots=2, among="roles:web"), "slots is a number"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(wish, message):
    with pytest.raises(ValueError, match=message):
        wish.check()
