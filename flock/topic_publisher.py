"""What this process publishes: sent once to each process that subscribed.

A publisher watches only topics it publishes on. It waits for nobody and keeps
nothing: what there is no room for on the way is lost, and the number that each
message carries lets the other side say how many are. Subscribers that are dead
are pruned by whoever meets them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from flock.errors import (
    CallError,
    NodeDownError,
    NodeNotFound,
    OverloadedError,
    RegistryError,
)
from flock.messages import PUBLISH
from flock.topic_subscribers import TopicSubscribers, topic_path
from flock.wire import Codec, frame_of
from registry.contract import Cancel, Registry

logger = logging.getLogger(__name__)

_MAX_AUDIENCES = 1000
"""Topics whose subscribers are followed at a time; of more, those published on last."""

_LOOK_AGAIN = 2.0
"""Seconds between two looks for who listens, while the registry does not answer."""


class Teller:
    """Sends values to one process that listens to a topic; waits for nobody.

    When there is no way to that process it tells it nothing more.

    Attributes:
        is_gone: there was no way to it.
    """

    def __init__(
        self, publisher: TopicPublisher, name: str, topic: str, gone: Callable[[], None]
    ) -> None:
        """Note whom to tell; `TopicPublisher.teller` makes it."""
        self._publisher = publisher
        self._name = name
        self._topic = topic
        self._gone = gone
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()
        self.is_gone = False

    def __call__(self, value: Any) -> None:
        """Send a value; lost if there is no room for it on the way."""
        if self.is_gone:
            return
        try:
            # Or what two threads send would arrive in another order than its numbers.
            with self._turn:
                self._publisher.tell(self._name, self._topic, value, next(self._numbers))
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
        self.turn = threading.Lock()
        self.is_over = False

    def begin(self, cancel: Cancel) -> None:
        """Keep what ends the watch; one that another thread was as quick to begin is ended."""
        with self.turn:
            is_needed = self.cancel is None and not self.is_over
            if is_needed:
                self.cancel = cancel
        if not is_needed:
            cancel()

    def end(self) -> None:
        """Follow no more who they are."""
        with self.turn:
            self.is_over = True
            cancel, self.cancel = self.cancel, None
        if cancel is not None:
            cancel()

    def next_number(self, name: str) -> int:
        """Return the number of the next message to a process; `turn` is held until it is sent."""
        number = self.numbers[name] = self.numbers.get(name, 0) + 1
        return number


class TopicPublisher:
    """Sends what this process publishes; any thread may."""

    def __init__(
        self,
        registry: Registry,
        codec: Codec,
        name: str,
        peer_of: Callable[[str], Any],
        subscribers: TopicSubscribers,
    ) -> None:
        """Begin without anybody to send to.

        Args:
            registry: holds who wants what.
            codec: turns messages into bytes.
            name: this process's name in the registry.
            peer_of: from a process's name to its peer, visitors included.
            subscribers: those of this process, which need no peer.
        """
        self._registry = registry
        self._codec = codec
        self._name = name
        self._peer_of = peer_of
        self._subscribers = subscribers
        self._audiences: OrderedDict[str, _Audience] = OrderedDict()
        self._channels: list[Cancel] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

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
        path = topic_path(topic)
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
                    self._subscribers.withdraw(topic, name)
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

        cancel = self._registry.watch_children(path, look_soon)
        with self._lock:
            self._channels.append(cancel)
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
        message = self._codec.encode((PUBLISH, topic, value, 0, self._name))
        audience = self._audience(topic)
        sent = 0
        for name in list(audience.names):
            if name == self._name:
                self._deliver(topic, message)
                sent += 1
                continue
            try:
                self._send(audience, name, topic, value)
                sent += 1
            except (NodeNotFound, NodeDownError):
                with audience.turn:
                    audience.numbers.pop(name, None)
                audience.is_stale = True
                self._subscribers.withdraw(topic, name)
            except (CallError, RegistryError) as error:
                logger.debug("%s misses something on %r: %s", name, topic, error)
        return sent

    def _deliver(self, topic: str, message: bytes) -> None:
        """Give a message to our own subscribers, by the same rules: what they get is theirs."""
        [[_, _, value, *_]] = self._codec.decode(frame_of((message,), 0))[1]
        self._subscribers.deliver(topic, self._name, value)

    def _send(self, audience: _Audience, name: str, topic: str, value: Any) -> None:
        """Send a value to one process; one that cannot be sent counts as missed there.

        Raises:
            CallError: there is no way to it, or no room on it.
            RegistryUnavailable: it is new here, and the registry cannot be asked.
        """
        try:
            peer = self._peer_of(name)  # may take its time: not while others wait for their turn
        except RegistryError:
            with audience.turn:
                audience.next_number(name)
            raise
        # Numbered and sent in one, or what two threads publish would arrive in another
        # order than its numbers, and look as if something were missing.
        with audience.turn:
            number = audience.next_number(name)
            message = self._codec.encode((PUBLISH, topic, value, number, self._name))
            peer.send(message, urgent=False)

    def _audience(self, topic: str) -> _Audience:
        left: _Audience | None = None
        with self._lock:
            audience = self._audiences.setdefault(topic, _Audience())
            self._audiences.move_to_end(topic)
            if len(self._audiences) > _MAX_AUDIENCES:
                # Topics may be made up one after the other; a watch for each is kept nowhere.
                _, left = self._audiences.popitem(last=False)
        if left is not None:
            left.end()
        path = topic_path(topic)
        if audience.cancel is None:
            # Watched before it is read, so that no change falls between.
            cancel = self._registry.watch_children(
                path, lambda: setattr(audience, "is_stale", True)
            )
            audience.begin(cancel)
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
        message = self._codec.encode((PUBLISH, topic, value, number, self._name))
        if name == self._name:
            self._deliver(topic, message)
            return
        self._peer_of(name).send(message, urgent=False)

    def close(self) -> None:
        """Follow no more who wants what."""
        self._closed.set()
        with self._lock:
            audiences, channels = list(self._audiences.values()), self._channels
        for audience in audiences:
            audience.end()
        for cancel in channels:
            cancel()
