"""What a node needs that is the first process of a container.

Whoever loses his parent becomes a child of process 1, and stays a zombie until
that waits for him. The node cannot: it does not know which of its children
others of its own threads wait for. So process 1 only waits, and the node is
its child.
"""

from __future__ import annotations

import os
import signal

_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What the node does at it the node decides."""


def leave_the_first_process() -> None:
    """Go on in a child if we are process 1; that waits for all, and ends as the child does.

    Called before there are other threads.
    """
    if os.getpid() != 1:
        return
    # Process 1 takes only what it has a handler for: until then nothing may come.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        # A Ctrl-C of the terminal comes by way of process 1, once.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    for number in _PASSED_ON:
        signal.signal(number, lambda came, _: os.kill(child, came))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _wait_for_all(child)


def _wait_for_all(child: int) -> None:
    """Wait for all children; when this one ended, end with its exit code as a shell says it."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
