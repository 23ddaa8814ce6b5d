"""What every registry promises, whichever backend keeps it.

A registry is where nodes find each other and where shared facts live. It
holds public keys, presences, documents, queues and locks, and tells when one
of them changed. Two backends keep these promises, the embedded one on one
machine and ZooKeeper over many; one test file runs every promise on both.

Two rules hold everywhere. *Absent* and *unknown* are different answers: a
registry that cannot be asked raises `RegistryUnavailable`, it never looks
empty. And every operation ends within a bounded time (3 s unless it says
otherwise), whatever the servers do.

All methods may be called from any thread except where noted. Callbacks run on
a thread of the registry, one at a time; they may call the registry, and must
not block for long.

Names of locks, documents and queues are any text that is not over its limit.
A document path is text with `/` between its parts; each part is quoted by the
backend, so that no part can reach outside its place.
"""

from __future__ import annotations

import enum
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_RECORD_BYTES = 64 * 1024
"""Largest presence record or queue entry, in encoded bytes."""

MAX_DOCUMENT_BYTES = 512 * 1024
"""Largest document, in encoded and compressed bytes."""

MAX_NAME_BYTES = 8 * 1024
"""Longest name of a lock, a queue or a node, and longest document path, in quoted bytes."""

MAX_PATH_PARTS = 32
"""Parts that a document path has at most."""

MAX_OWNER_BYTES = 8 * 1024
"""Largest `LockOwner`, in encoded bytes."""

MAX_SLOTS = 2**31 - 1
"""Slots that a lock has at most."""

MAX_QUEUE_LENGTH = 10_000
"""Entries that a queue holds before `append` is refused."""

OPERATION_TIMEOUT = 3.0
"""Seconds after which an unanswered operation raises `RegistryUnavailable`."""

NODE_NAME_RULE = "a letter or digit, then up to 127 letters, digits, '.', '_' or '-'"
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_node_name(name: str) -> bool:
    """Say whether `name` may be the name of a node (`NODE_NAME_RULE`)."""
    return _NODE_NAME.fullmatch(name) is not None


# --- errors ------------------------------------------------------------------


class FlockError(Exception):
    """The root of every error of this project; `flock.errors` draws the whole tree."""


class RegistryError(FlockError):
    """The registry could not do what was asked; its subclasses say why."""


class RegistryUnavailable(RegistryError, ConnectionError):
    """No usable answer from the registry: what was asked for is *unknown*.

    Attributes:
        url: the registry that was asked, without its password.
        may_have_happened: a write whose reply was lost may stand or not; False
            when the request surely never left.
    """

    def __init__(self, url: str, reason: str, *, may_have_happened: bool = False) -> None:
        super().__init__(f"registry {url} cannot be reached: {reason}")
        self.url = url
        self.reason = reason
        self.may_have_happened = may_have_happened


class VersionConflict(RegistryError):
    """A document is not at the version the caller named; read it again.

    Attributes:
        path: the document.
        wanted: the version the caller named; 0 for "must not exist".
        found: the version that stands; 0 if the document does not exist.
    """

    def __init__(self, path: str, wanted: int, found: int) -> None:
        super().__init__(f"document {path!r} is at version {found}, not {wanted}: read it again")
        self.path = path
        self.wanted = wanted
        self.found = found


class NameTaken(RegistryError):
    """Another live process, or another key, holds this node name."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"the name {name!r} is taken: {holder}")
        self.name = name
        self.holder = holder


class DocumentTooLarge(RegistryError, ValueError):
    """A record, document, queue entry or name is over its limit; nothing was sent."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} has {size} bytes, the limit is {limit}")
        self.what = what
        self.size = size
        self.limit = limit


class RecordInvalid(RegistryError, ValueError):
    """A value is not plain data, or what stands in the registry is nothing we wrote.

    Attributes:
        what: the record.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is not valid: {reason}")
        self.what = what
        self.reason = reason


class QueueFull(RegistryError):
    """A queue holds `MAX_QUEUE_LENGTH` entries; nothing was appended."""

    def __init__(self, queue: str, length: int) -> None:
        super().__init__(f"queue {queue!r} is full ({length} entries)")
        self.queue = queue
        self.length = length


class NotPermitted(RegistryError, PermissionError):
    """The registry refuses this process: wrong user, password or access rights."""


class WrongRegistry(RegistryError):
    """A URL that names no registry, or a registry of another kind than expected."""


class LockError(RegistryError):
    """A lock was not got, or is no longer ours.

    Attributes:
        lockid: the lock's name.
    """

    def __init__(self, lockid: str, message: str) -> None:
        super().__init__(f"lock {lockid!r}: {message}")
        self.lockid = lockid


class LockTimeout(LockError, TimeoutError):
    """The lock was not free in time.

    Attributes:
        waited: seconds.
        holders: who has it, as far as is known.
    """

    def __init__(self, lockid: str, waited: float, holders: Sequence[Holder] = ()) -> None:
        names = ", ".join(f"{holder.owner} since {holder.since}" for holder in holders)
        held_by = f", held by {names}" if names else ""
        super().__init__(lockid, f"not had within {round(waited, 1):g} s{held_by}")
        self.waited = waited
        self.holders = tuple(holders)


class LockCancelled(LockError):
    """The wait for the lock was given up from outside; nothing is left in the line."""

    def __init__(self, lockid: str) -> None:
        super().__init__(lockid, "the wait was cancelled")


class LockLost(LockError):
    """A lock that was held is not, or not surely, held any more."""


def path_parts(path: str) -> tuple[str, ...]:
    """Split a document path into its parts; both backends accept exactly the same paths.

    Raises:
        RecordInvalid: the path or one of its parts is empty, or it has too many.
    """
    parts = tuple(path.split("/"))
    if not all(parts):
        raise RecordInvalid(f"document path {path!r:.200}", "it has an empty part")
    if len(parts) > MAX_PATH_PARTS:
        raise RecordInvalid(
            f"document path {path!r:.200}", f"it has {len(parts)} parts, at most {MAX_PATH_PARTS}"
        )
    return parts


def check_slots(lockid: str, slots: int) -> None:
    """Refuse a number of slots that no lock has.

    Raises:
        ValueError: less than one, or more than `MAX_SLOTS`.
    """
    if not 1 <= slots <= MAX_SLOTS:
        raise ValueError(f"lock {lockid!r}: slots are 1 to {MAX_SLOTS}, not {slots}")


# --- what is held ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Who may talk: one public CURVE key and the one name it belongs to.

    Attributes:
        public_key: 40 characters of Z85.
        name: the node's name, or the visitor's made-up one.
        kind: `node` or `visitor`.
        lasting: True keeps the record after the process (a node that keeps its
            key); False removes it with the process.
        generation: the run of the process that entered it.
    """

    public_key: str
    name: str
    kind: str
    lasting: bool
    generation: str


@dataclass(frozen=True, slots=True)
class PresenceRecord:
    """Who is there: one live node or visitor; the entry dies with its process.

    Attributes:
        name: the node's name; a visitor's is made up and never listed.
        generation: random id of this run of the process.
        kind: `node` or `visitor`.
        address: `tcp://HOST:PORT` that other processes connect to.
        public_key: 40 characters of Z85; empty without encryption.
        actors: names of the actors that answer there, sorted.
        host: host name, for people.
        boot_id: the kernel's id of this boot; with `pid_namespace`, `pid` and
            `process_start` it names one process of one machine exactly.
        pid_namespace: inode of the process-id namespace.
        pid: process id within that namespace.
        process_start: start of the process in clock ticks since boot.
        started: wall clock, ISO 8601 in UTC, for people.
        protocol: version of the wire protocol.
        version: version of this software.
        environment, roles, recipes: as the node object says.
        state: `idle` or `converging`.
    """

    name: str
    generation: str
    kind: str
    address: str
    public_key: str
    actors: tuple[str, ...]
    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    process_start: int
    started: str
    protocol: int
    version: str
    environment: str = "_default"
    roles: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    state: str = "idle"

    def whereabouts(self) -> str:
        """Say who this is, for an error message."""
        return f"process {self.pid} on {self.host}, {self.address}, since {self.started}"


@dataclass(frozen=True, slots=True)
class Document:
    """A value and the version it stands at; versions start at 1 and grow by 1."""

    path: str
    value: Any
    version: int


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One entry of a queue; a later entry has a larger id."""

    id: int
    value: Any


@dataclass(frozen=True, slots=True)
class LockOwner:
    """For whom a lock is asked, as others will read it.

    Attributes:
        owner: the node's name, or what a visitor calls itself.
        host: host name.
        run_id: the run that needs it; empty outside a run.
        reason: free text for people.
        group: those of one group, as the machines of a rack, take one slot
            together; empty for everybody by himself.
    """

    owner: str
    host: str
    run_id: str = ""
    reason: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slot of a lock; its fields stand in the order in which they are shown.

    `since` is wall clock, ISO 8601 in UTC, for people. `kept` is True for a
    slot that is kept for its owner, who holds it no more (`Registry.acquire`).
    """

    owner: str
    host: str
    run_id: str
    since: str
    slot: int
    token: int
    reason: str
    kept: bool = False

    def as_data(self) -> dict[str, Any]:
        """Return it as reports and commands show it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who stands in a lock's line; its fields stand in the order in which they are shown."""

    owner: str
    host: str
    run_id: str
    since: str
    reason: str

    def as_data(self) -> dict[str, Any]:
        """Return it as commands show it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LockStatus:
    """A lock as it stands: who holds it, and who waits, first in line first."""

    lockid: str
    slots: int
    holders: tuple[Holder, ...] = ()
    waiting: tuple[Waiter, ...] = ()


class SessionState(enum.Enum):
    """What is known of our session with the registry.

    CONNECTED: answers come. SUSPENDED: none come, what we hold is in doubt.
    LOST: what we held is gone; the session is being made anew. CLOSED: by us.
    """

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"
    CLOSED = "closed"


class LockState(enum.Enum):
    """What is known of a lock that was got; only HELD lets an effect happen."""

    HELD = "held"
    DOUBTFUL = "doubtful"
    LOST = "lost"
    RELEASED = "released"


class Lock(ABC):
    """One slot of a lock, held by this process until released, lost or dead."""

    lockid: str
    slot: int
    slots: int
    token: int
    """Fence token; of two grants of the same (registry, lock, slot) the later has the larger."""

    @abstractmethod
    def state(self) -> LockState:
        """Say whether the lock is surely ours now; never answered from a stale flag.

        Asks no server: cheap enough before every effect.
        """

    @property
    def held(self) -> bool:
        """True only if the lock is surely ours now; doubt and loss are both False."""
        return self.state() is LockState.HELD

    @abstractmethod
    def release(self) -> None:
        """Give the slot up; the next in line gets it.

        Returns within `OPERATION_TIMEOUT` also in an outage: the entry is then
        removed later, or dies with the session. Twice is harmless.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Give the lock up and keep its slot from others, if it was taken with `keep`.

        As if our process had died now. Without `keep` it is a release.
        """

    @abstractmethod
    def on_change(self, callback: Callable[[LockState], None]) -> Cancel:
        """Call `callback` with the new state whenever it changes (doubtful, held again, lost)."""


Cancel = Callable[[], None]
"""Ends a watch or a callback; after its return the callback is not begun again."""


class Registry(ABC):
    """One process's connection to the registry.

    Whatever is read is noted for who takes notes (`registry.readings`).

    `open` connects; `close` ends it, and with it our presence, our passing key
    record and our locks. A registry object is opened once.
    """

    url: str
    """Where it is, without a password; for messages."""

    # --- session

    @abstractmethod
    def open(self, timeout: float = OPERATION_TIMEOUT) -> None:
        """Connect and lay out what is missing.

        Raises:
            RegistryUnavailable: not reached within `timeout` seconds; nothing
                is left running, and `open` may be called again.
            NotPermitted: reached, and refused.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave: presence, passing key and locks go at once. Twice is harmless."""

    @abstractmethod
    def registry_id(self) -> str:
        """Return the random id this registry was given when it was laid out."""

    @abstractmethod
    def state(self) -> SessionState:
        """Return what is known of our session; asks no server."""

    @abstractmethod
    def on_state(self, callback: Callable[[SessionState], None]) -> Cancel:
        """Call `callback` with each new session state, in order."""

    @abstractmethod
    def default_host(self) -> str:
        """Return the host part other processes of this registry can reach us by.

        Loopback for the embedded registry, else the local end of the
        connection to the server.
        """

    # --- keys: who may talk

    @abstractmethod
    def enter_key(self, record: KeyRecord) -> None:
        """Let the holder of `record.public_key` talk.

        Raises:
            NameTaken: the key belongs to another name already, or the name has
                another lasting key: the operator must forget that one first.
        """

    @abstractmethod
    def key(self, public_key: str) -> KeyRecord | None:
        """Return the record of a key as it stands now (not from a stale replica)."""

    @abstractmethod
    def forget_key(self, name: str) -> bool:
        """Remove every key of `name`; say whether there was one."""

    @abstractmethod
    def watch_key(self, public_key: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the record of this key changed or went."""

    # --- presence: who is there

    @abstractmethod
    def announce(
        self,
        record: PresenceRecord,
        *,
        answers: Callable[[PresenceRecord], bool] | None = None,
        name_lost: Callable[[PresenceRecord], None] | None = None,
    ) -> None:
        """Enter `record` in the directory; the entry dies with our process.

        Announcing again (same generation) overwrites our own entry. After a
        lost session the entry comes back by itself, once the name is decided
        again to be ours.

        A standing entry of another generation is removed at once if it shows a
        dead process of this machine. Otherwise its holder is asked with
        `answers`: an answer refuses us; silence waits for the entry to go, at
        most one session timeout and 2 s.

        Args:
            record: what others will read.
            answers: pings the holder of a standing entry; None counts as True.
            name_lost: called once with the other's record when, after an
                outage, the name belongs to another generation.

        Raises:
            NameTaken: a live process holds the name.
            DocumentTooLarge: over `MAX_RECORD_BYTES`.
        """

    @abstractmethod
    def withdraw(self) -> None:
        """Take our entry out of the directory; harmless if there is none."""

    @abstractmethod
    def presence(self, name: str) -> PresenceRecord | None:
        """Return the live entry of a node or visitor by name, None if absent."""

    @abstractmethod
    def presence_of_key(self, public_key: str) -> PresenceRecord | None:
        """Return the live entry of the process that owns this key, None if absent."""

    @abstractmethod
    def node_names(self) -> list[str]:
        """Return the names of live nodes, sorted; visitors are not among them."""

    @abstractmethod
    def presences(self) -> list[PresenceRecord]:
        """Return the entries of all live nodes, sorted by name, without unreadable ones.

        Each few hundred of them may take `OPERATION_TIMEOUT`.
        """

    @abstractmethod
    def watch_presence(self, name: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the entry of `name` came, changed or went."""

    @abstractmethod
    def watch_nodes(self, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a node came or went. For those who show all of them only."""

    # --- documents

    @abstractmethod
    def read(self, path: str) -> Document | None:
        """Return a document, None if absent."""

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> list[Document | None]:
        """Return documents in the order asked for, None for each that is absent.

        Costs about one way to the registry and back, however many they are;
        they need not be of one moment. One that is unreadable is as absent:
        it must not hide the others.
        """

    @abstractmethod
    def create(self, path: str, value: Any) -> int:
        """Create a document and return its version (1).

        Raises:
            VersionConflict: it exists.
            DocumentTooLarge: over `MAX_DOCUMENT_BYTES`; nothing was sent.
        """

    @abstractmethod
    def write(
        self, path: str, value: Any, *, version: int | None = None, under: Lock | None = None
    ) -> int:
        """Write a document and return its new version.

        Args:
            path: the document.
            value: plain data: None, bool, int, float, str, bytes, lists, and
                dicts with text keys.
            version: compare-and-set: the version that must stand, 0 for "must
                not exist"; None writes over anything and creates if absent.
            under: a fenced write: done in one transaction with a check that
                this lock's slot still stands and is ours.

        Raises:
            VersionConflict: another version stands.
            LockLost: the slot of `under` is gone, or it was not got from this
                object; nothing was written.
            DocumentTooLarge: nothing was sent.
        """

    @abstractmethod
    def delete(self, path: str, *, version: int | None = None) -> bool:
        """Delete a document; say whether it was there. Its children stay.

        Raises:
            VersionConflict: another version stands.
        """

    @abstractmethod
    def children(self, path: str) -> list[str]:
        """Return the names one level below `path`, sorted; empty if there are none.

        A name is there while a document stands at it or below it.

        Args:
            path: a document path, or the empty text for the top level.
        """

    @abstractmethod
    def watch_document(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after the document came, changed or went."""

    @abstractmethod
    def watch_children(self, path: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a name one level below `path` came or went."""

    # --- queues

    @abstractmethod
    def append(self, queue: str, value: Any, *, dedup_id: str | None = None) -> int:
        """Append to a queue and return the entry's id.

        Appending twice with one `dedup_id` while the first entry stands gives
        the first entry's id, so that an append whose reply was lost may be
        repeated.

        Raises:
            QueueFull, DocumentTooLarge: nothing was appended.
        """

    @abstractmethod
    def entries(self, queue: str, *, limit: int = 1000) -> list[QueueEntry]:
        """Return the first entries in order, without unreadable ones."""

    @abstractmethod
    def queue_length(self, queue: str) -> int:
        """Return the number of entries."""

    @abstractmethod
    def remove(self, queue: str, entry_id: int, *, if_present: bool = False) -> bool:
        """Remove one entry; say whether it was there.

        Args:
            queue: the queue.
            entry_id: the entry.
            if_present: in one transaction with a check that our own presence
                stands, so that a process that lost its name takes nothing.

        Raises:
            NameTaken: with `if_present`, our presence does not stand.
        """

    @abstractmethod
    def drop_queue(self, queue: str) -> None:
        """Remove a queue with all its entries."""

    @abstractmethod
    def queues(self, prefix: str = "") -> list[str]:
        """Return the names of the queues that begin with `prefix`, sorted."""

    @abstractmethod
    def watch_queue(self, queue: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after an entry was appended or removed."""

    # --- locks

    @abstractmethod
    def acquire(
        self,
        lockid: str,
        owner: LockOwner,
        *,
        wait: float | None = None,
        slots: int = 1,
        keep: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Lock:
        """Wait in line for a slot of a lock and take it.

        Waiters are served in the order they came. The number of slots in force
        is the smallest that any holder or the contender counts. Not
        re-entrant: who asks twice waits for himself. Who comes first in line
        and is of the group of a holder enters beside him, whatever the number
        of slots, unless a slot is kept for one of this group.

        A lock taken with `keep` is freed by `release` alone: where it ends
        otherwise (`abandon`, a death, a lost session, closing) its slot is
        kept. Nobody but the same owner gets it then, past everybody in line
        and with a new token, until `break_lock` frees it; and he gets no other.
        If he comes back counting fewer slots, or in another group, he waits
        for those who hold one beside.

        Args:
            lockid: any text.
            owner: for whom, as others will read it.
            wait: seconds, 0 for "now or not", None for no limit. One absolute
                deadline, whatever happens in the line.
            slots: how many may hold it at a time.
            keep: keep the slot for `owner` unless the lock is released.
            cancelled: when set, the wait ends within 1 s.

        Raises:
            LockTimeout: not free in time.
            LockCancelled: `cancelled` was set.
            RegistryUnavailable: it could not be asked, or was closed
                meanwhile; nothing is granted.
            DocumentTooLarge: the texts of `owner` are too long.
            ValueError: less than one slot, or more than `MAX_SLOTS`.
        """

    @abstractmethod
    def lock_status(self, lockid: str) -> LockStatus:
        """Return who holds and who waits; no holders and no waiters if nobody does."""

    @abstractmethod
    def lock_holders(self, lockid: str) -> LockStatus:
        """Return who holds, and nobody who waits: costs the same however many do."""

    @abstractmethod
    def locks(self) -> list[LockStatus]:
        """Return every lock that is held or waited for, sorted by name."""

    @abstractmethod
    def break_lock(self, lockid: str, *, token: int | None = None) -> list[Holder]:
        """Take the lock (or only the slot with `token`) from its holders; return who had it.

        The holder's `Lock` says LOST. The next in line waits as after an
        unclean end, unless the old holder has acknowledged. A slot that is
        kept for somebody is free at once: who breaks it vouches that nothing
        goes on there.
        """

    @abstractmethod
    def watch_lock(self, lockid: str, changed: Callable[[], None]) -> Cancel:
        """Call `changed` after a holder or a waiter of the lock came or went."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What a backend is made from.

    Attributes:
        url: `embedded:DIR` or `zookeeper://[user:password@]host:port[,…]/root`.
        session_timeout: seconds a silent process keeps its presence and locks
            (ZooKeeper only; the embedded registry sees a death exactly).
        lock_delay: seconds the next holder waits after an unclean end; None
            for the default, the session timeout but at least 10 s.
        zookeeper_ca, zookeeper_cert, zookeeper_key: PEM files for TLS.
    """

    url: str
    session_timeout: float = 8.0
    lock_delay: float | None = None
    zookeeper_ca: str | None = None
    zookeeper_cert: str | None = None
    zookeeper_key: str | None = None
