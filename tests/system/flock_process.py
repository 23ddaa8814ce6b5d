"""A second real process in the flock, driven by a test over its standard input and output.

`FlockProcess` is the test's end. The other end is this file run as a program:
a node (or visitor) with the actors below, that reads one order a line,
`{"do": NAME, ...}`, and answers with `{"value": ...}` or
`{"error": CLASS, "message": TEXT, "may_have_run": BOOL}`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pykka

from flock import Actor, Flock, internal
from flock.errors import CallError
from tests.system.ordered_process import OrderedProcess

SESSION_TIMEOUT = 4.0


# --- actors ----------------------------------------------------------------------


class Base(Actor):
    """Offers a method that a class below it inherits."""

    def inherited(self) -> str:
        return "inherited"


class Target(Base):
    """What the tests call; what it did is also written to a file, which outlives a kill."""

    constant = 7

    def __init__(self, effects: str | None = None) -> None:
        super().__init__()
        self.effects = effects
        self.notes: list[Any] = []
        self.promised: list[Any] = []
        self.kept: Any = None

    @property
    def shown(self) -> str:
        return "a property"

    @staticmethod
    def still() -> str:
        return "a static method"

    @classmethod
    def of_class(cls) -> str:
        return "a class method"

    @internal
    def hidden(self) -> str:
        return "hidden"

    def _private(self) -> str:
        return "private"

    def add(self, first: int, second: int = 1) -> int:
        return first + second

    def echo(self, value: Any) -> Any:
        return value

    def size(self, value: bytes) -> int:
        return len(value)

    def bytes_of(self, count: int) -> bytes:
        return b"x" * count

    def note(self, what: Any) -> None:
        self.notes.append(what)

    def read(self) -> list[Any]:
        return self.notes

    def work(self, what: str, seconds: float = 0.0) -> str:
        """Leave a trace, then take a while."""
        self._leave_trace(what)
        time.sleep(seconds)
        return what

    def hold_everything(self, seconds: int) -> None:
        """Let no thread of this process run: C code does not let go of the interpreter."""
        ctypes.PyDLL(None).sleep(seconds)

    def work_until(self, path: str, what: str = "") -> str:
        """Leave a trace, if `what` says one, and take as long as there is no file at `path`."""
        if what:
            self._leave_trace(what)
        wait_for(path)
        return "done"

    def _leave_trace(self, what: str) -> None:
        assert self.effects is not None
        with open(self.effects, "a", encoding="ascii") as file:
            file.write(what + "\n")

    def raise_value_error(self, text: str) -> None:
        raise ValueError(text)

    def raise_own_error(self, what: str = "") -> None:
        if what:
            self._leave_trace(what)
        raise OwnError("of my own")

    def work_and_give(self, what: str) -> Any:
        """Leave a trace and answer with what cannot travel."""
        self._leave_trace(what)
        return threading.Lock()

    def leave_python(self) -> None:
        sys.exit(3)

    def give_a_socket(self) -> Any:
        self._leave_trace("gave")
        return threading.Lock()

    def promise(self, what: str, seconds: float) -> Any:
        """Answer later, from another thread."""
        answer = self.later()
        timer = threading.Timer(seconds, answer.set, (what,))
        timer.daemon = True
        timer.start()
        return answer

    def promise_until(self, path: str, what: str) -> Any:
        """Answer from another thread, once there is a file at `path`."""
        answer = self.later()

        def keep() -> None:
            wait_for(path)
            answer.set(what)

        threading.Thread(target=keep, daemon=True).start()
        return answer

    def promise_for_ever(self) -> Any:
        self.promised.append(self.later())
        return self.promised[-1]

    def promise_of_pykka(self, what: str) -> Any:
        answer: Any = pykka.ThreadingFuture()
        timer = threading.Timer(0.2, answer.set, (what,))
        timer.daemon = True
        timer.start()
        return answer

    def promise_of_another(self, other: Any, number: int) -> Any:
        return other.add.future(number, 1).map(lambda value: value * 10)

    def call_method(self, other: Any, method: str, *args: Any) -> Any:
        """Call another actor and wait for it."""
        return getattr(other, method)(*args)

    def end_of_call(self, other: Any, method: str, *args: Any) -> list[Any]:
        """Call another actor; return the error's class, text and `may_have_run`."""
        try:
            getattr(other, method)(*args)
        except CallError as error:
            return [type(error).__name__, str(error), error.may_have_run]
        return []

    def work_and_promise(self, what: str) -> Any:
        """Leave a trace and answer never."""
        self._leave_trace(what)
        return self.later()

    def keep(self, handle: Any) -> Any:
        self.kept = handle
        return handle

    def name_of(self, node: Any) -> str:
        return f"{node.name} {node['other'].inherited()}"

    def end(self) -> None:
        self.stop()


def wait_for(path: str) -> None:
    """Wait until there is a file at `path`, a minute at most."""
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


class OwnError(Exception):
    """A class that exists on one side only."""


class Plain(pykka.ThreadingActor):
    """An actor that knows nothing of us."""

    def add(self, first: int, second: int) -> int:
        return first + second


# --- what a process keeps --------------------------------------------------------


def what_is_kept() -> dict[str, int]:
    """Count what this process has: `threads`, `files`, Python's own `objects`, `kib` of memory."""
    gc.collect()
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "kib": psutil.Process().memory_info().rss // 1024,
    }


def slowest_call(flock: Flock, names: list[str], seconds: float) -> float:
    """Call `target` of each node in turn, for so long; return how long the slowest took.

    Every node is called once at least.
    """
    targets = [flock[name]["target"] for name in names]
    worst, until = 0.0, time.monotonic() + seconds
    while True:
        for target in targets:
            began = time.monotonic()
            assert target.add(1, 1) == 2
            worst = max(worst, time.monotonic() - began)
            if time.monotonic() > until and seconds:
                return worst
            time.sleep(0.004)
        if not seconds:
            return worst


# --- the test's end --------------------------------------------------------------


class FlockProcess(OrderedProcess):
    """Another process in the flock."""

    def __init__(self, name: str | None, registry: str, folder: Path, **settings: Any) -> None:
        """Start it; returns once it has joined.

        Args:
            name: of the node; None for a visitor.
            registry: URL.
            folder: of the test; it keeps its state and its effects there.
            settings: of `Flock`; `keys` as a pair of texts.
        """
        self.effects_file = folder / f"effects of {name}"
        self.effects_file.touch()
        order = {
            "name": name,
            "registry": registry,
            "state_dir": str(folder / f"state of {name}"),
            "effects": str(self.effects_file),
            "session_timeout": SESSION_TIMEOUT,
            **settings,
        }
        log = folder / f"log of {name}"
        super().__init__("tests.system.flock_process", json.dumps(order), log)
        try:
            self.address: str = self.result(within=60.0)
        except BaseException:
            self.kill()
            raise

    def effects(self) -> list[str]:
        """Return what its actors did, in order."""
        return self.effects_file.read_text().split()

    def call(self, node: str, actor: str, method: str, *args: Any, **more: Any) -> Any:
        """Let it call an actor; `timeout` is the call's."""
        return self.do("call", node=node, actor=actor, method=method, args=args, **more)


Start = Callable[..., FlockProcess]
"""What starts a process by the name it is to have: the fixture `start`."""


# --- the other process -----------------------------------------------------------


class _Orders:
    """What the other process can be told to do; every public method is an order."""

    def __init__(self, flock: Flock, start: Callable[[Any], Flock]) -> None:
        self._flock = flock
        self._start = start
        self._crowd: list[Flock] = []

    def call(
        self, node: str, actor: str, method: str, args: list[Any], timeout: float | None = None
    ) -> Any:
        proxy = self._flock[node][actor]
        if timeout is not None:
            proxy = proxy.options(timeout=timeout)
        return getattr(proxy, method)(*args)

    def names(self) -> list[str]:
        return list(self._flock)

    def stop_actor(self, name: str) -> None:
        self._flock.node.supervisor.remove(name)

    def start_anew(self, keys: list[str] | None = None) -> str:
        """Leave and join again, as a restarted process does; return the new address."""
        self._flock.close()
        self._flock = self._start(keys)
        return self._flock.node.address

    def visit(self, node: str, times: int) -> None:
        """Join as another visitor, call, tell and leave, again and again."""
        for number in range(times):
            with Flock(registry=self._flock.registry.url) as visitor:
                target = visitor[node]["target"]
                target.note.defer(number)
                assert target.add(number, 1) == number + 1

    def gather(self, names: list[str], folder: str) -> None:
        """Be more nodes, each with its own socket and an actor `target`."""
        for name in names:
            flock = Flock(
                name=name, registry=self._flock.registry.url, state_dir=f"{folder}/state of {name}"
            ).start()
            flock.supervise(Target, name="target")
            self._crowd.append(flock)

    def slowest(self, names: list[str], seconds: float) -> float:
        return slowest_call(self._flock, names, seconds)

    def kept(self) -> dict[str, int]:
        return what_is_kept()

    def close(self) -> None:
        for flock in (*self._crowd, self._flock):
            flock.close()


def main(order: dict[str, Any]) -> None:
    """Join the flock and follow orders until standard input ends."""
    effects = order.pop("effects")
    first_keys = order.pop("keys", None)

    def start(keys: list[str] | None) -> Flock:
        kept = (keys[0].encode(), keys[1].encode()) if keys else None
        flock = Flock(**order, keys=kept).start()
        if order["name"] is not None:
            flock.supervise(Target, effects, name="target")
            flock.supervise(Target, effects, name="other")
            flock.supervise(Plain, name="plain")
        return flock

    try:
        flock = start(first_keys)
    except Exception as error:  # noqa: BLE001 - the test's end raises it
        _say(_failure(error))
        return
    orders = _Orders(flock, start)
    _say({"value": flock.node.address})
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            answer = {"value": getattr(orders, wanted.pop("do"))(**wanted)}
        except Exception as error:  # noqa: BLE001 - the test's end raises it
            answer = _failure(error)
        _say(answer)
    orders.close()


def _failure(error: Exception) -> dict[str, Any]:
    may_have_run = error.may_have_run if isinstance(error, CallError) else None
    return {"error": type(error).__name__, "message": str(error), "may_have_run": may_have_run}


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
