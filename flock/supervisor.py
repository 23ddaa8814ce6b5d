"""Actors under a name: starting them, and starting them anew when they crash.

A crashed actor is started anew after a pause (0.1 s, doubling up to 30 s), at
most 5 times in 60 s; then it is given up, loudly. Stock actors are never given
up, only slowed to one start in 30 s. An actor that ends of its own will is
forgotten. Actors of a group share their fate as the group's strategy says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import pykka

from flock.actor import Actor, Method, method_table
from flock.errors import ActorDead, DeadlockError, OverloadedError, UsageError
from flock.hosting import HostedActor, Invocation, Surroundings
from flock.messages import MAX_NAME_BYTES
from flock.timers import Timer, clock

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
MAX_RESTARTS = 5
RESTART_WINDOW = 60.0
_GIVEN_UP = "given up"
_MAX_STOPPED = 1000  # names
_LEAST_END_WITHIN = 0.2  # seconds
_END_WITHIN = 5.0  # seconds an actor may take to end

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")
Factory = Callable[[], pykka.Actor]


class Actors(Protocol):
    """What takes calls under a name: one actor, or a pool of them."""

    @property
    def table(self) -> dict[str, Method]:
        """What others may call."""

    def deliver(self, invocation: Invocation) -> None:
        """Take a call; raise a `CallError` if that cannot be."""


class _NotWanted(UsageError):
    """An instance was made for nothing: its name was removed, or it is to be made once more."""


class _Place:
    """A name an actor is registered under, over all its restarts."""

    def __init__(self, name: str, factory: Factory, group: Group, *, is_stock: bool) -> None:
        self.name = name
        self.factory = factory
        self.group = group
        self.is_stock = is_stock
        self.hosted: HostedActor | None = None
        self.state = "starting"
        self.restarts = 0
        self.last_error = ""
        self.plan = 0  # grows with each crash that decides about it
        self.ended_with = ""  # the crash of another that it shares the fate of

    @property
    def is_running(self) -> bool:
        return self.hosted is not None and not self.hosted.is_over


class _Pool:
    """Several actors of one class behind one name; the one with least to do takes a call."""

    def __init__(self, members: list[_Place], table: dict[str, Method]) -> None:
        self.members = members
        self.table = table
        self._turn = 0

    @property
    def is_over(self) -> bool:
        """True if no worker runs or is started anew."""
        return all(each.state == _GIVEN_UP for each in self.members)

    def deliver(self, invocation: Invocation) -> None:
        workers = [each.hosted for each in self.members if each.hosted and not each.hosted.is_over]
        if not workers:
            raise ActorDead("no worker of the pool is running", may_have_run=False)
        # Among those with as much to do it is the next one's turn: one that has
        # just taken a call out of its inbox does not look busy yet.
        first = self._turn % len(workers)
        self._turn += 1
        workers = workers[first:] + workers[:first]
        workers.sort(key=lambda worker: (bool(worker.waiting_for), worker.load()))
        for worker in workers[:-1]:
            try:
                worker.deliver(invocation)
                return
            except (ActorDead, DeadlockError, OverloadedError):
                # That one would wait for ever, just ended, or is full: another need not be.
                continue
        workers[-1].deliver(invocation)


class Group:
    """Actors that share their fate: what happens to the others when one crashes.

    `one_for_one` starts the crashed one anew, `one_for_all` all of them,
    `rest_for_one` it and those that were added after it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        strategy: Strategy = "one_for_one",
        max_restarts: int = MAX_RESTARTS,
        within: float = RESTART_WINDOW,
    ) -> None:
        """Make an empty group.

        Args:
            supervisor: whose actors these are.
            strategy: who is started anew with a crashed actor.
            max_restarts: crashes within `within` seconds before all are given up.
            within: seconds, above 0.

        Raises:
            UsageError: there is no such strategy, or a limit is no such number.
        """
        if strategy not in STRATEGIES:
            raise UsageError(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}")
        if not _is_whole(max_restarts) or max_restarts < 0:
            raise UsageError(f"max_restarts is {max_restarts!r}; wanted is a count, 0 or more")
        if not _is_above_0(within):
            raise UsageError(f"within is {within!r}; wanted is a number of seconds above 0")
        self.strategy = strategy
        self.max_restarts = max_restarts
        self.within = within
        self._supervisor = supervisor
        self._places: list[_Place] = []
        self._crashes: deque[float] = deque()

    def supervise(
        self, actor_class: type[pykka.Actor], *args: Any, name: str, **kwargs: Any
    ) -> pykka.ActorRef[Any]:
        """Start an actor in this group, under a name; as `Flock.supervise`."""
        return self._supervisor.add(name, lambda: actor_class(*args, **kwargs), group=self)

    def join(self, place: _Place) -> None:
        """Add an actor; the supervisor's to call, as are the methods below."""
        self._places.append(place)

    def leave(self, place: _Place) -> None:
        """Forget an actor that ended or was removed."""
        if place in self._places:
            self._places.remove(place)

    def members(self) -> list[_Place]:
        """Return all of its actors, in order."""
        return list(self._places)

    def shares_fate_of(self, crashed: _Place) -> list[_Place]:
        """Return who is started anew with a crashed actor, itself included, in order."""
        if self.strategy == "one_for_one":
            return [crashed]
        first = 0 if self.strategy == "one_for_all" else self._places.index(crashed)
        return self._places[first:]

    def pause_after_crash(self, *, is_stock: bool) -> float | None:
        """Note a crash; return the seconds to wait before starting anew, None to give up."""
        now = time.monotonic()
        while self._crashes and now - self._crashes[0] > self.within:
            self._crashes.popleft()
        before = len(self._crashes)
        if before >= self.max_restarts and not is_stock:
            return None
        self._crashes.append(now)
        if before >= self.max_restarts:
            return LONGEST_PAUSE
        return min(FIRST_PAUSE * 2.0**before, LONGEST_PAUSE)


Ended = Callable[[str, str, bool], None]
"""Called with the name of an actor or pool, why its instance is over, and whether it crashed."""


class Supervisor:
    """The named actors of one node."""

    def __init__(self, place: Surroundings, changed: Callable[[], None] = lambda: None) -> None:
        """Make it empty.

        Args:
            place: the node they run on.
            changed: called after an actor was added, removed or given up.
        """
        self._place = place
        self._changed = changed
        self._ended_listener: Ended | None = None
        self._places: dict[str, _Place] = {}
        self._pools: dict[str, _Pool] = {}
        self._lock = threading.RLock()
        self._closing = False
        self._timers: list[Timer] = []
        # Names whose actor ended of its own will or was removed, the oldest first.
        self._stopped: dict[str, None] = {}

    def on_end(self, listener: Ended) -> None:
        """Tell `listener` of the end of every actor's instance, on the actor's thread.

        A pool is over when none of its workers is left, or when it is removed.
        """
        self._ended_listener = listener

    # --- adding

    def add(
        self,
        name: str,
        factory: Factory,
        *,
        is_stock: bool = False,
        group: Group | None = None,
    ) -> pykka.ActorRef[Any]:
        """Start an actor under a name and keep it running.

        Args:
            name: what others call it by.
            factory: makes an instance; called again after each crash.
            is_stock: True is never given up.
            group: whose fate it shares; None for its own alone.

        Raises:
            UsageError: the name is taken or not a name, or the class has a
                method that a proxy keeps for itself.
            Exception: what making the first instance raised.
        """
        _check_name(name)
        hosted = self._add(name, factory, group or Group(self), is_stock=is_stock)
        self._changed()
        return hosted.actor.actor_ref

    def add_pool(self, name: str, factory: Factory, size: int) -> None:
        """Start `size` actors behind one name; a call goes to the one with least to do.

        Raises:
            UsageError: as for `add`, or `size` is below 1.
        """
        _check_name(name)
        if not _is_whole(size) or size < 1:
            raise UsageError(f"a pool has at least 1 actor, not {size!r}")
        members: list[_Place] = []
        try:
            for number in range(1, size + 1):
                hosted = self._add(f"{name}/{number}", factory, Group(self), is_stock=False)
                members.append(self._places[hosted.name])
            with self._lock:
                if name in self._places or name in self._pools:
                    raise UsageError(f"an actor named {name!r} is registered already")
                self._pools[name] = _Pool(members, hosted.table)
        except BaseException:
            self._drop(members, 5.0)
            raise
        self._changed()

    def _add(self, name: str, factory: Factory, group: Group, *, is_stock: bool) -> HostedActor:
        with self._lock:
            if self._closing:
                raise UsageError("this flock is closed")
            if name in self._places or name in self._pools:
                raise UsageError(f"an actor named {name!r} is registered already")
            place = self._places[name] = _Place(name, factory, group, is_stock=is_stock)
            group.join(place)
        try:
            return self._start(place, place.plan)
        except BaseException:
            with self._lock:
                self._places.pop(name, None)
                group.leave(place)
            raise

    def _start(self, place: _Place, plan: int) -> HostedActor:
        actor = place.factory()
        if not isinstance(actor, pykka.ThreadingActor):
            raise UsageError(f"{type(actor).__name__} is not a pykka.ThreadingActor")
        hosted = HostedActor(place.name, actor, method_table(type(actor)), self._ended, self._place)
        with self._lock:
            if not self._is_kept(place) or place.plan != plan:
                # A crash meanwhile of who shares its fate has it made once more: one
                # name must not have two instances.
                raise _NotWanted(f"actor {place.name!r} was removed while it was made")
            self._stopped.pop(place.name, None)
            place.hosted = hosted
            place.ended_with = ""
            place.state = "running"
            hosted.start()
        return hosted

    # --- looking up

    def get(self, name: str) -> Actors | None:
        """Return what takes calls under a name; None if there is no such name.

        Raises:
            ActorDead: the name is known and its actor is just not running.
        """
        place = self._places.get(name)
        if place is None or "/" in name:
            pool = self._pools.get(name)
            if pool is None and name in self._stopped:
                raise ActorDead(f"actor {name!r} was stopped", may_have_run=False)
            return pool
        hosted = place.hosted
        if hosted is None or hosted.is_over:
            # Its place was not told yet, or never will be: the node is leaving.
            state = "stopped" if place.state == "running" else place.state
            raise ActorDead(f"actor {name!r} is {state}", may_have_run=False)
        return hosted

    def absence(self, name: str) -> tuple[str, bool] | None:
        """Say why nothing runs under a name, and whether it crashed.

        None if something does, or has just ended: then its end is about to be told.
        """
        with self._lock:
            places = self._named(name)
            if any(each.state == "running" for each in places):
                return None
            if places:
                reasons = {
                    f"it is {each.state}" + (f": {each.last_error}" if each.last_error else "")
                    for each in places
                }
                return "; ".join(sorted(reasons)), True
            is_known = name in self._stopped or name in self._pools
        return ("it was stopped", False) if is_known else ("there is no such actor", True)

    def _named(self, name: str) -> list[_Place]:
        """Return the places behind a name: one, a pool's, or none; the lock is held."""
        pool = self._pools.get(name)
        place = self._places.get(name)
        return list(pool.members) if pool is not None else [place] if place is not None else []

    def instances(self, name: str) -> list[HostedActor]:
        """Return the running instances behind a name: one, a pool's workers, or none."""
        with self._lock:
            places = self._named(name)
        return [each.hosted for each in places if each.hosted and each.is_running]

    def names(self) -> list[str]:
        """Return the registered names, sorted; a pool counts as one."""
        with self._lock:
            return sorted({*(name for name in self._places if "/" not in name), *self._pools})

    def describe(self) -> list[dict[str, Any]]:
        """Say of each actor how it does, as plain data; a pool's workers one by one."""
        with self._lock:
            places = sorted(self._places.values(), key=lambda place: place.name)
        return [_describe(place) for place in places]

    def running(self) -> list[HostedActor]:
        """Return every running instance."""
        with self._lock:
            places = sorted(self._places.values(), key=lambda place: place.name)
        return [each.hosted for each in places if each.hosted is not None and each.is_running]

    # --- ends

    def _ended(self, hosted: HostedActor, error: BaseException | None) -> None:
        """Decide what becomes of a name whose actor is over."""
        reason = "stopped" if error is None else f"{type(error).__name__}: {error}"
        crashed = error is not None
        with self._lock:
            place = self._places.get(hosted.name)
            is_ours = place is not None and place.hosted is hosted and not self._closing
            if place is not None and is_ours and error is None and place.ended_with:
                reason, crashed = place.ended_with, True  # not of its own will
            if place is not None and is_ours and place.state == "running":
                if error is None:
                    self._forget(place)
                else:
                    place.last_error = reason
                    self._plan_restart(place)
        if isinstance(hosted.actor, Actor) and not self._closing:
            # Of a node that leaves, the callers hear from itself.
            hosted.actor.break_promises(reason)
        if self._ended_listener is not None:
            self._ended_listener(hosted.name, reason, crashed)
        self._tell_of_pool(hosted.name, reason, crashed=crashed)
        if is_ours:
            self._changed()

    def _forget(self, place: _Place) -> None:
        self._places.pop(place.name, None)
        self._note_stopped(place.name)
        place.group.leave(place)
        pool = self._pools.get(place.name.partition("/")[0])
        if pool is not None and place in pool.members:
            pool.members.remove(place)

    def _tell_of_pool(self, worker: str, reason: str, *, crashed: bool) -> None:
        """Tell that a pool is over if this was its last worker."""
        name, slash, _ = worker.partition("/")
        with self._lock:
            pool = self._pools.get(name) if slash and not self._closing else None
            is_over = pool is not None and pool.is_over
        if is_over and self._ended_listener is not None:
            self._ended_listener(name, f"its last worker is gone: {reason}", crashed)

    def _is_kept(self, place: _Place) -> bool:
        return not self._closing and self._places.get(place.name) is place

    def _note_stopped(self, name: str) -> None:
        """Remember a name for a while: who calls it learns that it was stopped."""
        self._stopped[name] = None
        while len(self._stopped) > _MAX_STOPPED:
            self._stopped.pop(next(iter(self._stopped)))

    def _plan_restart(self, crashed: _Place) -> None:
        """Have a crashed actor, and who shares its fate, started anew; the lock is held."""
        group = crashed.group
        pause = group.pause_after_crash(is_stock=crashed.is_stock)
        # The limit is the whole group's, whoever of it crashed.
        places = group.members() if pause is None else group.shares_fate_of(crashed)
        if pause is None:
            logger.error(
                "actor %r crashed more than %d times in %g s and is given up: %s"
                if len(places) == 1
                else "actor %r crashed, in its group more than %d times in %g s: "
                "all of that are given up: %s",
                crashed.name,
                group.max_restarts,
                group.within,
                crashed.last_error,
            )
        else:
            logger.warning(
                "actor %r crashed (%s) and is started anew in %g s",
                crashed.name,
                crashed.last_error,
                pause,
            )
        for place in places:
            place.plan += 1
            place.state = _GIVEN_UP if pause is None else f"starting anew in {pause:g} s"
            if place is not crashed and place.hosted is not None:
                news = f"{crashed.name!r} of its group crashed: {crashed.last_error}"
                place.ended_with = place.last_error = news
                place.hosted.stop()
        if pause is not None:
            plans = [(place, place.plan) for place in places]
            timer = clock.start(pause, lambda _: self._restart_on_thread(plans))
            self._timers = [each for each in self._timers if each.is_waiting] + [timer]

    def _restart_on_thread(self, plans: list[tuple[_Place, int]]) -> None:
        # Making an actor may take its time, and is not the clock's work.
        threading.Thread(
            target=self._restart, args=(plans,), name="flock-restart", daemon=True
        ).start()

    def _restart(self, plans: list[tuple[_Place, int]]) -> None:
        deadline = time.monotonic() + _END_WITHIN
        for place, _ in plans:
            if place.hosted is not None:
                place.hosted.thread.join(max(0.0, deadline - time.monotonic()))
        for place, plan in plans:
            with self._lock:
                if not self._is_kept(place) or place.plan != plan:
                    continue
                place.restarts += 1
            try:
                # Without the lock: making an actor may take long, or call others.
                self._start(place, plan)
            except _NotWanted as news:
                logger.info("%s", news)
            except Exception as error:
                logger.exception("actor %r could not be made anew", place.name)
                self._failed_to_start(place, plan, f"{type(error).__name__}: {error}")
                break
        self._changed()

    def _failed_to_start(self, place: _Place, plan: int, reason: str) -> None:
        with self._lock:
            if not self._is_kept(place) or place.plan != plan:
                return
            place.last_error = reason
            place.hosted = None
            self._plan_restart(place)
        self._tell_of_pool(place.name, reason, crashed=True)

    def remove(self, name: str, timeout: float = _END_WITHIN) -> None:
        """Stop an actor, or a pool, for good and forget its name."""
        with self._lock:
            pool = self._pools.pop(name, None)
            place = self._places.get(name)
            places = pool.members if pool is not None else [place] if place is not None else []
        self._drop(places, timeout)
        if pool is not None and self._ended_listener is not None:
            self._ended_listener(name, "stopped", False)
        self._changed()

    def _drop(self, places: Iterable[_Place], timeout: float) -> None:
        places = list(places)
        with self._lock:
            for place in places:
                place.state = "stopping"
                self._places.pop(place.name, None)
                self._note_stopped(place.name)
                place.group.leave(place)
        _stop(places, timeout)

    def close(self, timeout: float = _END_WITHIN) -> list[str]:
        """Stop all actors, the youngest first; return those that would not stop in time."""
        with self._lock:
            self._closing = True
            places = list(self._places.values())
            timers = self._timers
        clock.discard(timers)
        return _stop(places[::-1], timeout)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _is_above_0(number: Any) -> bool:
    return isinstance(number, int | float) and number > 0  # as NaN is not


def _check_name(name: Any) -> None:
    is_name = isinstance(name, str) and name.isprintable() and "/" not in name
    if not is_name or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise UsageError(
            f"{name!r:.300} cannot be an actor's name: "
            f"1 to {MAX_NAME_BYTES} bytes of printable characters without '/'"
        )


def _describe(place: _Place) -> dict[str, Any]:
    hosted = place.hosted
    if hosted is None:
        row: dict[str, Any] = {"class": "", "waiting": 0, "busy_with": None, "methods": []}
    else:
        row = {
            "class": type(hosted.actor).__name__,
            "waiting": hosted.waiting_count() if place.is_running else 0,
            "busy_with": hosted.busy_with,
            "methods": sorted(hosted.table),
        }
    return row | {
        "name": place.name,
        "state": place.state,
        "restarts": place.restarts,
        "error": place.last_error,
    }


def _stop(places: Iterable[_Place], timeout: float) -> list[str]:
    deadline = time.monotonic() + timeout
    stubborn = []
    for place in places:
        hosted = place.hosted
        if hosted is None:
            continue
        hosted.stop()
        if hosted.thread is threading.current_thread():
            continue  # it ends after what it is at
        # One that takes all the time must not keep the others from a clean end.
        hosted.thread.join(max(_LEAST_END_WITHIN, deadline - time.monotonic()))
        if hosted.thread.is_alive():
            stubborn.append(place.name)
            logger.warning(
                "actor %r did not stop in time, busy with %s", place.name, hosted.busy_with
            )
    return stubborn
