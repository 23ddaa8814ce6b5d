"""Debian's packages, installed where that is allowed; else the one command is said.

It needs nothing but Python's standard library: it works before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

APT_GET = ("apt-get", "-o", "DPkg::Lock::Timeout=300")


def install(packages: Sequence[str], missing: str) -> bool:
    """Install packages as root, or with a `sudo` that asks nothing; say whether they are there.

    Args:
        packages: their names.
        missing: what lacks, for the person.
    """
    asked_for = f"sudo apt-get install --no-install-recommends {' '.join(packages)}"
    become_root = _way_to_root()
    if become_root is None:
        say(f"{missing}. Type: {asked_for}")
        return False
    say(f"{missing}: installing {' and '.join(packages)}")
    apt_get = [*become_root, "env", "DEBIAN_FRONTEND=noninteractive", *APT_GET]
    for step in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        # An update that misses one of many sources may still be enough: the install decides.
        code = subprocess.run(
            [*apt_get, "-q", *step], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode
    if code != 0:
        say(f"apt-get could not install them (exit code {code}). Type: {asked_for}")
    return code == 0


def say(text: str) -> None:
    """Tell the person; standard output holds answers only."""
    print(text, file=sys.stderr)


def _way_to_root() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return ["sudo", "-n"] if asked.returncode == 0 else None
