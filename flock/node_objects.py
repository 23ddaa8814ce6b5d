"""Node objects in the registry: what is known of each machine and lasts.

A node object has two documents, so that most questions read little:

    node-objects/heads/NAME     name, run list, roles, recipes, environment, tags, home
    node-objects/bodies/NAME    normal attributes, and all merged ones

Both are written by compare-and-set. The run list belongs to whoever writes
it, and the environment likewise: the node takes up what stands there before
each run. Normal attributes are merged key by key with what was written
meanwhile.

A node object belongs to one state folder of one machine, its home. Another
one is refused, so that two machines under one name do not overwrite each
other's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flock.errors import BusyError, NodeNotFound, UsageError, VersionConflict
from flock.search import Query, flatten, flatten_head, parse
from flock.tables import merged
from registry.contract import MAX_DOCUMENT_BYTES, Document, Registry
from registry.records import encode

if TYPE_CHECKING:
    from flock.proxy import NodeProxy

MAX_HEAD_BYTES = 4 * 1024
"""Largest head, in encoded and compressed bytes: thousands are read for one question."""

_HEADS = "node-objects/heads"
_BODIES = "node-objects/bodies"
_HEADS_AT_ONCE = 500
_BODIES_AT_ONCE = 100
"""Asked for in one go: a registry's answer must come within its few seconds."""
_ATTEMPTS = 20
_ASSIGNED = ("run_list", "environment")
"""Fields of the head that belong to whoever writes them."""

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Home:
    """Where a node object belongs.

    Attributes:
        folder_id: random id of the state folder.
        machine: id of the machine, empty where it has none.
        host: host name, for people.
        path: the state folder, for people.
    """

    folder_id: str
    machine: str = ""
    host: str = ""
    path: str = ""

    def is_other_than(self, standing: Home) -> bool:
        """Say whether an object that belongs to `standing` is surely not ours."""
        if self.folder_id != standing.folder_id:
            return True
        return bool(self.machine and standing.machine and self.machine != standing.machine)


class NodeObject:
    """One machine as its node object says; `attributes` may be read from the registry when asked.

    Index it by an attribute: `found['kernel']['release']`.

    Attributes:
        name: the node's name.
        run_list: its own run list.
        roles: of the expanded run list.
        recipes: of the expanded run list, as `cookbook::recipe`.
        environment: its environment.
        tags: its tags.
        home: where it belongs.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        body: Callable[[], Mapping[str, Any]],
        proxy: Callable[[str], NodeProxy] | None = None,
    ) -> None:
        """Take a head as it was read.

        Args:
            head: plain data, already checked.
            body: reads the body; asked once, when it is needed.
            proxy: makes a node's proxy of its name.
        """
        self.name: str = head["name"]
        self.run_list: list[str] = list(head["run_list"])
        self.roles: list[str] = list(head["roles"])
        self.recipes: list[str] = list(head["recipes"])
        self.environment: str = head["environment"]
        self.tags: list[str] = list(head["tags"])
        self.home = Home(**head["home"])
        self._read_body = body
        self._body: Mapping[str, Any] | None = None
        self._proxy = proxy

    @property
    def node(self) -> NodeProxy:
        """The node itself, whether it is up or not: `found.node['flock_api']`."""
        if self._proxy is None:
            raise UsageError("this node object was read without a flock: use FlockOfChefs.search")
        return self._proxy(self.name)

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes, merged, without the sensitive ones.

        Raises:
            RegistryUnavailable: they were not read yet and cannot be now.
        """
        attributes: dict[str, Any] = self._loaded()["attributes"]
        return attributes

    @property
    def normal(self) -> dict[str, Any]:
        """The normal attributes; raises as `attributes` does."""
        normal: dict[str, Any] = self._loaded()["normal"]
        return normal

    def __getitem__(self, key: str) -> Any:
        """Return a top-level attribute."""
        return self.attributes[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a top-level attribute, else `default`."""
        return self.attributes.get(key, default)

    def head_as_data(self) -> dict[str, Any]:
        """Return the head as plain data for people and programs."""
        return {
            "name": self.name,
            "environment": self.environment,
            "run_list": self.run_list,
            "roles": self.roles,
            "recipes": self.recipes,
            "tags": self.tags,
        }

    def flat_head(self) -> dict[str, list[str]]:
        """Return the fields of the head, for a query."""
        return flatten_head(
            name=self.name,
            environment=self.environment,
            run_list=self.run_list,
            roles=self.roles,
            recipes=self.recipes,
            tags=self.tags,
        )

    def is_meant(self, query: Query) -> bool:
        """Say whether a query means this node; reads the body only if the head cannot tell."""
        head = self.flat_head()
        if query.head_only or not query.may_match(head):
            return query.matches(head)
        return query.matches(flatten(self.attributes, query.wanted) | head)

    def _loaded(self) -> Mapping[str, Any]:
        if self._body is None:
            self._body = self._read_body()
        return self._body

    def __repr__(self) -> str:
        """Show the name."""
        return f"<node object {self.name}>"


class NodeObjects:
    """The node objects of a registry; any thread may use it."""

    def __init__(self, registry: Registry, proxy: Callable[[str], NodeProxy] | None = None) -> None:
        """Look into a registry that is open.

        Args:
            registry: where they are.
            proxy: makes a node's proxy of its name, for `NodeObject.node`.
        """
        self._registry = registry
        self._proxy = proxy

    # --- asking

    def names(self) -> list[str]:
        """Return the names of all nodes that have a node object, live or not, sorted."""
        return self._registry.children(_HEADS)

    def read(self, name: str) -> NodeObject | None:
        """Return a node's object, None if it has none."""
        head = _checked_head(self._registry.read(_head_path(name)))
        return None if head is None else self._made(head)

    def known(self, name: str) -> NodeObject:
        """Return a node's object.

        Raises:
            NodeNotFound: it has none.
        """
        found = self.read(name)
        if found is None:
            raise self._unknown(name)
        return found

    def owned(self, name: str, home: Home) -> NodeObject | None:
        """Return a node's object, None if it has none.

        Raises:
            BusyError: it belongs to another home; says which.
        """
        head = _checked_head(self._registry.read(_head_path(name)))
        return None if head is None else self._made(_ours(head, name, home))

    def read_all(self) -> Iterator[NodeObject]:
        """Return every node object, sorted by name, without unreadable ones; heads only."""
        for some in _chunks(self.names(), _HEADS_AT_ONCE):
            for document in self._registry.read_many([_head_path(name) for name in some]):
                head = _checked_head(document)
                if head is not None:
                    yield self._made(head)

    def search(self, query: str) -> list[NodeObject]:
        """Return the node objects that a query means, sorted by name.

        Heads are read for all nodes; bodies only of those whose heads leave
        the answer open.

        Args:
            query: see `flock.search`.

        Raises:
            UsageError: it is no query.
            RegistryUnavailable: that cannot be known now.
        """
        asked = parse(query)
        heads = [found for found in self.read_all() if asked.may_match(found.flat_head())]
        if asked.head_only:
            return heads
        return [
            found
            for some in _chunks(heads, _BODIES_AT_ONCE)
            for found in self._with_bodies(some)
            if found.is_meant(asked)
        ]

    def _with_bodies(self, objects: Sequence[NodeObject]) -> Iterator[NodeObject]:
        paths = [_body_path(each.name) for each in objects]
        for each, document in zip(objects, self._registry.read_many(paths), strict=True):
            body = _checked_body(document)
            yield self._made(_head_of(each), partial(_same, body))

    def _made(
        self, head: Mapping[str, Any], body: Callable[[], Mapping[str, Any]] | None = None
    ) -> NodeObject:
        name = head["name"]
        read = body or (lambda: _checked_body(self._registry.read(_body_path(name))))
        return NodeObject(head, read, self._proxy)

    # --- changing

    def change_run_list(
        self, name: str, change: Callable[[list[str]], list[str]]
    ) -> tuple[list[str], list[str]]:
        """Change a node's run list; the node takes it up with its next run.

        Args:
            name: the node; it need not be up.
            change: returns the new list; may be asked again if somebody else
                was quicker.

        Returns:
            The run list before and after.

        Raises:
            NodeNotFound: there is no such node object.
        """
        before, after = self._change(
            name, lambda head: {"run_list": change(list(head["run_list"]))}
        )
        return list(before["run_list"]), list(after["run_list"])

    def change_environment(self, name: str, environment: str) -> str:
        """Set a node's environment; the node takes it up with its next run.

        Args:
            name: the node; it need not be up.
            environment: its name; whether there is one is for the node to say.

        Returns:
            The environment before.

        Raises:
            NodeNotFound: there is no such node object.
        """
        before, _ = self._change(name, lambda _: {"environment": environment})
        return str(before["environment"])

    def _change(
        self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Change fields of a head that stands; returns it before and after."""

        def changed(standing: dict[str, Any] | None) -> dict[str, Any]:
            if standing is None:
                raise self._unknown(name)
            before.append(standing)
            return standing | change(standing)

        before: list[dict[str, Any]] = []
        after = self._rewrite(_head_path(name), _checked_head, changed)
        return before[-1], after

    def _unknown(self, name: str) -> NodeNotFound:
        return NodeNotFound(f"no node object {name!r} in {self._registry.url}")

    def claim(
        self,
        name: str,
        home: Home,
        run_list: Sequence[str] | None = None,
        environment: str | None = None,
    ) -> NodeObject:
        """Make sure that a node object is ours, or make it.

        Args:
            name: the node's name.
            home: where it belongs from now on.
            run_list: the node's own run list; None leaves what stands.
            environment: its environment; likewise.

        Returns:
            The node object that stands.

        Raises:
            BusyError: it belongs to another home; says which.
            DocumentTooLarge: the head is over its limit; nothing was written.
        """

        def claimed(standing: dict[str, Any] | None) -> dict[str, Any]:
            head = _ours(standing, name, home)
            if run_list is not None:
                head["run_list"] = list(run_list)
            if environment is not None:
                head["environment"] = environment
            return head

        return self._made(self._rewrite(_head_path(name), _checked_head, claimed))

    def save(
        self,
        data: Mapping[str, Any],
        home: Home,
        *,
        base: Mapping[str, Any],
        own: Collection[str] = (),
    ) -> dict[str, Any]:
        """Write a node's own object.

        The body goes first: a head that stands has a body.

        Args:
            data: `name`, `run_list`, `roles`, `recipes`, `environment`,
                `tags`, `normal`, `attributes`; nothing sensitive.
            home: where it belongs.
            base: the normal attributes as they stood when this node read them.
            own: which of `run_list` and `environment` to write, too, over what
                stands.

        Returns:
            The normal attributes, the run list and the environment that stand now.

        Raises:
            BusyError: it belongs to another home.
            DocumentTooLarge: over its limit; nothing was written.
        """
        name = data["name"]
        check_size(data, home)
        _ours(_checked_head(self._registry.read(_head_path(name))), name, home)

        def new_body(standing: dict[str, Any] | None) -> dict[str, Any]:
            theirs = base if standing is None else standing["normal"]
            normal = merged(base, data["normal"], theirs)
            return {"normal": normal, "attributes": dict(data["attributes"])}

        def new_head(standing: dict[str, Any] | None) -> dict[str, Any]:
            head = _ours(standing, name, home)
            kept = _ASSIGNED if standing is not None else ()
            return _head_from(data, home) | {key: head[key] for key in kept if key not in own}

        body = self._rewrite(_body_path(name), _standing_body, new_body)
        head = self._rewrite(_head_path(name), _checked_head, new_head)
        return {"normal": body["normal"], **{key: head[key] for key in _ASSIGNED}}

    def forget(self, name: str) -> bool:
        """Remove a node's object, whoever it belongs to; say whether there was one."""
        was_there = self._registry.delete(_head_path(name))
        return self._registry.delete(_body_path(name)) or was_there

    def _rewrite(
        self,
        path: str,
        check: Callable[[Document | None], dict[str, Any] | None],
        change: Callable[[dict[str, Any] | None], dict[str, Any]],
    ) -> dict[str, Any]:
        """Read, change and write a document until nobody was quicker; writes only what differs."""
        for attempt in range(_ATTEMPTS):
            document = self._registry.read(path)
            standing = check(document)
            new = change(standing)
            if new == standing:
                return new
            version = 0 if document is None else document.version
            if path.startswith(_HEADS):
                encode(new, f"the head of node object {new['name']!r}", MAX_HEAD_BYTES)
            try:
                self._registry.write(path, new, version=version)
            except VersionConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            return new
        raise AssertionError("unreachable: the last attempt returns or raises")


def was_seen(registry: Registry, name: str) -> bool:
    """Say whether there is, or was, a node of this name that is not forgotten."""
    return registry.presence(name) is not None or NodeObjects(registry).read(name) is not None


def check_size(data: Mapping[str, Any], home: Home) -> None:
    """Refuse a node object that no registry takes.

    Raises:
        DocumentTooLarge: says which part has how many bytes.
        RecordInvalid: it is not plain data; says where.
    """
    name = data["name"]
    encode(_head_from(data, home), f"the head of node object {name!r}", MAX_HEAD_BYTES)
    body = {"normal": data["normal"], "attributes": data["attributes"]}
    encode(body, f"node object {name!r} with its attributes", MAX_DOCUMENT_BYTES)


def check_head(name: str, home: Home, run_list: Sequence[str], environment: str) -> None:
    """Refuse what is to be assigned to a node if no registry takes even that.

    Raises:
        DocumentTooLarge: says how many bytes it has.
    """
    head: dict[str, Any] = {"run_list": run_list, "roles": [], "recipes": [], "tags": []}
    check_size(
        head | {"name": name, "environment": environment, "normal": {}, "attributes": {}}, home
    )


# --- what stands, checked ------------------------------------------------------


def _head_path(name: str) -> str:
    return f"{_HEADS}/{name}"


def _body_path(name: str) -> str:
    return f"{_BODIES}/{name}"


def _head_from(data: Mapping[str, Any], home: Home) -> dict[str, Any]:
    return {
        "name": data["name"],
        "run_list": list(data["run_list"]),
        "roles": list(data["roles"]),
        "recipes": list(data["recipes"]),
        "environment": data["environment"],
        "tags": [tag for tag in data["tags"] if isinstance(tag, str)],
        "home": asdict(home),
    }


def _head_of(found: NodeObject) -> dict[str, Any]:
    return found.head_as_data() | {"home": asdict(found.home)}


def _ours(standing: dict[str, Any] | None, name: str, home: Home) -> dict[str, Any]:
    """Return the head as it stands, or an empty one; refuse another's."""
    if standing is None:
        empty: dict[str, Any] = {"run_list": [], "roles": [], "recipes": [], "tags": []}
        return _head_from(empty | {"name": name, "environment": "_default"}, home)
    its = Home(**standing["home"])
    if home.is_other_than(its):
        raise BusyError(
            f"{name} is the node of the state folder {its.path} on {its.host}, this is {home.path} "
            f"on {home.host}: take another --name, or `flockctl forget {name}` if that one is gone",
            advice="",
        )
    return standing | {"home": asdict(home)}


def _checked_head(document: Document | None) -> dict[str, Any] | None:
    """Return a head as we write it, None if there is none that we can read."""
    value = None if document is None else document.value
    if not isinstance(value, dict) or not isinstance(value.get("home"), dict):
        return None
    home = {key: value["home"].get(key, "") for key in Home.__dataclass_fields__}
    lists = {key: value.get(key) for key in ("run_list", "roles", "recipes", "tags")}
    if not all(_is_texts(each) for each in lists.values()) or not _is_texts([*home.values()]):
        return None
    name, environment = value.get("name"), value.get("environment")
    if not isinstance(name, str) or not isinstance(environment, str):
        return None
    return {"name": name, "environment": environment, "home": home, **lists}


def _checked_body(document: Document | None) -> dict[str, Any]:
    """Return a body; an empty one if there is none that we can read."""
    return _standing_body(document) or {"normal": {}, "attributes": {}}


def _standing_body(document: Document | None) -> dict[str, Any] | None:
    value = None if document is None else document.value
    if not isinstance(value, dict):
        return None
    parts = {key: value.get(key) for key in ("normal", "attributes")}
    return parts if all(isinstance(part, dict) for part in parts.values()) else None


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _same(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return body


def _chunks(items: Sequence[Given], size: int) -> Iterator[Sequence[Given]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
