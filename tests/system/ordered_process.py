"""The test's end of a second real process that does as it is told.

The other end reads one order a line from its standard input, `{"do": NAME, …}`,
and answers with `{"value": …}` or `{"error": CLASS, "message": TEXT, …}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class OtherSideFailed(AssertionError):
    """The other process answered with an error; its class's name stands in front.

    Attributes:
        kind: the error's class.
        may_have_run: of a call's error; None for others.
    """

    def __init__(self, kind: str, message: str, may_have_run: bool | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.may_have_run = may_have_run


class OrderedProcess:
    """Another process, given orders one by one."""

    def __init__(self, module: str, argument: str, log: Path | None = None) -> None:
        """Start `module` as a program.

        Args:
            module: its name, with packages.
            argument: its only one.
            log: takes its standard error; None leaves that with ours.
        """
        self._log = log
        with contextlib.ExitStack() as stack:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, argument],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if log is None else stack.enter_context(log.open("a")),
                text=True,
            )
        self.pid = self._process.pid

    def begin(self, do: str, **order: Any) -> None:
        """Give an order without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    def result(self, within: float = 40.0) -> Any:
        """Return the answer to the order given last, at most `within` seconds later."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], within)
        assert readable, f"the other process did not answer within {within:g} s"
        line = self._process.stdout.readline()
        assert line, f"the other process is gone: {self.said()[-2000:]}"
        answer = json.loads(line)
        if "error" in answer:
            raise OtherSideFailed(answer["error"], answer["message"], answer.get("may_have_run"))
        return answer["value"]

    def said(self) -> str:
        """Return what it wrote to its log; empty without one."""
        return "" if self._log is None else self._log.read_text()

    def do(self, do: str, **order: Any) -> Any:
        """Give an order and return its answer."""
        self.begin(do, **order)
        return self.result()

    def kill(self) -> None:
        """End the process with `kill -9`, and collect it."""
        self._process.kill()
        self._close()

    def pause(self) -> None:
        """Stop the process with SIGSTOP; it is stopped when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Let the process leave in its own way; kill it if it does not."""
        if self._process.poll() is None:
            self.go_on()
            assert self._process.stdin is not None
            try:
                self._process.stdin.close()
                self._process.wait(15.0)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait(20.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
