"""Who may talk to this process: the keys that the registry knows, and nobody else.

libzmq asks a ZAP handler about every new connection's key. Ours answers at
once for keys it knows and looks unknown ones up in the registry on another
thread, so that nobody waits behind them. A key that is not there is refused
(400); a registry that cannot be asked is answered 500, and the caller told so.
The socket side enforces the domain: without a handler nobody gets in.

A key is asked about at the handshake only, so whoever reads messages asks
`known` again for each: a key record that was removed cuts its holder off.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import zmq
from zmq.utils import z85

from flock.errors import RegistryError
from flock.lanes import monitor_event
from flock.timers import Timer, clock
from registry.contract import Cancel, KeyRecord, Registry

logger = logging.getLogger(__name__)

DOMAIN = b"flock"
_ENDPOINT = "inproc://zeromq.zap.01"
_ANSWERS = "inproc://flock.admission"
_ASK_AGAIN = 1.0  # seconds
_COME_BACK_WITHIN = 3.5  # seconds; a removed key must be cut off within 5
_REFUSED_FOR = 1.0  # seconds a "no" is remembered
_MAX_REFUSED = 10_000
_LOOK_UPS = 4
_LOG_AGAIN = 60.0  # seconds until the same failure is logged again

FAILURES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""What `Admission.start` wants to hear of."""

# Of two that disagree about encryption either may see it first, and hang up.
_NO_ENCRYPTION = "it came without encryption, or broke off"
_REASONS = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): _NO_ENCRYPTION,
    errno.EPIPE: _NO_ENCRYPTION,
    errno.ECONNRESET: _NO_ENCRYPTION,
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "it does not know our key",
}


class Admission:
    """The ZAP handler of one context, and the table of keys it let in.

    Attributes:
        known: from a public key (Z85) to its record if it was let in and still
            stands, else None; asks nobody. It is called for every message, and
            so is the table's own.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], registry: Registry) -> None:
        """Make it; `start` binds and answers.

        Args:
            context: the one whose sockets it answers for.
            registry: where keys are looked up.
        """
        self._context = context
        self._registry = registry
        self._known: dict[bytes, KeyRecord] = {}
        self.known: Callable[[bytes], KeyRecord | None] = self._known.get
        self._watches: dict[bytes, Cancel] = {}
        self._refused: dict[bytes, float] = {}
        self._pool = ThreadPoolExecutor(_LOOK_UPS, thread_name_prefix="flock-admission")
        self._answers_lock = threading.Lock()
        self._answers: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._removed: Callable[[bytes], None] = lambda _: None
        # How often the watch of a key brought news: a look-up that began before
        # must not let in a key that was removed meanwhile.
        self._changes: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._later: dict[bytes, Timer] = {}
        self._closed = False
        self._quiet_until: dict[str, float] = {}

    def start(
        self, removed: Callable[[bytes], None], failures: zmq.Socket[bytes] | None = None
    ) -> None:
        """Begin to answer.

        Args:
            removed: called with a key (Z85) that was let in and is known no longer.
            failures: the monitor (of `FAILURES`) of the socket that is knocked at:
                who has no encryption never comes as far as to be asked about.
                Closed at the end.
        """
        self._removed = removed
        handler = self._context.socket(zmq.ROUTER)
        handler.linger = 0
        handler.bind(_ENDPOINT)
        results = self._context.socket(zmq.PULL)
        results.linger = 0
        results.bind(_ANSWERS)
        self._answers = self._context.socket(zmq.PUSH)
        self._answers.linger = 0
        self._answers.connect(_ANSWERS)
        self._thread = threading.Thread(
            target=self._run,
            args=(handler, results, failures),
            name="flock-admission",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering: from now on nobody gets in."""
        with self._lock:
            self._closed = True
            timers = list(self._later.values())
        clock.discard(timers)
        if self._thread is None:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._post([b""])
        self._thread.join()
        with self._answers_lock:
            if self._answers is not None:
                self._answers.close()
                self._answers = None
        for cancel in list(self._watches.values()):
            cancel()

    def _run(
        self,
        handler: zmq.Socket[bytes],
        results: zmq.Socket[bytes],
        failures: zmq.Socket[bytes] | None,
    ) -> None:
        poller = zmq.Poller()
        if failures is not None:
            poller.register(failures, zmq.POLLIN)
        poller.register(handler, zmq.POLLIN)
        poller.register(results, zmq.POLLIN)
        with handler, results, failures or contextlib.nullcontext():
            while True:
                for socket, _ in poller.poll():
                    frames = socket.recv_multipart()
                    if socket is results:
                        if frames == [b""]:
                            return
                        handler.send_multipart(frames)
                        continue
                    if socket is failures:
                        self._note_failure(frames)
                        continue
                    try:
                        self._answer(handler, frames)
                    except Exception:
                        # One odd request must not end admission for everybody.
                        logger.exception("a handshake could not be judged")

    def _note_failure(self, frames: list[bytes]) -> None:
        """Log a handshake that failed before any key was shown: once a minute and reason."""
        _, value = monitor_event(frames)
        if value == errno.EAGAIN:
            return  # it fell silent: a process that stands still, say
        reason = _REASONS.get(value, "it did not speak as our processes do")
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, 0.0):
            self._quiet_until[reason] = now + _LOG_AGAIN
            logger.warning("refused a connection: %s", reason)

    def _answer(self, handler: zmq.Socket[bytes], frames: list[bytes]) -> None:
        """Answer a request for a known key, or have it looked up."""
        empty = frames.index(b"")
        route, request = frames[: empty + 1], frames[empty + 1 :]
        version, request_id, domain, address, _, mechanism = request[:6]
        if (version, domain, mechanism) != (b"1.0", DOMAIN, b"CURVE") or len(request) < 7:
            handler.send_multipart(_reply(route, request_id, b"400", b"not of this flock"))
            return
        public_key = z85.encode(request[6])
        if public_key in self._known:
            handler.send_multipart(_reply(route, request_id, b"200", b"", public_key))
        elif self._refused.get(public_key, 0.0) > time.monotonic():
            handler.send_multipart(_reply(route, request_id, b"400", b"unknown key"))
        else:
            self._pool.submit(self._look_up, route, request_id, public_key, address.decode())

    def _look_up(self, route: list[bytes], request_id: bytes, key: bytes, address: str) -> None:
        try:
            record = self._asked(key)
        except RegistryError as error:
            logger.warning("cannot judge a key from %s: %s", address, error)
            self._post(_reply(route, request_id, b"500", b"registry unavailable"))
            return
        except Exception:
            logger.exception("a key from %s could not be judged", address)
            self._post(_reply(route, request_id, b"500", b"internal error"))
            return
        if record is None:
            if len(self._refused) >= _MAX_REFUSED:
                self._refused.clear()
            first = key not in self._refused
            self._refused[key] = time.monotonic() + _REFUSED_FOR
            if first:
                logger.warning("refused a key from %s that the registry does not know", address)
            self._post(_reply(route, request_id, b"400", b"unknown key"))
            return
        self._refused.pop(key, None)
        self._post(_reply(route, request_id, b"200", b"", key))

    def _asked(self, key: bytes) -> KeyRecord | None:
        """Ask the registry for a key's record; one that is there is known from then on."""
        text = key.decode()
        while True:
            # Watched before it is read, so that no change falls between.
            watch = self._watches.get(key)
            if watch is None:
                cancel = self._registry.watch_key(text, lambda: self._check_again(key))
                watch = self._watches.setdefault(key, cancel)
                if watch is not cancel:
                    cancel()
            with self._lock:
                change = self._changes.get(key, 0)
            record = self._registry.key(text)
            with self._lock:
                if self._changes.get(key, 0) != change:
                    continue
                if record is None:
                    break
                # Another watch would be of somebody who asked after ours had told of the end.
                if self._watches.get(key) is watch:
                    self._known[key] = record
                    return record
        self._forget(key)
        return None

    def _forget(self, key: bytes) -> None:
        """Note that a key's record is gone; who had it is cut off."""
        with self._lock:
            was_known = self._known.pop(key, None) is not None
            self._changes.pop(key, None)
            self._later.pop(key, None)
            cancel = self._watches.pop(key, None)
        if cancel is not None:
            cancel()
        if was_known:
            self._removed(key)

    def _check_again(
        self, key: bytes, *, is_last_time: bool = False, is_told: bool = False
    ) -> None:
        """Look at a key's record after it changed; what cannot be asked stays as it was.

        A key that passes with its process is also gone for a moment when the
        registry was away for long; its process enters it anew. So one that
        went together with its process's presence is given time to come back.
        """
        with self._lock:
            self._changes[key] = self._changes.get(key, 0) + 1
            known = self._known.get(key)
        try:
            record = self._registry.key(key.decode())
            may_come_back = (
                record is None
                and known is not None
                and not known.lasting
                and not is_last_time
                and not self._is_present(known)
            )
        except RegistryError as error:
            # The registry tells of a change once: asked again until it answers. Said once, too:
            # an outage may last.
            if not is_told:
                logger.warning("cannot look at a key that changed: %s", error)
            self._check_later(key, _ASK_AGAIN, is_last_time=is_last_time, is_told=True)
            return
        if may_come_back:
            self._check_later(key, _COME_BACK_WITHIN, is_last_time=True)
            return
        if record is None:
            self._forget(key)
            return
        with self._lock:
            self._changes[key] = self._changes.get(key, 0) + 1
            if key in self._known:
                self._known[key] = record

    def _is_present(self, known: KeyRecord) -> bool:
        presence = self._registry.presence(known.name)
        return presence is not None and presence.public_key == known.public_key

    def _check_later(
        self, key: bytes, seconds: float, *, is_last_time: bool, is_told: bool = False
    ) -> None:
        def check(_: Timer) -> None:
            with contextlib.suppress(RuntimeError):  # the pool is closed
                self._pool.submit(
                    self._check_again, key, is_last_time=is_last_time, is_told=is_told
                )

        with self._lock:
            if not self._closed:
                self._later[key] = clock.start(seconds, check)

    def _post(self, frames: list[bytes]) -> None:
        with self._answers_lock:
            if self._answers is not None:
                self._answers.send_multipart(frames)


def _reply(
    route: list[bytes], request_id: bytes, status: bytes, text: bytes, user_id: bytes = b""
) -> list[bytes]:
    return [*route, b"1.0", request_id, status, text, user_id, b""]
