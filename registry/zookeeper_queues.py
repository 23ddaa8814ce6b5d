"""Queues: entries in order, each appended once.

    queues/QUEUE            the last id that was given
    queues/QUEUE/ID         where to find its mark below, then the value
    queue_marks/QUEUE/HASH  the entry's id; stands as long as the entry of that dedup id

An append gives the next id in one transaction with the entry and its mark, and
so does a remove take both: a retry finds the mark, whatever died in between.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time

from kazoo.exceptions import NoNodeError

from registry.contract import (
    MAX_QUEUE_LENGTH,
    MAX_RECORD_BYTES,
    Cancel,
    NameTaken,
    QueueEntry,
    QueueFull,
    RecordInvalid,
    RegistryUnavailable,
)
from registry.records import decode, encode, quote, unquote
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_watches import Callback, Watches

_log = logging.getLogger(__name__)

_MARK = re.compile(r"[0-9a-f]{40}")

_DROPPED_AT_ONCE = 100
"""Entries in one transaction of `drop`: a request must stay below 1 MiB, also if it names a queue
of `MAX_NAME_BYTES` that often."""


class Queues:
    """The queues of a registry."""

    def __init__(self, session: Session, watches: Watches, root: str) -> None:
        self._session = session
        self._watches = watches
        self._queues = f"{root}/queues"
        self._marks = f"{root}/queue_marks"

    @property
    def folders(self) -> tuple[str, ...]:
        """Return what must be there before anything is appended."""
        return self._queues, self._marks

    def append(self, queue: str, value: object, dedup_id: str | None) -> int:
        """Append an entry; see `Registry.append`."""
        encoded = encode(value, f"entry of queue {queue!r}", MAX_RECORD_BYTES)
        mark = _mark(dedup_id)
        data = bytes([len(mark)]) + mark.encode("ascii") + encoded
        path, marks = self._path(queue), self._marks_path(queue)
        requests = self._session.requests()
        while requests.remaining:
            if mark and (standing := requests.get(f"{marks}/{mark}")) is not None:
                return int(standing[0])
            found = requests.get(path)
            if found is None:
                self._lay_out(requests, queue)
                continue
            last, stat = found
            if stat.numChildren >= MAX_QUEUE_LENGTH:
                raise QueueFull(queue, stat.numChildren)
            entry_id = int(last) + 1
            steps = requests.transaction()
            steps.set(path, b"%d" % entry_id, stat.version)
            steps.create(_entry_path(path, entry_id), data)
            if mark:
                steps.create(f"{marks}/{mark}", b"%d" % entry_id)
            try:
                steps.commit()
            except Refused:
                # Somebody appended meanwhile; of many, one wins each round.
                time.sleep(random.uniform(0.0, 0.01))  # noqa: S311 - no secret
                continue
            except RegistryUnavailable as error:
                # With a mark we can see whether it happened, and do it again if not.
                if not (mark and error.may_have_happened and requests.remaining):
                    raise
                continue
            return entry_id
        raise RegistryUnavailable(self._session.url, f"queue {queue!r} is too busy")

    def _lay_out(self, requests: Requests, queue: str) -> None:
        """Make a queue whose ids are larger than all that a queue of this name ever gave."""
        requests.sync(self._queues)
        folder = requests.exists(self._queues)
        steps = requests.transaction()
        # Ids grow by one with a transaction each, and this number with every transaction
        # that makes or drops a queue.
        steps.create(self._path(queue), b"%d" % (folder.pzxid if folder else 0))
        steps.create(self._marks_path(queue))
        steps.lay_out()

    def entries(self, queue: str, limit: int) -> list[QueueEntry]:
        """Return the first entries; see `Registry.entries`."""
        requests = self._session.requests()
        path = self._path(queue)
        ids = sorted(_ids(requests.names(path)))[: max(0, limit)]
        entries = []
        nodes = requests.get_many([_entry_path(path, entry_id) for entry_id in ids])
        for entry_id, node in zip(ids, nodes, strict=True):
            if node is None:
                continue  # removed meanwhile
            try:
                entries.append(QueueEntry(entry_id, _value_of(node[0])))
            except RecordInvalid as error:
                _log.warning("queue %r, entry %d: %s", queue, entry_id, error)
        return entries

    def length(self, queue: str) -> int:
        """Return the number of entries; see `Registry.queue_length`."""
        stat = self._session.requests().exists(self._path(queue))
        return int(stat.numChildren) if stat is not None else 0

    def remove(self, queue: str, entry_id: int, fence: tuple[str, str] | None) -> bool:
        """Remove one entry; see `Registry.remove`.

        Args:
            queue: the queue.
            entry_id: the entry.
            fence: a node that must stand and the name it stands for, or None.
        """
        path = _entry_path(self._path(queue), entry_id)
        requests = self._session.requests()
        found = requests.get(path)
        mark_path = ""
        if found is not None and (mark := _mark_of(found[0])):
            mark_path = f"{self._marks_path(queue)}/{mark}"
            if requests.exists(mark_path) is None:
                mark_path = ""  # somebody else removed it: only the entry is left
        steps = requests.transaction()
        if fence is not None:
            steps.check(fence[0])
        if found is not None:
            steps.delete(path)
            if mark_path:
                steps.delete(mark_path)
        elif fence is None:
            return False
        try:
            steps.commit()
        except Refused as refusal:
            if fence is not None and refusal.step == 0:
                raise NameTaken(fence[1], "our presence does not stand") from refusal.error
            return False  # somebody else removed it
        return found is not None

    def drop(self, queue: str) -> None:
        """Remove a queue with all its entries; see `Registry.drop_queue`."""
        requests = self._session.requests()
        for folder in (self._path(queue), self._marks_path(queue)):
            while True:
                names = requests.names(folder)
                if not names:
                    break
                for start in range(0, len(names), _DROPPED_AT_ONCE):
                    steps = requests.transaction()
                    some = names[start : start + _DROPPED_AT_ONCE]
                    steps.delete_all(f"{folder}/{name}" for name in some)
                    try:
                        steps.commit()
                    except Refused:
                        break  # somebody removes too: look again
        steps = requests.transaction()
        steps.delete(self._path(queue))
        steps.delete(self._marks_path(queue))
        try:
            steps.commit()
        except Refused as refusal:
            if not isinstance(refusal.error, NoNodeError):
                self.drop(queue)  # somebody appended

    def names(self, prefix: str) -> list[str]:
        """Return the names of queues that hold something; see `Registry.queues`."""
        requests = self._session.requests()
        names = []
        for part in requests.names(self._queues):
            try:
                name = unquote(part)
            except RecordInvalid:
                continue  # nothing of ours
            if name.startswith(prefix):
                names.append(name)
        nodes = requests.get_many([self._path(name) for name in names])
        return sorted(
            name
            for name, node in zip(names, nodes, strict=True)
            if node is not None and node[1].numChildren
        )

    def watch(self, queue: str, changed: Callback) -> Cancel:
        """Watch a queue; see `Registry.watch_queue`."""
        return self._watches.watch_names(self._path(queue), changed)

    def _path(self, queue: str) -> str:
        return f"{self._queues}/{quote(queue)}"

    def _marks_path(self, queue: str) -> str:
        return f"{self._marks}/{quote(queue)}"


def _entry_path(queue_path: str, entry_id: int) -> str:
    return f"{queue_path}/{entry_id:020d}"


def _ids(names: list[str]) -> list[int]:
    return [int(name) for name in names if name.isascii() and name.isdecimal()]


def _mark(dedup_id: str | None) -> str:
    """Return the name of a dedup id's mark: of any text, always short."""
    if dedup_id is None:
        return ""
    return hashlib.sha256(dedup_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _mark_of(data: bytes) -> str:
    """Return the name of an entry's mark; empty if it has none."""
    mark = data[1 : 1 + data[0]].decode("ascii", "replace") if data else ""
    return mark if _MARK.fullmatch(mark) else ""


def _value_of(data: bytes) -> object:
    """Return an entry's value.

    Raises:
        RecordInvalid: nothing of ours.
    """
    return decode(data[1 + data[0] :] if data else b"")
