"""Servers and clients of other libraries, doing what our benchmark does.

Pyro5 with msgpack, RPyC and xoscar, each with its defaults otherwise, plain
(none of them encrypts here). A client offers the same pieces of work as `Raw`
and `Ours` of `bench_calls`; what a library has no form for it does not offer.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

from bench_calls import in_threads

SMALL = b"x" * 10


# --- Pyro5 ---------------------------------------------------------------------


def serve_pyro() -> None:
    """Serve an echo with Pyro5 until standard input ends."""
    import Pyro5.api

    Pyro5.config.SERIALIZER = "msgpack"

    class Echo:
        """The object under test."""

        @Pyro5.api.expose
        def echo(self, value: Any) -> Any:
            """Give the value back."""
            return value

        @Pyro5.api.expose
        @Pyro5.api.oneway
        def drop(self, value: Any) -> None:
            """Take the value."""

    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    uri = daemon.register(Echo(), "echo")
    print(uri, flush=True)
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    sys.stdin.read()


class Pyro:
    """Pyro5's client."""

    def __init__(self, uri: str) -> None:
        """Connect."""
        import Pyro5.api

        Pyro5.config.SERIALIZER = "msgpack"
        self.uri = uri
        self.api = Pyro5.api
        self.proxy = Pyro5.api.Proxy(uri)

    def call(self, value: bytes) -> None:
        """Call once."""
        self.proxy.echo(value)

    def one_way(self, count: int) -> None:
        """Tell all, then call once."""
        for _ in range(count):
            self.proxy.drop(SMALL)
        self.proxy.echo(SMALL)

    def batch(self, count: int) -> None:
        """Make all calls in one message."""
        batch = self.api.BatchProxy(self.proxy)
        for _ in range(count):
            batch.echo(SMALL)
        for _ in batch():
            pass

    def threads(self, threads: int, each: int) -> None:
        """Call from many threads, each with a proxy of its own."""

        def work() -> None:
            with self.api.Proxy(self.uri) as proxy:
                for _ in range(each):
                    proxy.echo(SMALL)

        in_threads(threads, work)


# --- RPyC ----------------------------------------------------------------------


def serve_rpyc() -> None:
    """Serve an echo with RPyC until standard input ends."""
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Echo(rpyc.Service):
        """The service under test."""

        def exposed_echo(self, value: Any) -> Any:
            """Give the value back."""
            return value

    server = ThreadedServer(Echo, hostname="127.0.0.1", port=0)
    print(server.port, flush=True)
    threading.Thread(target=server.start, daemon=True).start()
    sys.stdin.read()


class Rpyc:
    """RPyC's client."""

    def __init__(self, port: str) -> None:
        """Connect."""
        import rpyc

        self.rpyc = rpyc
        self.port = int(port)
        self.connection = rpyc.connect("127.0.0.1", self.port)
        self.echo = self.connection.root.echo
        self.echo_later = rpyc.async_(self.echo)

    def call(self, value: bytes) -> None:
        """Call once."""
        self.echo(value)

    def pipelined(self, count: int) -> None:
        """Take all futures, then wait for all."""
        for later in [self.echo_later(SMALL) for _ in range(count)]:
            later.wait()

    def one_way(self, count: int) -> None:
        """Send all, and wait for the last: RPyC has no call without an answer."""
        self.pipelined(count)

    def threads(self, threads: int, each: int) -> None:
        """Call from many threads, each with a connection of its own."""

        def work() -> None:
            connection = self.rpyc.connect("127.0.0.1", self.port)
            echo = connection.root.echo
            for _ in range(each):
                echo(SMALL)
            connection.close()

        in_threads(threads, work)


# --- xoscar --------------------------------------------------------------------


def serve_xoscar() -> None:
    """Serve an echo with xoscar until standard input ends."""
    import xoscar

    class Echo(xoscar.Actor):
        """The actor under test."""

        def echo(self, value: Any) -> Any:
            """Give the value back."""
            return value

    async def serve() -> None:
        pool = await xoscar.create_actor_pool("127.0.0.1", n_process=0)
        await xoscar.create_actor(Echo, uid="echo", address=pool.external_address)
        print(pool.external_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await pool.stop()

    asyncio.run(serve())


class Xoscar:
    """xoscar's client: everything on one event loop, as it is meant."""

    def __init__(self, address: str) -> None:
        """Connect."""
        import xoscar

        self.loop = asyncio.new_event_loop()
        self.reference = self.loop.run_until_complete(xoscar.actor_ref("echo", address=address))

    def call(self, value: bytes) -> None:
        """Call once."""
        self.loop.run_until_complete(self.reference.echo(value))

    def repeat(self, value: bytes, count: int) -> None:
        """Call so many times, one after the other, without leaving the loop."""

        async def run() -> None:
            for _ in range(count):
                await self.reference.echo(value)

        self.loop.run_until_complete(run())

    def pipelined(self, count: int) -> None:
        """Start all, then wait for all."""

        async def run() -> None:
            await asyncio.gather(*(self.reference.echo(SMALL) for _ in range(count)))

        self.loop.run_until_complete(run())


SERVERS: dict[str, Callable[[], None]] = {
    "pyro": serve_pyro,
    "rpyc": serve_rpyc,
    "xoscar": serve_xoscar,
}
CLIENTS: dict[str, Callable[[str], Any]] = {"pyro": Pyro, "rpyc": Rpyc, "xoscar": Xoscar}
