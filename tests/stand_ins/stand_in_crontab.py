"""Stand in for `crontab`: keeps each user's in a file of a folder."""

from __future__ import annotations

import sys
from pathlib import Path

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
user = arguments[1] if arguments[0] == "-u" else "own"
path = folder / f"crontab-{user}"
if arguments[-1] == "-l":
    if (folder / "broken").exists():
        sys.exit("crontab: cannot open the spool")
    if not path.exists():
        sys.exit(f"no crontab for {user}")
    sys.stdout.buffer.write(path.read_bytes())
else:
    path.write_bytes(sys.stdin.buffer.read())
