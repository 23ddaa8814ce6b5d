"""What stands in the registry, as bytes: it comes back, or is refused."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import DocumentTooLarge, KeyRecord, PresenceRecord, RecordInvalid
from registry.records import (
    MAX_NESTING,
    MAX_PLAIN_BYTES,
    decode,
    encode,
    fingerprint,
    from_plain,
    quote,
    to_plain,
    unquote,
)

LIMIT = 512 * 1024

KEY = KeyRecord("k" * 40, "bender0", "node", True, "g1")
PRESENCE = PresenceRecord(
    name="bender0",
    generation="g1",
    kind="node",
    address="tcp://127.0.0.1:4711",
    public_key="k" * 40,
    actors=("flock_api", "info"),
    host="planet-express",
    boot_id="b",
    pid_namespace=1,
    pid=2,
    process_start=3,
    started="2026-01-31T12:00:00Z",
    protocol=1,
    version="0.1",
    roles=("web",),
)

plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- values --------------------------------------------------------------------


@given(plain_data)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    assert decode(encode(value, "a value", LIMIT)) == value


@given(st.binary(max_size=200))
def test_whatever_stands_there_decodes_to_plain_data_or_is_refused(stored: bytes) -> None:
    for form in (b"", b"\x01", b"\x02"):
        try:
            value = decode(form + stored)
        except RecordInvalid:
            continue
        assert decode(encode(value, "again", LIMIT)) == value or value != value  # noqa: PLR0124 - nan


@given(plain_data, st.integers(0), st.integers(0, 255))
def test_a_flipped_byte_never_does_worse_than_being_refused(
    value: Any, place: int, byte: int
) -> None:
    stored = bytearray(encode(value, "a value", LIMIT))
    stored[place % len(stored)] = byte
    try:
        now = decode(bytes(stored))
    except RecordInvalid:
        return
    assert is_plain_data(now)


def is_plain_data(value: Any) -> bool:
    """Say whether a decoded value is made of plain data only."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain_data(value[key]) for key in value)
    if isinstance(value, list):
        return all(map(is_plain_data, value))
    return value is None or isinstance(value, bool | int | float | str | bytes)


def test_what_repeats_itself_is_stored_small():
    value = {"lines": ["the same line again"] * 5000}
    assert len(encode(value, "a value", LIMIT)) < 2000
    noise = random.Random(1).randbytes(10_000)
    assert len(encode(noise, "noise", LIMIT)) < 10_010


def test_the_limit_counts_the_bytes_that_are_stored():
    noise = random.Random(1).randbytes(1000)
    size = len(encode(noise, "noise", LIMIT))
    assert decode(encode(noise, "noise", size)) == noise
    with pytest.raises(DocumentTooLarge) as caught:
        encode(noise, "noise", size - 1)
    assert (caught.value.what, caught.value.size, caught.value.limit) == ("noise", size, size - 1)


def test_what_would_unfold_to_more_than_it_may_is_refused_on_both_ways():
    bomb = "x" * (MAX_PLAIN_BYTES + 1)
    with pytest.raises(DocumentTooLarge):
        encode(bomb, "a bomb", LIMIT)
    stored = b"\x02" + zlib.compress(msgpack.packb(bomb))
    assert len(stored) < 10_000
    with pytest.raises(RecordInvalid, match="over"):
        decode(stored)


def test_nesting_ends_at_the_limit_on_both_ways():
    assert decode(encode(nested(MAX_NESTING), "deep", LIMIT)) == nested(MAX_NESTING)
    with pytest.raises(RecordInvalid, match="nested"):
        encode(nested(MAX_NESTING + 1), "deep", LIMIT)
    with pytest.raises(RecordInvalid, match="nested"):
        decode(b"\x01" + msgpack.packb(nested(MAX_NESTING + 1)))
    with pytest.raises(RecordInvalid):
        decode(b"\x01" + b"\x91" * 60_000)
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(RecordInvalid, match="nested"):
        encode(itself, "a circle", LIMIT)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, {2, 3}]}, r"\['a'\]\[1\]"),
        ({"a": {1: 2}}, r"\['a'\]\[1\]"),
        ([object()], r"\[0\]"),
        (2**64, "range|int"),
        ("\udc80", "surrogates"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(RecordInvalid, match=place):
        encode(value, "a value", LIMIT)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x00",
        b"\x03\x01",
        b"\x01",
        b"\x02",
        b"\x02not zlib",
        b"\x01" + msgpack.packb(1) * 2,
        b"\x01" + msgpack.packb({1: 2}),
        b"\x01" + msgpack.packb({b"a": 2}),
        b"\x01" + msgpack.packb(msgpack.ExtType(4, b"x")),
        b"\x01" + msgpack.packb(msgpack.Timestamp(1)),
        b"\x01\xdd\xff\xff\xff\xff",
        b"\x01\xc1",
        b"\x01\xa1\xff",
        b"\x02" + zlib.compress(msgpack.packb("x" * 100))[:-5],
    ],
)
def test_what_encode_never_makes_is_refused(stored: bytes) -> None:
    with pytest.raises(RecordInvalid):
        decode(stored, "the record")


# --- names ---------------------------------------------------------------------


@given(st.text(st.characters()))
def test_any_name_is_one_safe_path_part_and_comes_back(name: str) -> None:
    part = quote(name)
    assert part
    assert part.isascii()
    assert all(letter.isalnum() or letter in "_-.%" for letter in part)
    assert not part.startswith(".")
    assert unquote(part) == name


@given(st.text(), st.text())
def test_different_names_have_different_parts(one: str, other: str) -> None:
    assert (quote(one) == quote(other)) == (one == other)


def test_usual_names_stay_readable():
    assert quote("lock-test1") == "lock-test1"
    assert quote("bender0.planet-express_2") == "bender0.planet-express_2"


@pytest.mark.parametrize(
    "part", ["", "a/b", "%2f", "%", ".", "..", "%zz", "a b", "é", "%FF", "%61"]
)
def test_a_part_that_quote_never_makes_is_refused(part: str) -> None:
    if part == "%":
        assert unquote(part) == ""
        return
    with pytest.raises(RecordInvalid):
        unquote(part)


def test_a_fingerprint_is_safe_in_a_path_and_tells_keys_apart():
    assert fingerprint("a/b%.") != fingerprint("a/b%,")
    assert fingerprint("a/b%.").isalnum()


# --- records -------------------------------------------------------------------


@pytest.mark.parametrize("record", [KEY, PRESENCE])
def test_a_record_comes_back_as_it_was(record: KeyRecord | PresenceRecord) -> None:
    stored = encode(to_plain(record), "a record", LIMIT)
    assert from_plain(type(record), decode(stored)) == record


def test_a_record_of_a_newer_version_is_read_without_what_is_new():
    plain = {**to_plain(KEY), "colour": "bending grey", "more": [1, 2]}
    assert from_plain(KeyRecord, plain) == KEY


def test_fields_with_a_default_may_be_missing_and_others_not():
    plain = to_plain(PRESENCE)
    del plain["roles"]
    assert from_plain(PresenceRecord, plain).roles == ()
    del plain["host"]
    with pytest.raises(RecordInvalid, match="host is missing"):
        from_plain(PresenceRecord, plain)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("name", None),
        ("pid", "1"),
        ("pid", True),
        ("pid", 1.5),
        ("actors", "flock_api"),
        ("actors", [1]),
        ("actors", {"flock_api": 1}),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RecordInvalid, match=field):
        from_plain(PresenceRecord, {**to_plain(PRESENCE), field: value}, "presence of bender0")


@pytest.mark.parametrize("plain", [None, 1, "text", [], [["name", "x"]]])
def test_what_is_no_record_at_all_is_refused(plain: Any) -> None:
    with pytest.raises(RecordInvalid):
        from_plain(KeyRecord, plain)


def test_a_record_with_a_field_that_cannot_be_stored_is_our_own_mistake():
    @dataclass(frozen=True)
    class Wrong:
        value: dict[str, int]

    with pytest.raises(TypeError, match="no stored record"):
        from_plain(Wrong, {"value": {}})
