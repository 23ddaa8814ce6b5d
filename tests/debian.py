"""Get packages of Debian for tests that are allowed to change the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

CHANGES_WITHIN = 900.0
"""Seconds for a test that gets packages, or waits until others have got theirs."""


@contextlib.contextmanager
def changing_the_machine() -> Iterator[None]:
    """Keep other workers from changing packages and accounts meanwhile."""
    if not may_change_the_machine():
        yield
        return
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
        install = ("install", "-y", "--no-install-recommends", *packages)
        failure = _apt_get(*install)
        if failure:
            _apt_get("update")
            failure = _apt_get(*install)
        if failure:
            pytest.skip(f"{' '.join(packages)} cannot be installed: {failure[-300:]}")


def _apt_get(*words: str) -> str:
    """Run apt-get; return what it says of its failure, empty if it did as told."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=200", *words],
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            timeout=250,
        )
    except subprocess.TimeoutExpired as late:
        return str(late)
    return (done.stderr or "it failed") if done.returncode != 0 else ""


def _is_installed(package: str) -> bool:
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        check=False,
        capture_output=True,
        text=True,
    )
    return shown.stdout == "installed"
