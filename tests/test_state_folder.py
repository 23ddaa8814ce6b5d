"""A node's folder on a disk that takes nothing more."""

import contextlib
import resource

import pytest

from flock.boot import StateFolder
from flock.errors import JournalError


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


def test_a_folder_that_cannot_be_written_is_held_by_nobody(tmp_path):
    folder = StateFolder(tmp_path / "state")
    with full_disk(), pytest.raises(JournalError, match="cannot be written"):
        folder.hold("bender0")

    folder.hold("bender0")
    folder.let_go()
