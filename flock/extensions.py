"""What the settings name, imported by that name.

The registry's backends by the scheme of their URL, the actors of a node, and
what is called at a run's start and end. So kazoo is not imported on one
machine, and a site adds an actor without touching ours. A site's module is
found as Python finds any: installed beside us, or in a folder of `PYTHONPATH`.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from flock.errors import SettingsError, WrongRegistry
from flock.settings import BACKENDS, REGISTRY_FORM, STOCK_ACTORS, Handler, Settings
from registry.contract import Registry, RegistrySettings


def make_registry(settings: Settings) -> Registry:
    """Make the registry's backend, without opening it; imports only the one that is used.

    Raises:
        WrongRegistry: the URL names none.
    """
    scheme = settings.registry.partition(":")[0]
    if scheme not in BACKENDS:
        raise WrongRegistry(
            f"{settings.shown_registry!r} is no registry; wanted is {REGISTRY_FORM}"
        )
    backend = _load_class(BACKENDS[scheme], "registry backend")
    try:
        registry: Registry = backend(
            RegistrySettings(
                url=settings.registry,
                session_timeout=settings.session_timeout,
                lock_delay=settings.lock_delay,
                zookeeper_ca=settings.zookeeper_ca,
                zookeeper_cert=settings.zookeeper_cert,
                zookeeper_key=settings.zookeeper_key,
            )
        )
    except WrongRegistry as error:
        raise WrongRegistry(f"{error} (registry from: {settings.origin('registry')})") from None
    return registry


def load_actors(settings: Settings) -> dict[str, type[Any]]:
    """Import the classes of a node's actors: the stock ones first, then the site's.

    Raises:
        SettingsError: a module or class of `actors` is not there.
    """
    stock = {name: _load_class(home, f"actor {name!r}") for name, home in STOCK_ACTORS.items()}
    origin = settings.origin("actors")
    return stock | {
        name: _load_class(home, f"actor {name!r} (from: {origin})")
        for name, home in settings.actors.items()
    }


def load_handlers(settings: Settings, moment: str) -> tuple[Handler, ...]:
    """Import what is called at a moment of each run.

    Args:
        settings: they name it.
        moment: `start`, `report` or `exception`.

    Raises:
        SettingsError: a module or function is not there.
    """
    name = f"{moment}_handlers"
    handlers: list[Handler] = []
    for each in getattr(settings, name):
        found = each
        if isinstance(each, str):
            what = f"the {moment} handler {each!r} (from: {settings.origin(name)})"
            found = _load(each, what)
            if not callable(found):
                raise SettingsError(f"{what} cannot be called: it is {found!r}")
        handlers.append(found)
    return tuple(handlers)


def load_site(settings: Settings) -> None:
    """Import all that the settings name of a site's own; loading it again costs nothing.

    Raises:
        SettingsError: something is not there.
    """
    load_actors(settings)
    for moment in ("start", "report", "exception"):
        load_handlers(settings, moment)


def _load_class(home: str, what: str) -> type[Any]:
    """Import a class by its `module:Class`."""
    found = _load(home, what)
    if not isinstance(found, type):
        raise SettingsError(f"{what} cannot be loaded: {home!r} is no class")
    return found


def _load(home: str, what: str) -> Any:
    """Import what stands under a name of a module."""
    module_name, _, name = home.partition(":")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a site's file may fail in any way
        raise SettingsError(
            f"{what} cannot be loaded from {home!r}: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        near = difflib.get_close_matches(name, vars(module), n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(
            f"{what} cannot be loaded: {module_name} has no {name!r}{suggestion}"
        ) from None
