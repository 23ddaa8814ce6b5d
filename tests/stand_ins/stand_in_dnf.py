"""Stand in for `dnf` and `rpm`: a list of packages in a file, which both look at and change."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
with open(folder / "calls", "a") as calls:
    calls.write("\0".join(arguments) + "\n")
state = Path(folder.parent / "rpms.json")
known = json.loads(state.read_text())
installed, offered = known["installed"], known["offered"]
provides: dict[str, list[str]] = known.get("provides", {})


def providers(name: str) -> list[str]:
    """Return the packages of this name, or that say they are as good."""
    packages = dict.fromkeys([*installed, *offered, *provides])
    return [each for each in packages if name == each or name in provides.get(each, ())]


if folder.name.endswith("rpm"):
    name = arguments[-1]
    if "--package" in arguments:
        print(Path(name).read_text(), end="")
    elif "--whatprovides" in arguments:
        there = [each for each in providers(name) if each in installed]
        print("\n".join(there) or f"no package provides {name}")
        sys.exit(0 if there else 1)
    elif name in installed:
        print(installed[name])
    else:
        print(f"package {name} is not installed")
        sys.exit(1)
    sys.exit(0)

verb, *names = [each for each in arguments if not each.startswith("-")]
if verb == "check-upgrade":
    newer = [name for name in names if offered.get(name, installed[name]) != installed[name]]
    print("".join(f"\n{name}.x86_64    {offered[name]}    updates" for name in newer))
    sys.exit(100 if newer else 0)
if verb == "repoquery":
    print("\n".join(each for name in names for each in providers(name) if each in offered))
    sys.exit(0)
for wish in names:
    found = None
    if wish.endswith(".rpm"):
        name, version = Path(wish).read_text().split()
    else:
        found = re.fullmatch(r"([a-z][a-z-]*[a-z])(?:-(\d\S*))?", wish)
        assert found is not None
        name, version = found[1], found[2] or offered.get(found[1], "")
    if verb == "remove":
        installed.pop(name)
    elif verb == "upgrade" and name not in installed:
        sys.exit(f"No match for argument: {wish}")
    elif not version:
        sys.exit(f"Error: Unable to find a match: {wish}")
    elif verb == "upgrade" or found is None or found[2] or name not in installed:
        installed[name] = version
state.write_text(json.dumps(known))
