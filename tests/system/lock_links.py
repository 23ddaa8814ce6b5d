"""The links between workers and servers, and among servers, and how they are cut.

Where the suite is root they are real: every server, and each half of the
workers, lives in a network namespace of its own, and packets are dropped in
silence on the way. Elsewhere the workers go through proxies on loopback, which
break connections and refuse new ones, and servers cannot be parted.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from zookeeper_servers import ZooKeeperEnsemble

from tests.system.network import Network, Pair, both_ways, in_own_network, why_impossible
from tests.system.zookeeper_faults import Proxy

Value = TypeVar("Value")

SERVERS, HALVES = 3, 2


@dataclass(frozen=True, slots=True)
class Way:
    """Where half of the workers are: how they reach the servers, and a command to be there."""

    hosts: str
    enter: tuple[str, ...] = ()


class Links(Protocol):
    """Links that can be cut.

    Attributes:
        kinds: of cuts, the most telling first.
        ways: one for each half of the workers.
    """

    kinds: ClassVar[tuple[str, ...]]

    @property
    def ways(self) -> Sequence[Way]:
        """See above."""

    def choose(self, kind: str, chance: random.Random) -> tuple[str, AbstractContextManager[None]]:
        """Return what is cut, and the cut, which lasts as long as its block."""


class NamespaceLinks:
    """Real links."""

    kinds: ClassVar[tuple[str, ...]] = ("part a server", "cut all", "cut one way", "cut one")

    def __init__(self, network: Network, ensemble: ZooKeeperEnsemble) -> None:
        self._network = network
        self._servers, self._halves = network.places[:SERVERS], network.places[SERVERS:]
        self.ways = [Way(ensemble.connection_string, half.enter) for half in self._halves]

    def choose(self, kind: str, chance: random.Random) -> tuple[str, AbstractContextManager[None]]:
        """See `Links`."""
        half, server = chance.choice(self._halves), chance.choice(self._servers)
        if kind == "part a server":
            # Its workers go on talking to it: it must not let them believe in what has gone.
            others = [one for one in self._servers if one is not server]
            return server.host, self._network.cut(both_ways(server, others))
        if kind == "cut all":
            return half.host, self._network.cut(both_ways(half, self._servers))
        if kind == "cut one":
            return f"{half.host} - {server.host}", self._network.cut(both_ways(half, [server]))
        source, target = chance.choice(((half, server), (server, half)))
        pairs = [Pair(source.host, target.host)]
        return f"{source.host} > {target.host}", self._network.cut(pairs)


class ProxyLinks:
    """Proxies before the servers."""

    kinds: ClassVar[tuple[str, ...]] = ("cut all", "cut one")

    def __init__(self, ensemble: ZooKeeperEnsemble) -> None:
        self._halves = [[Proxy(one.address) for one in ensemble.servers] for _ in range(HALVES)]
        self.ways = [Way(",".join(proxy.address for proxy in half)) for half in self._halves]

    def choose(self, kind: str, chance: random.Random) -> tuple[str, AbstractContextManager[None]]:
        """See `Links`."""
        half = chance.choice(self._halves)
        cut = half if kind == "cut all" else [chance.choice(half)]
        return ", ".join(proxy.address for proxy in cut), self._shut(cut)

    @contextlib.contextmanager
    def _shut(self, proxies: Sequence[Proxy]) -> Iterator[None]:
        for proxy in proxies:
            proxy.shut()
        try:
            yield
        finally:
            for proxy in proxies:
                proxy.reopen()

    def close(self) -> None:
        """End the proxies."""
        for half in self._halves:
            for proxy in half:
                proxy.close()


def how_links_are_cut() -> str:
    """Say which links there are on this machine, and why not better ones."""
    lack = why_impossible()
    return f"proxies only ({lack})" if lack else "network namespaces"


def cuts_on_this_machine() -> tuple[str, ...]:
    """Return the kinds of cuts that there are on this machine."""
    return ProxyLinks.kinds if why_impossible() else NamespaceLinks.kinds


def with_links(folder: Path, function: Callable[[ZooKeeperEnsemble, Links], Value]) -> Value:
    """Call `function` with three servers that run, and the best links to them that can be had.

    Args:
        folder: of the servers.
        function: what it starts must be ended when it returns.
    """
    if why_impossible():
        with ZooKeeperEnsemble(folder, SERVERS, dies_with_us=True) as ensemble:
            links = ProxyLinks(ensemble)
            with contextlib.closing(links):
                return function(ensemble, links)

    def inside() -> Value:
        with contextlib.closing(Network(SERVERS + HALVES)) as network:
            places = network.places[:SERVERS]
            with ZooKeeperEnsemble(folder, SERVERS, dies_with_us=True, places=places) as ensemble:
                return function(ensemble, NamespaceLinks(network, ensemble))

    return in_own_network(inside)
