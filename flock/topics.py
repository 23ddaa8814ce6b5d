"""Publish and subscribe by topic, over the whole flock.

Who wants a topic is written in the registry (`topics/TOPIC/NAME` holds the
subscriber's generation); a publisher watches only topics it publishes on. What
is published goes to each process that subscribed, once, and there to each of
its subscribers. Nothing is kept: who subscribes later, or is away, misses it.

A slow subscriber costs nobody else anything: what does not fit is dropped, and
the next that does comes with a `Gap` before it that says how many were lost.
Subscribers that are dead are pruned by whoever meets them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flock.errors import (
    CallError,
    NodeDownError,
    NodeNotFound,
    OverloadedError,
    RegistryError,
)
from flock.messages import PUBLISH
from flock.wire import Codec
from registry.contract import Cancel, Registry

logger = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Messages that wait for one slow subscriber before more are dropped."""

_ROOT = "topics"

_LOOK_AGAIN = 2.0
"""Seconds between two looks for who listens, while the registry does not answer."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands where messages were lost; `missed` says how many."""

    missed: int


class Subscription:
    """One subscriber of this process; `cancel` ends it.

    Its callback runs on a thread of its own, one message after the other.
    """

    def __init__(self, topics: Topics, topic: str, callback: Callable[[str, Any], None]) -> None:
        """Begin to take messages; `Topics.subscribe` makes it."""
        self.topic = topic
        self._topics = topics
        self._callback = callback
        self._waiting: deque[tuple[str, Any]] = deque()
        self._missed = 0
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"topic-{topic}", daemon=True)
        self._thread.start()

    def put(self, publisher: str, value: Any) -> None:
        """Take a message; drop it if too many wait."""
        with self._changed:
            if isinstance(value, Gap):
                self._missed += value.missed
            elif len(self._waiting) >= MAX_WAITING:
                self._missed += 1
            else:
                if self._missed:
                    self._waiting.append((publisher, Gap(self._missed)))
                    self._missed = 0
                self._waiting.append((publisher, value))
            self._changed.notify()

    def cancel(self) -> None:
        """End it; from another thread, after the return the callback is not running."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._topics.forget(self)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_over:
                    self._changed.wait()
                if self._is_over:
                    return
                publisher, value = self._waiting.popleft()
            try:
                self._callback(publisher, value)
            except Exception:
                logger.exception("a subscriber of %r failed", self.topic)


class Teller:
    """Sends values to one process that listens to a topic; waits for nobody.

    When there is no way to that process it tells it nothing more.

    Attributes:
        is_gone: there was no way to it.
    """

    def __init__(self, topics: Topics, name: str, topic: str, gone: Callable[[], None]) -> None:
        """Note whom to tell; `Topics.teller` makes it."""
        self._topics = topics
        self._name = name
        self._topic = topic
        self._gone = gone
        self._numbers = itertools.count(1)
        self.is_gone = False

    def __call__(self, value: Any) -> None:
        """Send a value; lost if there is no room for it on the way."""
        if self.is_gone:
            return
        try:
            self._topics.tell(self._name, self._topic, value, next(self._numbers))
        except OverloadedError as error:
            logger.debug("%s misses something on %r: %s", self._name, self._topic, error)
        except (CallError, RegistryError) as error:
            logger.debug("%s is told no more on %r: %s", self._name, self._topic, error)
            self.is_gone = True
            self._gone()


class _Audience:
    """The processes that want a topic, as a publisher knows them."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self.is_stale = True
        self.cancel: Cancel | None = None
        self.numbers: dict[str, int] = {}


class Topics:
    """What this process subscribes to and publishes."""

    def __init__(
        self,
        registry: Registry,
        codec: Codec,
        name: str,
        generation: str,
        peer_of: Callable[[str], Any],
    ) -> None:
        """Make it empty.

        Args:
            registry: holds who wants what.
            codec: turns messages into bytes.
            name: this process's name in the registry.
            generation: this run of it.
            peer_of: from a process's name to its peer, visitors included.
        """
        self._registry = registry
        self._codec = codec
        self._name = name
        self._generation = generation
        self._peer_of = peer_of
        self._mine: dict[str, list[Subscription]] = {}
        self._audiences: dict[str, _Audience] = {}
        self._heard: dict[tuple[str, str], int] = {}
        self._ears: dict[str, Callable[[str, Any], None]] = {}
        self._lock = threading.RLock()
        self._closed = threading.Event()

    # --- subscribing

    def subscribe(self, topic: str, callback: Callable[[str, Any], None]) -> Subscription:
        """Have `callback(publisher, value)` called with what is published on a topic.

        When it returns, publishers that look from now on see us; one that has
        looked before does so within moments. `value` may be a `Gap`.

        Raises:
            RegistryUnavailable: nobody could be told.
        """
        with self._lock:
            subscription = Subscription(self, topic, callback)
            first = topic not in self._mine
            self._mine.setdefault(topic, []).append(subscription)
        try:
            if first:
                self._registry.write(f"{_ROOT}/{topic}/{self._name}", self._generation)
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
        self._withdraw(subscription.topic, self._name)

    def _withdraw(self, topic: str, name: str) -> None:
        try:
            self._registry.delete(f"{_ROOT}/{topic}/{name}")
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

    # --- publishing

    def teller(self, name: str, topic: str, gone: Callable[[], None] = lambda: None) -> Teller:
        """Return what sends values to one process that listens to a topic.

        Args:
            name: the process's name.
            topic: any text.
            gone: called once, when there is no way to that process any more.
        """
        return Teller(self, name, topic, gone)

    def channel(self, topic: str) -> Callable[[Any], None]:
        """Return what publishes on a topic from a thread that must not wait.

        Who wants the topic is looked up when that changes, not when something
        is published: so an outage of the registry holds nobody up, and where
        nobody listens it costs nothing. What cannot be sent is lost.
        """
        path = f"{_ROOT}/{topic}"
        tellers: dict[str, Teller] = {}
        looking = threading.Lock()

        def look() -> None:
            """Find who wants it; the lock is held, on a thread that may wait."""
            names = self._registry.children(path)
            found = {name: tellers.get(name) for name in names}
            for name, known in found.items():
                if known is not None and not known.is_gone:
                    continue
                try:
                    self._peer_of(name)
                except NodeNotFound:
                    tellers.pop(name, None)
                    self._withdraw(topic, name)
                except CallError as error:
                    logger.debug("%s cannot be told on %r: %s", name, topic, error)
                else:
                    tellers[name] = Teller(self, name, topic, look_soon)
            for name in tellers.keys() - found.keys():
                tellers.pop(name, None)

        def look_until_seen() -> None:
            while not self._closed.is_set():
                try:
                    with looking:
                        look()
                except RegistryError as error:
                    logger.debug("who listens to %r is not known yet: %s", topic, error)
                    self._closed.wait(_LOOK_AGAIN)
                else:
                    return

        def look_soon() -> None:
            threading.Thread(target=look_until_seen, name=f"topic-{topic}", daemon=True).start()

        def publish(value: Any) -> None:
            for teller in list(tellers.values()):
                teller(value)

        audience = _Audience()
        audience.cancel = self._registry.watch_children(path, look_soon)
        with self._lock:
            self._audiences[f"channel {topic}"] = audience
        try:
            with looking:
                look()
        except RegistryError:
            look_soon()
        return publish

    def publish(self, topic: str, value: Any) -> int:
        """Send a value to everybody who subscribed to a topic; waits for nobody.

        Returns:
            To how many processes it was sent.

        Raises:
            EncodeError: the value cannot travel.
            RegistryUnavailable: who wants it cannot be known, and was not known before.
        """
        self._codec.check_value(value, "the value")
        self._codec.encode((PUBLISH, topic, value, 0, self._name))
        audience = self._audience(topic)
        sent = 0
        for name in list(audience.names):
            with self._lock:
                number = audience.numbers[name] = audience.numbers.get(name, 0) + 1
            if name == self._name:
                self._deliver(topic, self._name, value)
                sent += 1
                continue
            message = self._codec.encode((PUBLISH, topic, value, number, self._name))
            try:
                self._peer_of(name).send(message, urgent=False)
                sent += 1
            except (NodeNotFound, NodeDownError):
                audience.numbers.pop(name, None)
                audience.is_stale = True
                self._withdraw(topic, name)
            except CallError as error:
                logger.debug("%s misses something on %r: %s", name, topic, error)
        return sent

    def _audience(self, topic: str) -> _Audience:
        with self._lock:
            audience = self._audiences.setdefault(topic, _Audience())
        path = f"{_ROOT}/{topic}"
        if audience.cancel is None:
            # Watched before it is read, so that no change falls between.
            audience.cancel = self._registry.watch_children(
                path, lambda: setattr(audience, "is_stale", True)
            )
        if audience.is_stale:
            audience.is_stale = False
            try:
                audience.names = self._registry.children(path)
            except RegistryError:
                audience.is_stale = True
                if not audience.names:
                    raise
        return audience

    def tell(self, name: str, topic: str, value: Any, number: int) -> None:
        """Send a numbered value to one process, as a `Teller` does.

        Raises:
            CallError: there is no way to it, or no room on it.
            RegistryUnavailable: it is new here, and the registry cannot be asked.
        """
        if name == self._name:
            self._deliver(topic, name, value)
            return
        message = self._codec.encode((PUBLISH, topic, value, number, self._name))
        self._peer_of(name).send(message, urgent=False)

    # --- hearing (the reader's thread)

    def heard(self, peer: Any, topic: str, value: Any, number: int, publisher: str) -> None:
        """Take what a peer published; what nobody here wants leaves no trace."""
        if topic not in self._mine and topic not in self._ears:
            return
        key = (peer.generation, topic)
        before = self._heard.get(key, 0)
        self._heard[key] = number
        if before and number > before + 1:
            self._deliver(topic, publisher, Gap(number - before - 1))
        self._deliver(topic, publisher, value)

    def _deliver(self, topic: str, publisher: str, value: Any) -> None:
        listener = self._ears.get(topic)
        if listener is not None:
            listener(publisher, value)
        with self._lock:
            subscribers = list(self._mine.get(topic, ()))
        for subscription in subscribers:
            subscription.put(publisher, value)

    def peer_over(self, generation: str) -> None:
        """Forget what is kept of a peer that is gone."""
        for key in [key for key in list(self._heard) if key[0] == generation]:
            self._heard.pop(key, None)

    def close(self) -> None:
        """End everything, and be listed nowhere."""
        self._closed.set()
        with self._lock:
            subscriptions = [each for group in self._mine.values() for each in group]
            audiences = list(self._audiences.values())
        for subscription in subscriptions:
            subscription.cancel()
        for audience in audiences:
            if audience.cancel is not None:
                audience.cancel()
