"""Documents: values with versions, in a tree of ZooKeeper's nodes.

    documents/PART/PART/…    four bytes, then the value; empty where no document stands

A document may have others below it, and a node above a document may hold none
itself. ZooKeeper counts a node's versions from 0 and goes on counting where a
document was deleted but others stand below; the four bytes say at which of
its versions our count began, so that every document starts at 1.

Folders above are made and removed in the same transaction as the document, so
no empty one is left behind by a process that dies.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Sequence

from kazoo.exceptions import BadVersionError, NoNodeError
from kazoo.protocol.states import ZnodeStat

from registry.contract import (
    MAX_DOCUMENT_BYTES,
    Cancel,
    Document,
    RecordInvalid,
    RegistryUnavailable,
    VersionConflict,
)
from registry.records import decode, encode, quote_path, unquote
from registry.zookeeper_requests import Refused, Requests, Transaction
from registry.zookeeper_session import Session
from registry.zookeeper_watches import Callback, Watches

_BASE = struct.Struct(">I")


class Documents:
    """The documents of a registry."""

    def __init__(self, session: Session, watches: Watches, root: str) -> None:
        self._session = session
        self._watches = watches
        self._top = f"{root}/documents"

    @property
    def folders(self) -> tuple[str, ...]:
        """Return what must be there before anything is written."""
        return (self._top,)

    def read(self, path: str) -> Document | None:
        """Return a document; see `Registry.read`."""
        found = self._session.requests().get(self._node(path))
        if found is None or not found[0]:
            return None
        return Document(
            path, decode(found[0][_BASE.size :], f"document {path!r}"), _version(path, *found)
        )

    def read_many(self, paths: Sequence[str]) -> list[Document | None]:
        """Return documents; see `Registry.read_many`."""
        found = self._session.requests().get_many([self._node(path) for path in paths])
        return [
            None if entry is None else _parsed(path, *entry)
            for path, entry in zip(paths, found, strict=True)
        ]

    def write(
        self, path: str, value: object, version: int | None, fence: tuple[str, ...] = ()
    ) -> int:
        """Write a document and return its new version; see `Registry.write`.

        Args:
            path: the document.
            value: plain data.
            version: the version that must stand, 0 for none, None for any.
            fence: nodes that must stand.

        Raises:
            Refused: a node of `fence` does not stand; `step` is its place there.
        """
        encoded = encode(value, f"document {path!r}", MAX_DOCUMENT_BYTES)
        node = self._node(path)
        requests = self._session.requests()
        while requests.remaining:
            found = requests.get(node)
            standing = _version(path, *found) if found else 0
            if version is not None and version != standing:
                raise VersionConflict(path, version, standing)
            steps = requests.transaction()
            for guarded in fence:
                steps.check(guarded)
            self._add_write(requests, steps, node, encoded, found)
            try:
                steps.commit()
            except Refused as refusal:
                if refusal.step < len(fence):
                    raise
                if isinstance(refusal.error, NoNodeError) and requests.exists(self._top) is None:
                    raise requests.folders_gone(refusal) from refusal.error
                time.sleep(random.uniform(0.0, 0.01))  # noqa: S311 - no secret
                continue  # somebody was quicker: look again
            return standing + 1
        raise RegistryUnavailable(self._session.url, f"document {path!r} keeps changing")

    def _add_write(
        self,
        requests: Requests,
        steps: Transaction,
        node: str,
        encoded: bytes,
        found: tuple[bytes, ZnodeStat] | None,
    ) -> None:
        if found is None:
            for folder in self._missing_above(requests, node):
                steps.create(folder)
            steps.create(node, _BASE.pack(0) + encoded)
            return
        data, stat = found
        # Where no document stands the count begins with the version that this write makes.
        base = data[: _BASE.size] if data else _BASE.pack(stat.version + 1)
        steps.set(node, base + encoded, stat.version)

    def _missing_above(self, requests: Requests, node: str) -> list[str]:
        """Return the folders above a node that do not stand, topmost first."""
        missing: list[str] = []
        folder = node.rpartition("/")[0]
        while folder != self._top and requests.exists(folder) is None:
            missing.insert(0, folder)
            folder = folder.rpartition("/")[0]
        return missing

    def delete(self, path: str, version: int | None) -> bool:
        """Delete a document; see `Registry.delete`."""
        node = self._node(path)
        requests = self._session.requests()
        while requests.remaining:
            found = requests.get(node)
            standing = _version(path, *found) if found else 0
            if version is not None and version != standing:
                raise VersionConflict(path, version, standing)
            if found is None or not standing:
                return False
            stat = found[1]
            try:
                if stat.numChildren:
                    requests.set(node, b"", stat.version)
                else:
                    steps = requests.transaction()
                    steps.delete(node, stat.version)
                    self._add_empty_above(requests, steps, node)
                    steps.commit()
            except (Refused, BadVersionError, NoNodeError):
                continue  # somebody was quicker: look again
            return True
        raise RegistryUnavailable(self._session.url, f"document {path!r} keeps changing")

    def _add_empty_above(self, requests: Requests, steps: Transaction, node: str) -> None:
        """Delete the folders that hold nothing but this node, and no document."""
        folder = node.rpartition("/")[0]
        while folder != self._top:
            found = requests.get(folder)
            if found is None or found[0] or found[1].numChildren != 1:
                return
            steps.delete(folder, found[1].version)
            folder = folder.rpartition("/")[0]

    def children(self, path: str) -> list[str]:
        """Return the names one level below; see `Registry.children`."""
        names = []
        for part in self._session.requests().names(self._node(path) if path else self._top):
            try:
                names.append(unquote(part))
            except RecordInvalid:
                continue  # nothing of ours
        return sorted(names)

    def watch(self, path: str, changed: Callback) -> Cancel:
        """Watch a document; see `Registry.watch_document`."""
        return self._watches.watch_node(self._node(path), changed)

    def watch_children(self, path: str, changed: Callback) -> Cancel:
        """Watch the names one level below; see `Registry.watch_children`."""
        return self._watches.watch_names(self._node(path) if path else self._top, changed)

    def _node(self, path: str) -> str:
        return f"{self._top}/{quote_path(path)}"


def _parsed(path: str, data: bytes, stat: ZnodeStat) -> Document | None:
    """Return a document, None where none stands or what stands is unreadable."""
    if not data:
        return None
    try:
        value = decode(data[_BASE.size :], f"document {path!r}")
        return Document(path, value, _version(path, data, stat))
    except RecordInvalid:
        return None


def _version(path: str, data: bytes, stat: ZnodeStat) -> int:
    """Return a document's own version; 0 where none stands."""
    if not data:
        return 0
    if len(data) < _BASE.size:
        raise RecordInvalid(f"document {path!r}", "cut off")
    base: int = _BASE.unpack_from(data)[0]
    return int(stat.version) - base + 1
