"""Fence tokens of calls: the highest seen counts, over the death of a process, too."""

from __future__ import annotations

import pytest

from flock.errors import CallError, StaleToken
from flock.journal import Journal
from flock.tokens import Tokens


def test_a_token_that_grows_or_stays_is_let_through():
    tokens = Tokens()
    for token in (3, 3, 7):
        tokens.check(["registry", "web", 0, token])


def test_a_token_older_than_one_that_was_seen_is_refused_and_surely_not_run():
    tokens = Tokens()
    tokens.check(["registry", "web", 0, 7])
    with pytest.raises(StaleToken, match="token 6 is older than 7") as refused:
        tokens.check(["registry", "web", 0, 6])
    assert not refused.value.may_have_run


@pytest.mark.parametrize(
    "place", [["other", "web", 0], ["registry", "db", 0], ["registry", "web", 1]]
)
def test_tokens_of_another_registry_lock_or_slot_are_not_compared(place):
    tokens = Tokens()
    tokens.check(["registry", "web", 0, 7])
    tokens.check([*place, 1])


def test_tokens_outlive_their_process(tmp_path):
    journal = Journal(tmp_path / "journal")
    Tokens(journal).check(["registry", "web", 0, 7])
    journal.close()
    again = Journal(tmp_path / "journal")
    with pytest.raises(StaleToken):
        Tokens(again).check(["registry", "web", 0, 6])
    again.close()


@pytest.mark.parametrize(
    "under",
    [
        [],
        ["registry", "web", 0],
        ["registry", "web", 0, "7"],
        [1, "web", 0, 7],
        ["registry", "web", 0, 2**70],
    ],
)
def test_what_cannot_be_read_is_refused(under):
    with pytest.raises(CallError, match="cannot be read"):
        Tokens().check(under)
