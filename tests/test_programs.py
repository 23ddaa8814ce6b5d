"""Where programs are looked for."""

from __future__ import annotations

import sys

import pytest

from flock.converge.programs import find_program


@pytest.fixture
def program(tmp_path):
    def make(folder, name="flock-test-program"):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_our_own_virtual_environment_comes_before_the_path(program, monkeypatch, tmp_path):
    own, other = program("venv"), program("path")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/python"))
    monkeypatch.setattr(sys, "prefix", "/a-virtual-environment")
    assert find_program("flock-test-program") == own

    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert find_program("flock-test-program") == other


def test_what_is_nowhere_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("flock-test-program") is None


def test_system_programs_are_found_without_them_in_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("useradd") is not None
