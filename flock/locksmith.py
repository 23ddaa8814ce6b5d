"""Gives runs their locks, from the flock's registry or from another ensemble's."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flock.converge.locks import LockWish
from flock.errors import FlockError, RegistryUnavailable
from flock.extensions import make_registry
from flock.fleet import Flock
from flock.node_objects import NodeObjects
from flock.settings import Settings
from registry.contract import Lock, LockOwner, LockStatus, Registry
from registry.processes import this_process

logger = logging.getLogger(__name__)


class RegistryLocksmith:
    """Takes the locks of one node's runs; used by the runs' thread, closed by another.

    Args:
        name: the node's name, in which locks are taken.
        settings: for the sessions with other ensembles.
        registry: returns the flock's own, open; raises `RegistryUnavailable`
            while there is none.
    """

    def __init__(self, name: str, settings: Settings, registry: Callable[[], Registry]) -> None:
        self._name = name
        self._settings = settings
        self._own = registry
        self._lock = threading.Lock()
        self._others: dict[str, Registry] = {}
        self._is_closed = False

    def acquire(self, wish: LockWish, run_id: str, cancelled: threading.Event) -> Lock:
        """Wait in line for a slot and take it; see `flock.converge.locks.Locksmith`."""
        registry = self._own() if wish.zookeeper is None else self._other(wish.zookeeper)
        slots = wish.slots_of(lambda query: len(NodeObjects(self._own()).search(query)))
        owner = LockOwner(self._name, this_process().host, run_id, wish.reason, wish.group)
        return registry.acquire(
            wish.lockid,
            owner,
            wait=wish.wait,
            slots=slots,
            keep=wish.keep_on_failure,
            cancelled=cancelled,
        )

    def status(self, wish: LockWish) -> LockStatus:
        """Say who has the lock."""
        registry = self._own() if wish.zookeeper is None else self._other(wish.zookeeper)
        return registry.lock_holders(wish.lockid)

    def _other(self, hosts: str) -> Registry:
        """Return the registry of another ensemble, opened at its first use and kept.

        Raises:
            RegistryUnavailable: it does not answer.
            WrongRegistry: it cannot be named so.
        """
        url = hosts if "://" in hosts else f"zookeeper://{hosts}"
        with self._lock:
            if self._is_closed:
                raise RegistryUnavailable(hosts, "this node is leaving")
            registry = self._others.get(url)
            if registry is None:
                settings = dataclasses.replace(self._settings, registry=url)
                registry = make_registry(settings)
                registry.open()
                self._others[url] = registry
            return registry

    def close(self) -> None:
        """End the sessions with other ensembles; twice is harmless."""
        with self._lock:
            self._is_closed = True
            others, self._others = self._others, {}
        for registry in others.values():
            registry.close()


def tell_holder(flock: Flock, lockid: str, holder: Mapping[str, Any], by: str, reason: str) -> bool:
    """Tell the node that held a lock that it was broken; say whether it can be told."""
    try:
        if holder["owner"] not in flock:
            return False
        locker = flock[holder["owner"]]["locker"].options(timeout=3.0)
        locker.was_broken(lockid, holder["token"], reason, by)
    except FlockError as error:
        logger.warning("%s is not told that its lock was broken: %s", holder["owner"], error)
        return False
    return True
