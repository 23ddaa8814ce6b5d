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
from flock.errors import CallError, FlockError, RemoteError
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


def fail_message(call_id: int, error: BaseException) -> tuple[Any, ...]:
    """Turn an error into a FAIL message."""
    fields = {
        name: value
        for name, value in vars(error).items()
        if not name.startswith("_") and name != "message" and _is_plain(value)
    }
    # Building some built-in errors takes their own arguments (OSError, KeyError).
    args = list(error.args)
    if type(error).__name__ in _BUILT_IN and _is_plain(args):
        fields["args"] = args
    # An error sent on by an actor in between names no run of ours: the method
    # here did run, whatever the inner call says.
    may_have_run = error.may_have_run if isinstance(error, CallError) else True
    return (
        FAIL,
        call_id,
        type(error).__name__,
        _text(error)[:_MAX_MESSAGE],
        may_have_run,
        fields,
        _traceback_of(error),
    )


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
        except Exception:
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
        return str(error)
    except Exception:
        return "an error whose text cannot be made"


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
    except Exception:
        return ""
