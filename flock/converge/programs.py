"""Find the programs that kinds of resources work with."""

from __future__ import annotations

import os
import shutil
import sys

from flock.converge.provider import Machine
from flock.errors import CommandFailed

_MORE_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/puppetlabs/bin", "/opt/chef/bin")
"""Looked through after PATH: a node that was started by a user may not have them there."""


def find_program(name: str) -> str | None:
    """Return the path of a program, None if it is not installed.

    Looked for in our own virtual environment (an extra installs programs
    there), then in PATH, then where system programs are.
    """
    own = [os.path.dirname(sys.executable)] if sys.prefix != sys.base_prefix else []
    folders = [*own, os.environ.get("PATH", os.defpath), *_MORE_FOLDERS]
    return shutil.which(name, path=os.pathsep.join(folders))


def needed_program(machine: Machine, name: str, what_for: str) -> str | None:
    """Return the path of a program that a resource needs.

    Args:
        machine: in a why-run a missing program is no error: an earlier
            resource may be going to install it.
        name: the program.
        what_for: how it is had: `apt-get install cron`.

    Returns:
        None only in a why-run, if it is not installed.

    Raises:
        CommandFailed: it is not installed.
    """
    path = find_program(name)
    if path is None and not machine.why_run:
        raise CommandFailed(f"{name} is not installed on this machine: {what_for}")
    return path
