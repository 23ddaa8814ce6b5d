"""`service`: a unit of systemd that should run, or start with the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.programs import needed_program
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource
from flock.errors import CommandFailed

_NAME = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*")

_ENABLED = ("enabled", "enabled-runtime", "static", "indirect", "generated", "alias")
"""States of a unit file in which `enable` has nothing more to do."""

_DISABLED = (
    "disabled",
    "static",
    "indirect",
    "generated",
    "masked",
    "masked-runtime",
    "transient",
    "linked",
    "linked-runtime",
)
"""States of a unit file in which `disable` has nothing more to do: of one that is only linked
it would take away the link, and with it the unit."""

_RUNNING = ("active", "activating", "reloading")

_OUR_CONTROL_GROUPS = Path("/proc/self/cgroup")
"""A line for each hierarchy, `number:controllers:path`."""


@dataclass
class Service(Resource):
    """A unit of systemd.

    Like Chef's it does nothing until an action is named or another resource
    notifies it. A unit that changed on disk is read anew before it is started.
    The end of the node's own unit is ordered and not waited for: the node would
    wait for its run, and the run for the node. The run then ends before its next
    resource, so let a delayed notification restart it.

    Attributes:
        service_name: the unit, with or without `.service`; the resource's name
            by default.
        timeout: seconds that a step may take.
    """

    kind: ClassVar[str] = "service"
    actions: ClassVar[tuple[str, ...]] = (
        "nothing",
        "start",
        "stop",
        "restart",
        "reload",
        "enable",
        "disable",
        "mask",
        "unmask",
    )

    service_name: str = ""
    timeout: float = 900.0

    @property
    def can_tell(self) -> bool:
        """Whether a look tells if something is to change: a restart always does."""
        return not {"restart", "reload"} & set(self.wanted_actions)

    def check(self) -> None:
        """Fill in the unit; refuse what cannot be one."""
        self.service_name = self.service_name or self.name
        if not _NAME.fullmatch(self.service_name):
            raise ValueError(f"service_name must be the name of a unit, not {self.service_name!r}")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")


class ServiceProvider(Provider[Service]):
    """Names the changes a unit needs; asks and orders by `systemctl`."""

    def nothing(self, wanted: Service) -> Iterator[Change]:
        """Name nothing."""
        del wanted
        return iter(())

    def start(self, wanted: Service) -> Iterator[Change]:
        """Name the start of a unit that does not run."""
        state = self._state(wanted)
        if state["ActiveState"] not in _RUNNING:
            yield from self._reread(wanted, state)
            yield self._order("start", wanted)

    def stop(self, wanted: Service) -> Iterator[Change]:
        """Name the stop of a unit that runs; one that is not there does not."""
        state = self._state(wanted, may_be_missing=True)
        if state["ActiveState"] in _RUNNING:
            yield self._order("stop", wanted, waits=not _is_ours(state))

    def restart(self, wanted: Service) -> Iterator[Change]:
        """Name the restart; a unit that does not run is started."""
        state = self._state(wanted)
        yield from self._reread(wanted, state)
        yield self._order("restart", wanted, waits=not _is_ours(state))

    def reload(self, wanted: Service) -> Iterator[Change]:
        """Name the reload of a unit that runs."""
        if self._state(wanted)["ActiveState"] in _RUNNING or self.machine.why_run:
            yield self._order("reload", wanted)

    def enable(self, wanted: Service) -> Iterator[Change]:
        """Name what lets the unit start with the machine."""
        state = self._state(wanted)
        if state["UnitFileState"] not in _ENABLED:
            yield self._order("enable", wanted)

    def disable(self, wanted: Service) -> Iterator[Change]:
        """Name what keeps the unit from starting with the machine."""
        state = self._state(wanted, may_be_missing=True)
        if state["UnitFileState"] and state["UnitFileState"] not in _DISABLED:
            yield self._order("disable", wanted)

    def mask(self, wanted: Service) -> Iterator[Change]:
        """Name what makes it impossible to start the unit; it need not be there."""
        if self._state(wanted, may_be_missing=True)["LoadState"] != "masked":
            yield self._order("mask", wanted)

    def unmask(self, wanted: Service) -> Iterator[Change]:
        """Name what takes a mask back."""
        if self._state(wanted, may_be_missing=True)["LoadState"] == "masked":
            yield self._order("unmask", wanted)

    def _state(self, wanted: Service, *, may_be_missing: bool = False) -> Mapping[str, str]:
        """Return what systemd knows of a unit.

        Raises:
            CommandFailed: no systemd here, or no such unit.
        """
        unknown = {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
        systemctl = needed_program(self.machine, "systemctl", "services are those of systemd")
        if systemctl is None:
            return unknown
        done = self.machine.run(
            [
                systemctl,
                "show",
                "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload,ControlGroup",
                "--",
                wanted.service_name,
            ],
            returns=None,
            timeout=wanted.timeout,
        )
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        found = {key: value for key, separator, value in pairs if separator}
        if "ActiveState" not in found:
            raise CommandFailed(
                f"systemd does not run on this machine, service {wanted.service_name} "
                f"cannot be managed: {done.last_words()}"
            )
        state = unknown | found
        if state["LoadState"] == "not-found" and not (may_be_missing or self.machine.why_run):
            raise CommandFailed(f"systemd knows no unit {wanted.service_name}")
        return state

    def _reread(self, wanted: Service, state: Mapping[str, str]) -> Iterator[Change]:
        """Name what lets systemd read unit files that changed."""
        if state.get("NeedDaemonReload") == "yes":
            yield Change(
                "let systemd read its units anew", lambda: self._systemctl(wanted, "daemon-reload")
            )

    def _order(self, verb: str, wanted: Service, *, waits: bool = True) -> Change:
        """Name one order to systemd."""
        name = wanted.service_name
        options = [] if waits else ["--no-block"]
        return Change(
            f"{verb} service {name}" + ("" if waits else ", which we run in, without waiting"),
            lambda: self._systemctl(wanted, *options, verb, "--", name),
        )

    def _systemctl(self, wanted: Service, *arguments: str) -> None:
        """Give an order, and wait until it is done unless it says `--no-block`."""
        systemctl = needed_program(self.machine, "systemctl", "services are those of systemd")
        assert systemctl is not None
        self.machine.run([systemctl, "--no-ask-password", *arguments], timeout=wanted.timeout)


def _is_ours(state: Mapping[str, str]) -> bool:
    """Say whether this process is in a unit, and so ends with it."""
    group = state.get("ControlGroup", "").rstrip("/")
    if not group:
        return False
    try:
        lines = _OUR_CONTROL_GROUPS.read_text().splitlines()
    except OSError:
        return False
    ours = (line.split(":", 2)[-1] for line in lines)
    return any(path == group or path.startswith(f"{group}/") for path in ours)


KIND = Kind(Service, ServiceProvider)
