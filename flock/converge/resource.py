"""What a recipe declares: a thing of this machine and the state it should be in.

A resource is data. It is made by a recipe word (`file('/tmp/x', mode=0o600)`),
knows where it was declared, and does nothing by itself: a provider names the
changes it needs, the runner makes them.

To write a kind: a dataclass below `Resource` with `kind`, `actions` (the first
is the default) and its properties as fields with defaults and annotations; the
annotations are checked when a recipe declares one. `check` refuses what types
cannot say.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from sys import _getframe
from types import FrameType
from typing import Any, ClassVar, Self, TypeVar, cast

from flock.converge.condition import Guard, OnTimeout, Question, Wait, guard, wait
from flock.converge.locks import DEFAULT_WAIT, Held, LockWish
from flock.converge.notification import (
    Location,
    Notification,
    RemoteNotification,
    Timing,
    parse_resource_name,
)
from flock.converge.properties import Lazy, nearest, property_types, type_problem
from flock.errors import RecipeError


@dataclass(eq=False)
class Resource:
    """The base of all kinds; its fields are the properties that all kinds have.

    Attributes:
        name: what it is called: `file[name]`; often the thing itself.
        action: one action or several, made in this order; empty for the default.
        retries: how often a failed action is tried again.
        retry_delay: seconds before each further try.
        ignore_failure: a failure is reported and does not end the run.
        sensitive: content, commands and differences are shown nowhere.
        where: `file:line` of its declaration.
        declared_in: `cookbook::recipe` that declared it.
    """

    kind: ClassVar[str] = ""
    actions: ClassVar[tuple[str, ...]] = ()
    """What this kind can do, the default first; every kind can do `nothing`."""

    name: str
    action: str | Sequence[str] = field(default=(), kw_only=True)
    retries: int = field(default=0, kw_only=True)
    retry_delay: float = field(default=2.0, kw_only=True)
    ignore_failure: bool = field(default=False, kw_only=True)
    sensitive: bool = field(default=False, kw_only=True)

    where: str = field(default="", init=False, repr=False, compare=False)
    declared_in: str = field(default="", init=False, repr=False, compare=False)
    guards: list[Guard] = field(default_factory=list, init=False, repr=False, compare=False)
    waits: list[Wait] = field(default_factory=list, init=False, repr=False, compare=False)
    lock_wishes: list[LockWish] = field(default_factory=list, init=False, repr=False, compare=False)
    notifications: list[Notification] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    subscriptions: list[Notification] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    """What it subscribed to: here `target` is the resource that is watched."""
    remote_notifications: list[RemoteNotification] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    remote_subscriptions: list[RemoteNotification] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __str__(self) -> str:
        """Return `kind[name]`, as notifications name it."""
        return f"{self.kind}[{self.name}]"

    @property
    def home_cookbook(self) -> str:
        """The cookbook whose recipe declared it: templates and files are looked up there."""
        return self.declared_in.partition("::")[0]

    @property
    def wanted_actions(self) -> tuple[str, ...]:
        """The actions to make, in order; the kind's default if the recipe named none."""
        if isinstance(self.action, str):
            return (self.action,)
        return tuple(self.action) or self.actions[:1]

    @property
    def can_tell(self) -> bool:
        """Whether a look without acting tells if anything is to change; not so for a command."""
        return True

    @classmethod
    def can(cls, action: str) -> bool:
        """Say whether this kind has this action."""
        return action in cls.actions or action == "nothing"

    @classmethod
    def named(cls, given: object) -> tuple[object, dict[str, Any]]:
        """Return the name that a recipe's first argument is, and properties that follow from it.

        For a kind that can be named by more than one text.
        """
        return given, {}

    def check(self) -> None:
        """Refuse what cannot be, fill in what follows from other properties.

        Called when the resource is declared, and again after lazy values were
        worked out; looks at nothing but the properties. A kind that overrides
        it changes fields only in a way that a second call leaves alone.

        Raises:
            ValueError: with a message that names the property.
        """

    def shown(self, text: str) -> str:
        """Return `text` for a report or a log line; hidden if the resource is sensitive."""
        return "(sensitive)" if self.sensitive else text

    # --- what binds a resource to others

    def notifies(self, action: str, target: str | Resource, timing: str = "delayed") -> Self:
        """Run `action` of `target` if this resource changed.

        Args:
            action: an action of the target.
            target: `kind[name]`, declared anywhere in the run; or the resource.
            timing: `before` (it changes), `immediately`, or `delayed` to the
                end of the run, there once per target and action.
        """
        where = _caller()
        self.notifications.append(self._notification(action, str(target), timing, where))
        return self

    def subscribes(self, action: str, target: str | Resource, timing: str = "delayed") -> Self:
        """Run `action` of this resource if `target` changed; `notifies` seen from its target."""
        where = _caller()
        self.subscriptions.append(self._notification(action, str(target), timing, where))
        return self

    def remote_notifies(
        self,
        action: str,
        target: str,
        timing: str = "immediately",
        *,
        node: str | Sequence[str] | None = None,
        roles: str | Sequence[str] | None = None,
        recipes: str | Sequence[str] | None = None,
        environment: str | None = None,
        query: str | None = None,
    ) -> Self:
        """Run `action` of `target` on other machines if this resource changed.

        Args:
            action: an action of the target over there.
            target: `kind[name]` over there.
            timing: `immediately`, or `delayed` to the end of this run.
            node: a name or several; wins over all that follows, which is ANDed
                over node objects.
            roles: a role or several that the machines have.
            recipes: a recipe or several in their run lists.
            environment: the environment they are in.
            query: what `FlockOfChefs.search` understands.
        """
        where = _caller()
        self.remote_notifications.append(
            self._remote(
                action, target, timing, (node, roles, recipes, environment, query), where, ""
            )
        )
        return self

    def remote_subscribes(
        self,
        action: str,
        watched: str,
        timing: str = "immediately",
        *,
        node: str | Sequence[str] | None = None,
        roles: str | Sequence[str] | None = None,
        recipes: str | Sequence[str] | None = None,
        environment: str | None = None,
        query: str | None = None,
    ) -> Self:
        """Run `action` of this resource if `watched` changed on other machines.

        The arguments are those of `remote_notifies`; the location says where
        `watched` lives.
        """
        where = _caller()
        self._check_action(action, where)
        self.remote_subscriptions.append(
            self._remote(
                action,
                str(self),
                timing,
                (node, roles, recipes, environment, query),
                where,
                watched,
            )
        )
        return self

    def only_if(self, question: Question, **options: Any) -> Self:
        """Converge only if the answer is yes.

        Args:
            question: a function without arguments, or a command (text for the
                shell, or a list) that says yes with exit code 0. An exception
                in a function fails the resource.
            options: for a command `cwd`, `user`, `group`, `environment`, `timeout`.
        """
        self.guards.append(guard(question, True, options, _caller()))
        return self

    def not_if(self, question: Question, **options: Any) -> Self:
        """Converge only if the answer is no; otherwise as `only_if`."""
        self.guards.append(guard(question, False, options, _caller()))
        return self

    def wait_until(
        self,
        question: Question,
        *,
        pause: float = 1.0,
        timeout: float = 300.0,
        on_timeout: OnTimeout = "fail",
    ) -> Self:
        """Wait before the guards until the answer is yes.

        A question that ends in a call's or the registry's error is asked again
        after the pause; any other exception fails the resource. Several waits
        follow each other in the order written.

        Args:
            question: as in `only_if`.
            pause: seconds between two questions.
            timeout: seconds until the wait is given up.
            on_timeout: `fail` the resource, `skip` it, or `go_on` with it.
        """
        self.waits.append(wait(question, True, pause, timeout, on_timeout, _caller()))
        return self

    def wait_while(
        self,
        question: Question,
        *,
        pause: float = 1.0,
        timeout: float = 300.0,
        on_timeout: OnTimeout = "fail",
    ) -> Self:
        """Wait before the guards as long as the answer is yes; otherwise as `wait_until`."""
        self.waits.append(wait(question, False, pause, timeout, on_timeout, _caller()))
        return self

    def under_lock(
        self,
        lockid: str,
        *,
        wait: float | None = DEFAULT_WAIT,
        slots: int | str = 1,
        among: str = "",
        group: str = "",
        keep_on_failure: bool = False,
        zookeeper: str | None = None,
    ) -> Self:
        """Change this resource only under a lock, asked for only if something is to change.

        A lock that is not had skips the resource, naming who has it. It is
        held until the end of the run, or until `clockoff`.

        Args:
            lockid: its name.
            wait: seconds to wait for it; 0 for "now or not", None without limit.
            slots: how many may hold it at a time, or a part of `among` as `10%`.
            among: a query over machines, as `roles:web`.
            group: machines of one group take one slot together.
            keep_on_failure: a failed run keeps its slot from others.
            zookeeper: `host:2181` of another ensemble than the flock's own.
        """
        where = _caller()
        wish = LockWish(
            lockid, wait, slots, among, group, keep_on_failure, zookeeper, reason=str(self)
        )
        try:
            wish.check()
        except ValueError as error:
            raise RecipeError(f"{self}: {error}", where) from None
        self.lock_wishes.append(wish)
        return self

    @property
    def lockids(self) -> frozenset[str]:
        """The locks that protect it: those it is `under_lock` of, and those its guards ask for."""
        asked = (each.question for each in self.guards if each.wanted)
        guarding = {each.lockid for each in asked if isinstance(each, Held)}
        return frozenset(guarding | {wish.lockid for wish in self.lock_wishes})

    # --- inside

    def _check_action(self, action: str, where: str) -> None:
        """Refuse an action this kind does not have."""
        if not self.can(action):
            known = ", ".join(dict.fromkeys((*self.actions, "nothing")))
            raise RecipeError(f"{self} has no action {action!r}; it has {known}", where)

    def _notification(self, action: str, target: str, timing: str, where: str) -> Notification:
        """Make a notification of what the recipe wrote."""
        try:
            parse_resource_name(target)
            return Notification(action, target, Timing.named(timing), where)
        except ValueError as error:
            raise RecipeError(f"{self}: {error}", where) from None

    def _remote(
        self,
        action: str,
        target: str,
        timing: str,
        location: tuple[Any, Any, Any, str | None, str | None],
        where: str,
        watched: str,
    ) -> RemoteNotification:
        """Make a remote notification of what the recipe wrote."""
        try:
            parse_resource_name(watched or target)
            when = Timing.named(timing)
            if when is Timing.BEFORE:
                raise ValueError("timing 'before' does not reach other machines")
            return RemoteNotification(action, target, when, Location.of(*location), where, watched)
        except ValueError as error:
            raise RecipeError(f"{self}: {error}", where) from None


R = TypeVar("R", bound=Resource)


def declare(
    cls: type[R], name: object, properties: Mapping[str, Any], where: str, recipe: str
) -> R:
    """Make a resource of what a recipe wrote.

    Args:
        cls: the kind.
        name: the resource's name.
        properties: what the recipe gave as keyword arguments.
        where: `file:line` of the declaration.
        recipe: `cookbook::recipe` that declares it.

    Raises:
        RecipeError: an unknown property or action, a value of the wrong type,
            or one that `check` refuses.
    """
    name, implied = cls.named(str(name) if isinstance(name, PurePath) else name)
    properties = {**implied, **properties}
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{cls.kind} needs a name, a text, not {name!r}", where)
    label = f"{cls.kind}[{name}]"
    known = settable_properties(cast(type, cls))
    hidden = bool(properties.get("sensitive"))
    values: dict[str, Any] = {}
    has_lazy = False
    for key, given in properties.items():
        if key not in known:
            raise RecipeError(f"{label}: {_unknown_property(cls, key, known)}", where)
        value = str(given) if isinstance(given, PurePath) else given
        if isinstance(value, Lazy):
            has_lazy = True
        elif (problem := type_problem(value, known[key], hidden=hidden)) is not None:
            raise RecipeError(f"{label}: {key} {problem}", where)
        values[key] = value
    resource = cls(name, **values)
    resource.where = where
    resource.declared_in = recipe
    if isinstance(resource.action, Lazy):
        raise RecipeError(f"{label}: action cannot be lazy", where)
    for action in resource.wanted_actions:
        resource._check_action(action, where)
    if not has_lazy:
        _check(resource)
    return resource


def with_lazy_values(resource: R) -> R:
    """Return the resource with its lazy values worked out; itself if it has none.

    Raises:
        RecipeError: a value that would have been refused in the recipe.
    """
    put_off = [name for name, value in vars(resource).items() if isinstance(value, Lazy)]
    if not put_off:
        return resource
    known = settable_properties(cast(type, type(resource)))
    ready = copy.copy(resource)
    for name in put_off:
        value = vars(resource)[name].compute()
        if isinstance(value, PurePath):
            value = str(value)
        if (problem := type_problem(value, known[name], hidden=resource.sensitive)) is not None:
            raise RecipeError(f"{resource}: {name} {problem}", resource.where)
        setattr(ready, name, value)
    _check(ready)
    return ready


@functools.cache
def settable_properties(cls: type) -> dict[str, Any]:
    """Return the properties a recipe may give to this kind, with their types."""
    types = property_types(cls)
    return {
        each.name: types[each.name]
        for each in dataclasses.fields(cls)
        if each.init and each.name != "name"
    }


def place_of(frame: FrameType) -> str:
    """Return `file:line` of a frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _caller() -> str:
    """Return `file:line` of whoever called the method that calls this."""
    return place_of(_getframe(2))


def _check(resource: Resource) -> None:
    """Let the kind refuse what it does not like, with the place of the declaration."""
    if resource.retries < 0 or resource.retry_delay < 0:
        raise RecipeError(f"{resource}: retries and retry_delay cannot be negative", resource.where)
    try:
        resource.check()
    except ValueError as error:
        raise RecipeError(f"{resource}: {error}", resource.where) from None


def _unknown_property(cls: type[Resource], key: str, known: Mapping[str, Any]) -> str:
    """Say that there is no such property, and what was perhaps meant."""
    if key in _METHODS:
        return f"{key} is a method: write {cls.kind}(...).{key}(...)"
    return f"unknown property {key!r}{nearest(key, known)}"


_METHODS = frozenset(
    {
        "notifies",
        "subscribes",
        "remote_notifies",
        "remote_subscribes",
        "only_if",
        "not_if",
        "under_lock",
        "wait_until",
        "wait_while",
    }
)
