"""Stand in for any program: note how it was called, answer what the test wrote down."""

from __future__ import annotations

import sys
from pathlib import Path

folder = Path(sys.argv[1])
with open(folder / "calls", "a") as calls:
    calls.write("\0".join(sys.argv[2:]).replace("\n", "\\n") + "\n")
sys.stdout.write((folder / "stdout").read_text())
sys.stderr.write((folder / "stderr").read_text())
sys.exit(int((folder / "exit_code").read_text()))
