"""`flockctl converge`: one run, here and now, by a process that is no node."""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from flock.ctl.options import (
    CommandLine,
    host_name,
    machine,
    override_run_list,
    pass_line,
    reachable,
)
from flock.ctl.output import Ended, Output
from flock.ctl.progress import going_on
from flock.ctl.reports import beside_lines, diff_lines, resource_line, summary
from flock.ctl.service import interrupt_at_sigterm
from flock.errors import BusyError

if TYPE_CHECKING:
    from flock.converge.kitchen import Kitchen
    from flock.notice_office import NoticeOffice

_LOOK_EVERY = 1.0
"""Seconds between two looks at what a run waits for."""

_SHOWN = {"resource changed", "resource failed"}


@click.command()
@click.option("--why-run", is_flag=True, help="name the changes, make none")
@override_run_list
@click.option("--wait", is_flag=True, help="wait for another run on this machine, do not refuse")
@reachable
@machine
@pass_line
def converge(
    line: CommandLine, override_run_list: list[str] | None, *, why_run: bool, wait: bool
) -> None:
    """Converge this machine, once, without being a node.

    Prints what was changed; with --json the run's report, also of a run that
    failed. With --why-run or --override-run-list a --run-list or --environment
    is for this run only, too. With --override-run-list no dishes are washed.
    """
    interrupt_at_sigterm()
    output = line.output
    with _kitchen(line, override_run_list, why_run=why_run) as kitchen:
        kitchen.on_event(lambda event: _show_wait_for_another(output, event))
        if not output.wants_json:
            kitchen.on_event(lambda event: _show_change(output, event, why_run=why_run))
        try:
            with _telling_waits(output, kitchen):
                report = kitchen.converge(_caller(), override_run_list, why_run, wait=wait)
        except BusyError as error:
            error.advice = None if wait else "--wait waits for it"
            raise
        except KeyboardInterrupt:
            # It was cancelled and has settled: its report says how far it came.
            last = kitchen.last_run()
            if last is not None:
                _show_end(output, last)
            raise
    _show_end(output, report)
    if report["state"] != "ok":
        raise Ended(1)


@contextmanager
def _kitchen(
    line: CommandLine, override_run_list: list[str] | None, *, why_run: bool
) -> Iterator[Kitchen]:
    """Give this machine's kitchen, under the name of its node; refused without a registry."""
    from flock.boot import StateFolder, check_runs, make_kitchen
    from flock.locksmith import RegistryLocksmith
    from flock.lookout import FlockLookout
    from flock.notice_office import NoticeOffice
    from flock.object_keeper import ObjectKeeper
    from flock.run_waits import run_chains, watch_for_circles

    settings = line.settings()
    check_runs(settings)
    name = line.talk_to(settings.name or host_name())
    with ExitStack() as stack:
        registry = line.open_registry()
        stack.callback(registry.close)
        # Joins only if a recipe asks for another node.
        fleet = line.visitor()
        stack.callback(fleet.close)
        folder = StateFolder(settings.state_folder(name))
        journal = folder.journal(registry.registry_id())
        stack.callback(journal.close)
        keeper = ObjectKeeper(name, folder.path, journal, registry)
        stack.callback(keeper.close)
        notices = NoticeOffice(journal, name)
        stack.callback(_send_the_rest, line.output, notices)
        notices.send(registry, lambda _: None)
        locksmith = RegistryLocksmith(name, settings, lambda: registry)
        stack.callback(locksmith.close)
        chains = run_chains(name, lambda: fleet)
        kitchen = make_kitchen(
            settings,
            name,
            journal,
            {"FlockOfChefs": fleet},
            keeper,
            notices,
            chains.around,
            locksmith=locksmith,
            lookout=FlockLookout(lambda: fleet),
            # Neither a look nor an exception is to change what the machine is.
            lasts=not why_run and override_run_list is None,
        )
        circles = watch_for_circles(kitchen, chains, lambda: fleet, registry, is_unseen=True)
        stack.callback(circles.stop)
        stack.callback(kitchen.stop, settings.stop_timeout)
        if not (override_run_list or kitchen.run_list):
            line.output.say(f"flockctl: the run list of {name} is empty: nothing to converge")
        yield kitchen


def _send_the_rest(output: Output, notices: NoticeOffice) -> None:
    """Send what is due for up to 5 s, and name what is left: the next run or node sends it."""
    if notices.stop_sending():
        for row in notices.outbox.rows():
            output.say(
                f"flockctl: not sent yet: {row['action']} {row['resource']} to {row['to']}"
                f" ({row['error'] or 'out of time'}); the next run or node sends it"
            )


def _caller() -> str:
    """Say who asks for the run."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"flockctl converge by {user} on {host_name()}"


@contextmanager
def _telling_waits(output: Output, kitchen: Kitchen) -> Iterator[None]:
    """Say meanwhile what the run waits for, whenever the last answer is another one."""
    is_over = threading.Event()

    def watch() -> None:
        told = ""
        while not is_over.wait(_LOOK_EVERY):
            status = kitchen.status()
            said = going_on(None, status) if status["waiting"] else ""
            if said and said != told:
                output.say(f"{kitchen.name}: {said}")
            told = said

    watcher = threading.Thread(target=watch, name="flockctl-waits", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _show_wait_for_another(output: Output, event: dict[str, Any]) -> None:
    """Say whom the run as a whole waits for."""
    if event["event"] == "run waiting":
        output.say(f"{event['node']}: run {event['run_id']} waits for {event['holder']}")


def _show_change(output: Output, event: dict[str, Any], *, why_run: bool) -> None:
    # A resource that is to do nothing is skipped without a reason.
    if event["event"] in _SHOWN or (event["event"] == "resource skipped" and event["error"]):
        output.text(resource_line(event, why_run=why_run))
        for line in diff_lines(event):
            output.text(line)


def _show_end(output: Output, report: dict[str, Any]) -> None:
    # A lock that was not had was warned about at once.
    for line in beside_lines({**report, "locks": []}):
        output.say(f"{report['node']}: {line}")
    output.say(f"{report['node']}: run {report['run_id']} {summary(report)}")
    if output.wants_json:
        output.value(report)
