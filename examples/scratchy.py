#!/usr/bin/env python3
"""The cat: a visitor that fights with the actor of `examples/itchy.py`."""

from __future__ import annotations

import sys

from flock import FlockOfChefs
from flock.errors import NodeNotFound


def main() -> int:
    """Fight six rounds, wait for each, then six at once."""
    try:
        itchy = FlockOfChefs["itchy"]["itchy"]
    except NodeNotFound as error:
        print(f"{error}: start examples/itchy.py first", file=sys.stderr)
        return 3
    for _ in range(6):
        print(itchy.fight())
    blows = [itchy.fight.future() for _ in range(6)]
    print(" ".join(blow.get() for blow in blows))
    print(f"{itchy.rounds()} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
