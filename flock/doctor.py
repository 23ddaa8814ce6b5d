"""Looks at what must be right for this machine, or the way to a node, to work.

Each finding is ok, or names the cause and the mend. What cannot be looked at
because something before it is wrong is left out: the first cause is the one
to mend.
"""

from __future__ import annotations

import math
import resource
import secrets
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from flock import __version__
from flock.errors import (
    ActorNotFound,
    CallError,
    FlockError,
    MethodNotFound,
    NodeNotFound,
    NodeUnreachable,
    NotLetIn,
    NotPermitted,
    RegistryError,
    RegistryUnavailable,
    SettingsError,
    VersionMismatch,
    WrongRegistry,
    exit_code,
)
from flock.extensions import make_registry
from flock.fleet import Flock
from flock.messages import PROTOCOL
from flock.node import raise_file_limit
from flock.node_objects import NodeObjects
from flock.settings import Settings, load_settings
from registry.contract import PresenceRecord, Registry

MOST_CLOCK_DIFFERENCE = 2.0
"""Seconds: nothing here depends on equal clocks, but logs, reports and certificates do."""

FILES_BESIDE = 200
"""Files that a process has open beside those of its peers."""

FILES_PER_PEER = 6
"""A lane of ours, one of theirs, and what ZeroMQ opens for them."""

_FILES_TO_JOIN = 64
_EMBEDDED = "embedded:"
_CONNECT_WITHIN = 2.0
_CALL_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what.
        found: how it is, or what is wrong.
        mend: what to do; empty if it is ok.
        code: exit code that it alone would make; 0 if it is ok.
    """

    check: str
    found: str
    mend: str = ""
    code: int = 0

    @property
    def ok(self) -> bool:
        """True if nothing is to be done."""
        return self.code == 0

    def as_row(self) -> dict[str, Any]:
        """Return the row that programs read."""
        return {"check": self.check, "ok": self.ok, "found": self.found, "mend": self.mend}


def examine(
    given: dict[str, Any], node: str | None = None, open_within: float = 2.5
) -> Iterator[Finding]:
    """Look at everything, one after the other.

    Args:
        given: settings as they were given to this process.
        node: the node the way to which is looked at; None for this machine alone.
        open_within: seconds to wait for the registry.
    """
    try:
        settings = load_settings(given)
    except SettingsError as error:
        yield Finding("settings", str(error), "mend the place that it names", 2)
        return
    yield Finding("settings", f"registry from: {settings.origin('registry')}")
    peers = yield from _examine_registry(settings, open_within)
    if peers is None:
        return
    raise_file_limit()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield file_limit("file limit", limit, FILES_BESIDE + FILES_PER_PEER * peers, _nodes(peers))
    if limit < _FILES_TO_JOIN:
        return  # libzmq ends the process when it can open none
    fleet = Flock(**{key: value for key, value in given.items() if key != "name"})
    try:
        try:
            fleet.start()
        except FlockError as error:
            yield _failed(
                "joining", error, "is --listen an address of this machine, and its port free?"
            )
            return
        yield own_key(fleet)
        if node is not None:
            yield from examine_node(fleet, node)
    finally:
        fleet.close()


# --- this machine --------------------------------------------------------------


def _examine_registry(
    settings: Settings, open_within: float
) -> Generator[Finding, None, int | None]:
    """Look at the registry; returns how many nodes it knows, None if it is no use."""
    try:
        registry = make_registry(settings)
        began = time.monotonic()
        registry.open(min(open_within, settings.timeout))
    except FlockError as error:
        yield _failed("registry reachable", error, _registry_mend(error, settings))
        return None
    try:
        took = (time.monotonic() - began) * 1000
        yield Finding("registry reachable", f"{registry.url} in {took:.0f} ms")
        finding, peers = writable(registry)
        yield finding
        return peers if finding.ok else None
    finally:
        registry.close()


def _registry_mend(error: FlockError, settings: Settings) -> str:
    origin = settings.origin("registry")
    if isinstance(error, NotPermitted):
        if settings.registry.startswith(_EMBEDDED):
            return f"give its folder to the user of this command, or name another (from: {origin})"
        return f"are user and password of registry right (from: {origin})?"
    if isinstance(error, WrongRegistry):
        return f"mend registry (from: {origin})"
    if settings.registry.startswith(_EMBEDDED):
        return f"has its disk room, and is registry right (from: {origin})?"
    return f"is a server running there, and is registry right (from: {origin})?"


def writable(registry: Registry) -> tuple[Finding, int]:
    """Write a document, read it and take it away; returns also how many nodes are known."""
    check, path = "registry writable", f"doctor/{secrets.token_hex(8)}"
    try:
        registry.create(path, {"by": socket.gethostname()})
        found = registry.read(path)
        registry.delete(path)
        peers = len({*registry.node_names(), *NodeObjects(registry).names()})
    except RegistryUnavailable as error:
        mend = "does the server still run, has it a majority and room?"
        if registry.url.startswith(_EMBEDDED):
            mend = "has its disk room, and is the folder yours to write?"
        return _failed(check, error, mend), 0
    except FlockError as error:
        mend = f"give the user of {registry.url} the right to write there"
        return _failed(check, error, mend), 0
    if found is None:
        mend = "does something else empty it?"
        return Finding(check, "what was written was not there again", mend, 5), 0
    return Finding(check, "wrote, read and deleted a document"), peers


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def file_limit(check: str, limit: int, needed: int, what_for: str) -> Finding:
    """Say whether a process may open enough files."""
    if limit >= needed:
        return Finding(check, f"{limit} files, {needed} are enough for {what_for}")
    mend = f"ulimit -Hn {needed * 2}, or LimitNOFILE={needed * 2} in the systemd unit"
    return Finding(check, f"{limit} files, {needed} are needed for {what_for}", mend, 1)


def own_key(fleet: Flock) -> Finding:
    """Say whether the registry knows the key of a flock that has joined."""
    check = "own key"
    public = fleet.node.identity.public_key.decode()
    if not public:
        return Finding(check, "none: encryption is off")
    try:
        record = fleet.registry.key(public)
    except RegistryError as error:
        return _failed(check, error, "try again when the registry answers")
    if record is None or record.name != fleet.node.identity.name:
        mend = "does something remove key records? Join again"
        return Finding(check, "the registry does not know our key: nobody lets us in", mend, 7)
    return Finding(check, f"accepted, as {record.name} at {fleet.node.address}")


# --- the way to a node ---------------------------------------------------------


def examine_node(fleet: Flock, name: str) -> Iterator[Finding]:
    """Look at the way to a node and at the node itself, from a flock that has joined."""
    try:
        record = fleet.registry.presence(name)
        is_known = NodeObjects(fleet.registry).read(name) is not None
    except RegistryError as error:
        yield _failed(f"{name} listed", error, "try again when the registry answers")
        return
    if record is None or record.kind != "node":
        if is_known:
            mend = f"start it: flockctl node --name {name}"
            yield Finding(f"{name} listed", "it has a node object and no process", mend, 4)
        else:
            mend = "`flockctl nodes --all` lists the names that are known"
            yield Finding(f"{name} listed", "nothing is known of it", mend, 3)
        return
    yield Finding(f"{name} listed", record.whereabouts())
    yield versions(record)
    way = _way(fleet, record)
    yield way
    if way.ok:
        yield _clock(fleet, name)
        yield _file_limit_there(fleet, name)


def versions(record: PresenceRecord) -> Finding:
    """Say whether a node speaks our protocol, and is of our version."""
    check = f"{record.name} version"
    if record.protocol != PROTOCOL:
        mend = "bring both sides to one version"
        said = f"it speaks protocol {record.protocol} ({record.version}), this is {PROTOCOL}"
        return Finding(check, f"{said} ({__version__})", mend, 4)
    if record.version != __version__:
        mend = "bring both sides to one version when it suits: they speak one protocol"
        return Finding(check, f"{record.version} there, {__version__} here", mend, 1)
    return Finding(check, f"{record.version}, protocol {PROTOCOL}")


def _way(fleet: Flock, record: PresenceRecord) -> Finding:
    """Call the node: an answer shows that both ways are open and that it knows our key."""
    name, check = record.name, f"open both ways to {record.name}"
    if bool(record.public_key) != bool(fleet.node.identity.public_key):
        who = "this process" if record.public_key else name
        mend = "take crypto = false out of its settings: that is for benchmarks"
        return Finding(check, f"{who} is without encryption, the other one is not", mend, 7)
    began = time.monotonic()
    try:
        fleet[name]["info"].options(timeout=_patience(fleet)).clock()
    except NotLetIn as error:
        return _failed(check, error, "the registry must hold our key: see `own key`, join again")
    except VersionMismatch as error:
        return _failed(check, error, "bring both sides to one version")
    except (ActorNotFound, MethodNotFound):
        pass  # an older node; it answered
    except NodeUnreachable as error:
        return _failed(check, error, _way_mend(fleet, record))
    except NodeNotFound as error:
        return _failed(check, error, "it left just now")
    except CallError as error:
        return _failed(check, error, _way_mend(fleet, record))
    except FlockError as error:
        return _failed(check, error, "try again when the registry answers")
    took = (time.monotonic() - began) * 1000
    return Finding(check, f"{fleet.node.address} and {record.address}, {took:.0f} ms")


def _patience(fleet: Flock) -> float:
    return min(_CALL_WITHIN, fleet.settings.timeout)


def _way_mend(fleet: Flock, record: PresenceRecord) -> str:
    """Try the way to a node alone, to say which of both is closed."""
    host, _, port = record.address.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_WITHIN).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return (
            f"{record.address} cannot be connected to from here ({reason}): open it in the "
            f"firewall, or start {record.name} with another --listen or --advertise"
        )
    return (
        f"the way there is open, the way back to {fleet.node.address} is not, or {record.name} "
        "hangs: open that in the firewall, give --listen or --advertise here, or run this on a node"
    )


def _clock(fleet: Flock, name: str) -> Finding:
    check = f"{name} clock"
    info = fleet[name]["info"].options(timeout=_patience(fleet))
    try:
        before = time.time()
        there = info.clock()
        after = time.time()
    except FlockError as error:
        return _failed(check, error, f"does {name} run the same version?")
    return clock(check, there, before, after)


def clock(check: str, there: float, before: float, after: float) -> Finding:
    """Say whether two clocks agree.

    Args:
        check: the finding's name.
        there: what the other one showed, in seconds since 1970.
        before: what ours showed when the question left.
        after: what ours showed when the answer came.
    """
    # It was read at some moment between the two: only what lies outside is a difference.
    difference = there - min(max(there, before), after)
    if abs(difference) <= MOST_CLOCK_DIFFERENCE:
        at_most = max(0.1, math.ceil(10 * (abs(difference) + after - before)) / 10)
        return Finding(check, f"differs by {at_most:.1f} s at most")
    ahead = "ahead of" if difference > 0 else "behind"
    mend = "keep both clocks with NTP: timedatectl set-ntp true"
    return Finding(check, f"{abs(difference):.1f} s {ahead} ours", mend, 1)


def _file_limit_there(fleet: Flock, name: str) -> Finding:
    check = f"{name} file limit"
    try:
        process = fleet[name]["info"].options(timeout=_patience(fleet)).process()
        used, limit = process["files"], process["files_limit"]
        peers = len(fleet)
    except (FlockError, KeyError) as error:
        return _failed(check, error, f"does {name} run the same version?")
    needed = max(FILES_BESIDE + FILES_PER_PEER * peers, used + used // 5)
    return file_limit(check, limit, needed, f"{_nodes(peers)}, {used} are open")


def _failed(check: str, error: Exception, mend: str) -> Finding:
    return Finding(check, " ".join(str(error).split()), mend, exit_code(error) or 1)
