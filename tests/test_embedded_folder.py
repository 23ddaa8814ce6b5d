"""Where an embedded registry may lie: the folder's rights and its file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry import embedded_folder
from registry.contract import NotPermitted, RegistryUnavailable, WrongRegistry
from registry.embedded_folder import Folder, file_system_of

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / {share} rw,relatime shared:7 master:2 - {kind} server:/export rw,vers=4.2
31 30 0:41 / {share}/with\\040blank rw - tmpfs tmpfs rw
32 22 0:42 / {share}2 rw - tmpfs tmpfs rw
"""


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that the kernel shows as mounted from another machine."""
    share = Path(os.path.realpath(tmp_path)) / "share"
    (share / "with blank").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(share=share, kind="nfs4"))
    monkeypatch.setattr(embedded_folder, "_MOUNTS", mounts)
    return share


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(share):
    assert file_system_of(share / "a" / "b") == (str(share), "nfs4")
    assert file_system_of(share / "with blank") == (f"{share}/with blank", "tmpfs")
    assert file_system_of(Path(f"{share}2")) == (f"{share}2", "tmpfs")
    assert file_system_of(Path("/")) == ("/", "ext4")


def test_of_two_mounts_at_one_place_the_later_counts(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 8:1 / / rw - ext4 x rw\n2 0 8:2 / / rw - nfs x rw\n")
    monkeypatch.setattr(embedded_folder, "_MOUNTS", mounts)
    assert file_system_of(tmp_path) == ("/", "nfs")


def test_the_machines_own_mounts_can_be_read():
    assert file_system_of(Path("/proc")) == ("/proc", "proc")


def test_a_folder_on_a_network_file_system_is_refused_with_the_reason(share):
    with pytest.raises(WrongRegistry, match=f"network file system .nfs4 at {share}"):
        Folder(share / "registry").open()
    local = Folder(share / "with blank" / "registry")
    local.open()
    local.close()


def test_a_new_folder_is_for_its_owner_only(tmp_path):
    folder = Folder(tmp_path / "new" / "registry")
    folder.open()
    folder.close()
    folder.close()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.database.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, mode):
    path = tmp_path / "registry"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(NotPermitted, match=f"mode {mode:04o}.*chmod 700 {path}"):
        Folder(path).open()
    assert list(path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path):
    path = tmp_path / "registry"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(NotPermitted, match="belongs to user 12345"):
        Folder(path).open()


@pytest.mark.parametrize("below", ["", "/registry"])
def test_a_file_where_the_folder_should_be_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongRegistry, match="a file where a folder should be") as refused:
        Folder(Path(f"{tmp_path}/file{below}")).open()
    assert isinstance(refused.value.__cause__, OSError)


def test_a_folder_that_cannot_be_made_is_unavailable():
    with pytest.raises(RegistryUnavailable, match="embedded:/proc/registry"):
        Folder(Path("/proc/registry")).open()


def test_an_open_folder_tells_when_it_is_gone_or_another(tmp_path):
    folder = Folder(tmp_path / "registry")
    folder.open()
    try:
        assert folder.trouble() is None
        folder.database.rename(tmp_path / "away")
        assert "No such file" in str(folder.trouble())
        folder.database.write_text("")
        assert "not the file any more" in str(folder.trouble())
        (tmp_path / "away").rename(folder.database)
        assert folder.trouble() is None
    finally:
        folder.close()
