"""What the running thread is doing, for the calls it makes.

An actor's thread works on one call at a time. Calls it makes on the way carry
the chain of calls that led to them; a call that would come back to an actor
that waits for it is a deadlock. Both need to know, at the place where a call
is made, on whose behalf that is. Each thread has its own answer.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

from flock.messages import Chain


class WaitingActor(Protocol):
    """An actor's thread, as seen by the calls it makes."""

    name: str

    @property
    def caller(self) -> str:
        """Name of the node or visitor whose call is worked on; empty for none."""

    def begin_wait(self, call_id: int) -> None:
        """Note that the thread now waits for this call; refuse what would need it meanwhile."""

    def probe(self, call_id: int) -> None:
        """Look whether the call waited for waits, over other actors, for this one."""

    def end_wait(self, call_id: int) -> None:
        """Note that the wait is over."""


class ThreadContext(threading.local):
    """The calling thread's chain and actor; plain threads have neither."""

    chain: Chain = ()
    actor: WaitingActor | None = None


current = ThreadContext()


def _work_for_nobody() -> None:
    """Forget whose thread it was that forked: in the child it is no actor's."""
    current.chain, current.actor = (), None


os.register_at_fork(after_in_child=_work_for_nobody)
