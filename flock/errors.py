"""Every error of this project, as one tree.

Who catches what: `FlockError` is everything. Below it stand four families,
by who can act: the registry (`RegistryError`, defined in `registry.contract`),
a call to another node (`CallError`), wrong use (`UsageError`), and recipes and
runs (`ConvergeError`).

    class                    parents beside its family   may_have_run  exit code
    -----------------------  --------------------------  ------------  ---------
    FlockError               Exception                   -             1
    ├ RegistryError          -                           -             5
    │ ├ RegistryUnavailable  ConnectionError             no            5
    │ ├ VersionConflict      -                           -             6
    │ ├ NameTaken            -                           -             6
    │ ├ DocumentTooLarge     ValueError                  -             2
    │ ├ RecordInvalid        ValueError                  -             1
    │ ├ QueueFull            -                           -             6
    │ ├ NotPermitted         PermissionError             -             7
    │ ├ WrongRegistry        -                           -             2
    │ └ LockError            -                           -             6
    │   ├ LockTimeout        TimeoutError                -             4
    │   ├ LockCancelled      -                           -             6
    │   └ LockLost           -                           -             6
    ├ CallError              -                           yes           4
    │ ├ NodeNotFound         KeyError                    no            3
    │ ├ ActorNotFound        LookupError                 no            3
    │ ├ MethodNotFound       AttributeError              no            3
    │ ├ BadArguments         TypeError                   no            2
    │ ├ EncodeError          TypeError                   no            2
    │ ├ NodeDownError        ConnectionError             no or yes     4
    │ ├ NodeUnreachable      ConnectionError             no            4
    │ ├ ConnectionLost       ConnectionError             yes           4
    │ ├ CallTimeout          TimeoutError                no or yes     4
    │ ├ CallCancelled        -                           no or yes     4
    │ ├ ActorDead            -                           no or yes     4
    │ ├ OverloadedError      -                           no            6
    │ ├ DeadlockError        -                           no or yes     6
    │ ├ BusyError            -                           no            6
    │ ├ NotLetIn             PermissionError             no            7
    │ ├ VersionMismatch      -                           no            4
    │ ├ ReplyTooLarge        -                           yes           1
    │ ├ StaleToken           -                           no            6
    │ └ RemoteError          -                           yes           1
    ├ UsageError             ValueError                  -             2
    │ └ SettingsError        -                           -             2
    └ ConvergeError          -                           -             1
      ├ RecipeError          -                           -             1
      ├ RunFailed            -                           -             1
      ├ RunCancelled         -                           -             1
      ├ CommandFailed        -                           -             1
      ├ WaitTimeout          TimeoutError                -             1
      │ └ WaitCircle         -                           -             1
      └ JournalError         -                           -             1

`may_have_run` answers "may I call again?": it is False only where the method
surely never started. Each error carries its numbers as fields.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.contract import (
    DocumentTooLarge,
    FlockError,
    LockCancelled,
    LockError,
    LockLost,
    LockTimeout,
    NameTaken,
    NotPermitted,
    QueueFull,
    RecordInvalid,
    RegistryError,
    RegistryUnavailable,
    VersionConflict,
    WrongRegistry,
)

__all__ = [
    "ActorDead",
    "ActorNotFound",
    "BadArguments",
    "BusyError",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "CommandFailed",
    "ConnectionLost",
    "ConvergeError",
    "DeadlockError",
    "DocumentTooLarge",
    "EncodeError",
    "FlockError",
    "JournalError",
    "LockCancelled",
    "LockError",
    "LockLost",
    "LockTimeout",
    "MethodNotFound",
    "NameTaken",
    "NodeDownError",
    "NodeNotFound",
    "NodeUnreachable",
    "NotLetIn",
    "NotPermitted",
    "OverloadedError",
    "QueueFull",
    "RecipeError",
    "RecordInvalid",
    "RegistryError",
    "RegistryUnavailable",
    "RemoteError",
    "ReplyTooLarge",
    "RunCancelled",
    "RunFailed",
    "SettingsError",
    "StaleToken",
    "UsageError",
    "VersionConflict",
    "VersionMismatch",
    "WaitCircle",
    "WaitTimeout",
    "WrongRegistry",
    "exit_code",
]


# --- calls -------------------------------------------------------------------


class CallError(FlockError):
    """A call to an actor brought back no value.

    Attributes:
        may_have_run: False only when the method surely never started, so that
            calling again is safe.
    """

    may_have_run = True

    def __init__(self, message: str, *, may_have_run: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if may_have_run is not None:
            self.may_have_run = may_have_run

    def __str__(self) -> str:
        """Return the message as it is: a `KeyError` among the parents would quote it."""
        return self.message


class NodeNotFound(CallError, KeyError):
    """No live node has this name; the registry was asked and said so."""

    may_have_run = False


class ActorNotFound(CallError, LookupError):
    """The node is there and has no actor of this name."""

    may_have_run = False


class MethodNotFound(CallError, AttributeError):
    """The actor is there and offers no method of this name."""

    may_have_run = False


class BadArguments(CallError, TypeError):
    """The arguments do not fit the method's signature."""

    may_have_run = False


class EncodeError(CallError, TypeError):
    """A value cannot travel; the message names the place (`args[0]['x'] is a socket`)."""

    may_have_run = False


class NodeDownError(CallError, ConnectionError):
    """The node's process is gone.

    `may_have_run` is False for calls that were never given to a connection.
    """


class NodeUnreachable(CallError, ConnectionError):
    """No way to the node, or none back, could be opened; the call never left."""

    may_have_run = False


class ConnectionLost(CallError, ConnectionError):
    """The connection broke while the call was under way."""


class CallTimeout(CallError, TimeoutError):
    """No answer arrived in time; the work may still be going on.

    `may_have_run` is False if the call was still queued on this side.

    Attributes:
        call: what was called, `bender0/flock_api.active()`.
        waited: seconds.
    """

    def __init__(self, call: str, waited: float, *, may_have_run: bool = True) -> None:
        super().__init__(f"no answer to {call} within {waited:g} s", may_have_run=may_have_run)
        self.call = call
        self.waited = waited


class CallCancelled(CallError):
    """The caller's process closed its `Flock` while the call was under way.

    `may_have_run` is False if the call was still queued on this side.
    """


class ActorDead(CallError):
    """The actor stopped; `may_have_run` is False if the call still lay in its inbox."""


class OverloadedError(CallError):
    """An inbox or a lane is full; the call was refused at once."""

    may_have_run = False


class DeadlockError(CallError):
    """A circle of calls that would wait for ever.

    Attributes:
        may_have_run: True only of chains that crossed: this call had begun, and
            waited for another one.
        chain: the calls of the circle, first caller first, as `node/actor`.
    """

    may_have_run = False

    def __init__(self, message: str, chain: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.chain = tuple(chain)


class BusyError(CallError):
    """What was asked for excludes what is going on there; the message says what.

    Attributes:
        advice: what to try, for people; empty if the message says it, None if
            a look at what goes on there is all there is to try.
    """

    may_have_run = False
    advice: str | None = None

    def __init__(self, message: str, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = advice


class NotLetIn(CallError, PermissionError):
    """The other side does not let this process talk, or this caller call this."""

    may_have_run = False


class VersionMismatch(CallError):
    """The other side speaks no version of the protocol that we speak."""

    may_have_run = False


class ReplyTooLarge(CallError):
    """The method ran, and its answer cannot travel: too large, or of a type that cannot."""


class StaleToken(CallError):
    """A call under a lock came with a token older than one already seen."""

    may_have_run = False


class RemoteError(CallError):
    """The method raised an error that has no class here.

    `__cause__` holds the remote traceback as text.

    Attributes:
        type_name: the class's name over there.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name


# --- wrong use ---------------------------------------------------------------


class UsageError(FlockError, ValueError):
    """The caller asked for something that cannot be; the message says what to write."""


class SettingsError(UsageError):
    """A setting is missing, unknown or wrong; the message names it and where it came from."""


# --- recipes and runs --------------------------------------------------------


class ConvergeError(FlockError):
    """A run could not be made, or did not succeed."""


class RecipeError(ConvergeError):
    """A recipe, attribute file, role or run list is wrong.

    Attributes:
        where: `file:line`, or the run list item, as it stands in the message.
    """

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class RunFailed(ConvergeError):
    """A resource failed and the run with it."""


class RunCancelled(ConvergeError):
    """Somebody cancelled the run."""


class CommandFailed(ConvergeError):
    """A command could not be started, took too long, or ended with an exit code nobody wanted."""


class WaitTimeout(ConvergeError, TimeoutError):
    """What a resource waited for did not come in time.

    Attributes:
        wait: the wait as the recipe wrote it.
        waited: seconds.
        last: the last answer, as text.
    """

    def __init__(self, wait: str, waited: float, last: str, *, why: str = "") -> None:
        super().__init__(f"{wait} gave up after {waited:g} s; the last answer was {last}{why}")
        self.wait = wait
        self.waited = waited
        self.last = last


class WaitCircle(WaitTimeout):
    """What a resource waited for waits for it in turn, so that it would never come.

    Attributes:
        circle: who waits for whom, as a sentence.
    """

    def __init__(self, wait: str, waited: float, last: str, circle: str) -> None:
        super().__init__(wait, waited, last, why=f"; {circle}")
        self.circle = circle


class JournalError(ConvergeError):
    """The journal on disk cannot be used: full or broken."""


_EXIT_CODES: dict[type[BaseException], int] = {
    NodeNotFound: 3,
    ActorNotFound: 3,
    MethodNotFound: 3,
    BadArguments: 2,
    EncodeError: 2,
    OverloadedError: 6,
    DeadlockError: 6,
    BusyError: 6,
    StaleToken: 6,
    NotLetIn: 7,
    ReplyTooLarge: 1,
    RemoteError: 1,
    CallError: 4,
    UsageError: 2,
    LockTimeout: 4,
    LockError: 6,
    NotPermitted: 7,
    DocumentTooLarge: 2,
    WrongRegistry: 2,
    VersionConflict: 6,
    NameTaken: 6,
    QueueFull: 6,
    RecordInvalid: 1,
    RegistryError: 5,
    KeyboardInterrupt: 130,
}


def exit_code(error: BaseException) -> int:
    """Return the command's exit code for `error`: its nearest class in the table says, else 1."""
    for cls in type(error).__mro__:
        if cls in _EXIT_CODES:
            return _EXIT_CODES[cls]
    return 1
