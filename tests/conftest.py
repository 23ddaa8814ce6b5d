"""Fixtures that all tests share: registries to test on, and an eye on what a test leaves behind.

`tests.support` holds the helpers (`eventually`). A test that needs

- a registry of either kind takes `registry_url` and runs once for each;
- one kind takes `embedded_url` or `zookeeper_url`: both fresh and empty;
- to kill or pause servers takes `own_zookeeper` or `own_ensemble`;
- a folder for sockets takes `short_path`, since a socket's path ends at 107 bytes;
- settings of its own alone takes `here`, an empty working directory;
- to change the machine itself is marked `system_changes`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from zookeeper_servers import NotInstalled, ZooKeeperEnsemble

from tests.debian import CHANGES_WITHIN, may_change_the_machine
from tests.support import MARK, eventually, processes_of_tests

if TYPE_CHECKING:
    from tests.kitchens import Site

# Each worker of xdist answers for its own processes.
os.environ[MARK] = f"{os.getpid()}-{secrets.token_hex(4)}"

# A shell starts what it puts in the background without Ctrl-C, and that is inherited:
# the processes of tests are to know it all the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What is handled here, and not ignored, is as usual for them: so, too, with what nohup ignores.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# Settings of whoever runs the tests, and of a node on this machine, must not reach them.
for _name in [name for name in os.environ if name.startswith("FLOCK_")]:
    if not _name.startswith("FLOCK_TEST_"):
        del os.environ[_name]
os.environ["FLOCK_CONFIG"] = ""

# How long an example takes says nothing where other tests run beside it.
settings.register_profile(
    "unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")

THREADS_OF_LIBRARIES = (
    # One per test; pytest-timeout ends it after our own check.
    "pytest_timeout ",
    # pyzmq's, one for the whole process, made by the first send without a copy.
    "GarbageCollectorThread",
)
"""Beginnings of the names, or of the classes' names, of threads that may outlive a test."""

GONE_WITHIN = 6.0
"""Seconds within which what a test ended is gone: it needs its turn on a busy machine."""

_lasting_processes: set[int] = set()
"""What a fixture of the session keeps running."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, out of reach of the machine's own configuration file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOCK_CONFIG")
    monkeypatch.setattr("flock.settings_file.SYSTEM_FILE", tmp_path / "etc" / "flock.toml")
    return tmp_path


# --- registries ----------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a folder whose path is short enough for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="flk-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def embedded_url(short_path: Path) -> str:
    """Give the URL of an embedded registry that does not exist yet."""
    return f"embedded:{short_path}/registry"


@pytest.fixture(scope="session")
def zookeeper_hosts() -> Iterator[str]:
    """Give `HOST:PORT[,…]` of a ZooKeeper that all tests share: nobody may stop or pause it."""
    given = os.environ.get("FLOCK_TEST_ZOOKEEPER")
    if given:
        yield given
        return
    with _new_ensemble(1) as ensemble:
        _lasting_processes.update(
            server.process.pid for server in ensemble.servers if server.process is not None
        )
        yield ensemble.connection_string


@pytest.fixture
def zookeeper_url(zookeeper_hosts: str) -> str:
    """Give the URL of a registry in ZooKeeper that does not exist yet."""
    return f"zookeeper://{zookeeper_hosts}/test-{secrets.token_hex(8)}"


@pytest.fixture(params=["embedded", "zookeeper"])
def registry_url(request: pytest.FixtureRequest) -> str:
    """Give the URL of a fresh registry, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def own_zookeeper() -> Iterator[ZooKeeperEnsemble]:
    """Give one running server that belongs to this test: `.servers[0]` may be killed."""
    with _new_ensemble(1) as ensemble:
        yield ensemble


@pytest.fixture
def own_ensemble() -> Iterator[ZooKeeperEnsemble]:
    """Give three running servers that belong to this test: `.leader()` may be killed."""
    with _new_ensemble(3) as ensemble:
        yield ensemble


def _new_ensemble(size: int) -> ZooKeeperEnsemble:
    folder = Path(tempfile.mkdtemp(prefix="flock-test-zookeeper-"))
    try:
        return ZooKeeperEnsemble(folder, size, dies_with_us=True)
    except NotInstalled as error:
        folder.rmdir()
        pytest.skip(f"{error}: `scripts/zookeeper start` gets it, or says how")


# --- recipes -------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a folder with cookbooks, and kitchens that use them."""
    from tests.kitchens import Site

    made = Site(tmp_path)
    yield made
    made.close()


# --- what a test leaves behind -------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a process behind, and end that process.

    `@pytest.mark.leaves("name", …)` allows threads whose names begin so.
    """
    marks = request.node.iter_markers("leaves")
    allowed = (*THREADS_OF_LIBRARIES, *(name for mark in marks for name in mark.args))
    threads_before = set(threading.enumerate())
    processes_before = set(processes_of_tests())

    yield

    def threads_left() -> list[str]:
        return [
            thread.name
            for thread in threading.enumerate()
            if thread not in threads_before
            and not thread.name.startswith(allowed)
            and not type(thread).__name__.startswith(allowed)
        ]

    def processes_left() -> dict[int, str]:
        return processes_of_tests(known=processes_before | _lasting_processes)

    threads = eventually(threads_left, within=GONE_WITHIN, becomes=[])
    processes = eventually(processes_left, within=GONE_WITHIN, becomes={})
    for pid in processes:
        _kill(pid)
    assert not threads, f"threads left behind: {threads}"
    assert not processes, f"processes left behind (and killed now): {processes}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # gone by itself, or somebody else's child


# --- changes of the machine ----------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests time that wait for each other before they change the machine."""
    for item in items:
        if item.get_closest_marker("system_changes") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CHANGES_WITHIN))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would change the machine, unless it was asked for."""
    if item.get_closest_marker("system_changes") and not may_change_the_machine():
        pytest.skip("changes this machine; FLOCK_TEST_SYSTEM=1 runs it")
