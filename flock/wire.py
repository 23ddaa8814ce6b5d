"""Messages to bytes and back.

Values that travel: None, bool, int of 64 bits, float, str, bytes, lists and
tuples (a tuple arrives as a list, and is no key), dicts, `datetime`, and handles
to nodes and actors. Anything else is an `EncodeError` that names the place, raised where it
was put in, with nothing sent.

Decoding builds no class named by the bytes, imports nothing, and is bounded:
frame size, nesting, lengths, number of fields and their types. Whatever is
wrong with a frame, `BadFrame` is the only error that comes out.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgpack

from flock.errors import EncodeError, FlockError
from flock.messages import (
    CALL,
    FIELD_TYPES,
    FRAME_HEADER,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    PROTOCOL,
    REPLY,
    TELL,
)

_MAX_PLACES = 1_000_000  # that the search for a value that cannot travel looks at
_MAX_VALUE_DEPTH = MAX_DEPTH - 3  # a batch is a list of lists in which lists of arguments stand
_DATETIME = 1
_HANDLE = 2
_MAX_EXTENSION_BYTES = 1024
_SMALL_FRAME_BYTES = 64 * 1024
_UNCHECKED_BYTES = 2048
_HEADER_BYTES = FRAME_HEADER.size
MAX_MESSAGE_BYTES = MAX_FRAME_BYTES - _HEADER_BYTES - 5
"""Largest encoded message: a frame is a header, the beginning of an array, and messages."""

SCALAR_TYPES = frozenset((str, bytes, int, float, bool, type(None)))
"""What holds no other value."""

_PACKER_BYTES = 4096

_unpack = msgpack.unpackb
_unpack_header = FRAME_HEADER.unpack_from

PackHandle = Callable[[Any], Sequence[str] | None]
"""Returns what a handle points at, `[node]` or `[node, actor]`; None for anything else."""

MakeHandle = Callable[[Sequence[str]], Any]
"""Makes a handle of this process from what one points at."""


class BadFrame(FlockError):
    """Bytes from the wire that are no frame of ours; the message says why."""


class WrongProtocol(BadFrame):
    """A frame of a protocol version that is not ours."""


def _no_handle(_: Any) -> Sequence[str] | None:
    return None


class _Packers(threading.local):
    """Each thread's packer: making one costs more than a message, and none may be shared."""

    packer: msgpack.Packer


class Codec:
    """Turns messages into bytes and back, for one process; any thread may use it."""

    def __init__(
        self, pack_handle: PackHandle = _no_handle, make_handle: MakeHandle = tuple
    ) -> None:
        """Make a codec.

        Args:
            pack_handle: tells what a handle of this process points at.
            make_handle: makes a handle from what one points at.
        """
        self._pack_handle = pack_handle
        self._make_handle = make_handle
        self._packers = _Packers()

    # --- to bytes

    def encode(self, message: tuple[Any, ...]) -> bytes:
        """Turn one message into bytes.

        Raises:
            EncodeError: a value in it cannot travel, or it is too large.
        """
        try:
            packed: bytes = self._packers.packer.pack(message)
        except Exception as error:  # noqa: BLE001 - also whatever a value's own code raises
            return self._encode_anew(message, error)
        if len(packed) > _SMALL_FRAME_BYTES:
            self._refuse_too_large(packed)
        return packed

    def _encode_anew(self, message: tuple[Any, ...], error: Exception) -> bytes:
        """Make this thread's packer and use it; with one, say why it could not be used."""
        if not hasattr(self._packers, "packer"):
            self._packers.packer = msgpack.Packer(default=self._pack_other, buf_size=_PACKER_BYTES)
            return self.encode(message)
        self._packers.packer.reset()
        if isinstance(error, EncodeError):
            raise error  # it says itself what cannot travel
        if isinstance(error, (TypeError, ValueError, OverflowError, RecursionError)):
            raise EncodeError(self._blame(message) or f"a value cannot travel: {error}") from None
        raise error

    def _refuse_too_large(self, packed: bytes) -> None:
        # The packer's room has grown to the message, and would stay so.
        del self._packers.packer
        if len(packed) > MAX_MESSAGE_BYTES:
            raise EncodeError(
                f"{len(packed)} bytes are too many: a message has at most {MAX_MESSAGE_BYTES}"
            )
        if len(packed) >= MAX_CONTAINERS:  # each takes a byte at least
            try:
                _unpack(
                    packed,
                    strict_map_key=False,
                    **_counting_hooks(MAX_CONTAINERS - 1, keeps=False),  # and the frame is one
                )
            except BadFrame as error:
                raise EncodeError(f"{error} are too many for a message") from None

    def check_arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Refuse arguments that cannot be read at the other end.

        Raises:
            EncodeError: names the place.
        """
        for value in args:
            if type(value) not in SCALAR_TYPES:
                self._check_each(enumerate(args), "args")
                break
        if kwargs:
            self._check_each(kwargs.items(), "kwargs")

    def _check_each(self, values: Iterable[tuple[Any, Any]], where: str) -> None:
        for key, value in values:
            if type(value) not in SCALAR_TYPES:
                self.check_value(value, f"{where}[{key!r}]")

    def check_value(self, value: Any, place: str) -> None:
        """Refuse a value that cannot be read at the other end: nested too deep, a tuple for a key.

        Raises:
            EncodeError: names the place.
        """
        for number, level in enumerate(_levels(value), 1):
            if number > _MAX_VALUE_DEPTH:
                raise EncodeError(f"{place} is nested deeper than {_MAX_VALUE_DEPTH} levels")
            for each in level:
                if isinstance(each, dict) and not SCALAR_TYPES.issuperset(map(type, each)):
                    for key in each:
                        if isinstance(key, tuple):  # it would arrive as a list
                            raise EncodeError(f"{place} holds a dict with the key {key!r}, a tuple")

    def _pack_other(self, value: Any) -> msgpack.ExtType:
        if isinstance(value, datetime):
            return msgpack.ExtType(_DATETIME, value.isoformat().encode())
        points_at = self._pack_handle(value)
        if points_at is not None:
            packed = msgpack.packb(list(points_at))
            if len(packed) > _MAX_EXTENSION_BYTES:
                raise EncodeError("a handle with a name that long cannot travel")
            return msgpack.ExtType(_HANDLE, packed)
        raise TypeError(f"{type(value).__name__} cannot travel")

    def _blame(self, message: tuple[Any, ...]) -> str | None:
        """Find the first value that cannot travel and say where it stands."""
        for field in message:
            for place, value in _places_of(field):
                trouble = self._trouble_with(value)
                if trouble is not None:
                    return f"{place} {trouble}"
        return None

    def _trouble_with(self, value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool):
            fits = -(2**63) <= value < 2**64
            return None if fits else "is an integer of more than 64 bits"
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return "is text that is not valid Unicode"
            return None
        if value is None or isinstance(value, (bool, float, bytes, bytearray, memoryview)):
            return None
        if isinstance(value, datetime) or self._pack_handle(value) is not None:
            return None
        return f"is a {type(value).__name__}, which cannot travel"

    # --- from bytes

    def decode(self, frame: bytes) -> tuple[int, list[list[Any]]]:
        """Turn a frame into its sender's clock and its messages.

        Returns:
            The sender's `CLOCK_BOOTTIME` in nanoseconds, and the messages as
            lists whose first element is a known kind, with the fields of that
            kind, each of its type.

        Raises:
            WrongProtocol: a frame of another version.
            BadFrame: anything else that is wrong with it.
        """
        size = len(frame)
        if not _HEADER_BYTES < size <= MAX_FRAME_BYTES:
            raise BadFrame(f"a frame of {size} bytes")
        version, stamp = _unpack_header(frame)
        if version != PROTOCOL:
            raise WrongProtocol(f"protocol version {version}, ours is {PROTOCOL}")
        try:
            if size <= _UNCHECKED_BYTES:
                # What a length in it may say is bounded by the bytes that follow.
                messages: list[list[Any]] = _unpack(
                    frame[_HEADER_BYTES:],
                    ext_hook=self._unpack_other,
                    strict_map_key=False,
                    max_ext_len=_MAX_EXTENSION_BYTES,
                )
            else:
                messages = self._unpack_large(memoryview(frame)[_HEADER_BYTES:])
            if type(messages) is not list or not messages:
                raise BadFrame("no array of messages")
            for message in messages:
                if type(message) is not list or not message:
                    raise BadFrame("a message that does not begin with its kind")
                if not _is_plain(message):
                    _check(message)
        except BadFrame:
            raise
        except Exception as error:  # noqa: BLE001 - see below
            # The decoder's own errors are ValueErrors of several kinds, the
            # hooks' may be others: none of them may reach the reader's loop.
            raise BadFrame(f"{type(error).__name__}: {error}") from None
        return stamp, messages

    def _unpack_large(self, body: memoryview) -> list[list[Any]]:
        """Decode a frame that is large enough to lie about how much there is in it."""
        # The decoder makes room for as many members as a list claims to
        # have, list within list: first see that all the claims are true.
        walker = msgpack.Unpacker(max_buffer_size=len(body))
        walker.feed(body)
        walker.skip()
        messages: list[list[Any]] = _unpack(
            body,
            ext_hook=self._unpack_other,
            strict_map_key=False,
            max_ext_len=_MAX_EXTENSION_BYTES,
            **(_counting_hooks(MAX_CONTAINERS) if len(body) > _SMALL_FRAME_BYTES else {}),
        )
        return messages

    def _unpack_other(self, code: int, data: bytes) -> Any:
        if code == _DATETIME:
            return datetime.fromisoformat(data.decode())
        if code == _HANDLE:
            points_at = msgpack.unpackb(data)
            is_handle = isinstance(points_at, list) and len(points_at) in (1, 2)
            if is_handle and all(isinstance(part, str) for part in points_at):
                return self._make_handle(points_at)
        raise BadFrame(f"an unknown extension {code}")


def _counting_hooks(most: int, *, keeps: bool = True) -> dict[str, Callable[[Any], Any]]:
    """Bound the lists and maps of a large frame: one of its bytes may stand for 70 in memory.

    Args:
        most: how many there may be.
        keeps: False if they are to be counted and nothing else.
    """
    containers = 0

    def count(made: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > most:
            raise BadFrame(f"more than {most} lists and maps")
        return made if keeps else None

    return {"list_hook": count, "object_hook": count}


def _is_plain(message: list[Any]) -> bool:
    """Say whether a message is what nearly all are: nothing in it needs a closer look.

    That is an answer that holds no other values, or a call or tell with such
    arguments, without keywords, chain and lock. Each step costs every message.
    """
    kind = message[0]
    if kind == REPLY:
        return (
            len(message) == 3
            and type(kind) is int
            and type(message[1]) is int
            and type(message[2]) in SCALAR_TYPES
        )
    if kind == CALL and len(message) == 9:
        _, call_id, actor, method, args, kwargs, seconds, chain, under = message
    elif kind == TELL and len(message) == 8:
        call_id = 0
        _, actor, method, args, kwargs, seconds, chain, under = message
    else:
        return False
    if type(args) is not list:
        return False
    for each in args:
        if type(each) not in SCALAR_TYPES:
            return False
    return (
        type(kind) is int
        and type(call_id) is int
        and type(actor) is str
        and type(method) is str
        and type(kwargs) is dict
        and (type(seconds) is float or seconds is None)
        and type(chain) is list
        and under is None
        and not kwargs
        and not chain
    )


def _check(message: list[Any]) -> None:
    """Refuse a message that is not as the table says."""
    # Most have one of the few exact shapes of their kind; the rest is looked at closely.
    places = _SHAPES.get(message[0], _NO_SHAPES).get(tuple(map(type, message)))
    if places is None:
        _check_closely(message)
        return
    for place in places:
        value = message[place]
        if value:
            members = value if type(value) is list else value.values()
            if not SCALAR_TYPES.issuperset(map(type, members)):
                _check_depth(value)


def _check_closely(message: list[Any]) -> None:
    """Refuse a message whose kind, number of fields or types are not in the table."""
    kind = message[0]
    if type(kind) is not int:
        raise BadFrame("a message that does not begin with its kind")
    types = FIELD_TYPES.get(kind)
    if types is None:
        raise BadFrame(f"a message of unknown kind {kind}")
    if len(message) != len(types) + 1:
        raise BadFrame(f"a message of kind {kind} with {len(message) - 1} fields")
    for value, expected in zip(message[1:], types, strict=True):
        if not isinstance(value, expected):
            raise BadFrame(f"a message of kind {kind} where a {type(value).__name__} has no place")
        _check_depth(value)


def _check_depth(value: Any) -> None:
    """Refuse a list or dict in which others are nested too deep."""
    if depth(value) > MAX_DEPTH:
        raise BadFrame(f"nested deeper than {MAX_DEPTH} levels")


def _shapes(types: tuple[Any, ...]) -> dict[tuple[type, ...], tuple[int, ...]]:
    """List the exact types a message of a kind usually has, and where in each others may nest."""
    choices = [
        each if isinstance(each, tuple) else _VALUE_TYPES if each is object else (each,)
        for each in types
    ]
    return {
        (int, *shape): tuple(place for place, each in enumerate(shape, 1) if each in (list, dict))
        for shape in itertools.product(*choices)
    }


_VALUE_TYPES = (type(None), bool, int, float, str, bytes, list, dict)
_SHAPES = {kind: _shapes(types) for kind, types in FIELD_TYPES.items()}
_NO_SHAPES: dict[tuple[type, ...], tuple[int, ...]] = {}


def frame_of(messages: Sequence[bytes], stamp: int) -> bytes:
    """Put encoded messages into one frame, stamped with `CLOCK_BOOTTIME` in nanoseconds."""
    count = len(messages)
    array = _ARRAYS[count] if count < len(_ARRAYS) else b"\xdd" + count.to_bytes(4, "big")
    return b"".join((FRAME_HEADER.pack(PROTOCOL, stamp), array, *messages))


_ARRAYS = [bytes((0x90 + n,)) for n in range(16)] + [
    b"\xdc" + n.to_bytes(2, "big") for n in range(16, 128)
]
"""How msgpack begins an array of so many members."""


def depth(value: Any) -> int:
    """Return how many lists and dicts stand in each other at most, up to `MAX_DEPTH` + 1."""
    return sum(1 for _ in _levels(value))


def _levels(value: Any) -> Iterator[list[Any]]:
    """Iterate over the lists and dicts in a value, level by level, up to `MAX_DEPTH` + 1 of them.

    Not recursive: a message is made by others, and a deep one must not become
    a `RecursionError`.
    """
    level = [value] if isinstance(value, (list, tuple, dict)) else []
    levels = 0
    while level and levels <= MAX_DEPTH:
        levels += 1
        yield level
        # By identity: a list that holds itself twice would double with each level.
        inner: dict[int, Any] = {}
        for each in level:
            members = each.values() if isinstance(each, dict) else each
            for member in members:
                if isinstance(member, (list, tuple, dict)):
                    inner[id(member)] = member
        level = list(inner.values())


def _places_of(field: Any) -> Iterable[tuple[str, Any]]:
    """Walk a message's field: a list is taken for `args`, a dict for `kwargs`, else the value."""
    if isinstance(field, (list, tuple)):
        start = [(f"args[{index}]", member, 1) for index, member in enumerate(field)]
    elif isinstance(field, dict):
        start = [(f"kwargs[{key!r}]", member, 1) for key, member in field.items()]
    else:
        start = [("the value", field, 0)]
    waiting = start[::-1]
    seen = 0
    while waiting and seen < _MAX_PLACES:
        seen += 1
        place, value, level = waiting.pop()
        if level > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            for key, member in value.items():
                waiting.append((f"{place} key {key!r}", key, level + 1))
                waiting.append((f"{place}[{key!r}]", member, level + 1))
        elif isinstance(value, (list, tuple)):
            waiting += [
                (f"{place}[{index}]", member, level + 1) for index, member in enumerate(value)
            ]
        else:
            yield place, value
