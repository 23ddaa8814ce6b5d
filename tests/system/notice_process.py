"""Nodes that are quickly begun: forked from a process that has imported everything.

Run by the tests as `python -m tests.system.notice_process SOCKET`. Whoever
connects to the socket says in one line of JSON what node it wants and has it
at the other end: one line in, one line out, until the node dies.

    {"name": …, "registry": …, "settings": {…}, "environment": {…}}
    {"run": true}           one run, answered with its report
    {"call": ["bender1", "resource_manager", "notices", {"dead": true}]}
    {"leave": true}         answered when the node has left
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from flock.converge.resources import execute, file  # noqa: F401 - loaded once for all nodes
from flock.fleet import Flock

logger = logging.getLogger(__name__)

for _module in (
    "actors.flock_api",
    "actors.info",
    "actors.resource_manager",
    "flock.boot",
    "flock.recipe",
    "registry.embedded",
    "registry.zookeeper",
):
    importlib.import_module(_module)


def main() -> None:
    """Fork a node for each connection, until killed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                _be_a_node(connection)
            except BaseException:
                logger.exception("the node ended")
                os._exit(1)
            os._exit(0)
        connection.close()


def _be_a_node(connection: socket.socket) -> None:
    stream = connection.makefile("rw", encoding="utf-8")

    def say(answer: dict[str, Any]) -> None:
        stream.write(json.dumps(answer) + "\n")
        stream.flush()

    wanted = json.loads(stream.readline())
    say({"pid": os.getpid()})
    os.environ.update(wanted.get("environment", {}))
    logging.basicConfig(level=wanted.get("log", "ERROR"), format=f"{wanted['name']} %(message)s")
    with Flock(wanted["name"], wanted["registry"], **wanted["settings"]) as flock:
        say({"ready": True})
        for line in stream:
            order = json.loads(line)
            if order.get("leave"):
                break
            if order.get("run"):
                say(flock[wanted["name"]]["flock_api"].run_chef(wait=True))
            elif "call" in order:
                node, actor, method, arguments = order["call"]
                say({"value": getattr(flock[node][actor], method)(**arguments)})
    with contextlib.suppress(BrokenPipeError):
        say({"left": True})


if __name__ == "__main__":
    main()
