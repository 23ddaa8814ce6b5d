"""A second real process with a registry, driven by a test over its standard input and output.

`RegistryProcess` is the test's end. The other end is this file run as a
program: it reads one order a line, `{"do": NAME, ...}`, and answers with
`{"value": ...}` or `{"error": CLASS, "message": TEXT}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from registry.contract import (
    KeyRecord,
    Lock,
    LockOwner,
    PresenceRecord,
    Registry,
    RegistryError,
    RegistrySettings,
    VersionConflict,
)
from registry.processes import this_process
from tests.system.ordered_process import OrderedProcess

SESSION_TIMEOUT = 3.0
LOCK_DELAY = 0.5


def new_registry(url: str) -> Registry:
    """Make a registry of the kind that `url` names, quick to see a death."""
    settings = RegistrySettings(url=url, session_timeout=SESSION_TIMEOUT, lock_delay=LOCK_DELAY)
    if url.startswith("embedded:"):
        from registry.embedded import EmbeddedRegistry

        return EmbeddedRegistry(settings)
    from registry.zookeeper import ZooKeeperRegistry

    return ZooKeeperRegistry(settings)


def presence_record(name: str, generation: str = "g1", **changes: Any) -> PresenceRecord:
    """Make the presence of this process under a name."""
    me = this_process()
    fields: dict[str, Any] = {
        "kind": "node",
        "address": "tcp://127.0.0.1:4711",
        "public_key": f"{name:-<40}",
        "actors": ("flock_api", "info"),
        "host": me.host,
        "boot_id": me.boot_id,
        "pid_namespace": me.pid_namespace,
        "pid": me.pid,
        "process_start": me.process_start,
        "started": "2026-01-31T12:00:00Z",
        "protocol": 1,
        "version": "0.1",
    }
    return PresenceRecord(name=name, generation=generation, **{**fields, **changes})


class RegistryProcess(OrderedProcess):
    """Another process with the registry at `url` open."""

    def __init__(self, url: str) -> None:
        super().__init__("tests.system.registry_process", url)
        assert self.result() == "open"


# --- the other process ---------------------------------------------------------


class _Orders:
    """What the other process can be told to do; every public method is an order."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._locks: dict[str, Lock] = {}

    def announce(self, name: str, generation: str = "g1", **changes: Any) -> None:
        self._registry.announce(presence_record(name, generation, **changes))

    def withdraw(self) -> None:
        self._registry.withdraw()

    def node_names(self) -> list[str]:
        return self._registry.node_names()

    def enter_key(self, public_key: str, name: str, lasting: bool) -> None:
        self._registry.enter_key(KeyRecord(public_key, name, "node", lasting, "g1"))

    def read(self, path: str) -> Any:
        document = self._registry.read(path)
        return None if document is None else document.value

    def write(self, path: str, value: Any) -> int:
        return self._registry.write(path, value)

    def delete(self, path: str) -> bool:
        return self._registry.delete(path)

    def append(self, queue: str, value: Any) -> int:
        return self._registry.append(queue, value)

    def count_up(self, path: str, times: int) -> None:
        """Add one to a number, `times` times, each by compare-and-set."""
        for _ in range(times):
            while True:
                document = self._registry.read(path)
                version, number = (document.version, document.value) if document else (0, 0)
                try:
                    self._registry.write(path, number + 1, version=version)
                except VersionConflict:
                    continue
                break

    def count_up_under_lock(self, path: str, lockid: str, times: int) -> None:
        """Add one to a number, `times` times, protected by nothing but a lock."""
        for _ in range(times):
            lock = self._registry.acquire(lockid, self._owner(), wait=30.0)
            document = self._registry.read(path)
            self._registry.write(path, (document.value if document else 0) + 1, under=lock)
            lock.release()

    def acquire(
        self,
        lockid: str,
        wait: float | None = 10.0,
        slots: int = 1,
        keep: bool = False,
        owner: str = "",
    ) -> list[int]:
        me = LockOwner(owner, "here") if owner else self._owner()
        lock = self._registry.acquire(lockid, me, wait=wait, slots=slots, keep=keep)
        self._locks[lockid] = lock
        return [lock.slot, lock.token]

    def release(self, lockid: str) -> None:
        self._locks.pop(lockid).release()

    def write_under(self, path: str, value: Any, lockid: str) -> int:
        return self._registry.write(path, value, under=self._locks[lockid])

    def lock_state(self, lockid: str) -> str:
        return self._locks[lockid].state().value

    def fork_a_child(self) -> int:
        """Fork a child that lives on, whatever becomes of this process, for a minute."""
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            while True:
                signal.pause()
        return child

    def ask_in_a_child(self) -> str:
        """Fork a child that asks the registry; return what became of that."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = str(self._registry.node_names())
            except RegistryError as error:
                said = type(error).__name__
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as answer:
            return answer.read()

    @staticmethod
    def _owner() -> LockOwner:
        return LockOwner(f"process-{os.getpid()}", "here")


def main(url: str) -> None:
    """Open the registry and follow orders until standard input ends."""
    registry = new_registry(url)
    registry.open(10.0)
    orders = _Orders(registry)
    print(json.dumps({"value": "open"}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": getattr(orders, order.pop("do"))(**order)}
        except Exception as error:  # noqa: BLE001 - the test's end raises it
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)
    registry.close()


if __name__ == "__main__":
    main(sys.argv[1])
