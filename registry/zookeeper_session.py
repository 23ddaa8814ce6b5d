"""Our one session with ZooKeeper: opened, watched over, made anew, and closed.

kazoo tells of changes on a thread of its own that must not wait; this module
takes them there, and only wakes those who look for themselves.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from kazoo.client import KazooState

from registry.contract import (
    OPERATION_TIMEOUT,
    NotPermitted,
    RegistrySettings,
    RegistryUnavailable,
    SessionState,
)
from registry.zookeeper_address import Address
from registry.zookeeper_client import Client
from registry.zookeeper_guard import Guard, boottime
from registry.zookeeper_requests import Requests, Watch

_log = logging.getLogger(__name__)

_CLOSING_TIMEOUT = 2.0
"""Seconds that a server has to answer our goodbye before the connection is cut."""

DEFAULT_LOCK_DELAY = 10.0
"""Seconds; the least that the next holder of a lock waits after an unclean end, by default."""


class Session:
    """One session at a time, made anew by itself when a server has ended the last one.

    Args:
        address: the ensemble.
        settings: session timeout, lock delay, TLS.
        clock: for the guard, in seconds.
    """

    def __init__(
        self, address: Address, settings: RegistrySettings, clock: Callable[[], float] = boottime
    ) -> None:
        self.address = address
        self.url = address.url
        self.guard = Guard(settings.session_timeout, clock)
        self._settings = settings
        self._client: Client | None = None
        self._closed = threading.Event()
        self._wakers: list[Callable[[], None]] = []
        self._last_told = SessionState.CONNECTED
        self._told: Callable[[SessionState], None] = lambda _: None
        self._telling = threading.Lock()
        self._last_host = ""
        self._cut_at: float | None = None

    @property
    def lock_delay(self) -> float:
        """Seconds that the next holder of a lock waits after an unclean end."""
        if self._settings.lock_delay is not None:
            return self._settings.lock_delay
        return max(self.guard.granted, DEFAULT_LOCK_DELAY)

    # --- being told

    def wake_on_change(self, waker: Callable[[], None]) -> None:
        """Call `waker` after the state may have changed; it must not block."""
        self._wakers.append(waker)

    def tell_states(self, told: Callable[[SessionState], None]) -> None:
        """Call `told` with each new state, in order; it must not block."""
        self._told = told

    def look(self) -> None:
        """Tell of a state that came with time alone: a silent session is lost one day."""
        self._tell(self.state())

    def _changed(self, state: KazooState) -> None:
        """Take a change from kazoo, on its thread."""
        # A server that ends a session is there, and a new one is about to be made.
        self._cut_at = None if state == KazooState.CONNECTED else time.monotonic()
        if state == KazooState.LOST:
            self.guard.end()
            self._tell(SessionState.CLOSED if self._closed.is_set() else SessionState.LOST)
        elif state == KazooState.SUSPENDED:
            self._tell(SessionState.SUSPENDED)
        else:
            self._tell(SessionState.CONNECTED)
        for waker in self._wakers:
            waker()

    def _tell(self, state: SessionState) -> None:
        with self._telling:
            if state is self._last_told or self._last_told is SessionState.CLOSED:
                return
            self._last_told = state
            if state in {SessionState.SUSPENDED, SessionState.LOST}:
                _log.warning("registry %s: session %s", self.url, state.value)
            elif state is SessionState.CONNECTED:
                _log.info("registry %s: connected", self.url)
            self._told(state)

    # --- life

    def open(self, timeout: float) -> None:
        """Connect. A session object is opened once.

        Raises:
            WrongRegistry: the files for TLS are no good.
            RegistryUnavailable: not within `timeout` seconds; nothing is left running.
            NotPermitted: a server turned our credentials down.
        """
        if self._client is not None or self._closed.is_set():
            raise RuntimeError("a registry is opened once")
        client = Client(self.address, self._settings, self.guard, self._changed, within=timeout)
        client.start_async()
        try:
            if not client.wait_until_connected(timeout):
                if client.is_refused:
                    raise NotPermitted(f"{self.url} refuses our user or certificate")
                why = f"no connection within {timeout:g} s ({client.failures()})"
                raise RegistryUnavailable(self.url, why)
        except BaseException:
            _stop(client, patience=0.0)
            raise
        client.has_joined()
        self._client = client

    def requests(self, timeout: float = OPERATION_TIMEOUT) -> Requests:
        """Begin an operation that ends within `timeout` seconds.

        Raises:
            RegistryUnavailable: not opened, or closed.
        """
        client = self._client
        if client is None or self._closed.is_set():
            raise RegistryUnavailable(
                self.url, "it is closed" if self._closed.is_set() else "not opened"
            )
        return Requests(client, self.guard, self.url, timeout, self.patience)

    def patience(self) -> float:
        """Return the seconds for which a connection is still waited for.

        An outage is waited for once, from its begin, and not by each operation:
        a run that touches the registry a hundred times would take minutes.
        """
        cut_at = self._cut_at
        if cut_at is None:
            return OPERATION_TIMEOUT
        return max(0.0, cut_at + OPERATION_TIMEOUT - time.monotonic())

    def unwatch(self, path: str, watch: Watch) -> None:
        """Take a watch back from the server, if there is one; waits for nothing."""
        if self._client is not None:
            self._client.unwatch(path, watch)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to a server at this moment."""
        return (
            self._client is not None and bool(self._client.connected) and not self._closed.is_set()
        )

    @property
    def is_secured(self) -> bool:
        """Whether what we write is ours alone."""
        return self._client is not None and self._client.is_secured

    def state(self) -> SessionState:
        """Return what is known of the session; asks no server."""
        if self._closed.is_set():
            return SessionState.CLOSED
        if self.is_connected:
            return SessionState.CONNECTED
        return SessionState.LOST if self.guard.is_over() else SessionState.SUSPENDED

    def wait_until_connected(self, timeout: float) -> bool:
        """Wait for a connection; say whether there is one."""
        client = self._client
        return (
            client is not None
            and client.wait_until_connected(timeout)
            and not self._closed.is_set()
        )

    def local_host(self) -> str:
        """Return the address of our end of the connection, the last one during an outage."""
        found = self._client.local_host() if self._client is not None else None
        self._last_host = found or self._last_host
        if not self._last_host:
            raise RegistryUnavailable(self.url, "no connection to any server")
        return self._last_host

    def revive(self) -> None:
        """Begin anew if kazoo's thread has ended by itself, as after an answer it cannot read."""
        client = self._client
        if self._closed.is_set() or client is None or not client.has_given_up or client.is_refused:
            return
        _log.warning("registry %s: the connection has ended by itself, beginning anew", self.url)
        _stop(client, patience=0.0)
        self.guard.end()
        self._client = Client(self.address, self._settings, self.guard, self._changed)
        self._client.start_async()
        if self._closed.is_set():  # meanwhile
            _stop(self._client, patience=0.0)

    def close(self) -> None:
        """End the session, and with it everything of ours that is passing. Twice is harmless.

        Ends within some seconds also in an outage; the session then ends at
        the servers when its timeout has passed.
        """
        if self._closed.is_set():
            return
        connected = self.is_connected
        self._closed.set()
        if self._client is not None:
            _stop(self._client, patience=_CLOSING_TIMEOUT if connected else 0.0)
        self.guard.end()
        self._tell(SessionState.CLOSED)


def _stop(client: Client, patience: float) -> None:
    """Stop kazoo's threads; cut the connection if the server does not say goodbye in time.

    Args:
        client: stopped.
        patience: seconds for the server's answer.
    """
    done = threading.Event()

    def cut_until_done() -> None:
        # Again and again: the thread may be just about to open another connection.
        if not done.wait(patience):
            client.cut()
            while not done.wait(0.1):
                client.cut()

    cutter = threading.Thread(target=cut_until_done, name="flock-zookeeper-close", daemon=True)
    cutter.start()
    try:
        with contextlib.suppress(OSError):
            client.stop()
        client.close()
    finally:
        done.set()
        cutter.join()
