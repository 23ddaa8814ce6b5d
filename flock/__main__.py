"""`flockctl`, which `python -m flock` is, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; whoever gives up while it is still being loaded sees no traceback."""
    try:
        from flock.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("flockctl: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
