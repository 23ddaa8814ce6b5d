"""Keeps this machine's own node object: in the registry, and in the journal for an outage.

The journal is written first, so that nothing a run learned is lost. What
could not be brought to the registry is brought there as soon as it answers
again, and before the next run at the latest.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flock.assigned_field import AssignedField
from flock.converge.attributes import Change
from flock.converge.node_store import Assigned
from flock.errors import FlockError, RegistryUnavailable
from flock.journal import Journal
from flock.node_objects import Home, NodeObjects, check_head, check_size
from registry.contract import Cancel, Registry, SessionState

logger = logging.getLogger(__name__)

_FOLDER_ID = "state folder id"
_OBJECT = "node_object"
_BASE = "normal attributes in the registry"
_UNSAVED = "node object unsaved"

_TRY_AGAIN = 5.0
"""Seconds between two attempts to save while the registry seems to be there."""


class ObjectKeeper:
    """The memory of one node between runs; what a kitchen takes as its store.

    Any thread may use it. Without a registry it is the journal alone.
    """

    def __init__(
        self, name: str, folder: Path, journal: Journal, registry: Registry | None
    ) -> None:
        """Take what it works with; asks nobody.

        Args:
            name: the node's name.
            folder: its state folder.
            journal: its journal, open; closed by the caller after `close`.
            registry: open; None while there is none.
        """
        self._name = name
        self._journal = journal
        self._objects = None if registry is None else NodeObjects(registry)
        self._registry = registry
        self._home = home_of(folder, journal)
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._closed = False
        self._saver: threading.Thread | None = None
        self._run_list: AssignedField[list[str]] = AssignedField(journal, "run list", [])
        self._environment = AssignedField(journal, "environment", "_default")
        self._stop_listening: Cancel | None = None
        if registry is not None:
            self._stop_listening = registry.on_state(self._on_state)

    def close(self) -> None:
        """End the attempts to save what is not saved yet; the next process goes on with them."""
        self._closed = True
        if self._stop_listening is not None:
            self._stop_listening()
        self._awake.set()
        saver = self._saver
        if saver is not None:
            saver.join()

    def claim(
        self,
        run_list: Sequence[str] | None = None,
        environment: str | None = None,
        *,
        lasts: bool = True,
    ) -> Assigned:
        """Make sure that the node object is this state folder's own, and return what it assigns.

        To be called once, before the first run.

        Args:
            run_list: the run list that was given to this process; it becomes
                the node's own. None keeps what stands.
            environment: the environment that was given; likewise.
            lasts: False lets this process go by what was given without that;
                nobody else hears of it, and no node object is made.

        Raises:
            BusyError: the node object belongs to another host or state folder.
            DocumentTooLarge: no registry takes what was given.
            RegistryUnavailable: that cannot be known now.
        """
        run_list = list(run_list) if run_list else None
        with self._lock:
            stands = None
            if self._objects is not None:
                stands = self._objects.owned(self._name, self._home)
            if stands is not None and not self._own_fields():
                self._note_assigned(stands.run_list, stands.environment)
            stood = None if stands is None and self.saved() is None else self.known
            if not lasts:
                self._run_list.go_by(run_list)
                self._environment.go_by(environment)
            elif self._objects is not None:
                # Kept here is only what was taken there: what was refused must not come again.
                found = self._objects.claim(
                    self._name,
                    self._home,
                    self._run_list.unsaved if run_list is None else run_list,
                    self._environment.unsaved if environment is None else environment,
                )
                self._note_assigned(found.run_list, found.environment)
            else:
                check_head(self._name, self._home, run_list or [], environment or "")
                self._run_list.give(run_list)
                self._environment.give(environment)
            if stood is not None:
                self._say_what_is_new(stood)
        return self._in_force()

    @property
    def known(self) -> Assigned:
        """Run list and environment that last, as far as they are known here; nobody is asked."""
        return Assigned(list(self._run_list.known), self._environment.known)

    # --- what a kitchen asks for

    def assigned(self) -> Assigned:
        """Return run list and environment as they stand; asked before each run.

        During an outage they are the last ones known.
        """
        with self._lock:
            if self._objects is not None and not self._own_fields():
                try:
                    found = self._objects.read(self._name)
                except RegistryUnavailable as error:
                    logger.warning("run list and environment are the last ones known: %s", error)
                else:
                    if found is not None:
                        self._note_assigned(found.run_list, found.environment)
        return self._in_force()

    def normal_attributes(self) -> dict[str, Any]:
        """Return the normal attributes as they stand; asked before each run.

        During an outage they are what the last run left.
        """
        with self._lock:
            if self._objects is not None:
                try:
                    self._save_what_is_left()
                    found = self._objects.read(self._name)
                    if found is not None:
                        self._note_normal(found.normal)
                except RegistryUnavailable as error:
                    logger.warning("attributes are the last ones known: %s", error)
            return self._known_normal()

    def check(self, node_object: dict[str, Any]) -> None:
        """Refuse a node object that no registry takes.

        Raises:
            DocumentTooLarge: says which part has how many bytes.
        """
        check_size(node_object, self._home)

    def saved(self) -> dict[str, Any] | None:
        """Return the node object as it was last saved here; None if it never was."""
        known: dict[str, Any] | None = self._journal.recall(_OBJECT)
        return known if known is not None and "run_list" in known else None

    def save(self, node_object: dict[str, Any]) -> None:
        """Keep the node object; in an outage it reaches the registry later.

        Raises:
            DocumentTooLarge: no registry takes it; nothing was written.
            BusyError: it belongs to another host or state folder by now.
            JournalError: it is not kept.
        """
        check_size(node_object, self._home)
        with self._lock:
            self._journal.remember(_OBJECT, node_object)
            self._journal.remember(_UNSAVED, True)
            try:
                self._save_what_is_left()
            except RegistryUnavailable as error:
                logger.warning("the node object is saved in the journal for now: %s", error)
                self._save_later()

    def change_normal(self, node_object: dict[str, Any], change: Change) -> None:
        """Change normal attributes at once; in an outage that reaches the registry later.

        Raises:
            DocumentTooLarge, BusyError, JournalError: as in `save`.
        """
        with self._lock:
            known = node_object | (self._journal.recall(_OBJECT) or {})
            known = known | {"normal": change(known["normal"])}
            check_size(known, self._home)
            self._journal.remember(_OBJECT, known)
            self._journal.remember(_UNSAVED, True)
            try:
                self._save_what_is_left()
            except RegistryUnavailable as error:
                logger.warning("attributes are saved in the journal for now: %s", error)
                self._save_later()

    # --- inside; the lock is held

    def _save_what_is_left(self) -> None:
        """Bring to the registry what is not there yet."""
        if self._objects is None or not self._journal.recall(_UNSAVED, False):
            return
        known = self._journal.recall(_OBJECT)
        saved = self._objects.save(
            known | {"run_list": self._run_list.known, "environment": self._environment.known},
            self._home,
            base=self._journal.recall(_BASE, {}),
            own=self._own_fields(),
        )
        self._note_assigned(saved["run_list"], saved["environment"])
        # Not what stands there now: a run that goes on has read no more than we know, and
        # what others wrote since must not look as if the run had taken it back.
        self._journal.remember(_BASE, known["normal"])
        self._journal.remember(_UNSAVED, False)

    def _own_fields(self) -> set[str]:
        """Return the fields that were given to us and that the registry does not have yet."""
        fields = {"run_list": self._run_list.unsaved, "environment": self._environment.unsaved}
        return {name for name, value in fields.items() if value is not None}

    def _note_assigned(self, run_list: Sequence[str], environment: str) -> None:
        self._run_list.note(list(run_list))
        self._environment.note(environment)

    def _say_what_is_new(self, stood: Assigned) -> None:
        """Say what was given that takes the place of something, be it set from afar."""
        now = self.known
        if stood.run_list and stood.run_list != now.run_list:
            shown = [", ".join(run_list) for run_list in (now.run_list, stood.run_list)]
            logger.warning("the run list of %s is %s from now on; it was %s", self._name, *shown)
        if stood.environment != now.environment:
            logger.warning(
                "the environment of %s is %s from now on; it was %s",
                self._name,
                now.environment,
                stood.environment,
            )

    def _in_force(self) -> Assigned:
        return Assigned(list(self._run_list.in_force), self._environment.in_force)

    def _note_normal(self, normal: dict[str, Any]) -> None:
        """Note what stands in the registry; what is not saved yet stays on top of it."""
        if self._journal.recall(_BASE) != normal:
            self._journal.remember(_BASE, normal)
        known = self._journal.recall(_OBJECT) or {}
        if known.get("normal") != normal:
            self._journal.remember(_OBJECT, known | {"normal": normal})

    def _known_normal(self) -> dict[str, Any]:
        known: dict[str, Any] = (self._journal.recall(_OBJECT) or {}).get("normal", {})
        return known

    # --- saving later

    def _on_state(self, state: SessionState) -> None:
        if state is SessionState.CONNECTED:
            self._awake.set()

    def _save_later(self) -> None:
        """Have a thread save once the registry answers; it ends when that is done."""
        if self._saver is None or not self._saver.is_alive():
            self._awake.clear()
            self._saver = threading.Thread(
                target=self._save_when_it_answers, name="flock-object-keeper", daemon=True
            )
            self._saver.start()

    def _save_when_it_answers(self) -> None:
        while True:
            self._awake.wait(_TRY_AGAIN)
            self._awake.clear()
            if self._closed:
                return
            with self._lock:
                try:
                    self._save_what_is_left()
                except RegistryUnavailable:
                    continue
                except FlockError as error:
                    logger.error("the node object is not saved: %s", error)
                    return
                else:
                    logger.info("the node object is saved in the registry")
                    return


def home_of(folder: Path, journal: Journal) -> Home:
    """Return where the node object of a state folder belongs; the folder gets its id once."""
    folder_id = journal.recall(_FOLDER_ID)
    if folder_id is None:
        journal.remember(_FOLDER_ID, secrets.token_hex(16))
        folder_id = journal.recall(_FOLDER_ID)
    return Home(folder_id, _machine_id(), socket.gethostname(), str(folder))


def _machine_id() -> str:
    """Return what tells this machine from others, empty if nothing does."""
    try:
        text = Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
    # The number itself is not for others to see: machine-id(5).
    return hashlib.sha256(f"flock {text}".encode()).hexdigest()[:32] if text else ""
