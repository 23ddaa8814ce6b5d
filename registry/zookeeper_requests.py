"""Questions to ZooKeeper, each with a deadline and with errors of our own.

A `Requests` is made for one operation of the registry and shares that
operation's deadline among all its round trips: synchronous calls of kazoo
block for as long as the servers are away, so every one here is asynchronous
and waited for in bounded time.

A read whose connection broke is asked again while there is time. A write is
not: it raises `RegistryUnavailable` with `may_have_happened`, and whoever
asked knows how to find out. What a caller decides by - a node that is not
there, a version that differs - stays kazoo's error; everything else is
translated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from kazoo.client import TransactionRequest
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
    SessionMovedError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import WatchedEvent, ZnodeStat

from registry.contract import NotPermitted, RegistryUnavailable
from registry.zookeeper_client import Client
from registry.zookeeper_guard import Guard

Watch: TypeAlias = Callable[[WatchedEvent], None]
_Submit: TypeAlias = Callable[[Client], Any]

_DECIDED_BY_CALLERS = (NoNodeError, NodeExistsError, BadVersionError, NotEmptyError)
_LOST = (ConnectionLoss, SessionExpiredError, SessionMovedError, OperationTimeoutError)
_NOT_THE_CAUSE = (RolledBackError, RuntimeInconsistency)

_IN_FLIGHT = 500
"""Reads that are under way at once when many are asked."""


class Refused(Exception):
    """A transaction did nothing, because one of its steps could not be done.

    Attributes:
        step: the number that adding the step gave.
        error: kazoo's error for it.
    """

    def __init__(self, step: int, error: Exception) -> None:
        super().__init__(f"step {step}: {type(error).__name__}")
        self.step = step
        self.error = error


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction on its way: the answer to come, and in which session it was sent when."""

    answer: Any
    path: str
    session: int | None
    started: float


class Requests:
    """What one operation asks, until its deadline.

    Args:
        client: whom to ask.
        guard: is told of every answer.
        url: for messages.
        timeout: seconds for everything that is asked through this object.
        patience: returns the seconds for which a connection is worth waiting for.
    """

    def __init__(
        self,
        client: Client,
        guard: Guard,
        url: str,
        timeout: float,
        patience: Callable[[], float],
    ) -> None:
        self._client = client
        self._guard = guard
        self._url = url
        self._timeout = timeout
        self._patience = patience
        self._deadline = time.monotonic() + timeout

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, 0 when it has passed."""
        return max(0.0, self._deadline - time.monotonic())

    # --- reads

    def get(self, path: str, watch: Watch | None = None) -> tuple[bytes, ZnodeStat] | None:
        """Return data and stat, None if there is no such node (the watch is then not set)."""
        try:
            data, stat = self._ask(lambda client: client.get_async(path, watch=watch), path)
        except NoNodeError:
            return None
        return data, stat

    def get_many(self, paths: Sequence[str]) -> list[tuple[bytes, ZnodeStat] | None]:
        """Do the same for many nodes, with many questions under way at once.

        Of more than a few hundred each few hundred have the whole time: what is
        asked of thousands is not refused because a machine is busy.
        """
        found: list[tuple[bytes, ZnodeStat] | None] = []
        while len(found) < len(paths):
            client = self._connected()
            asked = paths[len(found) : len(found) + _IN_FLIGHT]
            started = self._guard.now()
            answers = [client.get_async(path) for path in asked]
            for path, answer in zip(asked, answers, strict=True):
                try:
                    found.append(self._await(answer, path, started, is_write=False))
                except NoNodeError:
                    found.append(None)
                except _LOST:
                    break  # the rest is asked again on the next connection
            else:
                if len(asked) == _IN_FLIGHT:
                    self._deadline = time.monotonic() + self._timeout
        return found

    def exists(self, path: str, watch: Watch | None = None) -> ZnodeStat | None:
        """Return the stat, None if there is no such node; the watch is set in both cases."""
        return self._ask(lambda client: client.exists_async(path, watch=watch), path)

    def watch_later(self, path: str, watch: Watch, missing: Callable[[], None]) -> bool:
        """Set a watch for a node's coming and going without waiting; say whether it was sent.

        Args:
            path: the node.
            watch: called at an event.
            missing: called on kazoo's thread if there is no such node now.
        """
        if not self._client.connected:
            return False

        def answered(answer: Any) -> None:
            if answer.exception is None and answer.value is None:
                missing()

        self._client.exists_async(path, watch=watch).rawlink(answered)
        return True

    def children(self, path: str, watch: Watch | None = None) -> tuple[list[str], ZnodeStat] | None:
        """Return the names one level below, and the stat of `path`; None if it is not there."""
        try:
            names, stat = self._ask(
                lambda client: client.get_children_async(path, watch=watch, include_data=True), path
            )
        except NoNodeError:
            return None
        return names, stat

    def children_of_all(
        self, paths: Sequence[str], watched: Container[str] = (), watch: Watch | None = None
    ) -> list[tuple[list[str], ZnodeStat] | None]:
        """Do the same for some nodes in one round trip; they are read in the order given.

        Args:
            paths: read.
            watched: those of them for which `watch` is set.
            watch: as for `children`.
        """
        while True:
            client = self._connected()
            started = self._guard.now()
            answers = [
                client.get_children_async(
                    path, watch=watch if path in watched else None, include_data=True
                )
                for path in paths
            ]
            try:
                return [
                    self._await_children(answer, path, started)
                    for path, answer in zip(paths, answers, strict=True)
                ]
            except _LOST:
                self._pause_after_loss()

    def _await_children(
        self, answer: Any, path: str, started: float
    ) -> tuple[list[str], ZnodeStat] | None:
        try:
            names, stat = self._await(answer, path, started, is_write=False)
        except NoNodeError:
            return None
        return names, stat

    def names(self, path: str) -> list[str]:
        """Return the names one level below; none if `path` is not there."""
        found = self.children(path)
        return found[0] if found else []

    def acls(self, path: str) -> list[Any]:
        """Return the access rights of a node."""
        rights: list[Any] = self._ask(lambda client: client.get_acls_async(path), path)[0]
        return rights

    def sync(self, path: str) -> None:
        """Let the server we ask catch up with everything committed before now."""
        self._ask(lambda client: client.sync_async(path), path)

    # --- writes

    def create(self, path: str, data: bytes = b"", *, ephemeral: bool = False) -> ZnodeStat:
        """Create a node and return its stat.

        Raises:
            NodeExistsError, NoNodeError: it stands; its parent does not.
        """
        return self._create(path, data, ephemeral=ephemeral, sequence=False)[1]

    def create_in_sequence(self, path: str, data: bytes) -> tuple[str, ZnodeStat]:
        """Create an ephemeral node whose name ends in the next number of its parent.

        Raises:
            NoNodeError: the parent does not stand.
        """
        return self._create(path, data, ephemeral=True, sequence=True)

    def _create(
        self, path: str, data: bytes, *, ephemeral: bool, sequence: bool
    ) -> tuple[str, ZnodeStat]:
        created: tuple[str, ZnodeStat] = self._ask(
            lambda client: client.create_async(
                path, data, ephemeral=ephemeral, sequence=sequence, include_data=True
            ),
            path,
            is_write=True,
        )
        return created

    def ensure(self, path: str) -> None:
        """Create a lasting empty node with all its parents; harmless if it stands."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            step = "/" + "/".join(parts[:depth])
            if self.exists(step) is None:
                try:
                    self.create(step)
                except NodeExistsError:
                    continue

    def set(self, path: str, data: bytes, version: int = -1) -> ZnodeStat:
        """Write a node's data and return its stat.

        Raises:
            BadVersionError, NoNodeError: nothing was written.
        """
        return self._ask(
            lambda client: client.set_async(path, data, version=version), path, is_write=True
        )

    def delete(self, path: str, version: int = -1) -> bool:
        """Delete a node; say whether it was there.

        Raises:
            BadVersionError, NotEmptyError: it stands.
        """
        try:
            self._ask(
                lambda client: client.delete_async(path, version=version), path, is_write=True
            )
        except NoNodeError:
            return False
        return True

    def transaction(self) -> Transaction:
        """Begin a list of writes that are done all or not at all."""
        return Transaction(self)

    def send(self, steps: TransactionRequest, path: str) -> Sent | None:
        """Send a transaction's steps without waiting, if connected (for `Transaction`)."""
        if not self._client.connected:
            return None
        session, started = self._guard.session, self._guard.now()
        return Sent(steps.commit_async(), path, session, started)

    def send_when_connected(self, steps: TransactionRequest, path: str) -> Sent:
        """Send a transaction's steps, at the latest at the deadline (for `Transaction`)."""
        self._connected()
        session, started = self._guard.session, self._guard.now()
        return Sent(steps.commit_async(), path, session, started)

    def results(self, sent: Sent) -> list[Any]:
        """Wait for what a transaction brought: a result for each step.

        Raises:
            Refused: nothing was done.
            RegistryUnavailable, NotPermitted: as for any write.
        """
        try:
            results: list[Any] = self._await(
                sent.answer, sent.path, sent.started, is_write=True, session=sent.session
            )
        except _LOST as error:
            raise self._write_lost(error) from error
        refusal = refusal_in(results)
        if refusal is None:
            return results
        if isinstance(refusal.error, NoAuthError | InvalidACLError):
            raise NotPermitted(
                f"no right to write {sent.path}: wrong user, or missing rights"
            ) from refusal.error
        raise refusal

    def when_answered(self, sent: Sent, done: Callable[[Refused | None], None]) -> None:
        """Call `done` with what a transaction brought (for `Transaction`)."""

        def answered(answer: Any) -> None:
            if answer.exception is not None:
                return
            refusal = refusal_in(answer.value)
            if refusal is None:
                self._guard.confirm(sent.session, sent.started)
            done(refusal)

        sent.answer.rawlink(answered)

    def new_steps(self) -> TransactionRequest:
        """Return an empty list of steps (for `Transaction`)."""
        return TransactionRequest(self._client)

    def folders_gone(self, refusal: Refused) -> RegistryUnavailable:
        """Make the error that says that somebody removed what was laid out at the opening."""
        return RegistryUnavailable(self._url, f"its folders were removed ({refusal})")

    # --- asking

    def _connected(self) -> Client:
        """Wait for a connection until the deadline, or until the outage is known as one.

        Raises:
            RegistryUnavailable: there is none; nothing was sent.
        """
        if not self._client.connected:
            if self._client.is_refused:
                raise NotPermitted(f"{self._url} refuses our user or certificate")
            if not self._client.wait_until_connected(min(self.remaining, self._patience())):
                raise RegistryUnavailable(self._url, "no connection to any server")
        return self._client

    def _ask(self, submit: _Submit, path: str, *, is_write: bool = False) -> Any:
        while True:
            client = self._connected()
            started = self._guard.now()
            try:
                return self._await(submit(client), path, started, is_write=is_write)
            except _LOST as error:
                if is_write:
                    raise self._write_lost(error) from error
                self._pause_after_loss()

    def _write_lost(self, error: Exception) -> RegistryUnavailable:
        return RegistryUnavailable(
            self._url,
            f"the connection broke before the answer ({type(error).__name__})",
            may_have_happened=True,
        )

    def _pause_after_loss(self) -> None:
        """Let kazoo notice: right after a session has ended it counts as connected for a moment.

        Raises:
            RegistryUnavailable: there is no time left.
        """
        if not self.remaining:
            raise RegistryUnavailable(self._url, "the connection broke")
        time.sleep(0.01)

    def _await(
        self,
        answer: Any,
        path: str,
        started: float,
        *,
        is_write: bool,
        session: int | None = None,
    ) -> Any:
        session = session or self._guard.session
        try:
            result = answer.get(timeout=self.remaining)
        except _DECIDED_BY_CALLERS:
            self._guard.heard(started)
            raise
        except _LOST:
            raise
        except KazooTimeoutError as error:
            raise RegistryUnavailable(
                self._url, "no answer in time", may_have_happened=is_write
            ) from error
        except (NoAuthError, InvalidACLError, AuthFailedError) as error:
            raise NotPermitted(
                f"{self._url} does not let us use {path} ({type(error).__name__}): "
                "wrong user or password, or missing rights"
            ) from error
        except Exception as error:
            raise RegistryUnavailable(
                self._url, f"{type(error).__name__} at {path}", may_have_happened=is_write
            ) from error
        if not is_write:
            self._guard.heard(started)
        elif not _is_refusal(result):
            self._guard.confirm(session, started)
        return result


class _Ready:
    """One step of a transaction as kazoo asks for it, turned into bytes ahead of time."""

    def __init__(self, step: Any) -> None:
        self.type: int = step.type
        self._bytes: bytes = step.serialize()

    def serialize(self) -> bytes:
        return self._bytes


class Transaction:
    """Writes that are done all or not at all; each step's number is returned when it is added."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._steps = requests.new_steps()
        self._path = "/"

    def check(self, path: str, version: int = -1) -> int:
        """Demand that a node stands, at `version` unless that is -1."""
        self._steps.check(path, version)
        return self._added(path)

    def create(self, path: str, data: bytes = b"", *, ephemeral: bool = False) -> int:
        """Create a node, which must not stand."""
        self._steps.create(path, data, ephemeral=ephemeral)
        return self._added(path)

    def set(self, path: str, data: bytes, version: int = -1) -> int:
        """Write a node's data."""
        self._steps.set_data(path, data, version)
        return self._added(path)

    def delete(self, path: str, version: int = -1) -> int:
        """Delete a node, which must stand and be empty."""
        self._steps.delete(path, version)
        return self._added(path)

    def delete_all(self, paths: Iterable[str]) -> None:
        """Delete nodes, which must all stand and be empty."""
        for path in paths:
            self.delete(path)

    def _added(self, path: str) -> int:
        self._path = path
        return len(self._steps.operations) - 1

    def commit(self) -> list[Any]:
        """Do it all; return a result for each step.

        Raises:
            Refused: nothing was done.
            RegistryUnavailable, NotPermitted: as for any write.
        """
        return self._requests.results(self.send_when_connected())

    def lay_out(self) -> None:
        """Do it all, where all of it makes folders: that they stand already is as good.

        Raises:
            RegistryUnavailable: they may stand or not, or what they stand in is gone.
        """
        try:
            self.commit()
        except RegistryUnavailable as error:
            # Made or not: whoever needs them next finds out.
            if not error.may_have_happened or not self._requests.remaining:
                raise
        except Refused as refusal:
            if not isinstance(refusal.error, NodeExistsError):
                raise self._requests.folders_gone(refusal) from refusal.error

    def make_ready(self) -> None:
        """Do now what takes time when it is sent; no step is added after this."""
        self._steps.operations = [_Ready(step) for step in self._steps.operations]

    def send_when_connected(self) -> Sent:
        """Send it, and return what `Requests.results` waits for.

        Raises:
            RegistryUnavailable: there is no connection; nothing was sent.
        """
        return self._requests.send_when_connected(self._steps, self._path)

    def send(self) -> Sent | None:
        """Do the same without waiting for a connection; None if there is none."""
        return self._requests.send(self._steps, self._path)

    def commit_later(self, done: Callable[[Refused | None], None]) -> bool:
        """Send it and do not wait.

        Args:
            done: called on kazoo's thread with None if it was done, or with
                the refusal; not called if no answer came. It must not block.

        Returns:
            False if there is no connection: nothing was sent.
        """
        sent = self.send()
        if sent is not None:
            self._requests.when_answered(sent, done)
        return sent is not None


def refusal_in(results: list[Any]) -> Refused | None:
    """Return why a transaction did nothing, None if it was done."""
    for step, result in enumerate(results):
        if isinstance(result, Exception) and not isinstance(result, _NOT_THE_CAUSE):
            return Refused(step, result)
    return None


def _is_refusal(result: Any) -> bool:
    return isinstance(result, list) and refusal_in(result) is not None
