"""What can follow where the cursor stands: nodes and actors in brackets, methods after a dot.

Serves the shell with IPython and without it. Looks at what stands before the
cursor as text, and walks it without running anything: names, attributes and
keys in quotes only. Asking for an actor's methods asks its node, for at most
two seconds.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flock.errors import FlockError
from flock.fleet import Flock
from flock.globals import Globals
from flock.node_objects import NodeObject
from flock.proxy import ActorProxy, NodeProxy, offered_by

_ASK_WITHIN = 2.0
_OURS = (Flock, NodeProxy, ActorProxy, Globals, NodeObject)

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_WALK = rf"[A-Za-z_]\w*(?:\.\w+|\[{_QUOTED}\])*"
_KEY = re.compile(
    rf"""(?P<walk>{_WALK})\[(?:(?P<quote>['"])(?P<part>(?:(?!(?P=quote)).)*)"""
    r"""|(?P<bare>[^'"\[\]]*))$"""
)
_ATTRIBUTE = re.compile(rf"(?P<walk>{_WALK})\.(?P<part>\w*)$")
_NAME = re.compile(r"(?:^|[^\w.'\"\]])(?P<part>[A-Za-z_]\w*)$")


class Offer(NamedTuple):
    """What may stand where the cursor is.

    Attributes:
        replaced: the end of the line up to the cursor that is replaced.
        candidates: by what.
        is_ours: it belongs to the flock, and nobody else knows better.
    """

    replaced: str = ""
    candidates: Sequence[str] = ()
    is_ours: bool = False


def complete(before: str, after: str, namespace: Mapping[str, Any]) -> Offer:
    """Return what may stand where the cursor is.

    Args:
        before: the line up to the cursor.
        after: the line behind it; what stands there is not offered again.
        namespace: what names mean.

    Returns:
        Nothing to offer where something goes wrong on the way.
    """
    match = _KEY.search(before) or _ATTRIBUTE.search(before)
    if match is None:
        return _names(before, namespace)
    is_key = match.re is _KEY
    part = (match["part"] or match["bare"] or "") if is_key else match["part"]
    quote = (match["quote"] or "") if is_key else ""
    try:
        value = walk(match["walk"], namespace)
        if is_key:
            found = [_without_end(each, after) for each in _quoted_keys(value, part, quote)]
        else:
            found = _attributes(value, part)
    except FlockError:
        # Of a node that is not there, say: nobody else knows what is on it.
        return Offer(quote + part, is_ours=True)
    except (LookupError, AttributeError, TypeError):
        return Offer()
    return Offer(quote + part, found, isinstance(value, _OURS))


def _names(before: str, namespace: Mapping[str, Any]) -> Offer:
    """Return the names that the end of a line may become."""
    match = _NAME.search(before)
    if match is None:
        return Offer()
    known = {*namespace, *dir(builtins), *keyword.kwlist}
    return Offer(match["part"], sorted(n for n in known if n.startswith(match["part"])))


def _quoted_keys(value: Any, part: str, quote: str) -> list[str]:
    """Return the keys that begin with what was typed, as Python writes them, with the bracket."""
    found = []
    for key in _keys(value):
        mark = quote or ('"' if "'" in key else "'")
        written = key.replace("\\", r"\\")
        if written.startswith(part) and mark not in key:
            found.append(f"{mark}{written}{mark}]")
    return found


def _without_end(candidate: str, after: str) -> str:
    """Leave off what stands behind the cursor already: the quote, the bracket, or both."""
    if after.startswith(candidate[-2]):
        return candidate[:-2]
    return candidate[:-1] if after.startswith("]") else candidate


def walk(expression: str, namespace: Mapping[str, Any]) -> Any:
    """Return what `FlockOfChefs['bender0']['flock_api'].run_chef` means; nothing is called.

    Raises:
        LookupError: there is no such name or key, or it is another kind of
            expression.
        AttributeError: there is no such attribute.
        FlockError: there is no such node, or that cannot be known.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise LookupError(expression) from None
    return _value(tree, namespace)


def _value(tree: ast.expr, namespace: Mapping[str, Any]) -> Any:
    if isinstance(tree, ast.Name):
        return namespace[tree.id]
    if isinstance(tree, ast.Attribute):
        return getattr(_value(tree.value, namespace), tree.attr)
    if isinstance(tree, ast.Subscript) and isinstance(tree.slice, ast.Constant):
        return _value(tree.value, namespace)[tree.slice.value]
    raise LookupError(ast.dump(tree))


def _keys(value: Any) -> Sequence[str]:
    """Return what may stand in the brackets behind a value."""
    if isinstance(value, Flock | Globals):
        return list(value)
    if isinstance(value, NodeProxy):
        return list(value.record.actors)
    if isinstance(value, NodeObject):
        value = value.attributes
    if isinstance(value, Mapping):
        return [key for key in value if isinstance(key, str)]
    return []


def _attributes(value: Any, part: str) -> list[str]:
    if isinstance(value, ActorProxy):
        names = [f"{name}(" for name in sorted(offered_by(value, _ASK_WITHIN))]
        return [name for name in [*names, "options("] if name.startswith(part)]
    return [
        f"{name}(" if inspect.isroutine(inspect.getattr_static(value, name, None)) else name
        for name in dir(value)
        if name.startswith(part) and (part.startswith("_") or not name.startswith("_"))
    ]
