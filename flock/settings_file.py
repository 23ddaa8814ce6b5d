"""The configuration file: which one it is, whether it may be trusted, what it says.

Who may write the file decides what this process runs, so one that others than
the caller or root can write is refused, not skipped.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from flock.errors import SettingsError

SYSTEM_FILE = Path("/etc/flock/flock.toml")
"""The configuration file of the machine, where no nearer one is."""


def find_settings_file() -> Path | None:
    """Return the file to read: the first of `FLOCK_CONFIG`, `./flock.toml`, `SYSTEM_FILE`.

    A file that `FLOCK_CONFIG` names need not exist: reading it then says so.
    An empty `FLOCK_CONFIG` means none.
    """
    named = os.environ.get("FLOCK_CONFIG")
    if named is not None:
        return Path(named).absolute() if named else None
    for path in (Path.cwd() / "flock.toml", SYSTEM_FILE):
        # A link that leads nowhere is a mistake to be told, not an absent file.
        if os.path.lexists(path):
            return path
    return None


def read_settings_file(path: Path) -> dict[str, tuple[Any, str]]:
    """Read a configuration file.

    Returns:
        By key: the value, and where it stands, as `FILE:LINE`.

    Raises:
        SettingsError: it cannot be read, is not TOML, or others than its
            owner, the caller or root, can write it.
    """
    try:
        text = _read_trusted(path).decode()
        table = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror} (an empty FLOCK_CONFIG reads no file)"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    return {key: (value, f"{path}:{_line_of(key, text)}") for key, value in table.items()}


def _read_trusted(path: Path) -> bytes:
    # Checked is what was opened, wherever a link leads by then.
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path} is not a file")
        if status.st_uid not in {0, os.geteuid()}:
            raise SettingsError(
                f"{path} is refused: it belongs to user {status.st_uid}, not to you or root"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(
                f"{path} is refused: others than its owner can write it (chmod go-w {path})"
            )
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end, where the path is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _line_of(key: str, text: str) -> int:
    """Return the line where a top-level key or table begins; the parser does not keep it."""
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[]=.]""")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if begins.match(line)), 1)
