"""A process that takes and releases locks, and says what it does: driven by `lock_chaos`.

Run as a program with one argument, an order as JSON. It ends when its
standard input does. What it holds is written to the journals in the registry,
under the lock where the kind of lock can do that; what it believes, line by
line, to a file of its own.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from registry.contract import (
    Lock,
    LockOwner,
    LockTimeout,
    Registry,
    RegistryError,
    RegistrySettings,
    VersionConflict,
)

CHUNK = 100
"""Entries in one document of a journal."""

_LOOK_PAUSE = 0.05
"""Seconds between two questions whether the lock is held."""

_LONG_SHARE, _LONG_FACTOR = 0.08, 8
"""Some sections last for as long as a cut, and see the lock become doubtful and go."""

_LONG_AFTER = 15.0
"""Seconds of a process without such sections: many are to be served while all is calm."""


def journal_of(registry: Registry, lock: str) -> list[dict[str, Any]]:
    """Return the journal of a lock, in the order it was written."""
    entries: list[dict[str, Any]] = []
    for number in sorted(registry.children(f"history/{lock}"), key=int):
        document = registry.read(f"history/{lock}/{number}")
        entries += document.value if document else []
    return entries


def open_registry(url: str, session_timeout: float, lock_delay: float) -> Registry:
    """Open the registry of a URL."""
    settings = RegistrySettings(url=url, session_timeout=session_timeout, lock_delay=lock_delay)
    registry: Registry
    if url.startswith("embedded:"):
        from registry.embedded import EmbeddedRegistry

        registry = EmbeddedRegistry(settings)
    else:
        from registry.zookeeper import ZooKeeperRegistry

        registry = ZooKeeperRegistry(settings)
    registry.open(20.0)
    return registry


class Journal:
    """The journals of all locks, appended to by compare-and-set."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._chunk: dict[str, int] = {}

    def append(self, lock: str, entry: dict[str, Any], under: Lock | None) -> None:
        """Append to the journal of a lock; `LockLost` if `under` is not ours any more."""
        while True:
            number = self._chunk.setdefault(lock, 0)
            path = f"history/{lock}/{number}"
            document = self._registry.read(path)
            entries = document.value if document else []
            if entry in entries:
                return  # written, and the answer was lost
            if len(entries) >= CHUNK:
                self._chunk[lock] = number + 1
                continue
            version = document.version if document else 0
            try:
                self._registry.write(path, [*entries, entry], version=version, under=under)
            except VersionConflict:
                continue
            return


class Taken(Protocol):
    """A lock that was got, of whatever kind."""

    slot: int
    token: int

    def held(self) -> bool: ...

    def release(self) -> None: ...

    @property
    def fence(self) -> Lock | None: ...


class OurLock:
    """A lock of the registry."""

    def __init__(self, lock: Lock) -> None:
        self.slot, self.token = lock.slot, lock.token
        self.fence: Lock | None = lock
        self.held: Callable[[], bool] = lambda: lock.held
        self.release = lock.release


class KazooLock:
    """`kazoo.recipe.lock.Lock`, used as its manual shows."""

    def __init__(self, client: Any, lock: Any) -> None:
        self.slot, self.token = 0, int(lock.node[-10:])
        self.fence: Lock | None = None
        self._client, self._lock = client, lock

    def held(self) -> bool:
        return bool(self._lock.is_acquired)

    def release(self) -> None:
        self._lock.release()


class NoLock:
    """A lock that is broken on purpose: who does not get it soon thinks that he has."""

    def __init__(self, token: int) -> None:
        self.slot, self.token = 0, token
        self.fence: Lock | None = None

    def held(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Worker:
    """One process of the test."""

    def __init__(self, order: dict[str, Any], over: threading.Event) -> None:
        self._name: str = order["name"]
        self._slots: dict[str, int] = order["slots"]
        self._kind: str = order["kind"]
        self._sections: tuple[float, float] = tuple(order["sections"])
        self._random = random.Random(order["seed"])
        self._over = over
        self._began = time.monotonic()
        self._log = open(order["log"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._registry = open_registry(order["url"], order["session_timeout"], order["lock_delay"])
        self._journal = Journal(self._registry)
        self._client: Any = None
        if self._kind == "kazoo":
            from kazoo.client import KazooClient

            self._client = KazooClient(order["hosts"], timeout=order["session_timeout"])
            self._client.start(20)

    def run(self) -> None:
        """Take one lock after the other until it is over."""
        while not self._over.is_set():
            # Half of all want the first, so that there are always some in line.
            names = sorted(self._slots)
            weights = [max(1, len(names) - 1), *[1] * (len(names) - 1)]
            (lock,) = self._random.choices(names, weights)
            self._say("asked", lock)
            try:
                taken = self._take(lock)
            except Exception as error:  # noqa: BLE001 - faults are what this is about
                self._say("gave up", lock, error=repr(error))
                self._over.wait(0.2)
                continue
            self._work_under(lock, taken)
            self._over.wait(self._random.uniform(0.0, 0.1))
        if self._client is not None:
            self._client.stop()
        self._registry.close()

    def _take(self, lock: str) -> Taken:
        if self._kind == "kazoo":
            recipe = self._client.Lock(f"/chaos/{lock}", self._name)
            if not recipe.acquire(timeout=30):
                raise TimeoutError(lock)
            return KazooLock(self._client, recipe)
        wait = 0.3 if self._kind == "broken" else 30.0
        owner = LockOwner(self._name, "here")
        try:
            return OurLock(self._registry.acquire(lock, owner, wait=wait, slots=self._slots[lock]))
        except LockTimeout:
            if self._kind == "broken":
                return NoLock(time.monotonic_ns())
            raise

    def _work_under(self, lock: str, taken: Taken) -> None:
        entry = {"worker": self._name, "slot": taken.slot, "token": taken.token}
        looks = round(self._random.uniform(*self._sections) / _LOOK_PAUSE)
        is_settled = time.monotonic() - self._began > _LONG_AFTER
        if self._kind == "ours" and is_settled and self._random.random() < _LONG_SHARE:
            looks *= _LONG_FACTOR
        try:
            self._say_held("granted", lock, taken)
            self._write(lock, {**entry, "event": "enter"}, taken)
            # Counted, not timed: who stood still goes on with what he was at, if he is let.
            for _ in range(looks):
                if not self._say_held("held", lock, taken):
                    break
                time.sleep(_LOOK_PAUSE)
            self._write(lock, {**entry, "event": "leave"}, taken)
            self._say("left", lock, taken)
        except Exception as error:  # noqa: BLE001 - faults are what this is about
            self._say("lost", lock, taken, error=repr(error))
        finally:
            try:
                taken.release()
            except Exception as error:  # noqa: BLE001 - as above; kazoo's raises what it likes
                self._say("release failed", lock, taken, error=repr(error))

    def _write(self, lock: str, entry: dict[str, Any], taken: Taken) -> None:
        """Write to the journal; in an outage again and again, until the fence says no."""
        for _ in range(30):
            try:
                self._journal.append(lock, entry, taken.fence)
            except ConnectionError:
                self._over.wait(0.2)
                continue
            return
        raise RegistryError("the journal cannot be written")

    def _say_held(self, event: str, lock: str, taken: Taken) -> bool:
        """Ask the guard, and say so with the time before it was asked."""
        at = _clock()
        held = taken.held()
        if held:
            self._say(event, lock, taken, at=at)
        return held

    def _say(
        self,
        event: str,
        lock: str,
        taken: Taken | None = None,
        at: float | None = None,
        error: str = "",
    ) -> None:
        said: dict[str, Any] = {"at": at or _clock(), "event": event, "lock": lock}
        if taken is not None:
            said |= {"slot": taken.slot, "token": taken.token}
        if error:
            said["error"] = error
        self._log.write(json.dumps(said) + "\n")


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    """Follow the order until standard input ends."""
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    Worker(json.loads(sys.argv[1]), over).run()


if __name__ == "__main__":
    main()
