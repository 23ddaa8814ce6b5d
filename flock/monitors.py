"""Being told, once, when an actor or a node is gone, and why.

A monitor is set on an actor of any node, or on a node. It fires once: when the
actor's instance is over (crashed, stopped, started anew), when its node leaves
or dies, or when the way there breaks (then nobody knows more). To hear of
another node's end the lane to it is kept open, so that silence is noticed. When
only the way back breaks, the one who monitors asks what became of his monitors
over the next one: their numbers are as those of calls, and what is not held any
more is failed as such a call is.

Nothing is promised about the order of the news and the last messages of the
one that is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flock.errors import CallError
from flock.messages import DOWN, UNWATCH, WATCH
from flock.wire import Codec

logger = logging.getLogger(__name__)

MAX_WATCHERS = 100_000
"""Monitors that others may set on one actor: more than any flock needs, and bounded."""


@dataclass(frozen=True, slots=True)
class Down:
    """What a monitor says.

    Attributes:
        node: the node's name.
        actor: the actor's name; empty if the node was monitored.
        reason: why it is gone, for people.
        crashed: False if it ended of its own will.
    """

    node: str
    actor: str
    reason: str
    crashed: bool


class Monitor:
    """One monitor that was set; `cancel` ends it.

    Attributes:
        number: tells it from every other monitor of this process.
        peer: whose actor it is set on.
        actor: that actor's name; empty for the node itself.
        callback: what is called.
        is_over: it was cancelled, or has fired.
    """

    def __init__(
        self,
        monitors: Monitors,
        number: int,
        peer: Any,
        actor: str,
        callback: Callable[[Down], None],
    ) -> None:
        """Note who is told; `Monitors.watch` makes it."""
        self.number = number
        self.peer = peer
        self.actor = actor
        self.callback = callback
        self.is_over = False
        self._monitors = monitors

    def cancel(self) -> None:
        """End it; the callback is not begun afterwards."""
        self._monitors.cancel(self)


class Monitors:
    """The monitors this process has set, and those that others have set on its actors."""

    def __init__(
        self,
        codec: Codec,
        absence: Callable[[str], tuple[str, bool] | None],
        new_number: Callable[[], int],
    ) -> None:
        """Make it empty.

        Args:
            codec: turns messages into bytes.
            absence: says why no actor of this name runs here, and whether it
                crashed; None if one does, or its end is about to be told.
            new_number: gives a number that no call of ours has.
        """
        self._codec = codec
        self._absence = absence
        self._new_number = new_number
        self._mine: dict[int, Monitor] = {}
        self._others: dict[str, dict[tuple[str, int], Any]] = {}
        self._lock = threading.Lock()

    # --- monitors of ours

    def watch(self, peer: Any, actor: str, callback: Callable[[Down], None]) -> Monitor:
        """Have `callback` told once when an actor of `peer`, or `peer` itself, is gone.

        Args:
            peer: the node.
            actor: its actor; empty for the node itself.
            callback: called on a thread of the runtime; must be short.

        Raises:
            CallError: there is no way there; nothing was set.
        """
        monitor = Monitor(self, self._new_number(), peer, actor, callback)
        with self._lock:
            self._mine[monitor.number] = monitor
        peer.watched.add(monitor.number)
        try:
            peer.send(self._codec.encode((WATCH, monitor.number, actor)), urgent=True)
        except CallError:
            self._take(monitor.number)
            raise
        return monitor

    def cancel(self, monitor: Monitor) -> None:
        """End a monitor of ours."""
        if self._take(monitor.number) is not None and monitor.peer.state == "connected":
            try:
                monitor.peer.send(self._codec.encode((UNWATCH, monitor.number)), urgent=False)
            except CallError as error:
                logger.debug("a monitor's end was not sent: %s", error)

    def _take(self, number: int) -> Monitor | None:
        with self._lock:
            monitor = self._mine.pop(number, None)
        if monitor is not None:
            monitor.is_over = True
            monitor.peer.watched.discard(number)
        return monitor

    def heard_down(self, peer: Any, number: int, reason: str, crashed: bool) -> None:
        """Take the news from a peer."""
        monitor = self._mine.get(number)
        if monitor is not None and monitor.peer is peer:
            self._fire(number, reason, crashed)

    def heard_lost(self, peer: Any, number: int, reason: str) -> bool:
        """Take the news that a peer does not hold a monitor of ours; False if it is none."""
        monitor = self._mine.get(number)
        if monitor is None or monitor.peer is not peer:
            return False
        self._fire(number, reason, True)
        return True

    def peer_over(self, peer: Any, reason: str, crashed: bool) -> None:
        """Note that a peer left, died, or cannot be reached."""
        for number in list(peer.watched):
            self._fire(number, reason, crashed)
        # One that only we cannot reach may reach us, and does not know.
        if peer.state == "gone":
            self._forget_all_of(peer)

    def lane_replaced(self, peer: Any) -> list[int]:
        """Note that a peer has a new lane to us; return our monitors on its actors.

        With its old lane its own monitors were over: it told itself.
        """
        self._forget_all_of(peer)
        with self._lock:
            return [
                number
                for number, monitor in self._mine.items()
                if monitor.peer is peer and monitor.actor
            ]

    def _forget_all_of(self, peer: Any) -> None:
        with self._lock:
            for watchers in self._others.values():
                for key in [key for key, watcher in watchers.items() if watcher is peer]:
                    del watchers[key]
                    peer.serving.discard(key[1])

    def _fire(self, number: int, reason: str, crashed: bool) -> None:
        monitor = self._take(number)
        if monitor is None:
            return
        try:
            monitor.callback(Down(monitor.peer.title, monitor.actor, reason, crashed))
        except Exception:
            logger.exception("what a monitor called failed")

    # --- monitors that others set here

    def heard_watch(self, peer: Any, number: int, actor: str) -> None:
        """Note a monitor of a peer, or tell it at once that there is no such actor."""
        if not actor:
            return  # of our own end the peer learns by itself
        with self._lock:
            watchers = self._others.setdefault(actor, {})
            is_full = len(watchers) >= MAX_WATCHERS
            if not is_full:
                watchers[peer.generation, number] = peer
                peer.serving.add(number)
        if is_full:
            self._tell(peer, number, actor, f"it has {MAX_WATCHERS} monitors already", crashed=True)
            return
        absence = self._absence(actor)
        if absence is not None and self._forget(peer, number, actor):
            # Only him: the others are about to hear what it ended of.
            reason, crashed = absence
            self._tell(peer, number, actor, reason, crashed=crashed)

    def _forget(self, peer: Any, number: int, actor: str) -> bool:
        """Forget a monitor of a peer; False if he was told just now."""
        with self._lock:
            watchers = self._others.get(actor, {})
            was_there = watchers.pop((peer.generation, number), None) is not None
            if not watchers:
                self._others.pop(actor, None)
        peer.serving.discard(number)
        return was_there

    def heard_unwatch(self, peer: Any, number: int) -> None:
        """Forget a monitor of a peer."""
        with self._lock:
            for watchers in self._others.values():
                if watchers.pop((peer.generation, number), None) is not None:
                    peer.serving.discard(number)

    def actor_over(self, actor: str, reason: str, crashed: bool) -> None:
        """Tell those who watch an actor of ours that its instance is over."""
        with self._lock:
            watchers = self._others.pop(actor, {})
        for (_, number), peer in watchers.items():
            peer.serving.discard(number)
            self._tell(peer, number, actor, reason, crashed=crashed)

    def _tell(self, peer: Any, number: int, actor: str, reason: str, *, crashed: bool) -> None:
        peer.last_reply = time.monotonic()  # as of a call's answer: if it is lost, we come back
        try:
            peer.send(self._codec.encode((DOWN, number, reason, crashed)), urgent=True)
        except CallError as error:
            logger.info("%s was not told that %s is over: %s", peer.title, actor, error)
