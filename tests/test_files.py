"""Files put in their place whole, with owner and mode, or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from flock.converge import files
from flock.converge.files import Ownership, parse_mode, read_or_none, stat_or_none, write_atomically


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_its_content_and_the_umasks_mode(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"text")
    finally:
        os.umask(old)

    assert (tmp_path / "a").read_bytes() == b"text"
    assert mode_of(tmp_path / "a") == 0o640


def test_a_replaced_file_keeps_mode_and_owner_unless_told(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o604)

    write_atomically(path, b"new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o604)

    write_atomically(path, b"newer", Ownership(mode=0o4755))
    assert (path.read_text(), mode_of(path)) == ("newer", 0o4755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_owner_and_group_are_set_before_the_file_is_seen(tmp_path, monkeypatch):
    seen = []
    rename = os.rename

    def look_and_rename(source, target):
        found = os.stat(source)
        seen.append((found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", look_and_rename)
    write_atomically(tmp_path / "a", b"x", Ownership.of("nobody", "nogroup", "0640"))

    assert seen == [(65534, 65534, 0o640)]
    assert (tmp_path / "a").stat().st_uid == 65534


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    for name in ("fdatasync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                write_atomically(path, b"new")

    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_comes_in_parts_is_not_seen_before_it_is_whole(tmp_path):
    seen = []

    def parts():
        yield b"one "
        seen.append(os.listdir(tmp_path))
        yield b"two"

    write_atomically(tmp_path / "a", parts(), Ownership(mode=0o640))
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["a"]
    # A process that dies here leaves nothing, where the file system has files without a name.
    assert seen == [[]] or not has_nameless_files(tmp_path)


def has_nameless_files(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        return False
    return True


def test_without_files_without_a_name_parts_are_written_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_open_nameless", lambda *_: None)
    write_atomically(tmp_path / "a", iter([b"one ", b"two"]))
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")

    write_atomically(tmp_path / "link", b"new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^the directory {tmp_path}/no does not exist$"):
        write_atomically(tmp_path / "no" / "a", b"")


def test_a_place_that_cannot_be_written_is_named_and_not_what_stands_beside_it(
    monkeypatch, tmp_path
):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / "file", b"x")

    assert caught.value.filename == str(tmp_path / "file")


def test_a_directory_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        write_atomically(tmp_path, b"")


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"1")

    assert (tmp_path / ("x" * 255)).read_text() == "1"


@pytest.mark.parametrize(
    ("written", "mode"), [("0644", 0o644), ("644", 0o644), (0o600, 0o600), (None, None), ("0", 0)]
)
def test_modes_are_read(written, mode):
    assert parse_mode(written) == mode


@pytest.mark.parametrize("written", ["rw", "0999", 0o10000, -1, ""])
def test_what_is_no_mode_is_refused(written):
    with pytest.raises(ValueError, match="mode must be an octal number"):
        parse_mode(written)


def test_unknown_owners_are_an_error_and_left_open_in_a_why_run():
    with pytest.raises(LookupError, match="no user 'nobody-x' on this machine"):
        Ownership.of("nobody-x", None, None)
    with pytest.raises(LookupError, match="no group 'nobody-x'"):
        Ownership.of(None, "nobody-x", None)

    assert Ownership.of("nobody-x", "y", 0o600, why_run=True) == Ownership(mode=0o600)


def test_differences_are_named_as_orders(tmp_path):
    found = tmp_path.stat()

    assert Ownership().differences(found) == []
    assert Ownership(found.st_uid, found.st_gid, mode_of(tmp_path)).differences(found) == []
    assert Ownership(65534, 65534, 0o1700).differences(found) == [
        "set owner nobody", "set group nogroup", "set mode 1700",
    ]  # fmt: skip


def test_nothing_there_is_none(tmp_path):
    assert read_or_none(tmp_path / "a") is None
    assert stat_or_none(tmp_path / "a") is None
    (tmp_path / "link").symlink_to("nowhere")
    assert stat_or_none(tmp_path / "link") is None
    assert stat_or_none(tmp_path / "link", follow=False) is not None


@pytest.mark.parametrize("written", [644, 755, 700, 1777, 2775])
def test_a_mode_written_without_its_0o_is_refused_with_what_it_would_be(written):
    with pytest.raises(ValueError, match=f"mode {written} is {written:04o} in octal: write 0o"):
        parse_mode(written)


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o1777, 0o2755, 0o2775, 0o4755, 0o6755])
def test_modes_that_files_have_are_taken_for_none_of_these(mode):
    assert parse_mode(mode) == mode
