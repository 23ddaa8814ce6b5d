"""Finds that the run of this node waits for somebody who waits for it.

While a run waits, its node looks now and then at what the others do that it
waits for, and what those wait for. A circle counts when it was seen twice, and
between the two looks each of its waits had asked its question anew. If it
cannot end by itself, the wait that began last is ended; the others then get
what they wait for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pykka

from flock.errors import FlockError, RegistryError
from flock.future import Future
from flock.wait_graph import Circle, Need, Standing, Target, collect, find_circle
from registry.contract import LockStatus
from registry.readings import Reading

logger = logging.getLogger(__name__)

_LOOKS = (1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
"""Seconds before each look; the last number holds for all later ones. Who closes
a circle is its youngest wait, so that old ones need not look often."""

_ANSWER_WITHIN = 3.0
"""Seconds within which a question must be asked anew for the second look."""

_CALL_WITHIN = 5.0
_STOP_WITHIN = 0.5


class Waiting(Protocol):
    """A wait that goes on."""

    number: int
    since: float
    text: str
    circle: str

    @property
    def resource(self) -> str:
        """What waits; empty for the run itself."""

    @property
    def readings(self) -> frozenset[Reading]:
        """What the last answer depended on."""

    @property
    def is_plain(self) -> bool:
        """Whether it depended on nothing else."""

    @property
    def status(self) -> Callable[[], LockStatus] | None:
        """Says who has the lock that is waited for."""

    def ask_again(self, within: float) -> bool:
        """Have the question asked once more; say whether the wait goes on after the answer."""

    def give_up(self) -> None:
        """End it."""

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data for people."""


class WaitsOfRun(Protocol):
    """What a run waits for."""

    @property
    def current(self) -> Waiting | None:
        """The wait that goes on."""


class AtWork(Protocol):
    """A run, or the action of a notice."""

    run_id: str

    @property
    def waits(self) -> WaitsOfRun:
        """What it waits for."""


class WaitCircles:
    """Looks for circles of waits that this node is part of, and tells others what it waits for.

    Any thread may use it. Its own thread lives only while something waits.
    """

    def __init__(
        self,
        node: str,
        at_work: Callable[[], AtWork | None],
        ask: Callable[[str, bool], Future[Any]],
        lock_holders: Callable[[str], LockStatus],
        report: Callable[[AtWork, Waiting], None],
        blocked: Callable[[], Waiting | None] = lambda: None,
        *,
        is_unseen: bool = False,
    ) -> None:
        """Make it; nothing waits yet.

        Args:
            node: this node's name.
            at_work: returns what goes on here.
            ask: asks a node for its `standing`.
            lock_holders: asks the flock's registry who has a lock.
            report: told of a circle that was found.
            blocked: returns the call that what goes on here waits for.
            is_unseen: no other node can ask what goes on here, so that in any
                circle it is here that one has to give way.
        """
        self._node = node
        self._at_work = at_work
        self._ask = ask
        self._lock_holders = lock_holders
        self._report = report
        self._blocked = blocked
        self._is_unseen = is_unseen
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Note that something waits here, or waits for something else now."""
        with self._lock:
            self._news.set()
            if self._thread is None and not self._is_stopped:
                self._thread = threading.Thread(
                    target=self._run, name="flock-wait-circles", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Look no more; twice is harmless."""
        with self._lock:
            self._is_stopped = True
            self._news.set()
            thread = self._thread
        if thread is not None:
            # Who does not answer is not waited for: the calls fail when the flock closes.
            thread.join(_STOP_WITHIN)

    # --- what goes on here

    def standing(self, *, again: bool = False) -> Standing:
        """Say what goes on here, and what it waits for; asks the registry about locks.

        Args:
            again: have the question that is waited for asked anew before. If
                that takes too long, nothing is said of the wait.
        """
        run = self._at_work()
        if run is None:
            return Standing(self._node)
        waiting = self.waiting_of(run)
        if waiting is None or (again and not waiting.ask_again(_ANSWER_WITHIN)):
            return Standing(self._node, run.run_id)
        readings = waiting.readings
        runs = {each.name for each in readings if each.what == "run"}
        needs = tuple(
            self._need(reading, waiting)
            for reading in sorted(readings)
            # A node that is there because a run goes on there says nothing more.
            if not (reading.what == "presence" and reading.name in runs)
        )
        text = f"{waiting.resource}: {waiting.text}" if waiting.resource else waiting.text
        return Standing(
            self._node,
            run.run_id,
            waiting.number,
            waiting.since,
            text,
            waiting.is_plain,
            needs,
        )

    def waiting_of(self, run: AtWork) -> Waiting | None:
        """Return what a run waits for: a call, perhaps for the sake of a question, or the rest."""
        return self._blocked() or run.waits.current

    def _need(self, reading: Reading, waiting: Waiting) -> Need:
        """Say whose a thing is that an answer depends on."""
        if reading.what == "run":
            return Need(f"the run of {reading.name}", ((reading.name, "", 0),), is_sure=True)
        if reading.what == "actor":
            node = reading.name.partition("/")[0]
            return Need(f"actor {reading.name}", ((node, "", 0),))
        if reading.what == "lock":
            status = waiting.status
            try:
                found = self._lock_holders(reading.name) if status is None else status()
            except RegistryError as error:
                return Need(f"lock {reading.name!r}: {error}")
            return _need_of_lock(reading.name, found)
        return Need(str(reading))

    # --- looking

    def _run(self) -> None:
        looks, due = 0, 0.0
        known: tuple[int, frozenset[Reading]] = (0, frozenset())
        while True:
            with self._lock:
                self._news.clear()
                run = self._at_work()
                waiting = None if run is None else self.waiting_of(run)
                if self._is_stopped or run is None or waiting is None:
                    self._thread = None
                    return
            now, seen = time.monotonic(), (waiting.number, waiting.readings)
            if seen != known:
                # What is waited for is another thing now: that may have closed a circle.
                is_same_wait = seen[0] == known[0]
                due = min(due, now + _LOOKS[0]) if is_same_wait else now + _LOOKS[0]
                looks, known = 0, seen
            if due > now:
                self._news.wait(due - now)
                continue
            try:
                self._look(run, waiting)
            except FlockError as error:
                logger.debug("%s: no look at who waits for whom: %s", self._node, error)
            looks = min(looks + 1, len(_LOOKS) - 1)
            due = time.monotonic() + _LOOKS[looks]

    def _look(self, run: AtWork, waiting: Waiting) -> None:
        """Look twice, and act on what was seen both times."""
        mine = self.standing()
        if mine.wait != waiting.number or not mine.next_nodes():
            return
        first = find_circle(collect(mine, self._standings), self._node)
        if first is None:
            return
        second = self._look_again(first)
        if second is None or not first.is_same_as(second):
            return
        if waiting.circle != second.text:
            waiting.circle = second.text
            self._report(run, waiting)
        if second.is_sure and (self._is_unseen or second.youngest == self._node):
            waiting.give_up()

    def _look_again(self, circle: Circle) -> Circle | None:
        """Ask all of a circle anew, each after it has asked its own question once more."""
        asked = self._asked([name for name in circle.seen if name != self._node], again=True)
        mine = self.standing(again=True)
        return find_circle({self._node: mine, **self._answers(asked)}, self._node)

    def _standings(self, names: Sequence[str]) -> Mapping[str, Standing]:
        return self._answers(self._asked(names, again=False))

    def _asked(self, names: Sequence[str], *, again: bool) -> dict[str, Future[Any]]:
        """Ask nodes at once; who cannot be asked is left out."""
        futures: dict[str, Future[Any]] = {}
        for name in names:
            if name == self._node:
                continue
            try:
                futures[name] = self._ask(name, again)
            except FlockError as error:
                logger.debug("%s is not asked what it waits for: %s", name, error)
        return futures

    def _answers(self, futures: Mapping[str, Future[Any]]) -> dict[str, Standing]:
        """Wait for answers; who did not answer is left out."""
        found: dict[str, Standing] = {}
        for name, future in futures.items():
            try:
                found[name] = Standing.from_data(name, future.get(timeout=_CALL_WITHIN))
            except (FlockError, ValueError, pykka.Timeout) as error:
                logger.debug("%s does not say what it waits for: %s", name, error)
        return found


def _need_of_lock(lockid: str, status: LockStatus) -> Need:
    """Say who has a lock; it is sure to change with them alone only while no slot is free."""
    holders = status.holders
    if len(holders) < status.slots or any(each.kept or not each.run_id for each in holders):
        return Need(f"lock {lockid!r}")
    targets: tuple[Target, ...] = tuple((each.owner, each.run_id, each.token) for each in holders)
    names = ", ".join(each.owner for each in holders)
    return Need(f"lock {lockid!r} of {names}", targets, is_sure=True)
