"""`flockctl lock`: run a command while a lock of the flock is held."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import click

from flock.converge.commands import Reaper
from flock.ctl.options import CommandLine, common, pass_line, setting
from flock.ctl.output import Ended, error_line
from flock.errors import FlockError, LockTimeout, NotPermitted, exit_code
from registry.contract import (
    MAX_SLOTS,
    Lock,
    LockOwner,
    LockState,
    Registry,
    RegistryError,
)
from registry.processes import this_process

_WRONG_USE = 2
_NOT_IN_TIME, _OURS, _NOT_EXECUTABLE, _NOT_FOUND = 124, 125, 126, 127
_SAY_AFTER = 1.0
"""Seconds of waiting after which it is said who has the lock."""

_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a command whose lock is lost."""

_GATE = 'read -r _ < "/dev/fd/$0" && exec "$@"'
"""Waits for a line before it becomes the command: until then the reaper does not know the group.
If we die before that, the end of the pipe makes `read` fail, and nothing runs."""

_LOOK_PAUSE = 0.1
"""Seconds between two looks at the command and its lock; a look asks no server."""


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("lockid", metavar="ID")
@click.argument("command", metavar="-- CMD [ARG]...", nargs=-1, required=True)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="seconds to wait in line; 0 for now or not",
)
@click.option(
    "--slots",
    type=click.IntRange(1, MAX_SLOTS),
    default=1,
    help="how many may hold it at a time",
)
@click.option("--group", default="", help="those of one group take one slot together")
@click.option("--reason", default="", help="why, for who looks at `flockctl locks`")
@common
@setting("session_timeout", "SECONDS", "silence after which ZooKeeper takes a process for dead")
@setting("lock_delay", "SECONDS", "pause of the next holder after a lock's unclean end")
@pass_line
def lock(
    line: CommandLine,
    lockid: str,
    command: Sequence[str],
    wait: float,
    slots: int,
    group: str,
    reason: str,
) -> None:
    """Run CMD while the lock ID is held, and end with CMD's own exit code.

    124: the lock was not had in time. 125: no registry, or the lock was lost
    while CMD ran; then CMD gets SIGTERM and, 5 s later, SIGKILL, with its
    whole process group. 126, 127: CMD cannot be run, or is not there. CMD sees
    the lock's token as FLOCK_LOCK_TOKEN.
    """
    if not lockid:
        raise click.UsageError("the lock's ID is empty (an unset variable?)")
    owner = LockOwner(_who(), this_process().host, reason=reason or " ".join(command), group=group)
    try:
        registry = line.open_registry()
        try:
            with _telling_the_wait(line, registry, lockid, wait):
                held = registry.acquire(lockid, owner, wait=wait, slots=slots)
            code = _run_under(line, held, command)
        finally:
            registry.close()
    except LockTimeout as error:
        raise Ended(_NOT_IN_TIME, error_line(error), type(error).__name__) from None
    except (FlockError, NotPermitted) as error:
        # Wrong use is that, whatever was to be run.
        if exit_code(error) == _WRONG_USE:
            raise
        raise Ended(_OURS, error_line(error), type(error).__name__) from None
    raise Ended(code)


@contextlib.contextmanager
def _telling_the_wait(
    line: CommandLine, registry: Registry, lockid: str, wait: float
) -> Iterator[None]:
    """Say after a moment of waiting who has the lock."""

    def tell() -> None:
        with contextlib.suppress(RegistryError):
            for holder in registry.lock_status(lockid).holders:
                line.output.say(
                    f"flockctl: lock {lockid!r} is held by {holder.owner} since {holder.since};"
                    f" waiting for up to {wait:g} s"
                )

    timer = threading.Timer(_SAY_AFTER, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _who() -> str:
    """Return whom the lock is taken for, as others read it."""
    try:
        return f"{getpass.getuser()}@{this_process().host}"
    except (KeyError, OSError):
        return f"{os.getuid()}@{this_process().host}"


def _run_under(line: CommandLine, held: Lock, command: Sequence[str]) -> int:
    """Run a command to its end, or until the lock is lost; returns the exit code."""
    try:
        _refuse_what_cannot_run(command[0])
        environment = os.environ | {"FLOCK_LOCK_TOKEN": str(held.token)}
        reaper = Reaper()
        reaper.start()
        with _signals_as_exceptions() as signals:
            ready, go = os.pipe()
            try:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _GATE, str(ready), *command],
                    env=environment,
                    process_group=0,
                    pass_fds=[ready],
                )
                with reaper.watching(child), _terminal_of(child):
                    os.write(go, b"\n")
                    was_lost = _wait(child, held, signals)
            finally:
                reaper.close()
                os.close(ready)
                os.close(go)
    except Ended:
        held.release()
        raise
    except OSError as error:
        held.release()
        raise Ended(_NOT_EXECUTABLE, f"{command[0]}: {error.strerror}") from None
    if was_lost:
        line.output.say(f"flockctl: lock {held.lockid!r} was lost while the command ran")
        return _OURS
    held.release()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _refuse_what_cannot_run(program: str) -> None:
    """End as a shell does with what it cannot run, before anything has begun."""
    if shutil.which(program) is not None:
        return
    places = [""] if "/" in program else os.get_exec_path()
    if any(os.path.exists(os.path.join(place, program)) for place in places):
        raise Ended(_NOT_EXECUTABLE, f"{program}: Permission denied")
    raise Ended(_NOT_FOUND, f"{program}: not found")


def _wait(child: subprocess.Popen[bytes], held: Lock, signals: list[int]) -> bool:
    """Wait for the end of a command, ending it if its lock is lost; say whether it was."""
    kill_at: float | None = None
    while True:
        # What came for us is meant for the command: it ends, and with it we.
        while signals:
            _signal_group(child, signals.pop(0))
        # Looked at without being reaped: until then nobody else has its number.
        if _has_ended(child):
            return kill_at is not None or held.state() is LockState.LOST
        if kill_at is None and held.state() is LockState.LOST:
            kill_at = time.monotonic() + _GRACE
            _signal_group(child, signal.SIGTERM)
            _signal_group(child, signal.SIGCONT)
        elif kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(child, signal.SIGKILL)
        time.sleep(_LOOK_PAUSE if kill_at is None else _LOOK_PAUSE / 2)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child.pid, flags) is not None


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[list[int]]:
    """Gather the signals that ask us to end, to be passed on to the command."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _: came.append(received))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _terminal_of(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the command read from the terminal and take its Ctrl-C, as if we were not there."""
    terminal = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    if terminal is None:
        yield
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, child.pid)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
