"""Errors on their way: which class arrives, with what, and what never does."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from flock import errors
from flock.errors import (
    ActorNotFound,
    BusyError,
    CallError,
    CallTimeout,
    DeadlockError,
    FlockError,
    RemoteError,
)
from flock.failures import RemoteTraceback, error_of, fail_message
from flock.wire import Codec, frame_of

codec = Codec()


def sent(error: BaseException, *, has_run: bool = True) -> Exception:
    """Return what arrives when a method raises `error`."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - all kinds are tried
        message = codec.encode(fail_message(5, raised, has_run=has_run))
    [back] = codec.decode(frame_of([message], 0))[1]
    assert back[1] == 5
    return error_of(back)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("key"),
        OSError(2, "No such file", "/tmp/x"),
        FileNotFoundError(2, "No such file"),
        ZeroDivisionError("0"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        TimeoutError("late"),
        AssertionError(),
        NotImplementedError("yet"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_built_in_error_arrives_as_its_class_with_its_arguments(error: Exception) -> None:
    back = sent(error)

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "test_failures.py" in str(back.__cause__)


def test_every_error_of_ours_arrives_as_its_class() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, FlockError):
            error = kind.__new__(kind)
            Exception.__init__(error, "what happened")
            if isinstance(error, CallError):
                error.message = "what happened"
            back = sent(error)
            assert type(back) is kind
            assert "what happened" in str(back)


def test_the_fields_of_an_error_come_along() -> None:
    timeout = sent(CallTimeout("bender0/flock_api.active()", 2.5))
    assert isinstance(timeout, CallTimeout)
    assert (timeout.call, timeout.waited) == ("bender0/flock_api.active()", 2.5)

    deadlock = sent(DeadlockError("a circle", ("a/x", "b/y")))
    assert isinstance(deadlock, DeadlockError)
    assert deadlock.chain == ("a/x", "b/y")


class Boom(Exception):
    pass


class NamedAsBuiltIn:
    class ValueError(Exception):  # noqa: A001 - that is the point
        pass

    class NodeNotFound(Exception):
        pass


def test_an_error_of_another_class_arrives_as_its_name_and_text() -> None:
    back = sent(Boom("loud"))
    assert isinstance(back, RemoteError)
    assert (back.type_name, str(back)) == ("Boom", "Boom: loud")
    assert isinstance(back.__cause__, RemoteTraceback)


@pytest.mark.parametrize("kind", [NamedAsBuiltIn.ValueError, NamedAsBuiltIn.NodeNotFound])
def test_a_class_that_only_shares_a_name_is_not_taken_for_another(kind: type[Exception]) -> None:
    back = sent(kind("no"))
    assert type(back) is RemoteError
    assert back.type_name.endswith(f"NamedAsBuiltIn.{kind.__name__}")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_processes_arrives_as_an_ordinary_error(error: BaseException) -> None:
    back = sent(error)
    assert type(back) is RemoteError
    assert back.type_name == type(error).__name__


def test_an_error_that_cannot_say_what_it_is_arrives_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    back = sent(Mute())
    assert isinstance(back, RemoteError)
    assert "text cannot be made" in str(back)


def test_long_texts_are_cut_and_odd_ones_travel() -> None:
    _, _, _, text, _, _, trace = fail_message(1, ValueError("x" * 100_000))
    assert len(text) == 4096
    assert len(trace) <= 16384
    assert str(sent(Boom("\udcff"))) == "Boom: \\udcff"


def test_a_field_that_cannot_travel_is_left_behind() -> None:
    error = Boom("with a socket")
    error.socket = object()  # type: ignore[attr-defined]
    error.number = 3  # type: ignore[attr-defined]
    assert "socket" not in fail_message(1, error)[5]
    assert fail_message(1, error)[5] == {"number": 3}
    assert fail_message(1, error, with_fields=False)[5] == {}


# --- may it have run? ------------------------------------------------------------


def test_a_refusal_says_that_the_method_never_started() -> None:
    back = sent(ActorNotFound("nobody"), has_run=False)
    assert isinstance(back, ActorNotFound)
    assert back.may_have_run is False


@pytest.mark.parametrize("kind", [ActorNotFound, DeadlockError, CallTimeout])
def test_an_error_that_a_method_passed_on_says_that_it_ran(kind: type[CallError]) -> None:
    back = sent(CallTimeout("x", 1.0) if kind is CallTimeout else kind("x"))
    assert isinstance(back, kind)
    assert back.may_have_run is True


def test_a_method_that_refuses_says_that_it_did_nothing_and_who_passes_that_on_does_not() -> None:
    refused = sent(BusyError("a run is queued"))
    assert isinstance(refused, BusyError)
    assert refused.may_have_run is False

    passed_on = sent(refused)
    assert isinstance(passed_on, BusyError)
    assert passed_on.may_have_run is True


# --- nothing from the wire picks a class -----------------------------------------


@pytest.mark.parametrize(
    "name", ["os.system", "Registry", "type", "object", "SystemExit", "__import__", "errors", ""]
)
def test_a_name_that_is_in_no_table_makes_no_class(name: str) -> None:
    back = error_of([5, 1, name, "text", False, {"args": ["echo"]}, ""])
    assert type(back) is RemoteError
    assert back.may_have_run is False


def test_built_in_errors_that_do_not_like_their_arguments_become_remote_errors() -> None:
    for name, kind in vars(builtins).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            for args in ([], [1, 2, 3], ["x"] * 7, [None], "no list"):
                fields: dict[Any, Any] = {"args": args}
                back = error_of([5, 1, name, "text", True, fields, "trace"])
                assert isinstance(back, kind) or type(back) is RemoteError


def test_fields_cannot_reach_into_the_error() -> None:
    fields: dict[Any, Any] = {
        "__class__": "x",
        "_private": 1,
        "args": ["a"],
        "with_traceback": 1,
        "no name": 1,
        3: 4,
        "call": "kept",
    }
    back = error_of([5, 1, "CallTimeout", "text", True, fields, ""])
    assert type(back) is CallTimeout
    assert back.call == "kept"
    assert str(back) == "text"
    assert callable(back.with_traceback)
    assert not hasattr(back, "_private")
