"""Errors on their way between nodes.

An error arrives as the same class where that is built in or ours, looked up
in a fixed table; as `RemoteError` with the class's name otherwise. The remote
traceback comes along as text, in `__cause__`. Nothing from the wire picks a
class that is not in the table, and none of its code runs.
"""

from __future__ import annotations

import builtins
import traceback
from typing import Any

from flock import errors
from flock.errors import BusyError, CallError, FlockError, RemoteError, StaleToken
from flock.messages import FAIL

_MAX_MESSAGE = 4096
_MAX_TRACEBACK = 16384
_PLAIN = (str, int, float, bool, bytes, type(None))

_BUILT_IN: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception)
}
_OURS: dict[str, type[FlockError]] = {
    name: value
    for name in errors.__all__
    if isinstance(value := getattr(errors, name), type) and issubclass(value, FlockError)
}


class RemoteTraceback(Exception):
    """The traceback of an error that was raised on another node, as text."""

    def __init__(self, text: str) -> None:
        """Keep the text; it is what `str` gives and a traceback shows."""
        super().__init__(f"\n{text}" if text else "no traceback came along")
        self.text = text


def fail_message(
    call_id: int, error: BaseException, *, has_run: bool = False, with_fields: bool = True
) -> tuple[Any, ...]:
    """Turn an error into a FAIL message.

    Args:
        call_id: the call that failed.
        error: why.
        has_run: the method raised it; else the error itself says whether the
            method may have run.
        with_fields: False leaves out what the error holds beside its text.
    """
    fields: dict[str, Any] = {}
    if with_fields:
        fields = {
            name: value
            for name, value in vars(error).items()
            if not name.startswith("_") and name != "message" and _is_plain(value)
        }
        # Building some built-in errors takes their own arguments (OSError, KeyError).
        args = list(error.args)
        if isinstance(error, OSError) and error.filename is not None:
            args = [error.errno, error.strerror, error.filename]
        if type(error).__name__ in _BUILT_IN and _is_plain(args):
            fields["args"] = args
    may_have_run = True
    if isinstance(error, CallError) and (not has_run or _is_refusal(error)):
        may_have_run = error.may_have_run
    return (
        FAIL,
        call_id,
        _name_of(type(error)),
        _text(error)[:_MAX_MESSAGE],
        may_have_run,
        fields,
        _traceback_of(error),
    )


def _is_refusal(error: CallError) -> bool:
    """Say whether a method raised an error of its own to say that it did nothing.

    One that came to it from a call of its own says nothing of this method,
    which did run.
    """
    came_from_elsewhere = isinstance(error.__cause__, RemoteTraceback)
    return isinstance(error, (BusyError, StaleToken)) and not came_from_elsewhere


def _name_of(kind: type[BaseException]) -> str:
    """Return a class's name, with its module where it only shares the name of one we know."""
    name = kind.__name__
    known = _OURS.get(name) or _BUILT_IN.get(name)
    return name if known is None or known is kind else f"{kind.__module__}.{kind.__qualname__}"


def error_of(message: list[Any]) -> Exception:
    """Turn a FAIL message into the error to raise."""
    _, _, type_name, text, may_have_run, fields, trace = message
    error = _made(type_name, text, fields)
    if error is None:
        error = RemoteError(type_name, text)
    if isinstance(error, CallError):
        error.may_have_run = may_have_run
    if trace:
        error.__cause__ = RemoteTraceback(trace)
    return error


def _made(type_name: str, text: str, fields: dict[Any, Any]) -> Exception | None:
    if type_name in _OURS:
        ours = _OURS[type_name]
        # Past the class's own constructor: its arguments are not the message.
        error = ours.__new__(ours, text)
        Exception.__init__(error, text)
        for name, value in fields.items():
            if isinstance(name, str) and name.isidentifier() and not name.startswith("_"):
                _set_field(error, name, value)
        if isinstance(error, CallError):
            error.message = text
        return error
    if type_name in _BUILT_IN:
        args = fields.get("args", [text])
        try:
            return _BUILT_IN[type_name](*args if isinstance(args, list) else [text])
        except Exception:  # noqa: BLE001 - whatever it does not like
            return None  # a constructor that wants other arguments: a RemoteError says as much
    return None


def _set_field(error: Exception, name: str, value: Any) -> None:
    if name in ("args", "with_traceback", "add_note"):
        return
    try:
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    except AttributeError:
        return  # a property of that class


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, _PLAIN) for each in value)
    return isinstance(value, _PLAIN)


def _text(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except Exception:  # noqa: BLE001 - others' code
        return "an error whose text cannot be made"


def _traceback_of(error: BaseException) -> str:
    try:
        return _clean("".join(traceback.format_exception(error))[-_MAX_TRACEBACK:])
    except Exception:  # noqa: BLE001 - others' code
        return ""


def _clean(text: str) -> str:
    """Return text as it can travel: file names may hold what is no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
