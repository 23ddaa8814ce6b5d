"""Bytes: what travels, and what of others' making is refused."""

from __future__ import annotations

import itertools
import random
import struct
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock.errors import EncodeError
from flock.messages import (
    BATCH,
    CALL,
    FIELD_TYPES,
    FRAME_HEADER,
    HELLO,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    PROTOCOL,
    REPLY,
    TELL,
)
from flock.wire import MAX_MESSAGE_BYTES, BadFrame, Codec, WrongProtocol, depth, frame_of

codec = Codec()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
    | st.datetimes()
)
keys = st.text() | st.integers(-(2**63), 2**63) | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20
)


def frame(body: bytes, version: int = PROTOCOL) -> bytes:
    return FRAME_HEADER.pack(version, 0) + body


def decode_one(body: bytes) -> list[Any]:
    return codec.decode(frame(b"\x91" + body))[1][0]


def nested(levels: int, kind: str = "list") -> Any:
    value: Any = 0
    for level in range(levels):
        as_list = kind == "list" or (kind == "mixed" and level % 2)
        value = [value] if as_list else {"k": value}
    return value


# --- there and back --------------------------------------------------------------


@given(values)
def test_what_was_encoded_is_decoded_as_it_was(value: Any) -> None:
    stamp, [message] = codec.decode(frame_of([codec.encode((REPLY, 7, value))], 12345))

    assert stamp == 12345
    assert message == [REPLY, 7, value]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=300))
def test_a_frame_holds_many_messages_in_their_order(contents: list[bytes]) -> None:
    encoded = [codec.encode((REPLY, number, value)) for number, value in enumerate(contents)]

    assert [message[2] for message in codec.decode(frame_of(encoded, 0))[1]] == contents


@pytest.mark.parametrize("count", [1, 15, 16, 127, 128, 65_535, 65_536])
def test_a_frame_says_how_many_messages_it_holds(count: int) -> None:
    one = codec.encode((REPLY, 1, None))
    assert len(codec.decode(frame_of([one] * count, 0))[1]) == count


def test_a_tuple_arrives_as_a_list() -> None:
    assert decode_one(codec.encode((REPLY, 1, (1, (2,))))) == [REPLY, 1, [1, [2]]]


def test_times_keep_their_zone() -> None:
    zone = timezone(timedelta(hours=5, minutes=45))
    [_, _, back] = decode_one(codec.encode((REPLY, 1, datetime(2026, 1, 2, 3, 4, tzinfo=zone))))

    assert back.utcoffset() == timedelta(hours=5, minutes=45)


def test_handles_are_made_by_who_decodes() -> None:
    class Handle:
        pass

    mine = Handle()
    sender = Codec(pack_handle=lambda value: ["node", "actor"] if value is mine else None)
    reader = Codec(make_handle=lambda parts: ("handle", *parts))
    message = sender.encode((REPLY, 1, {"deep": [mine]}))

    assert reader.decode(frame_of([message], 0))[1][0][2] == {"deep": [("handle", "node", "actor")]}


def test_a_message_of_just_the_limit_fits_into_a_frame() -> None:
    empty = len(codec.encode((REPLY, 1, b"x" * 100_000))) - 100_000
    message = codec.encode((REPLY, 1, b"x" * (MAX_MESSAGE_BYTES - empty)))

    assert len(message) == MAX_MESSAGE_BYTES
    assert len(frame_of([message], 0)) <= MAX_FRAME_BYTES
    assert len(codec.decode(frame_of([message], 0))[1]) == 1
    with pytest.raises(EncodeError, match="too many"):
        codec.encode((REPLY, 1, b"x" * (MAX_MESSAGE_BYTES - empty + 1)))


# --- what cannot travel ----------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((object(),), {}, r"args\[0\] is a object"),
        ((1, [2, {"x": {3}}]), {}, r"args\[1\]\[1\]\['x'\] is a set"),
        ((), {"key": lambda: 0}, r"kwargs\['key'\] is a function"),
        (({(1, object()): 2},), {}, "cannot travel"),
        ((2**64,), {}, r"args\[0\] is an integer of more than 64 bits"),
        ((-(2**63) - 1,), {}, "more than 64 bits"),
        (("\udcff",), {}, r"args\[0\] is text that is not valid Unicode"),
        ((1j,), {}, r"args\[0\] is a complex"),
    ],
)
def test_what_cannot_travel_is_named_by_its_place(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: str
) -> None:
    with pytest.raises(EncodeError, match=place) as caught:
        codec.encode((TELL, "a", "m", args, kwargs, None, (), None))

    assert caught.value.may_have_run is False


def test_a_value_whose_own_code_raises_is_an_error_not_a_crash() -> None:
    class Evil:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    with pytest.raises((EncodeError, RuntimeError)):
        codec.encode((REPLY, 1, [Evil()]))


def test_a_handle_with_an_endless_name_is_refused() -> None:
    long = Codec(pack_handle=lambda value: ["n", "x" * 2000] if value is ... else None)
    with pytest.raises(EncodeError, match=r"^a handle with a name that long cannot travel$"):
        long.encode((REPLY, 1, ...))


@pytest.mark.parametrize("kind", ["list", "dict", "mixed"])
def test_what_is_nested_as_deep_as_allowed_arrives_and_one_deeper_is_refused(kind: str) -> None:
    allowed = nested(MAX_DEPTH - 3, kind)
    codec.check_arguments((allowed,), {})
    message = codec.encode((TELL, "a", "m", (allowed,), {}, None, (), None))
    assert decode_one(message)[3] == [allowed]

    with pytest.raises(EncodeError, match=r"args\[0\] is nested deeper"):
        codec.check_arguments((nested(MAX_DEPTH - 2, kind),), {})
    with pytest.raises(EncodeError, match=r"kwargs\['k'\] is nested deeper"):
        codec.check_arguments((), {"k": nested(500, kind)})


@pytest.mark.parametrize("levels", range(MAX_DEPTH - 6, MAX_DEPTH))
def test_what_a_batch_may_hold_can_be_read_at_the_other_end(levels: int) -> None:
    args, kwargs = [nested(levels)], {"k": nested(levels, "dict")}
    try:
        codec.check_arguments(args, kwargs)
    except EncodeError:
        return  # it is told so, and nothing is sent
    message = codec.encode((BATCH, 1, "a", [["m", args, kwargs]], None, (), None))
    assert decode_one(message)[3] == [["m", args, kwargs]]


@pytest.mark.parametrize("value", [{(1, 2): 3}, [{"a": {(): 1}}], {"a": 1, 2: [{(1,): 1}]}])
def test_a_tuple_for_a_key_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises(BadFrame):
        decode_one(codec.encode((REPLY, 1, value)))
    with pytest.raises(EncodeError, match=r"args\[0\] holds a dict with the key \(.*, a tuple"):
        codec.check_arguments((value,), {})
    codec.check_arguments(({1: 2, None: {b"x": 1.5, datetime.now(UTC): ["a"]}},), {})


def test_what_holds_too_many_lists_is_refused_before_it_is_sent() -> None:
    # The list around them, the message and the frame are lists, too.
    allowed = [[number] for number in range(MAX_CONTAINERS - 3)]
    assert decode_one(codec.encode((REPLY, 1, allowed)))[2] == allowed
    with pytest.raises(EncodeError, match=r"more than \d+ lists and maps are too many"):
        codec.encode((REPLY, 1, [*allowed, {}]))


def test_depth_ends_with_a_value_that_holds_itself() -> None:
    endless: list[Any] = []
    endless += [endless, endless, endless]

    assert depth(endless) == MAX_DEPTH + 1


def test_depth_counts_what_stands_in_each_other() -> None:
    samples: list[Any] = [1, [], [[]], {"a": [1, {"b": ()}]}]
    assert [depth(value) for value in samples] == [0, 1, 2, 4]


# --- what is refused -------------------------------------------------------------


def test_every_other_version_is_refused() -> None:
    for version in set(range(256)) - {PROTOCOL}:
        with pytest.raises(WrongProtocol, match=str(version)):
            codec.decode(frame(b"\x90", version))


def test_a_frame_of_nothing_is_refused() -> None:
    for size in (0, 1, 8, 9):
        with pytest.raises(BadFrame, match=f"a frame of {size} bytes"):
            codec.decode(frame(b"")[:size])


def test_a_frame_that_is_too_large_is_refused() -> None:
    with pytest.raises(BadFrame, match="bytes"):
        codec.decode(frame(b"\x91" + b"\xc0" * MAX_FRAME_BYTES))


def test_a_frame_cut_off_anywhere_is_refused() -> None:
    whole = frame_of(
        [codec.encode((CALL, 1, "actor", "m", [1, {"a": b"bytes"}], {"k": 2.5}, 9.5, [], None))], 1
    )
    assert codec.decode(whole)
    for length in range(len(whole)):
        with pytest.raises(BadFrame):
            codec.decode(whole[:length])


@pytest.mark.parametrize(
    "body",
    [
        b"\x90",  # no message
        b"\x80",
        b"\xc0",
        b"\x01",
        msgpack.packb([1]),
        msgpack.packb([[]]),
        msgpack.packb([["CALL"]]),
        msgpack.packb([[True, 1]]),
        msgpack.packb([[99, 1]]),
        msgpack.packb([[-1, 1]]),
        msgpack.packb([[2**63, 1]]),
        msgpack.packb([{0: 1}]),
        msgpack.packb([[REPLY, 1, None]]) + b"\x00",
    ],
)
def test_what_is_no_message_of_a_known_kind_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        codec.decode(frame(body))


def test_every_kind_is_refused_with_another_number_of_fields() -> None:
    for kind, types in FIELD_TYPES.items():
        for fields in set(range(len(types) + 3)) - {len(types)}:
            with pytest.raises(BadFrame):
                decode_one(msgpack.packb([kind, *([0] * fields)]))


SAMPLES: dict[type, Any] = {
    int: 1,
    float: 1.5,
    str: "text",
    list: [],
    dict: {},
    bool: True,
    type(None): None,
    object: b"anything",
    bytes: b"bytes",
}


GOOD = [
    [kind, *(SAMPLES[each] for each in choice)]
    for kind, types in sorted(FIELD_TYPES.items())
    for choice in itertools.product(
        *(each if isinstance(each, tuple) else (each,) for each in types)
    )
]
"""Messages of every kind, with each type that a field may have."""


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_every_field_of_every_kind_is_refused_with_another_type(good: list[Any]) -> None:
    assert decode_one(msgpack.packb(good)) == good
    for index, expected in enumerate(FIELD_TYPES[good[0]], 1):
        if expected is object:
            continue
        for value in SAMPLES.values():
            bad = [*good]
            bad[index] = value
            if isinstance(value, expected):
                decode_one(msgpack.packb(bad))
            else:
                with pytest.raises(BadFrame, match="has no place"):
                    decode_one(msgpack.packb(bad))


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_a_kind_is_a_whole_number_and_no_field_is_left_out_or_added(good: list[Any]) -> None:
    kind, *fields = good
    for bad in ([float(kind), *fields], [bool(kind), *fields], good[:-1], [*good, None]):
        with pytest.raises(BadFrame):
            decode_one(msgpack.packb(bad))


@pytest.mark.parametrize("where", ["args", "kwargs", "chain"])
@pytest.mark.parametrize("head", [[CALL, 1], [TELL]], ids=["call", "tell"])
def test_what_is_nested_too_deep_is_found_wherever_it_stands(head: list[Any], where: str) -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    work = {"args": [1, deep], "kwargs": {"k": deep}, "chain": [deep]}
    fields: dict[str, Any] = {
        "args": [1],
        "kwargs": {},
        "seconds": None,
        "chain": [],
        "under": None,
    }
    good = [*head, "actor", "method", *fields.values()]
    assert decode_one(msgpack.packb(good)) == good

    bad = [*head, "actor", "method", *(fields | {where: work[where]}).values()]
    with pytest.raises(BadFrame, match="deeper"):
        decode_one(msgpack.packb(bad))


@pytest.mark.parametrize("levels", [33, 100, 511, 1024, 1025, 10_000])
@pytest.mark.parametrize("opener", [b"\x91", b"\x81\xa1k", b"\xdd\x00\x00\x00\x01"])
def test_depth_bombs_are_refused_at_once(levels: int, opener: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(BadFrame):
        decode_one(b"\x93\x04\x01" + opener * levels + b"\xc0")
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("size", [1000, 2049, 60_000, 1_000_000])
def test_lists_that_claim_more_members_than_there_are_cost_nothing(size: int) -> None:
    claim = b"\xdd" + struct.pack(">I", size)
    body = claim * (size // len(claim))
    began = time.thread_time()
    with pytest.raises(BadFrame):
        codec.decode(frame(body))
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_length_beyond_the_frame_is_refused(claim: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_one(b"\x93\x04\x01" + claim + b"\x00")


def test_many_small_lists_are_looked_at_once_each() -> None:
    many = msgpack.packb([[REPLY, 1, [[] for _ in range(50_000)]]])
    began = time.thread_time()
    assert len(codec.decode(frame(many))[1][0][2]) == 50_000
    assert time.thread_time() - began < 2.0


def test_a_large_frame_of_nothing_but_lists_is_refused() -> None:
    with pytest.raises(BadFrame, match="lists and maps"):
        codec.decode(frame(msgpack.packb([[REPLY, 1, [[]] * 300_000]])))


@pytest.mark.parametrize(
    "extension",
    [
        msgpack.ExtType(0, b""),
        msgpack.ExtType(3, b"x"),
        msgpack.ExtType(127, b"x" * 100),
        msgpack.ExtType(1, b"no time"),
        msgpack.ExtType(1, b"\xff\xfe"),
        msgpack.ExtType(2, b""),
        msgpack.ExtType(2, msgpack.packb("text")),
        msgpack.ExtType(2, msgpack.packb([])),
        msgpack.ExtType(2, msgpack.packb(["a", "b", "c"])),
        msgpack.ExtType(2, msgpack.packb([1, 2])),
        msgpack.ExtType(2, b"\x91" * 1000),
        msgpack.ExtType(2, b"x" * 1025),
    ],
)
def test_extensions_that_are_rubbish_are_refused(extension: Any) -> None:
    with pytest.raises(BadFrame):
        decode_one(msgpack.packb([REPLY, 1, [extension]]))


def test_an_error_of_who_makes_handles_stays_a_bad_frame() -> None:
    def make(parts: Any) -> Any:
        raise KeyError(parts)

    message = msgpack.packb([[REPLY, 1, msgpack.ExtType(2, msgpack.packb(["n"]))]])
    with pytest.raises(BadFrame, match="KeyError"):
        Codec(make_handle=make).decode(frame(message))


def _samples(*messages: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    return messages


def test_a_hundred_thousand_fuzzed_frames_are_bad_frames_and_nothing_else() -> None:
    rng = random.Random(20260131)
    seeds = [
        frame_of([codec.encode(message)], 99)
        for message in _samples(
            (HELLO, PROTOCOL, "g" * 32, "w" * 32, 1, 0, "name"),
            (CALL, 1, "actor", "method", [1, "x", [2.5, {"k": None}]], {"a": b"b"}, 10.0, [], None),
            (TELL, "a", "m", [datetime(2026, 1, 1, tzinfo=UTC)], {}, None, [["n", "a", 1]], None),
            (REPLY, 2**40, {"deep": [[[["x" * 40]]]], "n": [-1, 300, 70_000, 2**40]}),
        )
    ]
    good = bad = 0
    for _ in range(100_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            choice = rng.random()
            position = rng.randrange(len(data))
            if choice < 0.6:
                data[position] = rng.randrange(256)
            elif choice < 0.75:
                del data[position:]
            elif choice < 0.9:
                data[position:position] = rng.randbytes(rng.randrange(1, 6))
            else:
                data[9:] = rng.randbytes(rng.randrange(1, 60))
            if not data:
                data = bytearray(b"\x00")
        try:
            codec.decode(bytes(data))
            good += 1
        except BadFrame:
            bad += 1

    assert good + bad == 100_000
    assert bad > 50_000
