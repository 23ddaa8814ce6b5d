"""kazoo's client, with the seven things it lacks.

It tells what timeout the server really granted, and when a server was last
heard of; it opens its connections within 2 s and, for TLS, trusts no other
authority than the one it is given; it reconnects within 2 s however long the
outage was; it leaves a server that has fallen silent, which kazoo does not
notice while it is asked something all the time; it comes past a server that
hangs while it joins, and says what is wrong with each if none lets it in; its
connection can be cut from outside, so that closing ends in bounded time; and
it takes back watches that nobody needs any more, which kazoo leaves with the
server until the session ends.

Nothing else of our code reaches into kazoo.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import ConnectionDropped
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import PING_XID, ConnectionHandler
from kazoo.protocol.serialization import Connect, int_struct, write_string
from kazoo.protocol.states import KeeperState, WatchedEvent
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from registry.contract import RegistrySettings, WrongRegistry
from registry.zookeeper_address import Address
from registry.zookeeper_guard import Guard

_CONNECT_TIMEOUT = 2.0

_LEAST_SHARE = 0.8
"""Seconds; servers answer in milliseconds, unless their disk or their leader stalls."""

_RECONNECT = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 1.6, "max_jitter": 0.25}
"""Never more than 2 s between two attempts: the chance comes on top of the longest delay."""

_log = logging.getLogger(__name__)

# A line for each of its attempts says nothing that our own line has not said.
_kazoo_log = logging.getLogger("registry.zookeeper.kazoo")
_kazoo_log.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class _RemoveWatches:
    """The request that takes a watch back, in ZooKeeper since 3.5; kazoo knows its errors only."""

    path: str
    kind: int
    type: ClassVar[int] = 18

    def serialize(self) -> bytes:
        return bytes(write_string(self.path) + int_struct.pack(self.kind))

    @classmethod
    def deserialize(cls, _: bytes, __: int) -> bool:
        return True


_NAMES_BELOW, _THE_NODE = 1, 2


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, with our own way to open a connection."""

    def __init__(self, context: ssl.SSLContext | None, patience: Callable[[], float]) -> None:
        super().__init__()
        self._context = context
        self._patience = patience
        self._server = ""
        self.failures: dict[str, str] = {}

    def create_connection(
        self,
        address: tuple[str, int],
        hostname: str | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> socket.socket:
        """Connect to one server; a silent one costs 2 s at most, not a session timeout."""
        self._server = f"{hostname or address[0]}:{address[1]}"
        try:
            connection = socket.create_connection(
                address, min(timeout or _CONNECT_TIMEOUT, self._patience())
            )
        except OSError as error:
            self.failed(error.strerror or str(error))
            raise
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                return connection
            return self._context.wrap_socket(connection, server_hostname=hostname)
        except BaseException as error:
            connection.close()
            self.failed(str(error))
            raise

    def failed(self, why: str) -> None:
        """Note why there is no session with the server that was tried last."""
        self.failures[self._server] = why


class _Connection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's connection, which tells the guard what it otherwise keeps to itself."""

    def __init__(self, client: Client, retry: KazooRetry, guard: Guard) -> None:
        super().__init__(client, retry, logger=_kazoo_log)
        self._guard = guard
        self._ping_sent = guard.now()
        self._unanswered_since: float | None = None

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
        super()._submit(request, timeout, xid)

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        # kazoo pings, and misses the answer, only when nothing else is sent.
        since = self._unanswered_since
        if since is not None and time.monotonic() - since >= read_timeout:
            raise ConnectionDropped("the server has fallen silent")
        super()._send_request(read_timeout, connect_timeout)

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        started = self._guard.now()
        if isinstance(request, Connect):
            self._unanswered_since = None
            # A server that is just starting takes the connection and may never answer; to wait
            # for it as long as a session lives would cost the session.
            timeout = min(timeout, self.client.patience())
            try:
                result = super()._invoke(timeout, request, xid)
            except Exception:
                self.handler.failed("it takes the connection and does not answer")
                raise
        else:
            result = super()._invoke(timeout, request, xid)
        if isinstance(request, Connect):
            self._unanswered_since = None
            answer = result[0]
            # No timeout granted means: that session has ended.
            if answer.time_out > 0:
                self._guard.begin(answer.session_id, answer.time_out / 1000, started)
        return result

    def zk_loop(self) -> None:
        """Run kazoo's loop; what ends it before its time is logged, and seen by `has_given_up`."""
        try:
            super().zk_loop()
        except Exception as error:  # noqa: BLE001 - an answer that nobody can read, say
            _log.warning("the connection to ZooKeeper ended by itself: %r", error)

    def _send_ping(self, connect_timeout: float) -> None:
        self._ping_sent = self._guard.now()
        super()._send_ping(connect_timeout)

    def _read_header(self, timeout: float) -> Any:
        answer = super()._read_header(timeout)
        self._unanswered_since = None
        if answer[0].xid == PING_XID:
            self._guard.heard(self._ping_sent)
        return answer

    def local_host(self) -> str | None:
        """Return the address of our end, None without a connection."""
        with contextlib.suppress(AttributeError, OSError):
            return str(self._socket.getsockname()[0])
        return None

    def cut(self) -> None:
        """Break the connection under the thread that waits for it."""
        with contextlib.suppress(AttributeError, OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Client(KazooClient):  # type: ignore[misc]
    """One connection to an ensemble.

    Args:
        address: where it is.
        settings: session timeout and TLS.
        guard: is told of sessions and answers.
        changed: called with kazoo's state after it changed, on kazoo's
            thread: it must neither block nor ask ZooKeeper.
        within: seconds that all servers have together until there is a
            session: one that hangs must not use them up. None if that is
            as long as it takes.
    """

    def __init__(
        self,
        address: Address,
        settings: RegistrySettings,
        guard: Guard,
        changed: Callable[[KazooState], None],
        within: float | None = None,
    ) -> None:
        self._guard = guard
        self._share = _CONNECT_TIMEOUT
        if within is not None and len(address.hosts) > 1:
            self._share = min(_CONNECT_TIMEOUT, max(_LEAST_SHARE, within / len(address.hosts)))
        context = _tls_context(settings)
        self.is_secured = bool(address.user or settings.zookeeper_cert)
        super().__init__(
            hosts=address.connection_string,
            timeout=settings.session_timeout,
            handler=_Handler(context, self.patience),
            default_acl=CREATOR_ALL_ACL if self.is_secured else OPEN_ACL_UNSAFE,
            auth_data=[("digest", f"{address.user}:{address.password}")] if address.user else [],
            connection_retry=dict(_RECONNECT),
            logger=_kazoo_log,
            use_ssl=context is not None,
        )
        self._connection = _Connection(self, self._conn_retry.copy(), guard)
        self.add_listener(changed)

    def wait_until_connected(self, timeout: float) -> bool:
        """Wait for a connection; say whether there is one."""
        return bool(self._live.wait(max(0.0, timeout)))

    def patience(self) -> float:
        """Return the seconds that one server has to let us in."""
        if self._guard.session is None:
            return self._share
        return max(_CONNECT_TIMEOUT, self._guard.granted / 3)

    def has_joined(self) -> None:
        """Give servers their full time from now on: only joining is in a hurry."""
        self._share = _CONNECT_TIMEOUT

    def failures(self) -> str:
        """Say why there is no session, server by server."""
        found = dict(self.handler.failures)
        if not found:
            return "no address is known of any of its hosts"
        return ", ".join(f"{server}: {why}" for server, why in found.items())

    @property
    def is_refused(self) -> bool:
        """Whether a server turned our credentials down; it will not try again."""
        return bool(self.client_state == KeeperState.AUTH_FAILED)

    @property
    def has_given_up(self) -> bool:
        """Whether its thread has ended without being asked to."""
        return self._connection.connection_stopped.is_set() and not self._stopped.is_set()

    def local_host(self) -> str | None:
        """Return the address of our end of the connection, None without one."""
        return self._connection.local_host()

    def cut(self) -> None:
        """Break the connection; kazoo makes a new one unless it is being stopped."""
        self._connection.cut()

    def unwatch(self, path: str, watch: Callable[[WatchedEvent], None]) -> None:
        """Take back what `watch` was to hear of a node; waits for nothing.

        Only where nobody else hears of it: the server keeps one watch for all.
        """
        for watchers, kind in (
            (self._data_watchers, _THE_NODE),
            (self._child_watchers, _NAMES_BELOW),
        ):
            if watch in watchers.get(path, ()):
                watchers.pop(path, None)
                if self.connected:
                    self._call(_RemoveWatches(path, kind), self.handler.async_result())


def _tls_context(settings: RegistrySettings) -> ssl.SSLContext | None:
    if not (settings.zookeeper_ca or settings.zookeeper_cert):
        return None
    files = f"zookeeper_ca {settings.zookeeper_ca}"
    try:
        context = ssl.create_default_context(cafile=settings.zookeeper_ca)
        if settings.zookeeper_cert:
            files = f"zookeeper_cert {settings.zookeeper_cert}"
            if settings.zookeeper_key:
                files += f" or zookeeper_key {settings.zookeeper_key}"
            context.load_cert_chain(settings.zookeeper_cert, settings.zookeeper_key)
    except OSError as error:
        raise WrongRegistry(f"{files} cannot be used: {error.strerror or error}") from error
    return context
