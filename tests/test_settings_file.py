"""The configuration file: which one is read, and which one is refused."""

from __future__ import annotations

import os

import pytest

from flock.errors import SettingsError
from flock.settings_file import find_settings_file, read_settings_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "flock.toml"
    path.write_text("timeout = 5\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def system_file(tmp_path, monkeypatch):
    path = tmp_path / "system.toml"
    monkeypatch.delenv("FLOCK_CONFIG")
    monkeypatch.setattr("flock.settings_file.SYSTEM_FILE", path)
    monkeypatch.chdir(tmp_path)
    return path


def test_the_named_file_comes_before_the_one_here_and_that_before_the_machines(
    path, system_file, monkeypatch
):
    system_file.touch()
    monkeypatch.setenv("FLOCK_CONFIG", "named.toml")
    assert find_settings_file() == path.parent / "named.toml"
    monkeypatch.delenv("FLOCK_CONFIG")
    assert find_settings_file() == path
    path.unlink()
    assert find_settings_file() == system_file
    system_file.unlink()
    assert find_settings_file() is None


def test_an_empty_flock_config_reads_no_file(path, system_file, monkeypatch):
    monkeypatch.setenv("FLOCK_CONFIG", "")
    assert find_settings_file() is None


def test_a_named_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        read_settings_file(tmp_path / "absent.toml")


def test_a_link_that_leads_nowhere_is_told(path, system_file):
    path.unlink()
    path.symlink_to("nowhere")
    assert find_settings_file() == path
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings_file(path)


def test_values_come_with_the_line_where_they_stand(path):
    path.write_text('# timeout = 1\n"name" = "b0"\n\ntimeout=5\n[actors]\nitchy = "a:B"\n')
    assert read_settings_file(path) == {
        "name": ("b0", f"{path}:2"),
        "timeout": (5, f"{path}:4"),
        "actors": ({"itchy": "a:B"}, f"{path}:5"),
    }


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(path, mode):
    path.chmod(mode)
    with pytest.raises(SettingsError, match=r"is refused: others than its owner can write it"):
        read_settings_file(path)


def test_a_link_does_not_make_a_writable_file_better(path, tmp_path):
    path.chmod(0o666)
    (tmp_path / "link.toml").symlink_to(path)
    with pytest.raises(SettingsError, match="is refused"):
        read_settings_file(tmp_path / "link.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path):
    os.chown(path, 12345, -1)
    with pytest.raises(SettingsError, match="it belongs to user 12345, not to you or root"):
        read_settings_file(path)


def test_what_is_no_file_is_refused_and_does_not_block(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_settings_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsError, match="is not a file"):
        read_settings_file(tmp_path / "pipe")


@pytest.mark.parametrize("content", [b"timeout = \n", b"name = '\xff'\n"])
def test_what_is_not_toml_is_told(path, content):
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"flock\.toml is not TOML"):
        read_settings_file(path)
