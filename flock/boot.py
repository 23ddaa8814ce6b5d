"""Where a node is put together: the runtime, the kitchen, and the actors that hold it.

The two wings meet here. `furnish` is called by a named `Flock` when it starts,
after it has joined and before it is listed: who is listed answers.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import zmq.auth

from flock.activity import Activity
from flock.calls import CallOptions
from flock.converge.cook import Around
from flock.converge.cookbooks import Cookbooks
from flock.converge.forks import in_children
from flock.converge.kitchen import Kitchen
from flock.converge.locks import Locksmith, LockWish
from flock.converge.run_list import parse_item
from flock.converge.waiting import Lookout
from flock.errors import (
    ConvergeError,
    FlockError,
    JournalError,
    NameTaken,
    RecipeError,
    SettingsError,
)
from flock.extensions import load_actors, load_handlers
from flock.fleet import Flock
from flock.journal import Journal
from flock.locksmith import RegistryLocksmith
from flock.lookout import FlockLookout
from flock.node import Node
from flock.notice_office import NoticeOffice
from flock.object_keeper import ObjectKeeper
from flock.run_chains import RunChains
from flock.run_events import for_others, topic_of
from flock.run_waits import run_chains, watch_for_circles
from flock.settings import STOCK_ACTORS, Settings
from flock.tokens import Tokens

logger = logging.getLogger(__name__)

_REGISTRY_FACT = "registry id"
_KEY_NAME = "node"
_NUDGE_WITHIN = 3.0


def furnish(flock: Flock) -> None:
    """Put the kitchen and the actors into a node that has joined.

    Raises:
        NameTaken: another process of this machine uses the state folder.
        BusyError: the node object belongs to another host or state folder.
        JournalError: the journal cannot be used.
        SettingsError: a site's actor or handler cannot be loaded, or the state
            folder belongs to another registry.
    """
    settings, name = flock.settings, flock.node.identity.name
    check_runs(settings)
    folder = StateFolder(settings.state_folder(name))
    folder.hold(name)
    flock.before_close(folder.let_go)
    journal = folder.journal(flock.registry.registry_id())
    flock.before_close(journal.close)
    keeper = ObjectKeeper(name, folder.path, journal, flock.registry)
    flock.before_close(keeper.close)
    notices = NoticeOffice(journal, name)
    chains = run_chains(name, lambda: flock)
    locksmith = RegistryLocksmith(name, settings, lambda: flock.registry)
    flock.before_close(locksmith.close)
    lookout = FlockLookout(lambda: flock)
    flock.node.fence_calls(Tokens(journal).check)
    kitchen = make_kitchen(
        settings,
        name,
        journal,
        {"FlockOfChefs": flock},
        keeper,
        notices,
        chains.around,
        locksmith=locksmith,
        lookout=lookout,
    )
    flock.before_close(kitchen.on_event(partial(_forget_ended, chains)))
    publish = flock.node.topics.publisher.channel(topic_of(name))
    flock.before_close(kitchen.on_event(lambda event: publish(for_others(event))))
    circles = watch_for_circles(kitchen, chains, lambda: flock, flock.registry)
    flock.before_close(circles.stop)
    flock.before_close(lambda: _send_the_rest(notices))
    flock.before_close(notices.stop_receiving)
    flock.before_close(lambda: kitchen.stop(settings.stop_timeout))
    notices.send(flock.registry, nudger(flock.node))
    parts = {
        "flock": flock,
        "journal": journal,
        "kitchen": kitchen,
        "notices": notices,
        "chains": chains,
        "circles": circles,
    }
    for actor_name, actor_class in load_actors(settings).items():
        wanted = {part: parts[part] for part in getattr(actor_class, "needs", ())}
        flock.node.supervisor.add(
            actor_name,
            lambda made=actor_class, wanted=wanted: made(**wanted),  # type: ignore[misc]
            is_stock=actor_name in STOCK_ACTORS,
        )
    _declare(flock, kitchen)
    save_declared(kitchen, keeper)
    kitchen.take_up_notices()
    notices.desk.renew(complete=False)
    notices.receive(flock.registry, flock.node.identity.generation, kitchen)
    if settings.interval is not None:
        timetable = Timetable(kitchen, settings.interval, settings.splay)
        flock.before_close(timetable.stop)


def check_runs(settings: Settings) -> None:
    """Refuse settings that no run can go by; to be called before anything is written.

    Whether the cookbooks hold what the run list names is known when a run begins.

    Raises:
        SettingsError: an item of the run list is none, or a handler cannot be loaded.
    """
    try:
        for item in settings.run_list:
            parse_item(item, f"run_list (from: {settings.origin('run_list')})")
    except RecipeError as error:
        raise SettingsError(str(error)) from None
    for moment in ("start", "report", "exception"):
        load_handlers(settings, moment)


def make_kitchen(
    settings: Settings,
    name: str,
    journal: Journal,
    words: Mapping[str, Any],
    keeper: ObjectKeeper,
    notices: NoticeOffice | None = None,
    around: Around = nullcontext,
    locksmith: Locksmith | None = None,
    lookout: Lookout | None = None,
    *,
    lasts: bool = True,
) -> Kitchen:
    """Make a machine's kitchen from the settings; the node object is claimed for it.

    Args:
        settings: cookbooks, and run list and environment; where they say
            nothing, what the node object says stands.
        name: the node's name.
        journal: keeps its runs.
        words: what recipes may use beside the words of `flock.recipe`.
        keeper: keeps its node object; closed by the caller after the kitchen.
        notices: takes what its runs tell other machines; None keeps that in
            the journal for the next process that sends.
        around: what the recipes and resources of a run happen inside of.
        locksmith: gives its runs their locks; without one none is had.
        lookout: watches what its waits ask for.
        lasts: whether the settings' run list and environment become the node's
            own; False where nothing that lasts is to be changed.

    Raises:
        BusyError: the node object belongs to another host or state folder.
        RegistryUnavailable: that cannot be known now.
        SettingsError: a handler cannot be loaded, or the machine is to change
            to an environment that there is not; nothing is written then.
    """
    _check_environment(settings, keeper)
    assigned = keeper.claim(settings.run_list, settings.environment, lasts=lasts)
    notices = notices or NoticeOffice(journal, name)
    kitchen = Kitchen(
        name,
        settings.cookbooks,
        assigned.run_list,
        settings.state_folder(name),
        assigned.environment,
        journal=journal,
        store=keeper,
        sensitive_attributes=settings.sensitive_attributes,
        words=words,
        outbound=notices.desk,
        around=around,
        locksmith=locksmith,
        lookout=lookout,
        run_lock=LockWish(settings.run_lock, None, reason="a run") if settings.run_lock else None,
        delayed_after_failure=settings.delayed_after_failure,
        fact_engine=None if settings.facts == "own" else settings.facts,
        start_handlers=load_handlers(settings, "start"),
        report_handlers=load_handlers(settings, "report"),
        exception_handlers=load_handlers(settings, "exception"),
    )
    notices.serve(kitchen)
    return kitchen


def _check_environment(settings: Settings, keeper: ObjectKeeper) -> None:
    """Refuse an environment that there is not, before the machine is set to it.

    One that it is in already may have gone since: each run says so, and a node
    starts to be mended.

    Raises:
        SettingsError: there is none of this name, or its file is wrong.
    """
    name = settings.environment
    if name is None or name == keeper.known.environment:
        return
    try:
        Cookbooks(settings.cookbooks).environment(name)
    except RecipeError as error:
        place = f"environment (from: {settings.origin('environment')})"
        raise SettingsError(f"{place}: {str(error).removeprefix('environment: ')}") from None


def _forget_ended(chains: RunChains, event: Mapping[str, Any]) -> None:
    if event.get("event") == "run ended":
        chains.over(event["run_id"])


def _send_the_rest(notices: NoticeOffice) -> None:
    left = notices.stop_sending()
    if left:
        logger.warning("%d notices are not sent yet: the next process of this node does", left)


def nudger(node: Node) -> Callable[[str], None]:
    """Return what tells a node, by name, that its queue in the registry has something."""

    def nudge(name: str) -> None:
        node.calls.tell(
            node.peer(name), "resource_manager", "nudge", (), {}, CallOptions(timeout=_NUDGE_WITHIN)
        )

    return nudge


def _declare(flock: Flock, kitchen: Kitchen) -> None:
    """Declare the run list without converging; a wrong recipe is no reason not to start."""
    try:
        kitchen.declare()
    except ConvergeError as error:
        logger.error("the run list is not declared: %s", error)

    def show(_: dict[str, Any]) -> None:
        flock.node.environment = kitchen.environment
        flock.node.roles, flock.node.recipes = tuple(kitchen.roles), tuple(kitchen.recipes)
        flock.node.announcer.changed()

    show({})
    activity = Activity(kitchen.active, kitchen.acts, flock.node.announcer.changed)
    kitchen.on_action(activity.action_changed)
    flock.node.set_activity(activity.word)
    flock.before_close(kitchen.on_event(lambda event: show(event) if _is_edge(event) else None))


def save_declared(kitchen: Kitchen, keeper: ObjectKeeper) -> None:
    """Save the node object as the declared run list makes it, so that search finds the node.

    What the recipes did to normal attributes counts only after a run.
    """
    try:
        node_object = kitchen.node_object() | {"normal": keeper.normal_attributes()}
        known = keeper.saved()
        if known is not None and not kitchen.is_declared():
            # What a wrong recipe left out would hide the machine from who looks for it.
            node_object["attributes"] = known["attributes"]
        keeper.save(node_object)
    except FlockError as error:
        logger.error("the node object is not saved: %s", error)


@contextmanager
def alone(settings: Settings, name: str, words: Mapping[str, Any]) -> Iterator[Kitchen]:
    """Give a node's kitchen while there is no registry: its runs go on as its interval says.

    What stood in the journal stands; what is learned is saved when the node
    has joined. Left when no run goes on any more: end it when the kitchen is
    not `active`, or a run is ended after `stop_timeout`.

    Args:
        settings: as for a node that joins.
        name: the node's name.
        words: what recipes may use beside the words of `flock.recipe`.

    Raises:
        NameTaken: another process of this machine uses the state folder.
        JournalError: the journal cannot be used.
    """
    with ExitStack() as stack:
        folder = StateFolder(settings.state_folder(name))
        folder.hold(name)
        stack.callback(folder.let_go)
        journal = folder.journal(None)
        stack.callback(journal.close)
        keeper = ObjectKeeper(name, folder.path, journal, None)
        stack.callback(keeper.close)
        kitchen = make_kitchen(settings, name, journal, words, keeper)
        stack.callback(lambda: kitchen.stop(settings.stop_timeout))
        if settings.interval is not None:
            stack.callback(Timetable(kitchen, settings.interval, settings.splay).stop)
        yield kitchen


def _is_edge(event: Mapping[str, Any]) -> bool:
    return event.get("event") in ("run started", "run ended")


class StateFolder:
    """A node's folder: journal, keys, run lock; used by one process at a time.

    `flockctl converge` uses a folder without holding it: the run lock keeps it
    apart from the node.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder, for its owner alone, if it is not there.

        Raises:
            SettingsError: it cannot be made or used.
        """
        self.path = path
        self._lock: int | None = None
        try:
            # One by one: `parents=True` makes those above with everybody's rights, and
            # the embedded registry's folder may be among them.
            for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
                missing.mkdir(mode=0o700, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(13, "it is not writable")
        except OSError as error:
            raise SettingsError(
                f"the state folder {path} cannot be used: {error.strerror}; set state_dir"
            ) from None

    def hold(self, name: str) -> None:
        """Keep other nodes out until `let_go` or the end of this process.

        Raises:
            NameTaken: a process holds it; says which.
            JournalError: the folder cannot be written.
        """
        with self._written():
            lock = os.open(self.path / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace").strip()
            os.close(lock)
            raise NameTaken(
                name, f"{holder or 'another process'} uses the state folder {self.path}"
            ) from None
        try:
            with self._written():
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except JournalError:
            os.close(lock)
            raise
        self._lock = lock
        in_children(self.let_go)

    def let_go(self) -> None:
        """Let other nodes in; twice is harmless."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def journal(self, registry_id: str | None) -> Journal:
        """Open the journal.

        Args:
            registry_id: the registry this process has joined; None if it has
                joined none.

        Raises:
            JournalError: it cannot be used.
            SettingsError: it belongs to another registry.
        """
        journal = Journal(self.path / "journal.sqlite3")
        try:
            known = journal.recall(_REGISTRY_FACT)
            if registry_id is not None and known is None:
                journal.remember(_REGISTRY_FACT, registry_id)
            elif registry_id is not None and known != registry_id:
                raise SettingsError(
                    f"the state folder {self.path} belongs to another registry ({known}, this one "
                    f"is {registry_id}): take another state_dir, or remove the folder if "
                    "that registry is gone for good"
                )
        except BaseException:
            journal.close()
            raise
        return journal

    def keys(self) -> tuple[bytes, bytes]:
        """Return the node's kept key pair, Z85, made at first use.

        Returns:
            Public and secret key.

        Raises:
            JournalError: they cannot be written.
            SettingsError: what is kept is no key.
        """
        secret_file = self.path / f"{_KEY_NAME}.key_secret"
        with self._written():
            if not secret_file.exists():
                self._make_keys()
            secret_file.chmod(0o600)
        try:
            public, secret = zmq.auth.load_certificate(secret_file)
            is_pair = secret is not None and zmq.curve_public(secret) == public
        except (OSError, ValueError, zmq.ZMQError):
            is_pair = False
        if not is_pair or secret is None:
            raise SettingsError(
                f"{secret_file} holds no key pair: put it back, or move it away and say "
                "`flockctl forget NAME`; then a new one is made"
            )
        return public, secret

    def _make_keys(self) -> None:
        """Make a key pair beside its place, so that a full disk leaves none or a whole one."""
        with tempfile.TemporaryDirectory(prefix="keys-", dir=self.path) as fresh:
            before = os.umask(0o077)
            try:
                zmq.auth.create_certificates(fresh, _KEY_NAME)
            finally:
                os.umask(before)
            # The secret one says that both are there.
            for kind in ("key", "key_secret"):
                os.replace(Path(fresh) / f"{_KEY_NAME}.{kind}", self.path / f"{_KEY_NAME}.{kind}")

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Turn what the system refuses into our error, in one line."""
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"the state folder {self.path} cannot be written: {error.strerror or error}"
            ) from error


def node_keys(settings: Settings, name: str) -> tuple[bytes, bytes]:
    """Return the key pair that the node `name` keeps in its state folder, made at first use."""
    return StateFolder(settings.state_folder(name)).keys()


class Timetable:
    """Orders a run every so often."""

    def __init__(self, kitchen: Kitchen, interval: float, splay: float) -> None:
        """Begin.

        Args:
            kitchen: where runs are ordered.
            interval: seconds between the starts of two runs.
            splay: up to so many seconds are added by chance, so that not all
                machines start at once.
        """
        self._kitchen = kitchen
        self._interval = interval
        self._splay = splay
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flock-timetable", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval + random.uniform(0, self._splay)):  # noqa: S311 - spreads load, keeps no secret
            try:
                self._kitchen.order_run("interval")
            except FlockError as error:
                logger.warning("the interval's run was not ordered: %s", error)

    def stop(self) -> None:
        """End it; a run that was ordered goes on."""
        self._stopped.set()
        self._thread.join()
