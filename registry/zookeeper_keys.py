"""Who may talk: keys under their fingerprint, and the one lasting key of each name.

    keys/FINGERPRINT    the record; lasting, or gone with our session
    names/NAME          fingerprint of the name's lasting key

A lasting key and its name are entered in one transaction, so that two hosts
that claim one name at once do not both get it.
"""

from __future__ import annotations

from kazoo.exceptions import NodeExistsError
from kazoo.protocol.states import ZnodeStat

from registry.contract import (
    MAX_RECORD_BYTES,
    Cancel,
    KeyRecord,
    NameTaken,
    RecordInvalid,
    RegistryUnavailable,
)
from registry.records import decode, encode, fingerprint, from_plain, quote, to_plain
from registry.zookeeper_requests import Refused, Requests
from registry.zookeeper_session import Session
from registry.zookeeper_watches import Callback, Watches

_ROUNDS = 5
"""Times that an entry is tried while others change the same names under our hands."""


class Keys:
    """The key records of a registry."""

    def __init__(self, session: Session, watches: Watches, root: str) -> None:
        self._session = session
        self._watches = watches
        self._keys = f"{root}/keys"
        self._names = f"{root}/names"
        self._passing: KeyRecord | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """Return what must be there before anything is entered."""
        return self._keys, self._names

    def enter(self, record: KeyRecord) -> None:
        """Enter a key; see `Registry.enter_key`."""
        requests = self._session.requests()
        data = encode(to_plain(record), f"key record of {record.name}", MAX_RECORD_BYTES)
        for _ in range(_ROUNDS):
            try:
                entered = self._try_to_enter(requests, record, data)
            except RegistryUnavailable as error:
                # A lost answer: what stands now is compared with our own session.
                if not error.may_have_happened or not requests.remaining:
                    raise
                continue
            if entered:
                if not record.lasting:
                    self._passing = record
                return
        raise RegistryUnavailable(
            self._session.url, f"keys of {record.name} keep changing", may_have_happened=True
        )

    def restore(self) -> bool:
        """Enter our passing key anew, after its session has ended."""
        record = self._passing
        if record is not None:
            self.enter(record)
        return True

    def _try_to_enter(self, requests: Requests, record: KeyRecord, data: bytes) -> bool:
        """Enter the key if nothing stands in the way, or find out what does.

        Raises:
            NameTaken: something does.
        """
        key, name = self._key_path(record.public_key), self._name_path(record.name)
        ours = fingerprint(record.public_key).encode("ascii")
        steps = requests.transaction()
        steps.create(name, ours)
        if not record.lasting:
            steps.delete(name)  # created only to be sure that no lasting key stands
        steps.create(key, data, ephemeral=not record.lasting)
        try:
            steps.commit()
        except Refused as refusal:
            if not isinstance(refusal.error, NodeExistsError):
                raise requests.folders_gone(refusal) from refusal.error
        else:
            return True

        found = requests.get(key)
        lasting = requests.get(name)
        if lasting is not None and lasting[0] != ours:
            raise NameTaken(
                record.name, "it has another lasting key, which must be forgotten first"
            )
        if found is None:
            return lasting is not None and self._repair(requests, record, key, data)
        standing = _parse(found[0])
        if standing is None or standing.name != record.name:
            belongs_to = standing.name if standing else "nobody we can read"
            raise NameTaken(record.name, f"its key belongs to {belongs_to}")
        return self._overwrite(requests, record, data, found[1])

    def _repair(self, requests: Requests, record: KeyRecord, key: str, data: bytes) -> bool:
        """Enter a key whose name is reserved for it, but which is not there itself."""
        if not record.lasting:
            return True
        try:
            requests.create(key, data)
        except NodeExistsError:
            return False
        return True

    def _overwrite(
        self, requests: Requests, record: KeyRecord, data: bytes, stat: ZnodeStat
    ) -> bool:
        """Renew our own record, which stands already."""
        key, name = self._key_path(record.public_key), self._name_path(record.name)
        is_passing = stat.ephemeralOwner != 0
        steps = requests.transaction()
        if not is_passing and not record.lasting:
            return True  # a lasting record of this key and name says more than a passing one
        if not is_passing or (
            not record.lasting and stat.ephemeralOwner == self._session.guard.session
        ):
            steps.set(key, data, stat.version)
        else:
            # It would go with an older session, or with the process that entered it.
            steps.delete(key, stat.version)
            steps.create(key, data, ephemeral=not record.lasting)
            if record.lasting:
                steps.create(name, fingerprint(record.public_key).encode("ascii"))
        try:
            steps.commit()
        except Refused:
            return False
        return True

    def get(self, public_key: str) -> KeyRecord | None:
        """Return the record of a key as it stands now; see `Registry.key`."""
        requests = self._session.requests()
        path = self._key_path(public_key)
        requests.sync(path)
        found = requests.get(path)
        return _parse(found[0]) if found else None

    def forget(self, name: str) -> bool:
        """Remove every key of a name; see `Registry.forget_key`."""
        requests = self._session.requests()
        requests.sync(self._keys)
        paths = [f"{self._keys}/{part}" for part in requests.names(self._keys)]
        forgotten = False
        for path, found in zip(paths, requests.get_many(paths), strict=True):
            record = _parse(found[0]) if found else None
            if record is not None and record.name == name:
                forgotten = requests.delete(path) or forgotten
        # Last: until here the name is not free for another lasting key.
        return requests.delete(self._name_path(name)) or forgotten

    def watch(self, public_key: str, changed: Callback) -> Cancel:
        """Watch one key; see `Registry.watch_key`."""
        return self._watches.watch_node(self._key_path(public_key), changed)

    def _key_path(self, public_key: str) -> str:
        return f"{self._keys}/{fingerprint(public_key)}"

    def _name_path(self, name: str) -> str:
        return f"{self._names}/{quote(name)}"


def _parse(data: bytes) -> KeyRecord | None:
    """Return the record; None for one that cannot be read, which lets nobody in."""
    try:
        return from_plain(KeyRecord, decode(data))
    except RecordInvalid:
        return None
