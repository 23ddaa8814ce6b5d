"""`flockctl node`: be a node, in the foreground, until told to leave."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import click

from flock.ctl.first_process import leave_the_first_process
from flock.ctl.options import (
    CommandLine,
    checked_name,
    host_name,
    machine,
    pass_line,
    reachable,
    setting,
    switch,
)
from flock.ctl.output import Ended, error_line
from flock.ctl.service import StopSignals, log_to_stderr, tell_systemd
from flock.errors import FlockError, RegistryUnavailable, exit_code
from flock.stack_dump import dump_at_sigusr1

if TYPE_CHECKING:
    from flock.fleet import Flock
    from flock.settings import Settings

logger = logging.getLogger("flock.ctl.node")

_PAUSE = 2.0
"""Seconds between two attempts to reach a registry that is not there."""

_LINE_EVERY = 60.0
"""Seconds between two lines that say so."""


@click.command()
@reachable
@machine
@setting("interval", "SECONDS", "converge by itself this often (default: never)")
@setting("splay", "SECONDS", "up to so much is added to each interval, by chance")
@setting("stop_timeout", "SECONDS", "how long a run may go on when we leave (default: 60)")
@switch("auto_wash", "wash dishes by itself after a run (default: yes)")
@pass_line
def node(line: CommandLine) -> None:
    """Be a node, in the foreground, until SIGTERM or Ctrl-C.

    Logs go to standard error, with --json one JSON object a line. Without a
    registry it keeps trying. systemd is told when the node is ready
    (Type=notify). As the first process of a container it waits for orphans,
    too.
    """
    leave_the_first_process()
    signals = StopSignals()
    log_to_stderr(as_json=line.output.wants_json, debug=line.output.debug)
    try:
        serve(line, signals)
    except FlockError as error:
        if not line.output.wants_json:
            raise
        # For machines this is one more line of the log.
        logger.error("%s", error_line(error), exc_info=error if line.output.debug else None)
        raise Ended(exit_code(error)) from None


def serve(line: CommandLine, signals: StopSignals) -> None:
    """Join, serve until a signal comes, leave.

    Raises:
        NameTaken: another process has the name, from the start or after an outage.
        FlockError: the node cannot be made as the settings say.
    """
    fleet = _join(line, signals)
    if fleet is None:
        return
    lost: list[FlockError] = []

    def wait_for_end() -> None:
        # It takes no signals on a thread that is not the main one: they are ours.
        try:
            fleet.serve_forever()
        except FlockError as error:
            lost.append(error)
        signals.came.set()

    dump_at_sigusr1(fleet.node.stack)
    serving = threading.Thread(target=wait_for_end, name="flockctl-node", daemon=True)
    serving.start()
    try:
        if not signals.came.is_set():
            me = fleet.node
            logger.info(
                "READY %s %s",
                me.identity.name,
                me.address,
                extra={"event": "ready", "node": me.identity.name, "address": me.address},
            )
            tell_systemd(f"READY=1\nSTATUS={me.identity.name} at {me.address}")
        signals.wait()
        logger.info("leaving: %s", signals.name or "told so", extra={"event": "stopping"})
        tell_systemd("STOPPING=1")
    finally:
        fleet.close()
    serving.join()
    if lost:
        raise lost[0]
    logger.info("left", extra={"event": "stopped"})


def _join(line: CommandLine, signals: StopSignals) -> Flock | None:
    """Join the flock, however long the registry takes to be there; None if told to leave first.

    Until then runs go on as the interval says, from what the journal knows.
    """
    from flock.boot import check_runs, node_keys
    from flock.extensions import load_site
    from flock.fleet import Flock

    settings = line.settings()
    # What is wrong there is said now, not when the registry answers.
    load_site(settings)
    check_runs(settings)
    name = checked_name(settings.name or host_name())
    keys = node_keys(settings, name) if settings.crypto else None
    told = -_LINE_EVERY
    while not signals.came.is_set():
        fleet = Flock(keys=keys, **(line.given | {"name": name}))
        try:
            return fleet.start()
        except RegistryUnavailable as error:
            fleet.close()
            if time.monotonic() - told >= _LINE_EVERY:
                told = time.monotonic()
                logger.warning("%s; trying again until it is there", error)
                tell_systemd(f"STATUS={error}")
        _wait_for_registry(line, settings, name, signals)
    return None


def _wait_for_registry(
    line: CommandLine, settings: Settings, name: str, signals: StopSignals
) -> None:
    """Return when the registry seems to be there, or a signal came; converge meanwhile."""
    from flock.boot import alone

    if settings.interval is None:
        signals.came.wait(_PAUSE)
        return
    # Recipes that ask other machines are told that the registry cannot be reached.
    visitor = line.visitor()
    try:
        with alone(settings, name, {"FlockOfChefs": visitor}) as kitchen:
            told = time.monotonic()
            while not signals.came.wait(_PAUSE):
                # A run is not broken off to join.
                if not kitchen.active() and _is_there(line):
                    return
                if time.monotonic() - told >= _LINE_EVERY:
                    told = time.monotonic()
                    logger.warning("no registry yet; runs go on every %g s", settings.interval)
    finally:
        visitor.close()


def _is_there(line: CommandLine) -> bool:
    try:
        line.open_registry().close()
    except RegistryUnavailable:
        return False
    return True
