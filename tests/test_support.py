"""The helpers of the tests, and the eye on what a test leaves behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap

import pytest

from tests.support import eventually, processes_of_tests


def test_eventually_returns_as_soon_as_the_value_is_there():
    count = itertools.count()
    assert eventually(lambda: next(count), within=10.0, becomes=3, pause=0.001) == 3
    assert next(count) == 4


def test_eventually_returns_the_last_value_when_the_time_is_over():
    assert eventually(list, within=0.05) == []


def test_eventually_raises_the_last_ignored_error_when_the_time_is_over():
    def broken() -> None:
        raise ConnectionError("not there")

    with pytest.raises(ConnectionError, match="not there"):
        eventually(broken, within=0.05, ignoring=ConnectionError)


def test_a_process_whose_parent_is_gone_is_found():
    script = textwrap.dedent("""
        import subprocess, sys
        silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(command, start_new_session=True, **silent)
        print(child.pid, flush=True)
    """)
    read, write = os.pipe()
    try:
        begun = subprocess.run(
            [sys.executable, "-c", script], stdin=read, capture_output=True, text=True, check=True
        )
        orphan = int(begun.stdout)
        assert orphan in processes_of_tests()
    finally:
        os.write(write, b"\n")
        os.close(write)
        os.close(read)
    assert eventually(lambda: orphan in processes_of_tests(), within=5.0, becomes=False) is False


@pytest.mark.parametrize(
    ("leaving", "what"),
    [
        ("threading.Timer(9.0, print).start()", "threads left behind"),
        ("subprocess.Popen(['sleep', '60'], start_new_session=True)", "processes left behind"),
    ],
)
def test_a_test_that_leaves_something_behind_fails(tmp_path, request, leaving, what):
    path = tmp_path / "test_it.py"
    path.write_text(f"import subprocess, threading\n\ndef test_leaves():\n    {leaving}\n")
    root = request.config.rootpath
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest"),
            *("-W", "ignore::pytest.PytestUnraisableExceptionWarning", "-c", "pyproject.toml"),
            path,
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'scripts'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"AssertionError: {what}" in ended.stdout
    assert "1 passed, 1 error" in ended.stdout
