"""Who is there: one entry for each live process, gone with its session.

    presence/NAME               the record
    nodes/NAME~GENERATION       empty; tells a node from a visitor, and whose entry it is
    visitors/NAME~GENERATION

The two are made and removed together. ZooKeeper's transactions can demand
that a node stands, not *which* one; the second one's name is never used
again, so demanding that it stands means: this very process is still entered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kazoo.exceptions import BadVersionError, NodeExistsError
from kazoo.protocol.states import ZnodeStat

from registry.contract import (
    MAX_RECORD_BYTES,
    Cancel,
    NameTaken,
    PresenceRecord,
    RecordInvalid,
    RegistryUnavailable,
)
from registry.processes import is_surely_dead
from registry.records import decode, encode, from_plain, quote, to_plain, unquote
from registry.zookeeper_chores import Chores
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_watches import Callback, Hub, Watches

_log = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds beyond a session timeout that a silent holder's entry is waited for."""

_ROUNDS = 10
"""Times that a claim is tried while others change the same entry under our hands."""


class _HeldBy(NameTaken):
    """The name is taken, by a process that is known."""

    def __init__(self, name: str, other: PresenceRecord, more: str = "") -> None:
        super().__init__(name, other.whereabouts() + more)
        self.other = other


@dataclass(frozen=True, slots=True)
class _Announced:
    record: PresenceRecord
    answers: Callable[[PresenceRecord], bool] | None
    name_lost: Callable[[PresenceRecord], None] | None


class Presences:
    """The directory of live processes, and our own entry in it."""

    def __init__(
        self, session: Session, watches: Watches, hub: Hub, chores: Chores, root: str
    ) -> None:
        self._session = session
        self._watches = watches
        self._hub = hub
        self._chores = chores
        self._entries = f"{root}/presence"
        self._markers = {"node": f"{root}/nodes", "visitor": f"{root}/visitors"}
        self._claiming = threading.Lock()
        self._announced: _Announced | None = None
        self._own_watch: Cancel = lambda: None

    @property
    def folders(self) -> tuple[str, ...]:
        """Return what must be there before anything is entered."""
        return self._entries, *self._markers.values()

    # --- our own entry

    def announce(
        self,
        record: PresenceRecord,
        answers: Callable[[PresenceRecord], bool] | None,
        name_lost: Callable[[PresenceRecord], None] | None,
    ) -> None:
        """Enter `record`; see `Registry.announce`."""
        data = encode(to_plain(record), f"presence of {record.name}", MAX_RECORD_BYTES)
        with self._claiming:
            before = self._announced
            if before is None or before.record.name != record.name or not self._renew(record, data):
                self._claim(record, data, answers)
            self._announced = _Announced(record, answers, name_lost)
            if before is not None and before.record.name != record.name:
                self._remove(before.record)
        if before is None or before.record.name != record.name:
            self._own_watch()
            self._own_watch = self._watches.watch_node(
                self._entry_path(record.name), self._look_after_own_entry
            )

    def withdraw(self) -> None:
        """Take our entry out; see `Registry.withdraw`."""
        with self._claiming:
            announced, self._announced = self._announced, None
            self._own_watch()
            self._own_watch = lambda: None
            if announced is None:
                return
            try:
                self._remove(announced.record)
            except RegistryUnavailable:
                self._chores.add(
                    f"withdraw {announced.record.name}", lambda: self._remove_later(announced)
                )
                raise

    def restore(self) -> bool:
        """Enter our record anew if its entry went with a session; for `Chores`."""
        with self._claiming:
            announced = self._announced
            if announced is None:
                return True
            record = announced.record
            found = self._session.requests().get(self._entry_path(record.name))
            if found is not None and found[1].ephemeralOwner == self._session.guard.session:
                return True
            data = encode(to_plain(record), f"presence of {record.name}", MAX_RECORD_BYTES)
            try:
                self._claim(record, data, announced.answers)
            except _HeldBy as taken:
                self._announced = None
                self._own_watch()
                other, name_lost = taken.other, announced.name_lost
                _log.warning("the name %s was lost: %s", record.name, taken.holder)
                if name_lost is not None:
                    self._watches.post(lambda: name_lost(other))
            else:
                _log.info("%s is in the directory again", record.name)
        return True

    @property
    def own_marker(self) -> str | None:
        """The path that stands exactly as long as our presence; None if not announced."""
        announced = self._announced
        return self._marker_path(announced.record) if announced else None

    @property
    def own_name(self) -> str:
        """The name we announced; empty without."""
        announced = self._announced
        return announced.record.name if announced else ""

    def _look_after_own_entry(self) -> None:
        """See to it that our entry stands; called when it changed."""
        self._chores.add("presence", self.restore)

    def _renew(self, record: PresenceRecord, data: bytes) -> bool:
        """Overwrite our entry if it stands; say whether it did."""
        steps = self._session.requests().transaction()
        steps.check(self._marker_path(record))
        steps.set(self._entry_path(record.name), data)
        try:
            steps.commit()
        except Refused:
            return False
        return True

    def _remove(self, record: PresenceRecord) -> None:
        steps = self._session.requests().transaction()
        steps.delete(self._marker_path(record))
        steps.delete(self._entry_path(record.name))
        with contextlib.suppress(Refused):  # gone, or somebody else's by now
            steps.commit()

    def _remove_later(self, announced: _Announced) -> bool:
        with self._claiming:
            now = self._announced
            if now is None or now.record.generation != announced.record.generation:
                self._remove(announced.record)
        return True

    # --- claiming a name

    def _claim(
        self,
        record: PresenceRecord,
        data: bytes,
        answers: Callable[[PresenceRecord], bool] | None,
    ) -> None:
        """Make the entry, once the name is decided to be ours.

        Raises:
            NameTaken: it is not.
        """
        path = self._entry_path(record.name)
        for _ in range(_ROUNDS):
            requests = self._session.requests()
            try:
                if self._create(requests, record, data):
                    return
            except RegistryUnavailable as error:
                # A lost answer: what stands now is compared with our own session.
                if not error.may_have_happened:
                    raise
            requests = self._session.requests()
            found = requests.get(path)
            if found is None:
                # Nobody is entered; a mark of ours without its entry would be in the way.
                requests.delete(self._marker_path(record))
                continue
            other, stat = _parse(found[0]), found[1]
            is_ours = stat.ephemeralOwner == self._session.guard.session
            is_this_run = other is not None and other.generation == record.generation
            if is_ours and is_this_run and self._renew(record, data):
                return
            if is_ours or _is_past(record, other):
                if self._replace(requests, record, data, other, stat):
                    return
                continue
            if other is None:
                unknown = dataclasses.replace(record, generation="", host="?", address="?", pid=0)
                raise _HeldBy(record.name, unknown, " (an entry that cannot be read)")
            if answers is None or answers(other):
                raise _HeldBy(record.name, other)
            if not self._wait_until_gone(path, stat):
                raise _HeldBy(record.name, other, " (it does not answer, but its session stands)")
        raise RegistryUnavailable(
            self._session.url, f"the entry of {record.name} keeps changing", may_have_happened=True
        )

    def _create(self, requests: Requests, record: PresenceRecord, data: bytes) -> bool:
        steps = requests.transaction()
        steps.create(self._entry_path(record.name), data, ephemeral=True)
        steps.create(self._marker_path(record), ephemeral=True)
        try:
            steps.commit()
        except Refused as refusal:
            if not isinstance(refusal.error, NodeExistsError):
                raise requests.folders_gone(refusal) from refusal.error
            return False
        return True

    def _replace(
        self,
        requests: Requests,
        record: PresenceRecord,
        data: bytes,
        other: PresenceRecord | None,
        stat: ZnodeStat,
    ) -> bool:
        """Put our entry in the place of one that is nobody's any more.

        One transaction, so that nobody sees the name free in between, and so
        that an entry which replaced the old one meanwhile stays.
        """
        path = self._entry_path(record.name)
        steps = requests.transaction()
        if other is not None:
            steps.delete(self._marker_path(other))
        steps.delete(path, stat.version)
        steps.create(path, data, ephemeral=True)
        steps.create(self._marker_path(record), ephemeral=True)
        try:
            steps.commit()
        except Refused as refusal:
            if other is not None and refusal.step == 0:
                # Its mark is gone: so is the entry, or somebody removed the mark alone.
                now = requests.exists(path)
                if now is not None and now.czxid == stat.czxid:
                    with contextlib.suppress(BadVersionError):
                        requests.delete(path, stat.version)
            return False
        return True

    def _wait_until_gone(self, path: str, stat: ZnodeStat) -> bool:
        """Wait for a silent holder's entry to go; say whether it went (or was replaced)."""
        deadline = time.monotonic() + self._session.guard.granted + _PATIENCE
        event = threading.Event()
        stop_listening = self._hub.listen(path, event.set)
        try:
            while True:
                event.clear()
                now = self._session.requests().exists(path, self._hub.fired)
                if now is None or now.czxid != stat.czxid:
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                event.wait(min(remaining, 1.0))
        finally:
            stop_listening()

    # --- the others

    def get(self, name: str) -> PresenceRecord | None:
        """Return one entry; see `Registry.presence`."""
        found = self._session.requests().get(self._entry_path(name))
        return (
            from_plain(PresenceRecord, decode(found[0]), f"presence of {name}") if found else None
        )

    def find(self, public_key: str) -> PresenceRecord | None:
        """Return the entry that names this key; reads every entry, for keys without a record."""
        requests = self._session.requests()
        paths = [f"{self._entries}/{part}" for part in requests.names(self._entries)]
        records = [_parse(entry[0]) for entry in requests.get_many(paths) if entry is not None]
        return next((one for one in records if one and one.public_key == public_key), None)

    def node_names(self) -> list[str]:
        """Return the names of live nodes; see `Registry.node_names`."""
        return sorted(set(self._listed(self._session.requests())))

    def get_all(self) -> list[PresenceRecord]:
        """Return the entries of all live nodes; see `Registry.presences`."""
        requests = self._session.requests()
        names = sorted(set(self._listed(requests)))
        entries = requests.get_many([self._entry_path(name) for name in names])
        records = [_parse(entry[0]) for entry in entries if entry is not None]
        return [record for record in records if record is not None and record.kind == "node"]

    def _listed(self, requests: Requests) -> list[str]:
        names = []
        for marker in requests.names(self._markers["node"]):
            try:
                names.append(unquote(marker.partition("~")[0]))
            except RecordInvalid:
                continue  # nothing of ours
        return names

    def watch(self, name: str, changed: Callback) -> Cancel:
        """Watch one entry; see `Registry.watch_presence`."""
        return self._watches.watch_node(self._entry_path(name), changed)

    def watch_nodes(self, changed: Callback) -> Cancel:
        """Watch the set of nodes; see `Registry.watch_nodes`."""
        return self._watches.watch_names(self._markers["node"], changed)

    def _entry_path(self, name: str) -> str:
        return f"{self._entries}/{quote(name)}"

    def _marker_path(self, record: PresenceRecord) -> str:
        folder = self._markers["node" if record.kind == "node" else "visitor"]
        return f"{folder}/{quote(record.name)}~{quote(record.generation)}"


def _is_past(record: PresenceRecord, other: PresenceRecord | None) -> bool:
    """Say whether an entry is our own of an earlier session, or a dead process's of this host."""
    return other is not None and (other.generation == record.generation or is_surely_dead(other))


def _parse(data: bytes) -> PresenceRecord | None:
    try:
        return from_plain(PresenceRecord, decode(data))
    except RecordInvalid:
        return None
