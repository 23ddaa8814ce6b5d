"""Names of resources, as notifications write them."""

from __future__ import annotations

import pytest

from flock.converge.notification import parse_resource_name


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("file[/tmp/x]", ("file", "/tmp/x")),
        ("execute[kill all humans]", ("execute", "kill all humans")),
        ("execute[x [y]]", ("execute", "x [y]")),
        ("file[a]b]", ("file", "a]b")),
    ],
)
def test_a_name_may_hold_brackets_itself(written, parsed):
    assert parse_resource_name(written) == parsed


@pytest.mark.parametrize("written", ["file", "file[]", "[x]", "file[x", ""])
def test_what_names_no_resource_is_refused(written):
    with pytest.raises(ValueError, match="write kind"):
        parse_resource_name(written)
