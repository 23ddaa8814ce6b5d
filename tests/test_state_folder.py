"""A node's folder on a disk that takes nothing more."""

import contextlib
import resource

import pytest
import zmq

from flock.boot import StateFolder
from flock.errors import JournalError, SettingsError


@contextlib.contextmanager
def full_disk():
    """Let no file of this process grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_keys_that_cannot_be_written_are_said_and_made_when_there_is_room(tmp_path):
    folder = StateFolder(tmp_path / "state")
    with full_disk(), pytest.raises(JournalError, match="cannot be written: File too large"):
        folder.keys()
    assert list(folder.path.iterdir()) == []

    public, secret = folder.keys()

    assert (len(public), len(secret)) == (40, 40)
    assert folder.keys() == (public, secret)


@pytest.mark.parametrize("damage", [b"", b"\x80\xff" * 40, b"short", b"another"])
def test_a_key_file_that_is_damaged_is_named_with_the_mend(tmp_path, damage):
    folder = StateFolder(tmp_path / "state")
    public, secret = folder.keys()
    file = folder.path / "node.key_secret"
    whole = file.read_bytes()
    if damage == b"short":
        damage = whole.replace(secret, secret[:39])
    elif damage == b"another":
        damage = whole.replace(public, zmq.curve_keypair()[0])
    file.write_bytes(damage)
    with pytest.raises(SettingsError, match=r"node\.key_secret holds no key pair.*forget"):
        folder.keys()
    file.write_bytes(whole)
    assert folder.keys() == (public, secret)


def test_a_folder_that_cannot_be_written_is_held_by_nobody(tmp_path):
    folder = StateFolder(tmp_path / "state")
    with full_disk(), pytest.raises(JournalError, match="cannot be written"):
        folder.hold("bender0")

    folder.hold("bender0")
    folder.let_go()
