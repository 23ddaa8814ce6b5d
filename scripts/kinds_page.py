#!/usr/bin/env python3
"""Write docs/kinds.md: every kind of resource with its actions and properties.

All of it comes from the kinds' own classes: annotations, defaults, docstrings.
A test compares the page with what this would write.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any, cast

from flock.converge.kinds import Kinds, stock_kind_names
from flock.converge.properties import describe
from flock.converge.resource import Resource, settable_properties

PAGE = Path(__file__).parent.parent / "docs/kinds.md"

_HEAD = """\
# Kinds of resources

Written by `scripts/kinds_page.py` from the kinds themselves; do not edit it.

A recipe declares resources: `file('/etc/motd', content='hello')`. The first argument is the
resource's name; properties follow by keyword and are checked when declared. Each kind names the
changes it needs before they are made: `--why-run` shows them and makes none, and a second run finds
nothing to do. The kinds that run another engine ask that engine, in its own dry mode, what it would
do.

What binds a resource to others is a method: `notifies`, `subscribes`, `remote_notifies`,
`remote_subscribes`, `only_if`, `not_if`, `wait_until` and `wait_while` ([waits](waits.md)),
`under_lock` ([locks](locks.md)).

"""

_OWN = """\
## Kinds of your own

One class in a cookbook's `libraries/` is a kind; other packages offer theirs under the entry point
group `flock.resources`. The generator names each change; only `Change.apply` may touch the machine.

```python
# cookbooks/site/libraries/motd.py
from dataclasses import dataclass
from pathlib import Path
from flock.converge.files import read_or_none, write_atomically
from flock.converge.provider import Change
from flock.converge.resource import Resource


@dataclass
class Motd(Resource):
    kind = 'motd'
    actions = ('create',)
    path: str = '/etc/motd'
    text: str = ''

    def create(self, machine):
        path = Path(self.path)
        wanted = self.text.encode()
        if read_or_none(path) != wanted:
            yield Change(f'write {path}', lambda: write_atomically(path, wanted))
```
"""

_ITEM = re.compile(r"    ([a-z_]+(?:, [a-z_]+)*): (.*)")


def page() -> str:
    """Return the whole page."""
    kinds = Kinds()
    classes: list[type[Resource]] = [kinds.find(name, "").resource for name in stock_kind_names()]
    index = ",\n".join(f"[{cls.kind}](#{cls.kind})" for cls in classes)
    common = _table(Resource, {})
    parts = [_HEAD, f"The kinds: {index}.\n\n## Properties of all kinds\n\n{common}\n"]
    parts += [_section(cls) for cls in classes]
    return "".join(parts) + _OWN


def _section(cls: type[Resource]) -> str:
    """Describe one kind."""
    first, *rest = _paragraphs(cls)
    actions = [f"`{action}`" for action in cls.actions]
    actions[0] += " (default)"
    text = "\n\n".join([first, *rest])
    own = _table(cls, settable_properties(cast(type, Resource)))
    return f"## {cls.kind}\n\n{text}\n\nActions: {', '.join(actions)}.\n\n{own}\n"


def _paragraphs(cls: type[Resource]) -> list[str]:
    """Return what a class says about itself before its properties."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:")[0].strip()
    return [" ".join(part.split("\n")) for part in text.split("\n\n")]


def _table(cls: type[Resource], without: dict[str, Any]) -> str:
    """Return the properties of a class as a table."""
    said = _descriptions(cls)
    rows = []
    defaults = {each.name: each.default for each in dataclasses.fields(cls)}
    for name, annotation in settable_properties(cast(type, cls)).items():
        if name in without:
            continue
        if name not in said:
            sys.exit(f"{cls.__name__} says nothing about its property {name}")
        default = defaults[name]
        shown = "" if default in ("", None, ()) else f"`{default!r}`"
        kind = _type(annotation).replace("|", r"\|")
        rows.append(f"| `{name}` | {kind} | {shown} | {said[name]} |")
    if not rows:
        return "No properties of its own.\n"
    return "\n".join(["| property | type | default | |", "| --- | --- | --- | --- |", *rows, ""])


def _type(annotation: Any) -> str:
    """Name a type as a reader of recipes would."""
    text = describe(annotation)
    for long, short in (
        ("str or list[str] or tuple[str, ...]", "str or a list of them"),
        ("int or list[int] or tuple[int, ...]", "int or a list of them"),
        ("list[str] or tuple[str, ...]", "list[str]"),
        (" or None", ""),
    ):
        text = text.replace(long, short)
    return text


def _descriptions(cls: type[Resource]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say about each property."""
    said: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Resource):
            continue
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        names: list[str] = []
        for line in text.partition("Attributes:\n")[2].splitlines():
            item = _ITEM.fullmatch(line)
            if item is not None:
                names = item[1].split(", ")
                said.update(dict.fromkeys(names, item[2].replace("|", r"\|")))
            elif names:
                for name in names:
                    said[name] = f"{said[name]} {line.strip()}".strip().replace("|", r"\|")
    return said


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
