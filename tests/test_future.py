"""Futures: one value or one error, for threads, callbacks and coroutines."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from typing import Any

import pykka
import pytest

from flock.context import current
from flock.future import Future


def later(seconds: float, work: Any) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_value_is_got_any_number_of_times() -> None:
    future: Future[int] = Future()
    assert not future.is_ready()
    future.set(3)

    assert future.is_ready()
    assert future.wait(0)
    assert [future.get(), future.get(timeout=0), future.get(timeout=1)] == [3, 3, 3]
    assert future.error() is None


def test_none_is_a_value() -> None:
    future: Future[None] = Future()
    future.set()
    assert future.is_ready()
    assert future.get() is None


def test_an_error_is_raised_each_time_without_a_growing_traceback() -> None:
    future: Future[int] = Future()
    future.fail(ValueError("no"))

    def lines() -> int:
        with pytest.raises(ValueError, match=r"^no$") as caught:
            future.get()
        return len(caught.traceback)

    first = lines()
    assert [lines() for _ in range(5)] == [first] * 5
    assert isinstance(future.error(), ValueError)


def test_the_error_being_handled_is_taken_by_default() -> None:
    future: Future[int] = Future()
    try:
        raise KeyError("k")
    except KeyError:
        future.set_exception()
    with pytest.raises(KeyError):
        future.get()


def test_nothing_in_time_is_pykkas_timeout_and_asking_again_is_allowed() -> None:
    future: Future[int] = Future()
    began = time.monotonic()
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.05)
    assert 0.04 < time.monotonic() - began < 5
    with pytest.raises(pykka.Timeout):
        future.get(timeout=-5)
    future.set(1)
    assert future.get(timeout=0) == 1


def test_all_who_wait_are_woken() -> None:
    future: Future[int] = Future()
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(future.get())) for _ in range(5)]
    for thread in threads:
        thread.start()
    future.set(4)
    for thread in threads:
        thread.join(5)
    assert got == [4] * 5


@pytest.mark.parametrize("second", ["set", "fail"])
def test_a_second_end_is_refused(second: str) -> None:
    future: Future[int] = Future()
    future.set(1)
    with pytest.raises(queue.Full):
        getattr(future, second)(ValueError("2"))
    assert future.get() == 1


def test_of_many_threads_that_set_it_one_wins() -> None:
    for _ in range(200):
        future: Future[int] = Future()
        ends: list[str] = []
        start = threading.Barrier(3)

        def attempt(value: int, future: Any = future, ends: Any = ends, start: Any = start) -> None:
            start.wait()
            try:
                future.set(value)
                ends.append("set")
            except queue.Full:
                ends.append("full")

        threads = [threading.Thread(target=attempt, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ends) == ["full", "full", "set"]


def test_callbacks_run_once_each_before_or_after() -> None:
    future: Future[int] = Future()
    heard: list[Any] = []
    future.on_ready(lambda ready: heard.append(("before", ready.get())))
    future.on_ready(lambda ready: heard.append(("also", ready.get())))
    assert heard == []
    future.set(1)
    future.on_ready(lambda ready: heard.append(("after", ready.get())))
    assert heard == [("before", 1), ("also", 1), ("after", 1)]


def test_a_callback_that_meets_the_value_runs_exactly_once() -> None:
    for _ in range(500):
        future: Future[int] = Future()
        heard: list[int] = []
        setter = threading.Thread(target=future.set, args=(1,))
        setter.start()
        for _ in range(5):
            future.on_ready(lambda ready, heard=heard: heard.append(ready.get()))  # type: ignore[misc]
        setter.join()
        assert heard == [1] * 5


def test_await_leaves_the_loop_free() -> None:
    async def main() -> tuple[int, bool]:
        future: Future[int] = Future()
        thread = later(0.1, lambda: future.set(5))
        beside = asyncio.create_task(asyncio.sleep(0.01))
        value = await future
        thread.join()
        return value, beside.done()

    assert asyncio.run(main()) == (5, True)


def test_await_raises_the_error_and_may_be_given_up() -> None:
    async def main() -> None:
        failed: Future[int] = Future()
        thread = later(0.05, lambda: failed.fail(ValueError("no")))
        with pytest.raises(ValueError, match=r"^no$"):
            await failed
        thread.join()
        never: Future[int] = Future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_wait(never), 0.05)
        never.set(1)
        assert await never == 1

    asyncio.run(main())


async def _wait(future: Future[int]) -> int:
    return await future


def test_a_value_for_a_loop_that_is_closed_troubles_nobody() -> None:
    future: Future[int] = Future()

    async def give_up() -> None:
        task = asyncio.ensure_future(_wait(future))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(give_up())
    future.set(1)
    assert future.get() == 1


def test_derived_futures_work_as_pykkas() -> None:
    first: Future[Any] = Future()
    second: Future[Any] = Future()
    derived = first.map(lambda value: value + 1)
    joined = first.join(second)

    def set_both() -> None:
        first.set(1)
        second.set(2)

    thread = later(0.05, set_both)

    assert derived.get(timeout=5) == 2
    assert joined.get(timeout=5) == [1, 2]
    thread.join()


def test_a_derived_future_can_be_waited_for() -> None:
    first: Future[Any] = Future()
    derived: Any = first.map(lambda value: 10 / value)
    assert derived.is_derived
    assert not derived.wait(0.01)
    first.set(0)
    assert derived.wait(1)
    with pytest.raises(ZeroDivisionError):
        derived.get()


def test_an_awaited_derived_future_leaves_the_loop_free() -> None:
    async def main() -> int:
        future: Future[Any] = Future()
        thread = later(0.05, lambda: future.set(2))
        value: int = await future.map(lambda value: value * 2)
        thread.join()
        return value

    assert asyncio.run(main()) == 4


class Waiter:
    """Stands for an actor's thread."""

    name = "waiter"
    caller = ""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin_wait(self, call_id: int) -> None:
        self.heard.append(f"begin {call_id}")

    def probe(self, call_id: int) -> None:
        self.heard.append(f"probe {call_id}")

    def end_wait(self, call_id: int) -> None:
        self.heard.append(f"end {call_id}")


@pytest.fixture
def waiter() -> Any:
    actor: Any = Waiter()
    current.actor = actor
    yield actor
    current.actor = None


def test_an_actors_thread_says_which_call_it_waits_for(waiter: Waiter) -> None:
    future: Future[int] = Future()
    future.call_id = 7
    assert not future.wait(0.01)
    future.set(1)
    future.get()

    assert waiter.heard == ["begin 7", "end 7"]


def test_what_is_queued_is_sent_before_the_wait() -> None:
    future: Future[int] = Future()
    future.is_queued = True
    future.before_wait = lambda: future.set(1)  # type: ignore[method-assign]
    assert future.get(timeout=1) == 1
