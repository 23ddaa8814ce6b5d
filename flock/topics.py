"""Publish and subscribe by topic, over the whole flock.

Who wants a topic is written in the registry. What is published goes to each
process that subscribed, once, and there to each of its subscribers. Nothing is
kept: who subscribes later, or is away, misses it. Here a process's subscribers
and its publisher are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flock.topic_publisher import TopicPublisher
from flock.topic_subscribers import Gap, Run, Subscription, TopicSubscribers
from flock.wire import Codec
from registry.contract import Registry

__all__ = ["Gap", "Run", "Subscription", "Topics"]


class Topics:
    """What this process subscribes to and publishes.

    Attributes:
        subscribers: those of this process.
        publisher: what sends to those of all.
    """

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
        self.subscribers = TopicSubscribers(registry, name, generation)
        self.publisher = TopicPublisher(registry, codec, name, peer_of, self.subscribers)

    def close(self) -> None:
        """End everything, and be listed nowhere."""
        # The publisher first: it need not hear that our own subscribers go.
        self.publisher.close()
        self.subscribers.close()
