"""What a command says: data on standard output, everything else on standard error.

With `--json` standard output holds exactly one JSON value, also when there is
nothing (`[]`) or the command failed (`{"error": …}`). An error is one line;
its traceback is for `--debug`. A reader that goes away (`| head`) is no error:
the rest is dropped and the exit code stays that of the work.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from shutil import get_terminal_size
from typing import Any, TextIO

from flock.errors import (
    ActorNotFound,
    BusyError,
    CallTimeout,
    FlockError,
    MethodNotFound,
    NameTaken,
    NodeDownError,
    NodeNotFound,
    NodeUnreachable,
    NotLetIn,
    NotPermitted,
    RegistryError,
    RegistryUnavailable,
    SettingsError,
    exit_code,
)

EXIT_CODES = (
    (0, "all done"),
    (1, "failed over there"),
    (2, "wrong use"),
    (3, "no such node, actor or method"),
    (4, "no answer, or not in time"),
    (5, "registry unreachable"),
    (6, "refused: busy, overloaded, deadlock"),
    (7, "not let in"),
    (130, "Ctrl-C"),
)
"""What each exit code means, as `flockctl --help` prints it."""

_GRAVITY = (1, 5, 7, 4, 6, 3, 2)
"""Which code several targets with different ends share: the first of these that one has."""

_HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (RegistryUnavailable, "is it running, and is --registry right?"),
    (NotPermitted, "check the user and password of --registry, or the folder's owner"),
    (NodeNotFound, "`flockctl nodes --all` lists who is known"),
    (ActorNotFound, "`flockctl actors {node}` lists them"),
    (MethodNotFound, "`flockctl actors {node}` lists what they offer"),
    (CallTimeout, "give it longer with --timeout"),
    (NodeDownError, "`flockctl nodes` shows whether it is back"),
    (NodeUnreachable, "can each side reach the other's address?"),
    (NotLetIn, "is its key known to the registry?"),
    (BusyError, "`flockctl runs {node}` shows what goes on"),
    (NameTaken, "stop that one, or choose another --name"),
)

_LEAST_FOLDED = 20
"""Characters that the last column of a table keeps, however narrow the terminal is."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Ended(Exception):
    """A command that is over with an exit code of its own.

    Attributes:
        code: the exit code.
        message: one line for standard error; None if all was said.
        kind: what `--json` calls the failure.
    """

    def __init__(self, code: int, message: str | None = None, kind: str = "Ended") -> None:
        super().__init__(message or f"exit code {code}")
        self.code = code
        self.message = message
        self.kind = kind


class Output:
    """Both standard streams of one command.

    Attributes:
        wants_json: whether standard output is for programs.
        debug: whether an error shows its traceback.
        node: whom the command talks to, for the error's line; empty if nobody.
    """

    def __init__(self, *, wants_json: bool = False, debug: bool = False) -> None:
        self.wants_json = wants_json
        self.debug = debug
        self.node = ""
        self._has_value = False

    # --- standard output

    def value(self, value: Any) -> None:
        """Print the one value of `--json`."""
        self._has_value = True
        shown = json.dumps(plain(value), indent=2, ensure_ascii=not _is_unicode(sys.stdout))
        _write(sys.stdout, shown + "\n")

    def text(self, line: str) -> None:
        """Print a line of data for people."""
        _write(sys.stdout, line + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows for people; nothing is cut off.

        On a terminal the last column is folded into what the others leave of
        the width. A name or an id is never broken in two: it is to be copied.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        cells = [[Text(one_line(str(cell))) for cell in row] for row in rows]
        widths = [
            max(cell.cell_len for cell in column)
            for column in zip(map(Text, columns), *cells, strict=True)
        ]
        for column in columns:
            is_last = column is columns[-1]
            table.add_column(Text(column), no_wrap=not is_last, overflow="fold")
        for row_of_cells in cells:
            table.add_row(*row_of_cells)
        width = 100_000
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        if is_terminal:
            before_last = sum(widths[:-1]) + 2 * (len(widths) - 1)
            least = before_last + min(widths[-1], _LEAST_FOLDED)
            width = max(get_terminal_size().columns, least)
        # Into a text: what cannot be written is said where all else is.
        drawn = io.StringIO()
        console = Console(file=drawn, width=width, highlight=False, force_terminal=is_terminal)
        console.print(table)
        lines = drawn.getvalue().splitlines()
        _write(sys.stdout, "".join(f"{line.rstrip()}\n" for line in lines))

    # --- standard error

    def say(self, line: str) -> None:
        """Tell people something beside the data."""
        _write(sys.stderr, one_line(line) + "\n")

    # --- the end

    def ended(self, end: Ended) -> int:
        """Say how a command ended that knows its exit code; returns that."""
        if end.message is not None:
            self.say(f"flockctl: {end.message}")
            self._value_of_failure(end.kind, end.message, end.code)
        return end.code

    def wrong_use(self, message: str) -> int:
        """Say what is wrong with the command line; returns the exit code."""
        self.say(f"flockctl: {message}")
        self._value_of_failure("UsageError", message, 2)
        return 2

    def failed(self, error: BaseException) -> int:
        """Say why the command failed; returns the exit code."""
        code = exit_code(error)
        if self.debug:
            _write(sys.stderr, "".join(traceback.format_exception(error)))
        line = error_line(error, self.node)
        self.say(f"flockctl: {line}")
        may_have_run = getattr(error, "may_have_run", None)
        self._value_of_failure(type(error).__name__, line, code, may_have_run)
        return code

    def interrupted(self) -> int:
        """Say that Ctrl-C ended the command; returns the exit code."""
        self.say("flockctl: interrupted")
        self._value_of_failure("KeyboardInterrupt", "interrupted", 130)
        return 130

    def unread(self) -> int:
        """Note that nobody reads what was to be shown (`| head`); returns the exit code."""
        _drop(sys.stdout)
        return 0

    def unwritten(self, error: OSError) -> int:
        """Say why what was to be shown cannot be written; returns the exit code."""
        _drop(sys.stdout)
        return self.ended(_not_written(error))

    def _value_of_failure(
        self, kind: str, message: str, code: int, may_have_run: bool | None = None
    ) -> None:
        """With `--json` a failure is a value, too, unless one was printed already."""
        if not self.wants_json or self._has_value:
            return
        failure: dict[str, Any] = {"type": kind, "message": message, "exit_code": code}
        if may_have_run is not None:
            failure["may_have_run"] = may_have_run
        self.value({"error": failure})


def shared_code(codes: Iterable[int]) -> int:
    """Return the exit code for several targets that ended with `codes`."""
    found = set(codes) - {0}
    return next((code for code in _GRAVITY if code in found), max(found, default=0))


def error_line(error: BaseException, node: str = "") -> str:
    """Say in one line what happened, to which node, and what to try."""
    from flock.failures import RemoteTraceback

    text = one_line(str(error))
    if not isinstance(error, FlockError):
        kind = type(error).__name__
        text = f"{kind}: {text}" if text else kind
        if not isinstance(error.__cause__, RemoteTraceback):
            return f"internal error: {text} (--debug shows where)"
    # Our own registry and settings are nobody's in particular.
    if node and node not in text and not isinstance(error, RegistryError | SettingsError):
        text = f"{node}: {text}"
    if isinstance(error, RegistryUnavailable) and error.url.startswith("embedded:"):
        return f"{text}; is --registry right, the folder yours to use, and its disk not full?"
    if isinstance(error, BusyError) and error.advice is not None:
        return one_line(f"{text}; {error.advice}") if error.advice else text
    for kind_of_error, hint in _HINTS:
        if isinstance(error, kind_of_error):
            return f"{text}; {hint.format(node=node or 'NODE')}"
    return text


def one_line(text: str) -> str:
    """Return `text` without line ends and other control characters."""
    return printable(text).strip() if _CONTROL.search(text) else text


def printable(text: str) -> str:
    """Return `text` with a space for what is not to be printed, as a terminal's orders."""
    return _CONTROL.sub(" ", text)


def plain(value: Any) -> Any:
    """Turn a value that travelled into what JSON has.

    Dates become ISO 8601, bytes base64, handles to nodes and actors their
    names (`bender0`, `bender0/flock_api`), numbers without a value null.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return _handle_name(value)


def _key(key: Any) -> str:
    shown = plain(key)
    return shown if isinstance(shown, str) else json.dumps(shown)


def _handle_name(value: Any) -> str:
    from flock.proxy import points_at

    parts = points_at(value)
    return "/".join(parts) if parts is not None else str(value)


def _is_unicode(stream: TextIO | None) -> bool:
    return stream is not None and (stream.encoding or "").lower().replace("-", "") == "utf8"


def _write(stream: TextIO | None, text: str) -> None:
    """Write at once; what nobody reads any more is dropped, now and at the exit."""
    if stream is None:
        return  # closed by whoever started us
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _drop(stream)
        # What is said beside the answer changes nothing of how the command ends.
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            raise _not_written(error) from None


def _not_written(error: OSError) -> Ended:
    return Ended(1, f"the answer cannot be written: {error.strerror}")


def _drop(stream: TextIO) -> None:
    """Send all that is still to be written nowhere: it would fail again when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
