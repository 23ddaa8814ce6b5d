"""Several nodes in one process; run by tests as `python -m tests.system.nodes_process`.

nodes_process URL FOLDER NAME…     prints `ready` when all are listed, leaves when stdin ends

Each has the cookbooks in FOLDER and the run list `cb`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from flock import Flock


def main() -> None:
    url, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    with ExitStack() as stack:
        for name in names:
            flock = Flock(
                name,
                url,
                cookbooks=folder / "cookbooks",
                run_list=["cb"],
                state_dir=folder / "state" / name,
            )
            stack.enter_context(flock)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
