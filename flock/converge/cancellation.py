"""Ask a run to stop, from any thread, and hear about it wherever the run waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flock.errors import RunCancelled


class Cancellation:
    """One run's wish to go on or not; set at most once per kind.

    `stop` asks the run to end at its next boundary between resources; `cancel`
    ends what is going on too: commands are killed, waits end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._stop_callbacks: list[Callable[[], None]] = []
        self._cancelled_for: str | None = None
        self._stopped_for: str | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Why the run is to end; empty if it is not."""
        return self._cancelled_for or self._stopped_for or ""

    def stop(self, reason: str) -> None:
        """Ask the run to end before its next resource."""
        with self._lock:
            self._stopped_for = self._stopped_for or reason
            callbacks = list(self._stop_callbacks)
        for callback in callbacks:
            callback()

    def cancel(self, reason: str) -> None:
        """Ask the run to end now; the second time does nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._cancelled_for = reason
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the run is asked to end, now or at its next boundary.

        For waits in which nothing goes on that would have to come to its end.
        Otherwise as `on_cancel`.
        """
        with self._lock:
            self._stop_callbacks.append(callback)
            happened = self._stopped_for is not None
        if happened:
            callback()
        forget_cancel = self.on_cancel(callback)

        def forget() -> None:
            forget_cancel()
            with self._lock:
                self._stop_callbacks.remove(callback)

        return forget

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the thread that cancels; at once if that has happened.

        Args:
            callback: must be quick and not raise.

        Returns:
            A function that takes the callback back.
        """
        with self._lock:
            self._callbacks.append(callback)
            happened = self._event.is_set()
        if happened:
            callback()

        def forget() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return forget

    def check(self) -> None:
        """Raise if the run was cancelled.

        Raises:
            RunCancelled: with the reason.
        """
        if self._event.is_set():
            raise RunCancelled(self.reason)

    def check_boundary(self) -> None:
        """Raise if the run was cancelled or is to stop here, between two resources.

        Raises:
            RunCancelled: with the reason.
        """
        if self._cancelled_for is not None or self._stopped_for is not None:
            raise RunCancelled(self.reason)

    def pause(self, seconds: float) -> None:
        """Wait; ends early when the run is cancelled.

        Raises:
            RunCancelled: with the reason.
        """
        self._event.wait(seconds)
        self.check()
