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

if folder.name.endswith("rpm"):
    name = arguments[-1]
    if "--package" in arguments:
        print(Path(name).read_text(), end="")
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
for wish in names:
    found = None
    if wish.endswith(".rpm"):
        name, version = Path(wish).read_text().split()
    else:
        found = re.fullmatch(r"(\w+)(?:-(\S+))?", wish)
        assert found is not None
        name, version = found[1], found[2] or offered.get(found[1], "")
    if verb == "remove":
        installed.pop(name)
    elif not version:
        sys.exit(f"Error: Unable to find a match: {wish}")
    elif verb == "upgrade" or found is None or found[2] or name not in installed:
        installed[name] = version
state.write_text(json.dumps(known))
