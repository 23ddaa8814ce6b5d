#!/usr/bin/env python3
"""The mouse: a node with one actor that others fight with.

    python examples/itchy.py                # in one terminal
    python examples/scratchy.py             # in another

Both use the registry of the settings (`FLOCK_REGISTRY`), the embedded one of
this machine by default. SIGTERM or Ctrl-C ends it cleanly.
"""

from __future__ import annotations

import flock


class Itchy(flock.Actor):
    """Bites three times, then fights three times, and so on."""

    def __init__(self) -> None:
        """Begin at peace."""
        super().__init__()
        self._rounds = 0

    def fight(self) -> str:
        """Take part in one round and say how."""
        self._rounds += 1
        return "Bite!" if (self._rounds - 1) % 6 < 3 else "Fight!"

    def rounds(self) -> int:
        """Return how many rounds there were."""
        return self._rounds


def main() -> None:
    """Be the node `itchy` until told to leave."""
    with flock.Flock(name="itchy") as fleet:
        fleet.supervise(Itchy, name="itchy")
        print("itchy is ready for mayhem", flush=True)
        fleet.serve_forever()


if __name__ == "__main__":
    main()
