"""`flock.Actor`: a Pykka actor that may be called from other nodes.

Any `pykka.ThreadingActor` can be registered under a name; this base adds a
faster inbox and future, and answers that come later. What others may call is
a table made when the actor is registered, from the class alone: every public
method, nothing inherited from Pykka or `object`, no property, nothing marked
`@internal`. Dispatch looks names up in that table and nowhere else.
"""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar, TypeVar

import pykka

from flock.context import current
from flock.errors import UsageError
from flock.future import Future

F = TypeVar("F", bound=Callable[..., Any])

PROXY_WORDS = frozenset({"options", "batch", "monitor", "link", "unlink"})
"""What the proxy itself answers to: an actor's method may not be called so."""

_INTERNAL_MARK = "_flock_internal"


def internal(method: F) -> F:
    """Hide a public method from other nodes; actors of this process reach it by reference."""
    setattr(method, _INTERNAL_MARK, True)
    return method


class Actor(pykka.ThreadingActor):
    """Base of actors that are called from other nodes.

    An exception in a call goes to the caller and the actor lives; one in a
    tell, or in `on_start`, kills it, and its supervisor starts it anew. A
    method may return a future (`self.later()`): the answer is sent when that
    resolves, and the actor is free meanwhile.
    """

    use_daemon_thread: ClassVar[bool] = True
    survives_tells: ClassVar[bool] = False
    """True keeps the actor alive (and logs) when a tell raises."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What a stock or site actor is made with, by keyword: `flock`, `kitchen`."""

    @staticmethod
    def _create_actor_inbox() -> Any:
        return queue.SimpleQueue()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return Future()

    @property
    def caller(self) -> str:
        """Name of the node or visitor whose call this thread works on; empty for none."""
        return current.actor.caller if current.actor is not None else ""

    def later(self) -> Future[Any]:
        """Make a future to return as the answer, to be set from any thread when it is known."""
        return Future()


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of an actor's table: a name others may call, and how it is called.

    Attributes:
        name: the name.
        function: the class's own function.
        signature: without `self`.
        required, most: so many positional arguments, and no keywords, always fit.
    """

    name: str
    function: FunctionType
    signature: inspect.Signature
    required: int
    most: int

    def misfit(self, args: list[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Say how the arguments do not fit the signature; None if they do."""
        if not kwargs and self.required <= len(args) <= self.most:
            return None
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return f"{self.name}{self.signature}: {error}"
        return None

    def documentation(self) -> str:
        """Return the method's docstring, empty if it has none."""
        return inspect.getdoc(self.function) or ""


def method_table(actor_class: type[pykka.Actor]) -> dict[str, Method]:
    """List what other nodes may call on an actor class.

    Raises:
        UsageError: a public method has a name that the proxy keeps for itself.
    """
    hidden = {name for base in (Actor, pykka.ThreadingActor, object) for name in dir(base)}
    table: dict[str, Method] = {}
    for name in dir(actor_class):
        if name.startswith("_") or name in hidden:
            continue
        function = inspect.getattr_static(actor_class, name)
        if not isinstance(function, FunctionType) or getattr(function, _INTERNAL_MARK, False):
            continue
        if name in PROXY_WORDS:
            raise UsageError(
                f"{actor_class.__name__}.{name}: a proxy keeps the names "
                f"{', '.join(sorted(PROXY_WORDS))} for itself; rename the method or mark it internal"
            )
        table[name] = _method(name, function)
    return table


def _method(name: str, function: FunctionType) -> Method:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    signature = inspect.signature(function).replace(parameters=parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keyword_needed = any(
        p.kind is p.KEYWORD_ONLY and p.default is inspect.Parameter.empty for p in parameters
    )
    required = sum(1 for p in positional if p.default is inspect.Parameter.empty)
    most = 1_000_000 if takes_rest else len(positional)
    if keyword_needed:
        required, most = 1, 0  # no call without keywords fits: always bind
    return Method(name, function, signature, required, most)
