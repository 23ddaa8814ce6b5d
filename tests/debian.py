"""Get packages of Debian for tests that are allowed to change the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def changing_the_machine() -> Iterator[None]:
    """Keep other workers from changing packages and accounts meanwhile."""
    # One for all runs on this machine, wherever each of them keeps its temporary files.
    with open("/tmp/flock-tests-machine.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def may_change_the_machine() -> bool:
    """Say whether tests may install packages, and change services and users."""
    return os.environ.get("FLOCK_TEST_SYSTEM") == "1"


def need(program: str) -> None:
    """See that a program is there, from the package of its name; else skip the test."""
    if shutil.which(program) is not None:
        return
    if not may_change_the_machine():
        pytest.skip(f"{program} is not installed; FLOCK_TEST_SYSTEM=1 gets it")
    install(program)


def install(*packages: str) -> None:
    """Install packages, once for all workers; skip the test where that cannot be done.

    They stay installed: taking them away would take them from other tests.
    """
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.skip("packages cannot be installed here: no apt-get, or not root")
    with changing_the_machine():
        if all(map(_is_installed, packages)):
            return
        command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = {"env": environment, "capture_output": True, "text": True, "timeout": 300}
        install = [*command, "install", "-y", "--no-install-recommends", *packages]
        done = subprocess.run(install, check=False, **options)  # type: ignore[call-overload]
        if done.returncode != 0:
            subprocess.run([*command, "update"], check=False, **options)  # type: ignore[call-overload]
            done = subprocess.run(install, check=False, **options)  # type: ignore[call-overload]
        if done.returncode != 0:
            pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr[-300:]}")


def _is_installed(package: str) -> bool:
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        check=False,
        capture_output=True,
        text=True,
    )
    return shown.stdout == "installed"
