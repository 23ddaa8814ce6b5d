"""What may be written as the value of a setting, and what it then is.

Each reader takes a value as somebody wrote it, text from a variable or the
command line as well as TOML's or Python's own types, and the folder where
relative paths begin. It returns the value that `Settings` holds, or raises
ValueError, with a reason where "this is not what is wanted" is not enough.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from registry.contract import is_node_name

Reader = Callable[[Any, Path], Any]
"""Reads a written value; the path is the folder where relative paths begin."""

_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off"}
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_-]{1,128}")
ENVIRONMENT_RULE = "up to 128 letters, digits, '_' and '-'"
"""What a name of an environment is; it is a file's name, too."""

_HOME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HOST = r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]*]+)"
_LISTEN = re.compile(rf"tcp://(?:{_HOST}|\*):(\*|\d{{1,5}})")
_ADVERTISE = re.compile(rf"tcp://{_HOST}(?::(\d{{1,5}}))?")
_MAX_PORT = 65_535


def read_flag(written: Any, _: Path) -> bool:
    """Read yes or no."""
    if isinstance(written, bool):
        return written
    text = _text(written).lower()
    if text not in _YES | _NO:
        raise ValueError
    return text in _YES


def seconds(*, above: float | None = None, at_least: float = 0.0) -> Reader:
    """Return the reader of a number of seconds, above one limit or not below another."""

    def read(written: Any, _: Path) -> float:
        if isinstance(written, bool) or not isinstance(written, int | float | str):
            raise ValueError
        try:
            number = float(written)
        except (ValueError, OverflowError):
            raise ValueError from None
        fits = number > above if above is not None else number >= at_least
        if not fits or not math.isfinite(number):
            raise ValueError
        return number

    return read


def read_path(written: Any, folder: Path) -> Path:
    """Read a path; `~` is the caller's home, a relative one begins in `folder`."""
    path = written if isinstance(written, Path) else Path(_text(written))
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder") from None


def read_path_text(written: Any, folder: Path) -> str:
    """Read a path as `read_path` does, for those who take text."""
    return str(read_path(written, folder))


def read_node_name(written: Any, _: Path) -> str:
    """Read the name of a node."""
    if not isinstance(written, str) or not is_node_name(written):
        raise ValueError
    return written


def read_text(written: Any, _: Path) -> str:
    """Read a text that is not empty."""
    text = _text(written)
    if not text:
        raise ValueError
    return text


def read_environment(written: Any, _: Path) -> str:
    """Read the name of an environment."""
    text = _text(written)
    if not _ENVIRONMENT.fullmatch(text):
        raise ValueError
    return text


def registry_url(schemes: Collection[str]) -> Reader:
    """Return the reader of a registry's URL; the backend looks at the rest more closely."""

    def read(written: Any, folder: Path) -> str:
        text = _text(written)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("it is not valid Unicode") from None
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in schemes:
            raise ValueError
        if scheme == "embedded":
            if not rest or rest.startswith("//"):
                raise ValueError
            return f"embedded:{read_path(rest, folder)}"
        if not re.fullmatch(r"//[^/\s]\S*", rest):
            raise ValueError
        return text

    return read


def read_listen(written: Any, _: Path) -> str:
    """Read an address to listen at."""
    return _address(_LISTEN, written)


def read_advertise(written: Any, _: Path) -> str:
    """Read an address that others are told."""
    return _address(_ADVERTISE, written)


def read_run_list(written: Any, _: Path) -> tuple[str, ...]:
    """Read items from one text, or several, that separate them by commas."""
    texts = [written] if isinstance(written, str) else written
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    items = (item.strip() for text in texts for item in text.split(","))
    return tuple(item for item in items if item)


def actor_homes(taken: Collection[str]) -> Reader:
    """Return the reader of `module:Class` by actor's name, where some names are taken.

    As text it is written `NAME=MODULE:CLASS`, separated by commas.
    """

    def read(written: Any, folder: Path) -> dict[str, str]:
        table = written
        if isinstance(written, str):
            items = read_run_list(written, folder)
            if wrong := next((item for item in items if "=" not in item), None):
                raise ValueError(f"as text NAME=MODULE:CLASS, which {wrong!r} is not")
            pairs = [item.partition("=") for item in items]
            table = {name.strip(): home.strip() for name, _, home in pairs}
        if not isinstance(table, Mapping):
            raise ValueError
        for name, home in table.items():
            if not isinstance(name, str) or not is_node_name(name):
                raise ValueError(f"{name!r} is no name for an actor")
            if name in taken:
                raise ValueError(f"every node has an actor {name!r} already")
            if not isinstance(home, str) or not _HOME.fullmatch(home):
                raise ValueError(f"{name!r} is at {home!r}")
        return dict(table)

    return read


def read_handlers(written: Any, _: Path) -> tuple[str | Callable[[Any], object], ...]:
    """Read callables, each as itself or as `module:function`; one text may hold several."""
    given = [written] if isinstance(written, str) or callable(written) else written
    if not isinstance(given, list | tuple):
        raise ValueError
    handlers: list[str | Callable[[Any], object]] = []
    for each in given:
        if callable(each):
            handlers.append(each)
            continue
        homes = [home.strip() for home in _text(each).split(",")]
        wrong = [home for home in homes if not _HOME.fullmatch(home)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no 'module:function'")
        handlers += homes
    return tuple(handlers)


def one_of(*known: str) -> Reader:
    """Return the reader of one of these words."""

    def read(written: Any, _: Path) -> str:
        text = _text(written)
        if text not in known:
            raise ValueError
        return text

    return read


def without_password(url: str) -> str:
    """Return a registry's URL, well formed or not, without what may be a password."""
    before, at, place = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, credentials = before.partition("//")
    user, colon, _ = credentials.partition(":")
    # What has no user before its password shows nothing that stands there.
    return f"{scheme}//{user}@{place}" if slashes and colon else f"…@{place}"


def _text(written: Any) -> str:
    if not isinstance(written, str) or not written.strip():
        raise ValueError
    return written.strip()


def _address(form: re.Pattern[str], written: Any) -> str:
    text = _text(written)
    found = form.fullmatch(text)
    if not found or (found[1] not in {None, "*"} and not 0 < int(found[1]) <= _MAX_PORT):
        raise ValueError
    return text
