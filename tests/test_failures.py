"""Errors keep their class, their fields and their traceback between nodes."""

from __future__ import annotations

import pytest

from flock.errors import ActorDead, CallTimeout, NodeNotFound, RecipeError, RemoteError
from flock.failures import error_of, fail_message
from flock.wire import Codec, frame_of


def travelled(error: BaseException, **how: bool) -> Exception:
    """Return what arrives of an error."""
    message = Codec().encode(fail_message(7, error, **how))
    ((received,),) = (Codec().decode(frame_of((message,), 0))[1],)
    return error_of(received)


def raised(error: ValueError) -> ValueError:
    """Return an error with a traceback."""
    try:
        raise error
    except ValueError as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ValueError("no", 3), ZeroDivisionError("division by zero"), TimeoutError()],
)
def test_a_built_in_error_arrives_as_itself(error: Exception) -> None:
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args


def test_an_error_of_the_system_keeps_number_and_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "nothing").read_text()
    arrived = travelled(caught.value)
    assert isinstance(arrived, FileNotFoundError)
    assert (arrived.errno, arrived.filename) == (2, str(tmp_path / "nothing"))


def test_ours_keep_their_fields() -> None:
    arrived = travelled(CallTimeout("bender0/api.run()", 2.5))
    assert isinstance(arrived, CallTimeout)
    assert (arrived.call, arrived.waited) == ("bender0/api.run()", 2.5)
    assert str(arrived) == "no answer to bender0/api.run() within 2.5 s"
    assert str(travelled(NodeNotFound("no node 'x'"))) == "no node 'x'"
    assert isinstance(travelled(RecipeError("bad", "a.py:3")), RecipeError)


def test_what_has_no_class_here_arrives_with_its_name() -> None:
    class Strange(Exception):
        pass

    arrived = travelled(Strange("odd"))
    assert isinstance(arrived, RemoteError)
    assert (arrived.type_name, str(arrived)) == ("Strange", "Strange: odd")
    assert isinstance(travelled(SystemExit(3)), RemoteError)


def test_the_remote_traceback_comes_along_as_text() -> None:
    arrived = travelled(raised(ValueError("here")))
    assert "in raised" in str(arrived.__cause__)


def test_an_error_whose_text_cannot_be_made_arrives_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert isinstance(travelled(Mute()), RemoteError)


def test_a_fail_message_cannot_set_what_is_not_a_field() -> None:
    message = fail_message(1, ActorDead("gone"))
    forged = [*message]
    forged[5] = {"__class__": "x", "args": ["y"], "_hidden": 1, "with_traceback": 2}
    arrived = error_of(forged)
    assert type(arrived) is ActorDead
    assert str(arrived) == "gone"
    assert callable(arrived.with_traceback)


def test_what_ran_and_failed_may_not_be_repeated_lightly() -> None:
    inner = travelled(NodeNotFound("the method itself looked for a node"), has_run=True)
    assert isinstance(inner, NodeNotFound)
    assert inner.may_have_run is True
