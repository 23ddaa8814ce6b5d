"""Fetch what a URL leads to, in parts, so that it ends with the run that wants it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flock.converge.cancellation import Cancellation
from flock.errors import ConvergeError

CHUNK_BYTES = 256 * 1024


class DownloadFailed(ConvergeError):
    """A URL could not be fetched; the message names it."""


@dataclass(frozen=True, slots=True)
class Download:
    """What came of a request.

    Attributes:
        sha256: of the content, as hexadecimal text; empty if it has not changed.
        etag, last_modified: what the server called this version; may be empty.
        has_changed: False if the server said that the known version stands.
    """

    sha256: str
    etag: str = ""
    last_modified: str = ""
    has_changed: bool = True


def download(
    url: str,
    target: Path,
    *,
    headers: Mapping[str, str],
    timeout: float,
    cancellation: Cancellation,
) -> Download:
    """Write what `url` leads to into `target`; from the start, whatever stood there.

    Args:
        url: http, https or file; proxies are those of the environment.
        target: a file nobody else looks at: it is half full meanwhile.
        headers: sent with the request, and not to another server that it leads to.
        timeout: seconds that may pass without a byte.
        cancellation: ends it.

    Raises:
        DownloadFailed: refused, broken off, or silent for too long.
        RunCancelled: the run was cancelled.
    """
    connections = _Connections()
    opener = urllib.request.build_opener(_Http(connections), _Https(connections), _Redirects())
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the kind checks it
    forget = cancellation.on_cancel(connections.shut)
    try:
        with opener.open(request, timeout=timeout) as answer:
            digest = hashlib.sha256()
            with open(target, "wb") as stream:
                for part in _parts(answer):
                    cancellation.check()
                    digest.update(part)
                    stream.write(part)
            _check_length(url, answer, target)
            return Download(
                digest.hexdigest(),
                answer.headers.get("ETag", ""),
                answer.headers.get("Last-Modified", ""),
            )
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            if error.code == http.HTTPStatus.NOT_MODIFIED:
                return Download("", has_changed=False)
            raise DownloadFailed(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        cancellation.check()
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            reason = f"silent for {timeout:g} s"
        raise DownloadFailed(f"{url} cannot be fetched: {reason}") from None
    finally:
        forget()


def _parts(answer: Any) -> Iterator[bytes]:
    """Yield the content as it comes."""
    while part := answer.read(CHUNK_BYTES):
        yield part


def _check_length(url: str, answer: Any, target: Path) -> None:
    """Refuse content that was cut off: reading in parts, `http.client` does not."""
    announced = answer.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and target.stat().st_size != int(announced):
        raise DownloadFailed(
            f"{url} was cut off after {target.stat().st_size} of {announced} bytes"
        )


class _Connections:
    """The sockets of one download, to be shut from another thread."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._is_shut = False

    def add(self, connection: socket.socket) -> None:
        """Remember a socket; one that comes too late is shut at once."""
        self._sockets.append(connection)
        if self._is_shut:
            self.shut()

    def shut(self) -> None:
        """Wake whoever reads from the sockets."""
        self._is_shut = True
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but not out of encryption, and not with what is meant for it."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request that follows."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            if req.type == "https" and following.type != "https":
                raise urllib.error.URLError(f"it leads to {newurl}, which is not encrypted")
            if (req.type, req.host) != (following.type, following.host):
                following.headers.clear()
        return following


class _Http(urllib.request.HTTPHandler):
    """Opens http URLs and tells of the sockets."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a URL."""
        connections = self._connections

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                connections.add(self.sock)

        return self.do_open(Connection, req)


class _Https(urllib.request.HTTPSHandler):
    """Opens https URLs, certificates checked, and tells of the sockets."""

    def __init__(self, connections: _Connections) -> None:
        self._trust = ssl.create_default_context()
        super().__init__(context=self._trust)
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a URL."""
        connections = self._connections

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connections.add(self.sock)

        return self.do_open(Connection, req, context=self._trust)
