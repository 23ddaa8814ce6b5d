"""Run commands that a run waits for, and that never outlive it by accident.

A command gets its own session and process group. When the run is cancelled, or
the command takes too long, the whole group gets SIGTERM and 3 s later SIGKILL,
and so do its descendants that left the group (apt runs dpkg in a session of its
own).
When this process dies, however it dies, a small reaper process kills the
groups: it holds the other end of a pipe and is told of each group before its
command begins. (A parent-death signal would reach the direct child only, and
fires when the forking thread ends.)

What a command leaves behind when it has ended by itself, such as a daemon, is
left alone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from flock.converge.cancellation import Cancellation
from flock.converge.forks import in_children
from flock.errors import CommandFailed, RunCancelled

if TYPE_CHECKING:
    import psutil

TERMINATION_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL to a group that is to end."""

BACKGROUND_GRACE = 0.5
"""Seconds that output is still read when the command has ended and left its pipes to others."""

MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes kept of each stream; what is over is read and dropped."""

SHOWN_OUTPUT = 2000
"""Characters of output that an error message shows: the last ones."""

_REGISTRY = "FLOCK_REGISTRY"
"""A variable of ours that may hold the registry's password: no other user is to read it."""

_GATE = 'read -r _ && exec "$@"'
"""Waits for a line before it becomes the command: until then the reaper does not know the group.
If we die before that, the end of the pipe makes `read` fail, and nothing runs."""

_REAPER = """
trap '' HUP INT QUIT PIPE TERM
groups=' '
while read -r sign group; do
    case $sign in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended by itself.

    Attributes:
        exit_code: negative for a signal, as in `subprocess`.
        stdout, stderr: what it wrote, as text; undecodable bytes are replaced.
        seconds: how long it took.
        written: what it wrote to stdout, as it came.
    """

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    written: bytes = b""

    def last_words(self) -> str:
        """Return the end of its output for an error message: stderr, or stdout if that is empty."""
        said = self.stderr.strip() or self.stdout.strip()
        return said if len(said) <= SHOWN_OUTPUT else "…" + said[-SHOWN_OUTPUT:]


class Commands:
    """Runs the commands of one node; any thread may, several at once.

    The reaper is started by the first command. `close` ends it.
    """

    def __init__(self) -> None:
        self._reaper = Reaper()

    def run(
        self,
        command: str | Sequence[str],
        *,
        cancellation: Cancellation | None = None,
        cwd: str | None = None,
        user: str | None = None,
        group: str | None = None,
        environment: Mapping[str, str] | None = None,
        umask: int = -1,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a command to its end.

        Args:
            command: text for `/bin/sh`, or a list of program and arguments.
            cancellation: ends the command when it is cancelled.
            cwd: directory it runs in.
            user: user it runs as, with that user's groups, HOME and USER.
            group: group it runs as, instead of the user's own.
            environment: variables beside our own.
            umask: its file mode mask; -1 for ours.
            stdin: what it reads; nothing by default.
            timeout: seconds; None for no limit.

        Raises:
            CommandFailed: it could not be started, or took longer than `timeout`.
            RunCancelled: the run was cancelled; its group is gone.
        """
        if cancellation is not None:
            cancellation.check()
        arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        started = time.monotonic()
        process = self._start(arguments, cwd, user, group, environment, umask)
        try:
            with self._reaper.watching(process):
                conversation = _Conversation(process, stdin, cancellation, timeout, started)
                return conversation.hold(command_text(command))
        finally:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def close(self) -> None:
        """End the reaper, and with it what still runs; a later command starts a new one."""
        self._reaper.close()

    def _start(
        self,
        arguments: list[str],
        cwd: str | None,
        user: str | None,
        group: str | None,
        environment: Mapping[str, str] | None,
        umask: int,
    ) -> subprocess.Popen[bytes]:
        """Start the gate of a command."""
        variables = dict(os.environ)
        identity: dict[str, Any] = {}
        try:
            if user is not None:
                entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
                variables.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
                if entry.pw_uid != os.geteuid():
                    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
                    identity.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=groups)
                    if "@" in variables.get(_REGISTRY, ""):
                        del variables[_REGISTRY]
            if group is not None:
                identity["group"] = int(group) if group.isdigit() else group
            variables.update(environment or {})
            return subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "command", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=variables,
                umask=umask,
                start_new_session=True,
                **identity,
            )
        except KeyError:
            raise CommandFailed(f"cannot run {command_text(arguments)}: no user {user!r}") from None
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            what = command_text(arguments) + (f" as {user}" if user is not None else "")
            reason = getattr(error, "strerror", None) or error
            where = f" ({cwd})" if cwd is not None and not os.path.isdir(cwd) else ""
            raise CommandFailed(f"cannot run {what}: {reason}{where}") from error


def command_text(command: str | Sequence[str]) -> str:
    """Name a command in a message: its first line, at most 200 characters."""
    if not isinstance(command, str):
        command = command[2] if list(command[:2]) == ["/bin/sh", "-c"] else " ".join(command)
    first, _, rest = command.strip().partition("\n")
    return f"`{first[:200]}{'…' if rest or len(first) > 200 else ''}`"


class _Conversation:
    """One command from its first byte to its last: feeds it, reads it, ends it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdin: str | bytes | None,
        cancellation: Cancellation | None,
        timeout: float | None,
        started: float,
    ) -> None:
        self._process = process
        text = stdin.encode() if isinstance(stdin, str) else stdin or b""
        self._to_write = memoryview(b"\n" + text)
        self._cancellation = cancellation
        self._timeout = timeout
        self._started = started
        self._kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._exited = False
        self._ending = False
        self._strays: set[psutil.Process] = set()
        self._deadline = started + timeout if timeout is not None else None

    def hold(self, label: str) -> Completed:
        """Talk to the command until it is over; reaps it."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector, _wakes(self._cancellation) as wake:
            pid_file = os.pidfd_open(process.pid)
            try:
                selector.register(wake, selectors.EVENT_READ, "wake")
                selector.register(pid_file, selectors.EVENT_READ, "exit")
                for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, name)
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
                try:
                    self._talk(selector)
                except BaseException:
                    self._signal(signal.SIGKILL)
                    raise
            finally:
                os.close(pid_file)
        return self._result(label)

    def _talk(self, selector: selectors.BaseSelector) -> None:
        """Move bytes and watch the clock until the command is over."""
        timed_out_streams = False
        while not timed_out_streams:
            names = {key.data for key in selector.get_map().values()}
            if self._exited and not names & {"stdout", "stderr"}:
                break
            for key, _ in selector.select(self._seconds_left()):
                self._serve(selector, key)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                if self._exited or self._ending:
                    timed_out_streams = True
                else:
                    self._end_group()
        if self._ending:
            self._signal(signal.SIGKILL)

    def _serve(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        """Handle one thing that is ready."""
        if key.data == "wake":
            selector.unregister(key.fileobj)
            if not self._exited:
                self._end_group()
        elif key.data == "exit":
            selector.unregister(key.fileobj)
            self._exited = True
            if not self._ending:
                self._deadline = time.monotonic() + BACKGROUND_GRACE
        elif key.data == "stdin":
            try:
                self._to_write = self._to_write[os.write(key.fd, self._to_write) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._to_write = memoryview(b"")
            if not self._to_write:
                selector.unregister(key.fileobj)
                _close(self._process.stdin)
        else:
            chunk = os.read(key.fd, 65536)
            kept = self._kept[key.data]
            kept += chunk[: MAX_OUTPUT - len(kept)]
            if not chunk:
                selector.unregister(key.fileobj)

    def _seconds_left(self) -> float | None:
        """Return how long may be waited for the next event."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _end_group(self) -> None:
        """Ask the group to end, and set the time for the second signal."""
        self._ending = True
        self._deadline = time.monotonic() + TERMINATION_GRACE
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole group; its leader is not reaped yet, so the number is surely its.

        Descendants that left the group are looked for before: when their
        parents are gone nothing leads to them any more.
        """
        import psutil

        for stray in self._descendants() | self._strays:
            with contextlib.suppress(psutil.Error, OSError):
                if os.getpgid(stray.pid) != self._process.pid:
                    self._strays.add(stray)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
        for stray in self._strays:
            # Knows by its start whether the number is somebody else's by now.
            with contextlib.suppress(psutil.Error):
                stray.send_signal(number)

    def _descendants(self) -> set[psutil.Process]:
        """Return the processes below the command, and below those that left its group."""
        import psutil

        found: set[psutil.Process] = set()
        with contextlib.suppress(psutil.Error):
            found.update(psutil.Process(self._process.pid).children(recursive=True))
        for stray in self._strays:
            with contextlib.suppress(psutil.Error):
                found.update(stray.children(recursive=True))
        return found

    def _result(self, label: str) -> Completed:
        """Say how it ended; the process is reaped by the caller after the reaper forgot it."""
        status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        seconds = time.monotonic() - self._started
        if self._ending:
            if self._cancellation is not None and self._cancellation.cancelled:
                raise RunCancelled(self._cancellation.reason)
            raise CommandFailed(f"{label} took longer than {self._timeout:g} s and was ended")
        exit_code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        return Completed(
            exit_code,
            self._kept["stdout"].decode(errors="replace"),
            self._kept["stderr"].decode(errors="replace"),
            seconds,
            bytes(self._kept["stdout"]),
        )


class Reaper:
    """The process that outlives us by a moment, and the pipe it hangs on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()
        in_children(self._let_go)

    def start(self) -> None:
        """Begin now, so that a command is watched as soon as it is there; twice is harmless."""
        with self._lock:
            if self._process is None:
                self._begin()

    @contextlib.contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Have the group killed if we die inside; reap its leader when done.

        The group is struck off before the leader is reaped: afterwards the
        kernel may give its number to somebody else.
        """
        try:
            self._tell("+", process.pid)
            yield
        finally:
            _close(process.stdin)
            self._tell("-", process.pid)
            process.wait()

    def close(self) -> None:
        """Close the pipe: the reaper kills what is left, and ends."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _close(process.stdin)
            process.wait()

    def _let_go(self) -> None:
        """Close our end of the pipe in a forked child: only we keep the reaper waiting."""
        if self._process is not None and self._process.stdin is not None:
            os.close(self._process.stdin.fileno())
            self._process = None

    def _tell(self, sign: str, group: int) -> None:
        """Tell the reaper of a group, or that it is over; a reaper that is gone is replaced."""
        with self._lock:
            (self._groups.add if sign == "+" else self._groups.discard)(group)
            if self._process is not None:
                try:
                    _write(self._process, f"{sign} {group}\n")
                except BrokenPipeError:
                    _close(self._process.stdin)
                    self._process.wait()
                else:
                    return
            self._begin()

    def _begin(self) -> None:
        """Start the process, and tell it all it has to know; our lock is held."""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _REAPER, "flock-reaper"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        _write(self._process, "".join(f"+ {each}\n" for each in self._groups))


def _write(process: subprocess.Popen[bytes], text: str) -> None:
    """Write to a process's pipe; short lines go whole."""
    assert process.stdin is not None
    os.write(process.stdin.fileno(), text.encode())


@contextlib.contextmanager
def _wakes(cancellation: Cancellation | None) -> Iterator[int]:
    """Give a file descriptor that becomes readable when the run is cancelled."""
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    lock = threading.Lock()
    is_open = True

    def write() -> None:
        with lock:  # a cancel that comes late must not write to a number used again
            if is_open:
                os.eventfd_write(wake, 1)

    forget = cancellation.on_cancel(write) if cancellation is not None else None
    try:
        yield wake
    finally:
        if forget is not None:
            forget()
        with lock:
            is_open = False
            os.close(wake)


def _close(stream: IO[bytes] | None) -> None:
    """Close a pipe; what could not be written any more does not matter."""
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
