"""Tables that two sides write: what each changed counts."""

from __future__ import annotations

import pytest

from flock.tables import merged


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "expected"),
    [
        ({}, {"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}, {}),
        ({"a": 1}, {}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": {"b": 3}}, {"a": 2}),
        ({"a": [1]}, {"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": 1}, {"a": None}, {"a": 1}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
    ],
)
def test_each_key_is_taken_from_the_side_that_changed_it(base, ours, theirs, expected):
    assert merged(base, ours, theirs) == expected
