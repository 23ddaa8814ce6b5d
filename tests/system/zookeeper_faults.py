"""Faults between a registry and its ZooKeeper: a proxy that loses answers, and a real expiry."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator

from kazoo.client import KazooClient

from registry.zookeeper import ZooKeeperRegistry

CREATE, DELETE, SET_DATA, MULTI, CREATE2 = 1, 2, 5, 14, 15
"""Requests that write, as ZooKeeper numbers them."""

_PING_XID = -2
_PING_XID_BYTES = struct.pack(">i", _PING_XID)


def end_session(registry: ZooKeeperRegistry, hosts: str) -> None:
    """Let the server end a registry's session, as it does when nothing was heard for too long.

    A second client takes the session over and closes it.
    """
    client = registry._session._client
    assert client is not None
    session = (client._session_id, client._session_passwd)
    other = KazooClient(hosts, client_id=session, timeout=2.0)
    other.start(10)
    other.stop()
    other.close()


class Proxy:
    """A way to a server on loopback that can lose answers, and be closed and opened again."""

    def __init__(self, hosts: str) -> None:
        host, _, port = hosts.partition(",")[0].rpartition(":")
        self._server = (host, int(port))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lose: frozenset[int] = frozenset()
        self._lose_before_server = False
        self._answer_is_lost = False
        self.lost = threading.Event()
        self._garble = False
        self._is_open = True
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._begin(self._accept)

    @property
    def address(self) -> str:
        """Where clients connect to, as `HOST:PORT`."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def lose_answer_to(self, *requests: int) -> None:
        """Break the connection once, between the next such request and its answer."""
        self._lose_next(requests, before_server=False)

    def lose_request(self, *requests: int) -> None:
        """Break the connection once, before the next such request reaches the server."""
        self._lose_next(requests, before_server=True)

    def _lose_next(self, requests: Iterable[int], *, before_server: bool) -> None:
        self.lost.clear()
        self._answer_is_lost = False
        self._lose_before_server = before_server
        self._lose = frozenset(requests)

    def garble_next_answer(self) -> None:
        """Change the next answer into one that no request belongs to."""
        self._garble = True

    def hold_answers(self) -> None:
        """Keep what servers say until `let_answers_through`."""
        self._flows.clear()

    def let_answers_through(self) -> None:
        """Pass on what was held, in order."""
        self._flows.set()

    def shut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._is_open = False
        self._break_all()

    def reopen(self) -> None:
        """Let connections through again."""
        self._is_open = True

    def close(self) -> None:
        """End it, with all its threads."""
        self._is_open = False
        self._flows.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break_all()
        for thread in self._threads:
            thread.join(5)

    def _begin(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server, 2.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets.update((client, server))
            self._begin(self._pump, client, server, True)
            self._begin(self._pump, server, client, False)

    def _pump(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not to_server:
                    self._flows.wait()
                if self._is_to_be_lost(data, to_server):
                    self.lost.set()
                    break
                if self._garble and not to_server and data[4:8] != _PING_XID_BYTES:
                    self._garble = False
                    data = data[:4] + b"\x00\x12\x34\x56" + data[8:]
                target.sendall(data)
        self._break((source, target))

    def _is_to_be_lost(self, data: bytes, to_server: bool) -> bool:
        if not self._lose:
            return False
        for xid, request in _heads(data):
            if xid == _PING_XID:
                continue
            if to_server and self._lose_before_server:
                if request in self._lose:
                    self._lose = frozenset()
                    return True
            elif to_server:
                self._answer_is_lost = self._answer_is_lost or request in self._lose
            elif self._answer_is_lost:
                self._lose = frozenset()
                return True
        return False

    def _break_all(self) -> None:
        with self._lock:
            sockets = list(self._sockets)
        self._break(sockets)

    def _break(self, sockets: Iterable[socket.socket]) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            with self._lock:
                self._sockets.discard(one)


def _heads(data: bytes) -> Iterator[tuple[int, int]]:
    """Give number and kind of each packet in what was read at once."""
    start = 0
    while start + 12 <= len(data):
        length, xid, request = struct.unpack_from(">iii", data, start)
        yield xid, request
        start += 4 + max(0, length)
