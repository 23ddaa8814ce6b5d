"""How an embedded registry notices what others did: two threads, started when first needed.

The *looking* thread sleeps until it is nudged, or a process it awaits ends,
or a second has passed. Then it compares the counters of our watches with what
it saw last, and looks for the dead. It never runs a caller's code, so nothing
a callback does can keep a lock's waiter from waking.

The *calling* thread runs the callbacks, one at a time.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from registry.contract import OPERATION_TIMEOUT, Cancel, RegistryError, SessionState
from registry.embedded_folder import Folder
from registry.embedded_store import Store, Transaction
from registry.liveness import SESSIONS_TOPIC, DeathWatch, Session

log = logging.getLogger("flock.registry")

_NET = 1.0
"""Seconds after which the looking thread looks without being nudged."""

_WAKE, _NUDGE = object(), object()


@dataclass(slots=True, eq=False)
class _Watch:
    """One callback on one topic.

    Attributes:
        seen: the topic's counter when the callback was last due.
        urgent: runs on the looking thread at once; ours only.
        due: waits for the calling thread, so that many changes make one call.
    """

    topic: str
    callback: Callable[[], None]
    urgent: bool
    seen: int
    due: bool = False
    cancelled: bool = False


class Watcher:
    """The watches of one opened registry, and its two threads.

    Any thread may call it, inside a callback too.

    Args:
        folder, store, session: the registry's own.
        state: tells the session's state; cheap.
        on_deaths: removes what died with these sessions; runs on the looking thread.
        on_loss: makes the session anew after it was lost; runs on the looking
            thread, again each second until it succeeds.
        each_second: what else is to be done now and then, on the looking thread.
    """

    def __init__(
        self,
        folder: Folder,
        store: Store,
        session: Session,
        *,
        state: Callable[[], SessionState],
        on_deaths: Callable[[set[str]], None],
        on_loss: Callable[[], None],
        each_second: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._store = store
        self._session = session
        self._state = state
        self._on_deaths = on_deaths
        self._on_loss = on_loss
        self._each_second = each_second
        self._lock = threading.Lock()
        self._watches: dict[str, list[_Watch]] = {}
        self._state_callbacks: list[Callable[[SessionState], None]] = []
        self._told_state = SessionState.CONNECTED
        self._sessions_changed = True
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._looking: threading.Thread | None = None
        self._calling: threading.Thread | None = None
        self._wake_sender: socket.socket | None = None
        self._stopping = False

    # --- watches

    def watch(self, topic: str, callback: Callable[[], None]) -> Cancel:
        """Call `callback` on the calling thread after each change of `topic` from now on."""
        with self._store.write() as transaction:
            cancel = self.watch_within(transaction, topic, callback, urgent=False)
        self.start()
        return cancel

    def watch_within(
        self, transaction: Transaction, topic: str, callback: Callable[[], None], *, urgent: bool
    ) -> Cancel:
        """Do the same in a transaction of the caller, who starts the threads afterwards."""
        session = self._session.enter(transaction)
        if SESSIONS_TOPIC not in self._watches:
            # Whoever watches also looks after the dead: their end is a change.
            self._enter_watch(transaction, session, SESSIONS_TOPIC, self._note_sessions, True)
        watch = self._enter_watch(transaction, session, topic, callback, urgent)
        return lambda: self._cancel(watch)

    def _enter_watch(
        self,
        transaction: Transaction,
        session: str,
        topic: str,
        callback: Callable[[], None],
        urgent: bool,
    ) -> _Watch:
        transaction.execute("INSERT OR IGNORE INTO watches VALUES (?, ?, 0)", (topic, session))
        seen = transaction.row(
            "SELECT changed FROM watches WHERE topic = ? AND session = ?", (topic, session)
        )[0]
        watch = _Watch(topic, callback, urgent, seen)
        with self._lock:
            self._watches.setdefault(topic, []).append(watch)
        transaction.after_rollback(functools.partial(self._forget, watch))
        return watch

    def _forget(self, watch: _Watch) -> bool:
        """Take a watch out; say whether it was the last one there was on its topic."""
        with self._lock:
            if watch.cancelled:
                return False
            watch.cancelled = True
            left = self._watches.get(watch.topic, [])
            left.remove(watch)
            if not left:
                self._watches.pop(watch.topic, None)
            return not left

    def _note_sessions(self) -> None:
        self._sessions_changed = True

    def _cancel(self, watch: _Watch) -> None:
        if not self._forget(watch) or self._stopping:
            return
        # A row that stays costs its writers a nudge, no more.
        with contextlib.suppress(RegistryError), self._store.write() as transaction:
            with self._lock:
                watched_again = watch.topic in self._watches
            if not watched_again:
                transaction.execute(
                    "DELETE FROM watches WHERE topic = ? AND session = ?",
                    (watch.topic, self._session.id),
                )

    def enter_again(self, transaction: Transaction, session: str) -> None:
        """Enter every watch for a session made anew; all callbacks are due, for who knows."""
        with self._lock:
            for topic, watches in self._watches.items():
                transaction.execute(
                    "INSERT OR IGNORE INTO watches VALUES (?, ?, 0)", (topic, session)
                )
                for watch in watches:
                    watch.seen = -1
        self._sessions_changed = True

    # --- state

    def on_state(self, callback: Callable[[SessionState], None]) -> Cancel:
        """Call `callback` on the calling thread with each new state of the session."""
        with self._lock:
            self._state_callbacks.append(callback)
        self.start()

        def cancel() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._state_callbacks.remove(callback)

        return cancel

    def tell_state(self, state: SessionState) -> None:
        """Tell those who asked, if it is another state than they were told last."""
        with self._lock:
            if state is self._told_state:
                return
            self._told_state = state
            callbacks = list(self._state_callbacks)
        for callback in callbacks:
            self.call(functools.partial(self._call_if_wanted, callback, state))

    def _call_if_wanted(
        self, callback: Callable[[SessionState], None], state: SessionState
    ) -> None:
        with self._lock:
            wanted = callback in self._state_callbacks
        if wanted:
            callback(state)

    # --- the calling thread

    def call(self, deed: Callable[[], None]) -> None:
        """Have the calling thread do something, after what it was given before."""
        with self._lock:
            if self._calling is None:
                self._calling = threading.Thread(
                    target=self._call_all, name="registry-callbacks", daemon=True
                )
                self._calling.start()
        self._calls.put(deed)

    def _call_all(self) -> None:
        while (deed := self._calls.get()) is not None:
            try:
                deed()
            except Exception:  # one callback's error must not silence the others
                if not self._stopping:
                    log.exception("a callback of %s failed", self._folder.url)

    def _run_watch(self, watch: _Watch) -> None:
        with self._lock:
            watch.due = False
            if watch.cancelled or self._stopping:
                return
        watch.callback()

    # --- the looking thread

    def start(self) -> None:
        """Start the looking thread, if it does not run yet, and have it look."""
        with self._lock:
            if self._stopping:
                return
            if self._looking is None:
                self._wake_sender, receiver = socket.socketpair()
                self._wake_sender.setblocking(False)
                receiver.setblocking(False)
                self._looking = threading.Thread(
                    target=self._look_around, args=(receiver,), name="registry-watch", daemon=True
                )
                self._looking.start()
                return
        self.wake()

    def wake(self) -> None:
        """Have the looking thread look now, if it runs."""
        if self._wake_sender is not None:
            with contextlib.suppress(OSError):
                self._wake_sender.send(b"!")

    def _look_around(self, wake: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        deaths = DeathWatch(self._folder, selector)
        nudges: socket.socket | None = None
        version: int | None = None
        selector.register(wake, selectors.EVENT_READ, _WAKE)
        try:
            while not self._stopping:
                if nudges is not self._session.nudges:
                    nudges = self._follow_nudges(selector, nudges)
                for key, _ in selector.select(_NET):
                    if key.data is _WAKE or key.data is _NUDGE:
                        _drain(key.fileobj)
                    else:
                        deaths.ended(key.data)
                if not self._stopping:
                    version = self._look(deaths, version)
        except Exception:  # a thread that dies must not die in silence
            log.exception("%s is not watched any more", self._folder.url)
        finally:
            deaths.close()
            selector.close()
            wake.close()

    def _follow_nudges(
        self, selector: selectors.BaseSelector, old: socket.socket | None
    ) -> socket.socket | None:
        if old is not None:
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(old)  # closed, and with it gone from the kernel's list
        new = self._session.nudges
        if new is not None:
            selector.register(new, selectors.EVENT_READ, _NUDGE)
        return new

    def _look(self, deaths: DeathWatch, version: int | None) -> int | None:
        """Look once at everything; return the version of the data that was seen."""
        try:
            self.tell_state(self._state())
            found = self._store.data_version()
            if found != version:
                self._look_at_counters()
            if self._sessions_changed and SESSIONS_TOPIC in self._watches:
                self._follow_sessions(deaths)
                self._sessions_changed = False
            dead = deaths.dead()
            if dead:
                self._on_deaths(dead)
            self._each_second()
            self.tell_state(self._state())
            return found
        except (RegistryError, OSError) as error:
            # Whoever asks is told; here it is tried again, within a second.
            log.debug("looking at %s: %s", self._folder.url, error)
            return None

    def _look_at_counters(self) -> None:
        if not self._session.published and not self._session.lost:
            return
        if self._session.lost or not self._store.rows(
            "SELECT 1 FROM sessions WHERE session = ?", (self._session.id,)
        ):
            self._on_loss()
        counters = dict(
            self._store.rows(
                "SELECT topic, changed FROM watches WHERE session = ?", (self._session.id,)
            )
        )
        fired: list[_Watch] = []
        with self._lock:
            for topic, changed in counters.items():
                for watch in self._watches.get(topic, ()):
                    if changed > watch.seen:
                        watch.seen = changed
                        if not watch.due:
                            watch.due = not watch.urgent
                            fired.append(watch)
        for watch in fired:
            if watch.urgent:
                watch.callback()
            else:
                self.call(functools.partial(self._run_watch, watch))

    def _follow_sessions(self, deaths: DeathWatch) -> None:
        rows = self._store.rows(
            "SELECT session, boot_id, pid_namespace, pid, process_start FROM sessions"
        )
        deaths.follow({row[0]: tuple(row[1:]) for row in rows if row[0] != self._session.id})

    # --- the end

    def stop_looking(self) -> None:
        """End the looking thread; callbacks of watches are not begun any more."""
        with self._lock:
            self._stopping = True
            looking = self._looking
        self.wake()
        if looking is not None and looking is not threading.current_thread():
            looking.join(2 * OPERATION_TIMEOUT)

    def stop_calling(self) -> None:
        """End the calling thread after what it was given; a callback may call this."""
        self._calls.put(None)
        calling = self._calling
        if calling is not None and calling is not threading.current_thread():
            calling.join(OPERATION_TIMEOUT)
        if self._wake_sender is not None:
            self._wake_sender.close()
            self._wake_sender = None

    def let_go(self) -> None:
        """Forget the threads: in a forked child they do not run."""
        self._stopping = True
        self._lock = threading.Lock()
        self._looking = self._calling = None
        if self._wake_sender is not None:
            self._wake_sender.close()
            self._wake_sender = None


def _drain(receiver: object) -> None:
    assert isinstance(receiver, socket.socket)
    with contextlib.suppress(OSError):
        while receiver.recv(4096):
            pass
