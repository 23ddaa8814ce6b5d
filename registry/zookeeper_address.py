"""Where a registry in ZooKeeper is: its URL, taken apart.

    zookeeper://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/ROOT]

The port is 2181 and the root `/flock` unless given; an IPv6 address stands in
brackets. Characters that would end a part are percent-encoded in user,
password and root. The password is in no message: `Address.url` leaves it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from registry.contract import WrongRegistry

_SCHEME = "zookeeper://"
_DEFAULT_PORT = 2181
_DEFAULT_ROOT = "/flock"
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]/\s]+))(?::(?P<port>\d+))?")
_UNFIT_FOR_A_PATH = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]")


@dataclass(frozen=True, slots=True)
class Address:
    """One ensemble, one user of it, and the place in its tree that is ours.

    Attributes:
        hosts: host names or addresses (IPv6 without brackets) and ports.
        root: path of our own top in ZooKeeper's tree, e.g. `/flock`.
        user: for digest authentication; empty for none.
        password: belongs to `user`; not shown.
    """

    hosts: tuple[tuple[str, int], ...]
    root: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def connection_string(self) -> str:
        """The hosts as ZooKeeper's clients write them: `host:port,[::1]:port`."""
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )

    @property
    def url(self) -> str:
        """The URL without the password."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"{_SCHEME}{user}{self.connection_string}{quote(self.root)}"


def parse_address(url: str) -> Address:
    """Take a registry's URL apart.

    Raises:
        WrongRegistry: it is no URL of a registry in ZooKeeper; the message
            does not repeat what may be a password.
    """
    if not url.startswith(_SCHEME):
        raise WrongRegistry(f"a registry in ZooKeeper is written {_SCHEME}HOST:PORT[,…]/ROOT")
    # The last @ counts: a password may hold one, a host or a root that has one encodes it.
    credentials, _, place = url.removeprefix(_SCHEME).rpartition("@")
    user, colon, password = credentials.partition(":")
    if credentials and not (user and colon):
        raise WrongRegistry("the registry's URL has no USER:PASSWORD before the @")
    if ":" in unquote(user):
        raise WrongRegistry("a user of ZooKeeper's digest scheme has no ':' in its name")
    listed, _, root = place.partition("/")
    hosts = tuple(_parse_host(host) for host in listed.split(","))
    return Address(hosts, _parse_root(root), unquote(user), unquote(password))


def _parse_host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text.strip())
    port = int(found["port"] or _DEFAULT_PORT) if found else 0
    if not found or not 0 < port < 65_536:
        raise WrongRegistry(f"{text!r:.80} in the registry's URL is no HOST[:PORT]")
    return found["six"] or found["name"], port


def _parse_root(text: str) -> str:
    parts = [unquote(part) for part in text.split("/") if part]
    if not parts:
        return _DEFAULT_ROOT
    root = "/" + "/".join(parts)
    if any(part in {".", ".."} for part in parts) or _UNFIT_FOR_A_PATH.search(root):
        raise WrongRegistry(f"ZooKeeper has no path {root!r:.200}")
    if parts[0] == "zookeeper":
        raise WrongRegistry("the root /zookeeper belongs to ZooKeeper itself")
    return root
