"""The future that our calls return: Pykka's, made for one waiter and for asyncio.

Pykka's own future is built on a condition; a raw lock is enough for what we
need and costs half as much. It adds callbacks, a true `await`, and the call it
stands for, so that waiting for it can be recognised as part of a deadlock.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from _thread import LockType
from _thread import allocate_lock as _allocate_lock
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import pykka

from flock.context import current

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

OptExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

PROBE_AFTER = 1.0
"""Seconds an actor waits for a call before it looks for a circle of waits."""

_callbacks_lock = threading.Lock()
_waiting_lock = threading.Lock()
_NOTHING: Any = object()


def _renew_locks() -> None:
    """Make new locks in a child that was forked: those may have been held by other threads."""
    global _callbacks_lock, _waiting_lock
    _callbacks_lock, _waiting_lock = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


class Future(pykka.Future[T]):
    """A value that comes later, or the error that comes instead.

    Any thread may `get` it, any number of times; `await` never blocks the
    loop. `set` and `set_exception` are for the one who makes the value.

    Attributes:
        call_id: the call it stands for, 0 if it stands for none.
        is_queued: True if what it waits for may still lie in a queue of ours;
            `before_wait` is then called before a thread waits.
    """

    call_id = 0
    is_queued = False

    # Most futures never change these; an attribute of the class costs nothing to set.
    _get_hook: Any = None
    _get_hook_result: Any = _NOTHING
    _value: Any = _NOTHING
    _error: BaseException | None = None
    _traceback: TracebackType | None = None
    _callbacks: list[Callable[[Future[T]], None]] | None = None
    _unset: LockType | None = None

    def __init__(self) -> None:
        """Make a future without a value."""
        self._unset = _locked()

    def before_wait(self) -> None:
        """Send what lies in a queue; nothing does."""

    def _until_set(self) -> LockType:
        """Return the lock that is held until the value is there; it may be there already."""
        with _waiting_lock:
            if self._unset is None:
                self._unset = _locked()
            return self._unset

    def __repr__(self) -> str:
        """Say whether the value is there."""
        return f"<flock.Future {'ready' if self.is_ready() else 'pending'}>"

    def is_ready(self) -> bool:
        """Say whether `get` would return, or raise, at once."""
        return self._value is not _NOTHING or self._error is not None

    def get(self, *, timeout: float | None = None) -> Any:
        """Wait for the value and return it; raise the error that came instead.

        Args:
            timeout: seconds, None for as long as it takes.

        Raises:
            pykka.Timeout: nothing came within `timeout`; ask again if you like.
        """
        if self._get_hook is not None:
            if self._get_hook_result is _NOTHING:
                self._get_hook_result = self._get_hook(timeout)
            return self._get_hook_result
        if self._value is _NOTHING and self._error is None and not self.wait(timeout):
            raise pykka.Timeout(f"{timeout} seconds")
        if self._error is not None:
            # One traceback object for all who get it, or it would grow with each.
            raise self._error.with_traceback(self._traceback)
        return self._value

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the value, or the error, is there; say whether it is.

        Args:
            timeout: seconds, None for as long as it takes.

        Raises:
            DeadlockError: this is an actor's thread, and the call waited for
                waits for this actor.
        """
        if self._value is not _NOTHING or self._error is not None:
            return True
        if self._get_hook is not None:
            return self._wait_for_hook(timeout)
        if self.is_queued:
            self.before_wait()
        unset = self._unset or self._until_set()
        if self.is_ready():
            return True  # whoever set it may not have seen the lock
        actor = current.actor if self.call_id else None
        if actor is None:
            if not unset.acquire(True, -1 if timeout is None else max(timeout, 0)):
                return False
            unset.release()
            return True
        actor.begin_wait(self.call_id)
        try:
            first = PROBE_AFTER if timeout is None else min(max(timeout, 0), PROBE_AFTER)
            if not unset.acquire(timeout=first):
                if timeout is not None and timeout <= PROBE_AFTER:
                    return False
                # Two chains of calls that cross are seen by nobody on arrival.
                actor.probe(self.call_id)
                rest = -1 if timeout is None else timeout - PROBE_AFTER
                if not unset.acquire(timeout=rest):
                    return False
            unset.release()
            return True
        finally:
            actor.end_wait(self.call_id)

    def _wait_for_hook(self, timeout: float | None) -> bool:
        try:
            self.get(timeout=timeout)
        except pykka.Timeout:
            return False
        except Exception:  # noqa: BLE001 - whatever it is, it is there; `get` raises it
            return True
        return True

    @property
    def is_derived(self) -> bool:
        """True if the value is made when it is asked for (`map` and its kin): no callbacks."""
        return self._get_hook is not None

    def set(self, value: Any = None) -> None:
        """Give it its value.

        Raises:
            queue.Full: it has one, as Pykka's futures do.
        """
        if self._value is not _NOTHING or self._error is not None or self._get_hook is not None:
            raise queue.Full
        self._value = value
        # As `_resolved`, which would be one step more on every answer's way. Of two
        # who set it at once the lock finds out; one without a lock has only one
        # who sets it (`flock.calls`).
        if self._unset is not None:
            try:
                self._unset.release()
            except RuntimeError:
                raise queue.Full from None
        if self._callbacks is not None:
            self._call_back()

    def set_exception(self, exc_info: OptExcInfo | None = None) -> None:
        """Give it the error that came instead of a value; by default the one being handled."""
        if self.is_ready() or self._get_hook is not None:
            raise queue.Full
        kind, error, traceback = exc_info if exc_info is not None else sys.exc_info()
        if error is None:
            error = kind() if kind is not None else RuntimeError("no error to set")
        self._traceback = traceback
        self._error = error
        self._resolved()

    def fail(self, error: BaseException) -> None:
        """Give it `error` instead of a value."""
        self.set_exception((type(error), error, error.__traceback__))

    def _resolved(self) -> None:
        if self._unset is not None:
            try:
                self._unset.release()
            except RuntimeError:
                raise queue.Full from None  # another thread was first, by a hair
        if self._callbacks is not None:
            self._call_back()

    def _call_back(self) -> None:
        with _callbacks_lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)

    def set_get_hook(self, func: Any) -> None:
        """Let `func(timeout)` make the value when it is asked for."""
        if self.is_ready():
            raise queue.Full
        self._get_hook = func

    def on_ready(self, callback: Callable[[Future[T]], None]) -> None:
        """Call `callback(self)` once the value, or the error, is there.

        It runs on the thread that sets the value, or at once on this one; it
        must be short and must not raise. A derived future never calls it.
        """
        with _callbacks_lock:
            self._callbacks = [*(self._callbacks or ()), callback]
            if not self.is_ready():
                return
            # Set meanwhile: whoever takes it off the list calls it, so it runs once.
            self._callbacks.remove(callback)
        callback(self)

    def error(self) -> BaseException | None:
        """Return the error that came, None if a value came or nothing yet."""
        return self._error

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the event loop."""
        # Imported here: it would be a tenth of the start of every command.
        import asyncio

        if self._get_hook is not None:
            got: T = yield from asyncio.to_thread(self.get).__await__()
            return got
        if not self.is_ready():
            if self.is_queued:
                self.before_wait()
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def wake(_: Future[T]) -> None:
                try:
                    loop.call_soon_threadsafe(_wake, waiter)
                except RuntimeError:
                    return  # the loop is closed: nobody waits there any more

            self.on_ready(wake)
            yield from waiter.__await__()
        value: T = self.get()
        return value

    __iter__ = __await__


def _locked() -> LockType:
    """Return a new lock that is held."""
    lock = _allocate_lock()
    lock.acquire()
    return lock


def _wake(waiter: asyncio.Future[None]) -> None:
    """End an `await` that has not been given up meanwhile."""
    if not waiter.done():
        waiter.set_result(None)
