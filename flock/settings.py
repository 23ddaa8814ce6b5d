"""What this process was told: every setting, its value, and who said so.

Strongest first: arguments (`Flock(timeout=5)`, `--timeout 5`), environment
variables (`FLOCK_TIMEOUT=5`), one configuration file, defaults. The file is
the one that `FLOCK_CONFIG` names, else `./flock.toml`, else
`/etc/flock/flock.toml`; an empty `FLOCK_CONFIG` reads none. It is TOML, with
the names of `Settings` as keys, and refused if others can write it:

    registry = "zookeeper://zk1:2181,zk2:2181/flock"
    run_list = ["role[web]"]
    exception_handlers = ["site_chat:tell"]
    [actors]
    itchy = "cartoons:Itchy"

Relative paths are taken from the file's folder, else from the working
directory.

What they name, the registry's backend, actors and handlers, is imported by
`flock/extensions.py`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flock.errors import SettingsError
from flock.setting_values import (
    ENVIRONMENT_RULE,
    Reader,
    actor_homes,
    one_of,
    read_advertise,
    read_environment,
    read_flag,
    read_handlers,
    read_listen,
    read_node_name,
    read_path,
    read_path_text,
    read_run_list,
    read_text,
    registry_url,
    seconds,
    without_password,
)
from flock.settings_file import find_settings_file, read_settings_file
from registry.contract import NODE_NAME_RULE

BACKENDS: Mapping[str, str] = {
    "embedded": "registry.embedded:EmbeddedRegistry",
    "zookeeper": "registry.zookeeper:ZooKeeperRegistry",
}
"""Registry backends by URL scheme; each is made from one `RegistrySettings`."""

STOCK_ACTORS: Mapping[str, str] = {
    "flock_api": "actors.flock_api:FlockApi",
    "info": "actors.info:Info",
    "locker": "actors.locker:Locker",
    "resource_manager": "actors.resource_manager:ResourceManager",
    "sink": "actors.sink:Sink",
}
"""The actors that answer on every node."""

_NEARLY = 0.9
"""How much alike a strange variable and one of ours are that is taken for a slip; 1 is equal."""

REGISTRY_FORM = "embedded:DIR or zookeeper://[user:password@]host:port[,…]/root"
"""How a registry is written, for messages."""

Handler = Callable[[dict[str, Any]], object]
"""What is called at a run's start or end."""


def default_registry() -> str:
    """Return the registry of a process that was told none: embedded, in the state folder."""
    return f"embedded:{_state_home() / 'registry'}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process; times in seconds.

    Attributes:
        name: what this node is called; None for a visitor.
        registry: `embedded:DIR` or `zookeeper://[user:password@]host:port[,…]/root`.
            It may hold a password: show `shown_registry` instead.
        listen: `tcp://HOST:PORT` with `*` for a free port; None for a free
            port where the registry's other processes reach us.
        advertise: `tcp://HOST[:PORT]` that others are told; None for the one bound.
        crypto: False, for benchmarks on loopback only, turns encryption off.
        state_dir: journal, keys and run lock of the node; see `state_folder`.
        environment: the environment that the node is to be in from now on; None
            leaves it in the one its node object says.
        cookbooks: the folder with the cookbooks; None for no recipes.
        run_list: `recipe[cb]`, `recipe[cb::name]`, `cb::name`, `role[web]`.
        sensitive_attributes: dotted paths, as `db.password`, of attributes that
            never leave this machine.
        timeout: how long a call waits for its answer.
        session_timeout: how long a silent process keeps presence and locks in
            ZooKeeper.
        rubbish_pause: how long a key that keeps sending what is no message of
            ours is ignored; 0 for never.
        lock_delay: how long the next holder of a lock waits after an unclean
            end; None for the session timeout, at least 10.
        zookeeper_ca, zookeeper_cert, zookeeper_key: PEM files for TLS; the
            certificate's file may hold the key.
        stop_timeout: how long a run may take to its next boundary when the
            node is told to leave, before it is cancelled.
        interval: how often the node converges by itself; None for never.
        run_lock: the lock that each of the node's runs is under as a whole.
        splay: up to how much is added to each interval, by chance.
        delayed_after_failure: whether delayed notifications run after a
            failure, too, as in Chef.
        auto_wash: whether the node washes dishes by itself after a run.
        facts: `facter` or `ohai` for what that finds out beside our own
            automatic attributes; `own` for those alone.
        start_handlers: called with the run, as plain data, when it starts: a
            callable or its `module:function`, several in order.
        report_handlers: called with the report of a run that ended well.
        exception_handlers: called with the report of one that did not.
        actors: actors of this site beside the stock ones: `module:Class` by name.
        origins: where each setting came from; read it with `origin`.
    """

    name: str | None = None
    registry: str = field(default_factory=default_registry, repr=False)
    listen: str | None = None
    advertise: str | None = None
    crypto: bool = True
    state_dir: Path | None = None
    environment: str | None = None
    cookbooks: Path | None = None
    run_list: tuple[str, ...] = ()
    sensitive_attributes: tuple[str, ...] = ()
    timeout: float = 10.0
    session_timeout: float = 8.0
    rubbish_pause: float = 60.0
    lock_delay: float | None = None
    zookeeper_ca: str | None = None
    zookeeper_cert: str | None = None
    zookeeper_key: str | None = None
    stop_timeout: float = 60.0
    interval: float | None = None
    run_lock: str | None = None
    splay: float = 0.0
    delayed_after_failure: bool = True
    auto_wash: bool = True
    facts: str = "own"
    start_handlers: tuple[str | Handler, ...] = ()
    report_handlers: tuple[str | Handler, ...] = ()
    exception_handlers: tuple[str | Handler, ...] = ()
    actors: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shown_registry(self) -> str:
        """The registry's URL without its password, for messages."""
        return without_password(self.registry)

    def origin(self, name: str) -> str:
        """Say where a setting came from.

        Returns:
            `argument`, the environment variable (`FLOCK_TIMEOUT`), the file
            and line (`/etc/flock/flock.toml:3`), or `default`.
        """
        _check_name(name)
        return self.origins.get(name, "default")

    def state_folder(self, name: str) -> Path:
        """Return where the node `name` keeps its journal, keys and run lock.

        `state_dir` if it is set; else `DIR/state/NAME` beside an embedded
        registry, `$XDG_STATE_HOME/flock/NAME` (root: `/var/lib/flock/NAME`)
        with another.
        """
        if self.state_dir is not None:
            return self.state_dir
        scheme, _, folder = self.registry.partition(":")
        return Path(folder) / "state" / name if scheme == "embedded" else _state_home() / name


def load_settings(arguments: Mapping[str, Any] | None = None) -> Settings:
    """Gather the settings of this process from all places.

    Args:
        arguments: the strongest values, by the names of `Settings`; None and
            an empty list mean that nothing was given.

    Raises:
        SettingsError: a name is unknown, a value is wrong, or the
            configuration file cannot be used. A wrong value that a stronger
            place overrides is not looked at.
    """
    given: dict[str, _Given] = {}
    path = find_settings_file()
    if path is not None:
        for name, (value, place) in read_settings_file(path).items():
            _check_name(name, f"{place}: ")
            given[name] = _Given(value, place, path.parent)
    for name in SETTINGS:
        variable = f"FLOCK_{name.upper()}"
        # An empty variable is how a shell says "not set".
        if text := os.environ.get(variable):
            given[name] = _Given(text, variable, Path.cwd())
    for name, value in (arguments or {}).items():
        _check_name(name)
        if value is not None and value not in ((), []):
            given[name] = _Given(value, "argument", Path.cwd())
    values = {name: _checked(name, value) for name, value in given.items()}
    settings = Settings(**values, origins={name: value.origin for name, value in given.items()})
    if settings.zookeeper_key and not settings.zookeeper_cert:
        raise SettingsError(
            f"zookeeper_key is set ({settings.origin('zookeeper_key')}) without zookeeper_cert,"
            " the certificate that it belongs to"
        )
    return settings


def misspelt_variables() -> dict[str, str]:
    """Return variables of the environment that are none of ours but nearly, and what is near."""
    variables = [f"FLOCK_{name.upper()}" for name in SETTINGS]
    strange = sorted({name for name in os.environ if name.startswith("FLOCK_")} - {*variables})
    near = {name: difflib.get_close_matches(name, variables, 1, _NEARLY) for name in strange}
    return {name: found[0] for name, found in near.items() if found}


# --- the settings one by one ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody wrote it; `folder` is where relative paths begin."""

    value: Any
    origin: str
    folder: Path


def _checked(name: str, given: _Given) -> Any:
    """Turn what was written into what `Settings` holds."""
    read, wanted = SETTINGS[name]
    try:
        return read(given.value, given.folder)
    except ValueError as error:
        shown = given.value
        if name == "registry" and isinstance(shown, str):
            shown = without_password(shown)
        reason = f" ({error})" if str(error) else ""
        raise SettingsError(
            f"{name} is {shown!r} (from: {given.origin}); wanted is {wanted}{reason}"
        ) from None


def _check_name(name: str, place: str = "") -> None:
    if name not in SETTINGS:
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"{place}there is no setting {name!r}{suggestion}")


def _state_home() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/flock")
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        # The standard says that a relative path there counts for nothing.
        base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    except RuntimeError:
        raise SettingsError(
            "no home folder is known: set HOME, or registry and state_dir"
        ) from None
    return base / "flock"


_POSITIVE = "a number of seconds above 0"
_NOT_NEGATIVE = "a number of seconds, 0 or more"
_YES_OR_NO = "true or false"
_HANDLERS = "a list of 'module:function'"

SETTINGS: Mapping[str, tuple[Reader, str]] = {
    "name": (read_node_name, NODE_NAME_RULE),
    "registry": (registry_url(BACKENDS), REGISTRY_FORM),
    "listen": (read_listen, "tcp://HOST:PORT, with * for a free port"),
    "advertise": (read_advertise, "tcp://HOST or tcp://HOST:PORT"),
    "crypto": (read_flag, _YES_OR_NO),
    "state_dir": (read_path, "a folder"),
    "environment": (read_environment, f"a name of {ENVIRONMENT_RULE}"),
    "cookbooks": (read_path, "a folder"),
    "run_list": (read_run_list, "a list of items as 'recipe[cb::name]', or a text with commas"),
    "sensitive_attributes": (read_run_list, "a list of dotted paths as 'db.password'"),
    "timeout": (seconds(above=0), _POSITIVE),
    "session_timeout": (seconds(at_least=1), "a number of seconds, 1 or more"),
    "rubbish_pause": (seconds(), _NOT_NEGATIVE),
    "lock_delay": (seconds(above=0), _POSITIVE),
    "zookeeper_ca": (read_path_text, "a file"),
    "zookeeper_cert": (read_path_text, "a file"),
    "zookeeper_key": (read_path_text, "a file"),
    "stop_timeout": (seconds(), _NOT_NEGATIVE),
    "interval": (seconds(above=0), _POSITIVE),
    "run_lock": (read_text, "the name of a lock"),
    "splay": (seconds(), _NOT_NEGATIVE),
    "delayed_after_failure": (read_flag, _YES_OR_NO),
    "auto_wash": (read_flag, _YES_OR_NO),
    "facts": (one_of("own", "facter", "ohai"), "own, facter or ohai"),
    "start_handlers": (read_handlers, _HANDLERS),
    "report_handlers": (read_handlers, _HANDLERS),
    "exception_handlers": (read_handlers, _HANDLERS),
    "actors": (actor_homes(STOCK_ACTORS), "a table of 'module:Class' by name"),
}
"""Every setting by name: how it is read, and what is said when it cannot be."""
