"""The options that commands share, and what was given with them.

An option named like a setting is that setting's strongest source. Its text is
checked where all settings are, so that every wrong value reads alike. The
group takes the common ones, too: they may stand anywhere on the line.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flock.ctl.output import Output
from flock.ctl.run_items import read_items
from flock.errors import UsageError
from registry.contract import NODE_NAME_RULE, is_node_name
from registry.processes import age

if TYPE_CHECKING:
    from flock.fleet import Flock
    from flock.settings import Settings
    from registry.contract import Registry

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

logger = logging.getLogger(__name__)

_ENDS_WITHIN = 2.85
"""Seconds from its start until a command without a registry is to say so; its end takes the rest
of 3."""

_OPEN_WITHIN = 2.5
_LEAST_WAIT = 1.0


@dataclass
class CommandLine:
    """What was asked for.

    Attributes:
        output: where the answer goes.
        given: settings by name, as they were written.
    """

    output: Output
    given: dict[str, Any] = field(default_factory=dict)
    _is_looked_through: bool = field(default=False, init=False)

    def settings(self) -> Settings:
        """Return the settings of this process; `SettingsError` if one is wrong."""
        from flock.settings import load_settings

        self._look_through_variables()
        return load_settings(self.given)

    def _look_through_variables(self) -> None:
        """Say which variables look like settings of ours and are none, once."""
        from flock.settings import misspelt_variables

        if not self._is_looked_through:
            self._is_looked_through = True
            for name, near in misspelt_variables().items():
                logger.warning("%s is no setting; did you mean %s?", name, near)

    def visitor(self) -> Flock:
        """Return the flock, to be entered: it joins as a visitor then."""
        from flock.fleet import Flock

        self._look_through_variables()
        fleet = Flock(**{key: value for key, value in self.given.items() if key != "name"})
        fleet.join_within = open_within()
        return fleet

    def open_registry(self) -> Registry:
        """Reach the registry without joining the flock; the caller closes it.

        Raises:
            RegistryUnavailable: it does not answer in time.
        """
        from flock.extensions import make_registry

        settings = self.settings()
        registry = make_registry(settings)
        registry.open(min(open_within(), settings.timeout))
        return registry

    def talk_to(self, node: str) -> str:
        """Note whom the command talks to; returns the name.

        Raises:
            UsageError: no node can have this name.
        """
        self.output.node = node
        return checked_name(node)


def open_within() -> float:
    """Return how long to wait for the registry, in seconds.

    So long that a command which just started ends within 3 s, also where the
    start of Python took its time.
    """
    left = _ENDS_WITHIN - age()
    return _OPEN_WITHIN if left < 0 else min(_OPEN_WITHIN, max(_LEAST_WAIT, left))


pass_line = click.make_pass_decorator(CommandLine)


def checked_name(node: str) -> str:
    """Return a node's name.

    Raises:
        UsageError: no node can have it.
    """
    if not is_node_name(node):
        raise UsageError(f"{node!r} cannot be a node's name: {NODE_NAME_RULE}")
    return node


def host_name() -> str:
    """Return what a node of this machine is called if nobody says."""
    return socket.gethostname()


def setting(
    name: str, metavar: str, explained: str, *, multiple: bool = False
) -> Callable[[Decorated], Decorated]:
    """Make an option of a setting, which may be repeated if that is `multiple`."""
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        metavar=metavar,
        multiple=multiple,
        help=explained,
        expose_value=False,
        callback=_note,
    )


def switch(name: str, explained: str) -> Callable[[Decorated], Decorated]:
    """Make an option `--name/--no-name` of a setting that is true or false."""
    spelled = name.replace("_", "-")
    return click.option(
        f"--{spelled}/--no-{spelled}",
        name,
        default=None,
        help=explained,
        expose_value=False,
        callback=_note,
    )


def several(name: str, metavar: str, explained: str) -> Callable[[Decorated], Decorated]:
    """Make an option of a setting that may be repeated."""
    return setting(name, metavar, explained, multiple=True)


def _note(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Note what was given; the command's own option goes before the group's."""
    if isinstance(value, tuple):
        value = ",".join(value) or None
    if value is not None and option.name is not None:
        context.ensure_object(CommandLine).given[option.name] = value


def _flag(name: str, explained: str) -> Callable[[Decorated], Decorated]:
    """Make a flag that `main` reads before anything can go wrong."""
    return click.option(f"--{name}", is_flag=True, expose_value=False, help=explained)


def reworded(command: click.Command, option: str, explained: str) -> None:
    """Say in a command's help what a common option means there."""
    for each in command.params:
        if isinstance(each, click.Option) and each.name == option:
            each.help = explained


def on_query(explained: str) -> Callable[[Decorated], Decorated]:
    """Make the option `--on QUERY` of a command that is for many nodes."""
    return click.option("--on", "query", metavar="QUERY", help=explained)


def override_run_list(command: Decorated) -> Decorated:
    """Give a command that makes runs the option of what one runs instead of the own run list."""
    return click.option(
        "--override-run-list",
        metavar="ITEMS",
        multiple=True,
        help="for this run only, instead of the node's own run list; with commas, or repeated",
        callback=_override_items,
    )(command)


def _override_items(
    _: click.Context, __: click.Parameter, written: tuple[str, ...]
) -> list[str] | None:
    """Return the items of a run list; None if none was given."""
    if not written:
        return None
    # What is wrong here already is not to become a failed run.
    items = read_items(written)
    if not items:
        raise click.UsageError("--override-run-list names nothing")
    return items


def common(command: Decorated) -> Decorated:
    """Give a command the options that all have."""
    for option in reversed(_COMMON):
        command = option(command)
    return command


def reachable(command: Decorated) -> Decorated:
    """Give a command that talks to nodes the options that say where it is reached itself."""
    for option in reversed(_REACHABLE):
        command = option(command)
    return common(command)


def machine(command: Decorated) -> Decorated:
    """Give a command the options of a machine that converges."""
    for option in reversed(_MACHINE):
        command = option(command)
    return command


_COMMON: tuple[Callable[[Any], Any], ...] = (
    setting("registry", "URL", "embedded:DIR or zookeeper://[user:password@]host:port[,…]/root"),
    setting("timeout", "SECONDS", "how long to wait for an answer (default: 10)"),
    _flag("json", "print one JSON value and nothing else on standard output"),
    _flag("debug", "show the traceback of an error"),
    setting("zookeeper_ca", "FILE", "certificate authority for TLS to ZooKeeper"),
    setting("zookeeper_cert", "FILE", "our certificate for ZooKeeper"),
    setting("zookeeper_key", "FILE", "the certificate's key"),
)

_REACHABLE = (
    setting("listen", "ADDRESS", "tcp://HOST:PORT to listen at, * for a free port"),
    setting("advertise", "ADDRESS", "tcp://HOST[:PORT] that others are told"),
    switch("crypto", "encrypt; without, only loopback may be listened at"),
    setting("session_timeout", "SECONDS", "silence after which ZooKeeper takes a process for dead"),
)

_MACHINE = (
    setting("name", "NAME", "the node's name (default: the host's)"),
    setting("cookbooks", "DIR", "the folder with the cookbooks"),
    several(
        "run_list",
        "ITEMS",
        "recipe[cb::name], role[name]; with commas, or repeated; kept: the node's own from now on",
    ),
    setting("environment", "NAME", "kept: the node is in it until another is set"),
    setting("state_dir", "DIR", "journal, keys and run lock"),
    several("actors", "NAME=MODULE:CLASS", "an actor of this site; with commas, or repeated"),
    several("sensitive_attributes", "PATHS", "as db.password: they never leave this machine"),
    setting("run_lock", "ID", "the lock that each run is under as a whole (default: none)"),
    setting("facts", "ENGINE", "facter or ohai: its facts beside our own"),
    several("start_handlers", "MODULE:FUNCTION", "called with each run when it starts"),
    several("report_handlers", "MODULE:FUNCTION", "called with the report of a run that went well"),
    several("exception_handlers", "MODULE:FUNCTION", "called with the report of one that did not"),
    switch("delayed_after_failure", "make delayed notifications after a failure, too"),
    setting("lock_delay", "SECONDS", "pause of the next holder after a lock's unclean end"),
)
