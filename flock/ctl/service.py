"""What a process does that somebody else starts and watches: logs, signals, systemd.

Logs go to standard error, for people or, one JSON object a line, for machines.
systemd is told what happens through the socket that `NOTIFY_SOCKET` names; a
process that systemd did not start has none, and nothing is told.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from types import FrameType

from flock.signals import handle

OURS = ("flock", "registry", "actors")
"""Loggers of this project; other libraries are heard from their warnings on."""

_RECIPES_LOG = "flock.converge.log"
"""Where the resource `log` writes."""

_WAKE_EVERY = 1.0
"""Seconds that a signal waits at most which another thread than the main one took."""

_JOURNAL_LEVELS = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
"""The levels of syslog(3)."""

_SAID_BY_LOGGING = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object, with what was given as `extra` beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {key: each for key, each in vars(record).items() if key not in _SAID_BY_LOGGING}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class JournalLines(logging.Formatter):
    """Writes a record for the journal of systemd, which notes the time by itself.

    Each line begins with its level, as in sd-daemon(3).
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        level = f"<{_JOURNAL_LEVELS.get(record.levelname, 6)}>"
        return "\n".join(level + line for line in super().format(record).splitlines())


class _OneLine(logging.Formatter):
    """Leaves the traceback to those who keep logs, and a recipe's words as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Say that the line is ours, unless a recipe says it."""
        return record.message if record.name == _RECIPES_LOG else super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: ARG002, N802 - logging's name
        """Return nothing."""
        return ""


def log_to_stderr(*, as_json: bool, debug: bool) -> None:
    """Send the logs of a process that runs on to standard error."""
    formatter: logging.Formatter
    if as_json:
        formatter = JsonLines()
    elif _is_journal():
        formatter = JournalLines()
    else:
        formatter = logging.Formatter(
            "%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    # It tells each of its many attempts; that the registry is away we say ourselves.
    logging.getLogger("kazoo").setLevel(logging.DEBUG if debug else logging.CRITICAL)
    threading.excepthook = _log_death_of_thread


def log_warnings_only(*, debug: bool) -> None:
    """Let a command that ends soon say warnings, one line each, beside its own words."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("flockctl: %(message)s"))
    # The events of a run are data here: the command shows them itself.
    handler.addFilter(lambda record: record.name != "flock.converge" or record.module != "events")
    logging.basicConfig(level=logging.CRITICAL, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING)
    # What a registry warns of is for those who keep a node: that it is open, say.
    logging.getLogger("registry").setLevel(logging.DEBUG if debug else logging.ERROR)
    # What a recipe says with `log` is meant to be read wherever it runs.
    logging.getLogger(_RECIPES_LOG).setLevel(logging.DEBUG if debug else logging.INFO)


def _log_death_of_thread(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread is not None else "a thread"
    logging.getLogger("flock").error(
        "%s died: %s",
        name,
        died.exc_value,
        exc_info=(died.exc_type, died.exc_value, died.exc_traceback)
        if died.exc_value is not None
        else None,
    )


class StopSignals:
    """SIGTERM and SIGINT as an event: whoever waits for it leaves cleanly.

    A second SIGINT ends the process at once: who presses Ctrl-C twice does not
    want to wait. Made on the main thread.

    Attributes:
        came: set when a signal came, or by whoever else wants the process to leave.
    """

    def __init__(self) -> None:
        self.came = threading.Event()
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            handle(number, self._take)

    def wait(self) -> None:
        """Wait until one came; on the main thread.

        A process that is stopped and goes on may take a signal on any of its
        threads, and Python handles it when the main thread wakes: so it does,
        now and then.
        """
        while not self.came.wait(_WAKE_EVERY):
            pass

    def _take(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.came.set()


def interrupt_at_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: what it began is ended, then it goes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle(signal.SIGTERM, interrupt)


def tell_systemd(state: str) -> None:
    """Tell systemd `READY=1`, `STOPPING=1` or another of its words; never fails."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect(address)
            notify.sendall(state.encode())
    except OSError as error:
        logging.getLogger("flock").warning("systemd was not told %s: %s", state, error)


def _is_journal() -> bool:
    """Say whether standard error goes to the journal of systemd, as `JOURNAL_STREAM` tells."""
    try:
        ours = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{ours.st_dev}:{ours.st_ino}"


def is_terminal() -> bool:
    """Say whether people look at standard error."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
