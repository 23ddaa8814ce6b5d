"""Print constraints that make pip install the oldest libraries that pyproject.toml allows.

`make test LOWEST=1` tests with them, so that what is promised there stays true.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"
_USED = ("shell", "ansible")
"""The extras that people install; what tests and checks need is always the newest."""


def main() -> None:
    """Print a line for each dependency: `kazoo==2.11`."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for each in [*project["dependencies"], *(line for name in _USED for line in extras[name])]:
        lowest = re.fullmatch(r"([\w-]+)>=([\d.]+)", each)
        if lowest is None:
            raise SystemExit(f"pyproject.toml: {each!r} says no lowest version: NAME>=VERSION")
        print(f"{lowest[1]}=={lowest[2]}")


if __name__ == "__main__":
    main()
