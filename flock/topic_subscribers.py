"""Who in this process wants which topics: each gets what is published, in order.

That this process wants a topic is written in the registry (`topics/TOPIC/NAME`
holds its generation) as long as it has a subscriber for it. A slow subscriber
costs nobody else anything: what does not fit is dropped, and a `Gap` stands in its
place that says how many were lost, of each publisher.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from flock.errors import RegistryError, UsageError
from flock.timers import Timer, clock
from registry.contract import Cancel, Registry
from registry.records import quote

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 10.0  # seconds until an entry of ours is looked at again
_MAX_LOOKS = 20  # topics

MAX_WAITING = 1000
"""Messages that wait for one slow subscriber before more are dropped."""


def topic_path(topic: str) -> str:
    """Return under which path of the registry those who want a topic are listed.

    Raises:
        UsageError: it is no text.
    """
    if not isinstance(topic, str):
        raise UsageError(f"a topic is text, not {topic!r:.80}")
    # Quoted here, too, since a topic may be empty or hold what separates the parts of a path.
    return f"topics/{quote(topic)}"


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands where messages were lost; `missed` says how many."""

    missed: int


Run = Callable[[Callable[[], None]], None]
"""Has a function run soon, in turn with other work."""


class Subscription:
    """One subscriber of this process; `cancel` ends it.

    Its callback is called with one message after the other, on a thread of the
    subscription or where `run` has it run.
    """

    def __init__(
        self,
        subscribers: TopicSubscribers,
        topic: str,
        callback: Callable[[str, Any], None],
        run: Run | None = None,
    ) -> None:
        """Begin to take messages; `TopicSubscribers.subscribe` makes it."""
        self.topic = topic
        self._subscribers = subscribers
        self._callback = callback
        self._waiting: deque[tuple[str, Any]] = deque()
        self._missed: dict[str, int] = {}
        self._changed = threading.Condition()
        self._is_over = False
        self._has_turn = False  # `run` was asked for one
        self._run_soon = run
        self._thread: threading.Thread | None = None
        if run is None:
            self._thread = threading.Thread(target=self._run, name=f"topic-{topic}", daemon=True)
            self._thread.start()

    @property
    def is_over(self) -> bool:
        """True once it was cancelled."""
        return self._is_over

    def put(self, publisher: str, value: Any) -> None:
        """Take a message; drop it if too many wait."""
        with self._changed:
            if isinstance(value, Gap):
                self._missed[publisher] = self._missed.get(publisher, 0) + value.missed
            elif len(self._waiting) >= MAX_WAITING:
                self._missed[publisher] = self._missed.get(publisher, 0) + 1
            else:
                self._put_gaps()
                self._waiting.append((publisher, value))
            self._changed.notify()
            wants_turn = self._run_soon is not None and not self._has_turn
            self._has_turn = True
        if wants_turn:
            self._ask_for_turn()

    def _put_gaps(self) -> None:
        """Have told what was missed up to here; the lock is held."""
        if self._missed:
            self._waiting.extend((each, Gap(missed)) for each, missed in self._missed.items())
            self._missed.clear()

    def _next(self) -> tuple[str, Any] | None:
        """Return what is told next, None for nothing; the lock is held."""
        if not self._waiting:
            # Nobody may publish again: what was missed is told without that.
            self._put_gaps()
        return self._waiting.popleft() if self._waiting and not self._is_over else None

    def cancel(self) -> None:
        """End it.

        The callback is not begun afterwards; nor does one run any more that was
        called on a thread of the subscription, unless it is the one who cancels.
        """
        with self._changed:
            self._is_over = True
            self._waiting.clear()
            self._missed.clear()
            self._changed.notify()
        self._subscribers.forget(self)
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                told = self._next()
                while told is None and not self._is_over:
                    self._changed.wait()
                    told = self._next()
            if told is None:
                return
            try:
                self._callback(*told)
            except Exception:
                logger.exception("a subscriber of %r failed", self.topic)

    def _ask_for_turn(self) -> None:
        if self._run_soon is not None:
            self._run_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Tell one message where `run` has us, and ask for the next turn."""
        with self._changed:
            told = self._next()
            if told is None:
                self._has_turn = False
                return
        try:
            self._callback(*told)
        finally:
            self._ask_for_turn()


class TopicSubscribers:
    """The subscribers of this process, by topic."""

    def __init__(self, registry: Registry, name: str, generation: str) -> None:
        """Begin without any.

        Args:
            registry: holds who wants what.
            name: this process's name in the registry.
            generation: this run of it.
        """
        self._registry = registry
        self._name = name
        self._generation = generation
        self._mine: dict[str, list[Subscription]] = {}
        self._heard: dict[tuple[str, str], int] = {}
        self._ears: dict[str, Callable[[str, Any], None]] = {}
        self._listed: set[str] = set()
        # Held while an entry is written or taken out: of two threads that do, the later one wins.
        self._listing = threading.Lock()
        self._second_look: Timer | None = None
        # When the entry for a topic that nobody here wants is looked at again.
        self._next_look: dict[str, float] = {}
        self._to_look_at: SimpleQueue[str | None] = SimpleQueue()
        self._looking: threading.Thread | None = None
        self._is_closed = False
        self._lock = threading.RLock()

    def subscribe(
        self, topic: str, callback: Callable[[str, Any], None], run: Run | None = None
    ) -> Subscription:
        """Have `callback(publisher, value)` called with what is published on a topic.

        When it returns, publishers that look from now on see us; one that has
        looked before does so within moments. `value` may be a `Gap`.

        Args:
            topic: any text.
            callback: what it raises is logged, or is up to who runs it.
            run: has the callback run, one message a turn, and is asked for the next
                turn only after it; None for a thread of the subscription.

        Raises:
            RegistryUnavailable: nobody could be told.
            UsageError: the topic is no text.
        """
        with self._lock:
            subscription = Subscription(self, topic, callback, run)
            self._mine.setdefault(topic, []).append(subscription)
        try:
            self._list(topic)
        except BaseException:
            subscription.cancel()
            raise
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Take a subscription out; `Subscription.cancel` calls it."""
        with self._lock:
            subscribers = self._mine.get(subscription.topic, [])
            if subscription not in subscribers:
                return
            subscribers.remove(subscription)
            if subscribers:
                return
            del self._mine[subscription.topic]
            # What is still sent is not missed by who subscribes later.
            for key in [key for key in list(self._heard) if key[1] == subscription.topic]:
                self._heard.pop(key, None)
        self._list(subscription.topic)

    def _list(self, topic: str) -> None:
        """Have the registry list us for a topic if somebody here wants it, and only then."""
        with self._listing:
            if topic in self._mine and topic not in self._listed:
                self._registry.write(f"{topic_path(topic)}/{self._name}", self._generation)
                self._listed.add(topic)
            elif topic not in self._mine and topic in self._listed:
                self._listed.discard(topic)
                self.withdraw(topic, self._name)

    def withdraw(self, topic: str, name: str) -> None:
        """Take an entry out of the registry: ours, or that of a process that is gone."""
        try:
            self._registry.delete(f"{topic_path(topic)}/{name}")
        except RegistryError as error:
            # A publisher that meets an entry nobody answers for takes it out.
            logger.info("the subscription of %s to %r stays listed: %s", name, topic, error)

    def listen(self, topic: str, callback: Callable[[str, Any], None]) -> Cancel:
        """Have `callback(publisher, value)` called with what is sent to this process alone.

        Nobody is told that we listen: whoever sends knows. One listener a topic.

        Args:
            topic: any text.
            callback: called on the reader's thread, so it must be quick; `value`
                may be a `Gap`.

        Returns:
            A function that ends it.
        """
        self._ears[topic] = callback

        def stop() -> None:
            self._ears.pop(topic, None)

        return stop

    # --- hearing (the reader's thread)

    def heard(self, peer: Any, topic: str, value: Any, number: int, publisher: str) -> None:
        """Take what a peer published; what nobody here wants leaves no trace."""
        if topic not in self._mine and topic not in self._ears:
            self._not_wanted(topic)
            return
        key = (peer.generation, topic)
        before = self._heard.get(key, 0)
        self._heard[key] = number
        if before and number > before + 1:
            self.deliver(topic, publisher, Gap(number - before - 1))
        self.deliver(topic, publisher, value)

    def _not_wanted(self, topic: str) -> None:
        """Have the entry that this was sent for looked at: an earlier run of ours may have left it.

        Nobody else can take it out: a process of that name is there.
        """
        now = time.monotonic()
        if now < self._next_look.get(topic, 0.0):
            return
        if len(self._next_look) >= _MAX_LOOKS:
            self._next_look.clear()
        self._next_look[topic] = now + _LOOK_AGAIN
        if self._to_look_at.qsize() < _MAX_LOOKS:
            self._look_soon(topic)

    def back(self) -> None:
        """Have all our entries looked at, and once more later: the registry is there again.

        Whoever published while we were not listed as alive took us for dead, and may
        do so until our presence is read everywhere.
        """
        with self._lock:
            topics = list(self._mine)
            if not topics or self._is_closed:
                return
            if self._second_look is None or self._second_look.is_over:
                self._second_look = clock.start(_LOOK_AGAIN, lambda _: self._look_again())
        for topic in topics:
            self._look_soon(topic)

    def _look_again(self) -> None:
        with self._lock:
            topics = list(self._mine)
        for topic in topics:
            self._look_soon(topic)

    def _look_soon(self, topic: str) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._to_look_at.put(topic)
            if self._looking is None:
                self._looking = threading.Thread(
                    target=self._look_at_entries, name="flock-topics", daemon=True
                )
                self._looking.start()

    def _look_at_entries(self) -> None:
        while True:
            topic = self._to_look_at.get()
            if topic is None:
                return
            try:
                self._set_right(topic)
            except RegistryError as error:
                logger.debug("what is listed for us on %r is not known: %s", topic, error)

    def _set_right(self, topic: str) -> None:
        """Have the entry for a topic stand if somebody here wants it, and only then."""
        path = f"{topic_path(topic)}/{self._name}"
        with self._listing:
            entry = self._registry.read(path)
            if topic not in self._mine:
                if entry is not None:
                    self._registry.delete(path, version=entry.version)
            elif entry is None or entry.value != self._generation:
                self._registry.write(path, self._generation)
                self._listed.add(topic)

    def deliver(self, topic: str, publisher: str, value: Any) -> None:
        """Give a message to everybody here who wants it, to each his own."""
        listener = self._ears.get(topic)
        if listener is not None:
            listener(publisher, value)
        with self._lock:
            subscribers = list(self._mine.get(topic, ()))
        for subscription in subscribers[1:]:
            subscription.put(publisher, _copy(value))
        for subscription in subscribers[:1]:
            subscription.put(publisher, value)

    def peer_over(self, generation: str) -> None:
        """Forget what is kept of a peer that is gone."""
        for key in [key for key in list(self._heard) if key[0] == generation]:
            self._heard.pop(key, None)

    def close(self) -> None:
        """End all subscriptions, and be listed nowhere."""
        with self._lock:
            self._is_closed = True
            second_look = self._second_look
            subscriptions = [each for group in self._mine.values() for each in group]
        if second_look is not None:
            clock.discard([second_look])
        for subscription in subscriptions:
            subscription.cancel()
        looking = self._looking
        if looking is not None:
            self._to_look_at.put(None)
            looking.join()


def _copy(value: Any) -> Any:
    """Return a value as it came over the wire once more: one may change what he got."""
    if isinstance(value, list):
        return [_copy(each) for each in value]
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return value
