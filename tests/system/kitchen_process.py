"""A process that converges; run by the tests as `python -m tests.system.kitchen_process`.

kitchen_process FOLDER converge     one run, the report or the error as JSON on stdout
kitchen_process FOLDER forever      one run after the other, until killed
kitchen_process FOLDER rewrite      writes one file again and again, until killed
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from flock.converge.files import write_atomically
from flock.converge.kitchen import Kitchen
from flock.errors import FlockError
from flock.journal import Journal


def main() -> int:
    folder, deed = Path(sys.argv[1]), sys.argv[2]
    if deed == "rewrite":
        for number in itertools.count():
            write_atomically(folder / "file", bytes(str(number % 10) * 100_000, "ascii"))
    journal = Journal(folder / "state" / "journal.sqlite")
    kitchen = Kitchen(
        "bender0", folder / "cookbooks", ["cb"], folder / "state", journal=journal, facts=dict
    )
    while True:
        try:
            report = kitchen.converge("the process")
        except FlockError as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
            return 6
        if deed == "converge":
            print(json.dumps(report))
            kitchen.stop()
            journal.close()
            return 0 if report["state"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
