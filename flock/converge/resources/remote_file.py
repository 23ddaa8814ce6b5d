"""`remote_file`: a file that is fetched from a URL, a path, or the cookbook's `files/`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from flock.converge.download import CHUNK_BYTES, DownloadFailed, download
from flock.converge.files import Ownership, read_or_none, write_atomically
from flock.converge.placed_file import (
    MAX_DIFF_BYTES,
    PlacedFile,
    found_file,
    ownership_changes,
    removal_changes,
)
from flock.converge.provider import Change, Kind, Provider
from flock.converge.text_diff import text_diff

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("http", "https", "file")


@dataclass
class RemoteFile(PlacedFile):
    """A file that should hold what stands elsewhere.

    With a `checksum` nothing is asked while the file is right. Without one the
    server is asked each time, and answers shortly if nothing changed there.

    Attributes:
        source: an http, https or file URL, an absolute path, or a path below
            the cookbook's `files/`; several are tried in order.
        checksum: SHA-256 of the content as hexadecimal text; anything else is refused.
        headers: sent with each request; not shown.
        use_etag, use_last_modified: ask for it only if it is another version.
        timeout: seconds that a server may be silent.
    """

    kind: ClassVar[str] = "remote_file"
    actions: ClassVar[tuple[str, ...]] = ("create", "create_if_missing", "delete")

    source: str | list[str] | tuple[str, ...] = ()
    checksum: str = ""
    headers: dict[str, str] | None = None
    use_etag: bool = True
    use_last_modified: bool = True
    timeout: float = 60.0

    def check(self) -> None:
        """Refuse sources and checksums that are none."""
        super().check()
        self.source = (self.source,) if isinstance(self.source, str) else tuple(self.source)
        if not self.source and set(self.wanted_actions) != {"delete"}:
            raise ValueError("source is missing: a URL or a path")
        for source in self.source:
            scheme = _scheme(source)
            if scheme is not None and scheme not in _SCHEMES:
                raise ValueError(f"source must be an http, https or file URL, not {source!r}")
            if scheme is not None and "@" in urlsplit(source).netloc:
                raise ValueError("source must not hold a password: headers are not shown")
        self.checksum = self.checksum.lower()
        if self.checksum and not _SHA256.fullmatch(self.checksum):
            raise ValueError("checksum must be a SHA-256 of 64 hexadecimal digits")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Content that lies ready.

    Attributes:
        path: where.
        sha256: of it.
        seen: what the server called this version, to be remembered.
    """

    path: Path
    sha256: str
    seen: Mapping[str, str]


class RemoteFileProvider(Provider[RemoteFile]):
    """Names the changes a fetched file needs.

    Looking already fetches, into the node's own folder: only the content says
    whether it is the same.
    """

    def create(self, wanted: RemoteFile) -> Iterator[Change]:
        """Name what makes the file hold what the source has; one step for a crash."""
        path = Path(wanted.path)
        ownership = wanted.ownership(self.machine)
        found = found_file(path)
        own = None if found is None else self._sha256(path)
        if found is not None and wanted.checksum and own == wanted.checksum:
            yield from ownership_changes(path, found, ownership)
            return
        memory = _Memory(self.machine.state_dir, path)
        try:
            fetched = self._fetch(wanted, own, memory)
            if fetched is not None and fetched.sha256 != own:
                yield Change(
                    f"write {path}",
                    lambda: self._place(fetched, path, ownership, memory),
                    _diff(path, fetched.path),
                )
            elif found is not None:
                if fetched is not None and not self.machine.why_run:
                    memory.keep(fetched.seen, fetched.sha256)
                yield from ownership_changes(path, found, ownership)
        finally:
            memory.discard_content()

    def create_if_missing(self, wanted: RemoteFile) -> Iterator[Change]:
        """Name what makes the file if nothing is at its place."""
        if not os.path.lexists(wanted.path):
            yield from self.create(wanted)

    def delete(self, wanted: RemoteFile) -> Iterator[Change]:
        """Name the removal of the file."""
        yield from removal_changes(Path(wanted.path))

    def _fetch(self, wanted: RemoteFile, own: str | None, memory: _Memory) -> _Fetched | None:
        """Fetch from the first source that has it; None if its version stands.

        Raises:
            DownloadFailed: no source has it; says what each said.
        """
        reasons = []
        for source in wanted.source:
            try:
                fetched = self._fetch_from(source, wanted, own, memory)
            except DownloadFailed as error:
                reasons.append(str(error))
                continue
            if fetched is None or not wanted.checksum or fetched.sha256 == wanted.checksum:
                return fetched
            reasons.append(f"{source} has the checksum {fetched.sha256}, not {wanted.checksum}")
        raise DownloadFailed("; ".join(reasons))

    def _fetch_from(
        self, source: str, wanted: RemoteFile, own: str | None, memory: _Memory
    ) -> _Fetched | None:
        """Fetch from one source."""
        path = self._local_path(source, wanted)
        if path is not None:
            try:
                return _Fetched(path, self._sha256(path), {})
            except OSError as error:
                raise DownloadFailed(f"{path} cannot be read: {error.strerror}") from None
        conditions = {} if wanted.checksum else memory.conditions(source, own, wanted)
        got = download(
            source,
            memory.content,
            headers={**(wanted.headers or {}), **conditions},
            timeout=wanted.timeout,
            cancellation=self.machine.cancellation,
        )
        if not got.has_changed:
            if not conditions:
                raise DownloadFailed(f"{source} answered 304 though no version was named")
            return None
        seen = {"source": source, "etag": got.etag, "last_modified": got.last_modified}
        return _Fetched(memory.content, got.sha256, seen)

    def _local_path(self, source: str, wanted: RemoteFile) -> Path | None:
        """Return the file a source stands for; None if it is on a server."""
        scheme = _scheme(source)
        if scheme == "file":
            return Path(unquote(urlsplit(source).path))
        if scheme is not None:
            return None
        if os.path.isabs(source):
            return Path(source)
        return self.machine.files.path(wanted.home_cookbook, "files", source)

    def _place(self, fetched: _Fetched, path: Path, ownership: Ownership, memory: _Memory) -> None:
        """Put fetched content in place."""
        write_atomically(path, self._parts(fetched.path), ownership)
        memory.keep(fetched.seen, fetched.sha256)

    def _sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file."""
        digest = hashlib.sha256()
        for part in self._parts(path):
            digest.update(part)
        return digest.hexdigest()

    def _parts(self, path: Path) -> Iterator[bytes]:
        """Yield a file's content in parts; a large one takes time in which the run may end."""
        with open(path, "rb", buffering=0) as stream:
            while part := stream.read(CHUNK_BYTES):
                self.machine.cancellation.check()
                yield part


class _Memory:
    """What is remembered of a file's source, and where its content waits: in the node's folder."""

    def __init__(self, state_dir: Path, path: Path) -> None:
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        folder = state_dir / "remote_files"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record = folder / f"{name}.json"
        self.content = folder / f"{name}.content"

    def conditions(self, source: str, own: str | None, wanted: RemoteFile) -> dict[str, str]:
        """Return the headers that ask for another version than the one that stands."""
        try:
            known = json.loads(self._record.read_bytes())
        except (OSError, ValueError):
            return {}
        if own is None or known.get("sha256") != own or known.get("source") != source:
            return {}
        headers = {}
        if wanted.use_etag and known.get("etag"):
            headers["If-None-Match"] = known["etag"]
        if wanted.use_last_modified and known.get("last_modified"):
            headers["If-Modified-Since"] = known["last_modified"]
        return headers

    def keep(self, seen: Mapping[str, str], sha256: str) -> None:
        """Remember which version stands; without a name for it there is nothing to remember."""
        if seen.get("etag") or seen.get("last_modified"):
            record: dict[str, Any] = {**seen, "sha256": sha256}
            write_atomically(self._record, json.dumps(record).encode(), Ownership(mode=0o600))

    def discard_content(self) -> None:
        """Delete what waited."""
        with contextlib.suppress(FileNotFoundError):
            self.content.unlink()


def _diff(old: Path, new: Path) -> str | None:
    """Return what changes, if that can be shown."""
    if any(each.exists() and each.stat().st_size > MAX_DIFF_BYTES for each in (old, new)):
        return None
    return text_diff(read_or_none(old), read_or_none(new), str(old))


def _scheme(source: str) -> str | None:
    """Return the scheme of a URL, None for a path."""
    scheme, separator, _ = source.partition("://")
    return scheme.lower() if separator else None


KIND = Kind(RemoteFile, RemoteFileProvider)
