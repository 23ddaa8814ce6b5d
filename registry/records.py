"""Plain data as bytes, and records as plain data: the form both backends store.

What stands in a registry was written by others, perhaps by a newer version or
by nobody's friend: decoding builds plain data only, never a class, and is
bounded in size, nesting and length. What does not fit raises `RecordInvalid`,
so that one bad record spoils nothing but itself.

A stored value is one byte that names the form and then msgpack, compressed
with zlib where that pays.

Names become path parts with `quote`: any text is safe in ZooKeeper, in a
folder and in a log line, and no part can reach outside its place.
"""

from __future__ import annotations

import hashlib
import string
import zlib
from dataclasses import MISSING, fields
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

import msgpack

from registry.contract import MAX_NAME_BYTES, DocumentTooLarge, RecordInvalid, path_parts

MAX_NESTING = 32
"""Lists and dicts inside one another, in a value that is stored or read."""

MAX_PLAIN_BYTES = 4 * 1024 * 1024
"""Largest value before compression: a few kilobytes must not unfold to gigabytes."""

_MAX_LENGTH = 100_000
_COMPRESS_FROM = 1024
_PLAIN, _COMPRESSED = 0x01, 0x02

_SAFE = frozenset(string.ascii_letters + string.digits + "_-.")
_EMPTY = "%"

Record = TypeVar("Record")
_Place: TypeAlias = "tuple[_Place, object] | None"
"""Where in a value an item stands: the way there, last step outermost."""


def encode(value: Any, what: str, limit: int) -> bytes:
    """Turn plain data into the bytes that are stored.

    Args:
        value: None, bool, int (64 bits), float, str, bytes, lists, and dicts
            with text keys; tuples become lists.
        what: what this is, for the error message.
        limit: largest size of the result, in bytes.

    Raises:
        DocumentTooLarge: the result is over `limit`, or the value over
            `MAX_PLAIN_BYTES` before compression.
        RecordInvalid: `value` is not plain data; the message names the place.
    """
    _check_plain(value, what)
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordInvalid(what, f"not plain data: {error}") from None
    if len(packed) > MAX_PLAIN_BYTES:
        raise DocumentTooLarge(what, len(packed), MAX_PLAIN_BYTES)
    stored = bytes([_PLAIN]) + packed
    if len(packed) >= _COMPRESS_FROM:
        squeezed = bytes([_COMPRESSED]) + zlib.compress(packed, 6)
        if len(squeezed) < len(stored):
            stored = squeezed
    if len(stored) > limit:
        raise DocumentTooLarge(what, len(stored), limit)
    return stored


def decode(stored: bytes, what: str = "a stored record") -> Any:
    """Turn stored bytes into plain data again, within bounds.

    Args:
        stored: what `encode` made, or anything at all.
        what: what this is, for the error message.

    Raises:
        RecordInvalid: the bytes are nothing that `encode` makes.
    """
    if not stored or stored[0] not in (_PLAIN, _COMPRESSED):
        raise RecordInvalid(what, "unknown form")
    packed = stored[1:]
    if stored[0] == _COMPRESSED:
        packed = _inflate(packed, what)
    if len(packed) > MAX_PLAIN_BYTES:
        raise RecordInvalid(what, f"over {MAX_PLAIN_BYTES} bytes")
    try:
        value = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            max_array_len=_MAX_LENGTH,
            max_map_len=_MAX_LENGTH,
            max_str_len=MAX_PLAIN_BYTES,
            max_bin_len=MAX_PLAIN_BYTES,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordInvalid(what, f"unreadable: {type(error).__name__}") from None
    _check_plain(value, what)
    return value


def _inflate(squeezed: bytes, what: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(squeezed, MAX_PLAIN_BYTES + 1)
    except zlib.error as error:
        raise RecordInvalid(what, f"unreadable: {error}") from None
    if not inflater.eof and len(packed) <= MAX_PLAIN_BYTES:
        raise RecordInvalid(what, "cut off")
    return packed


def _check_plain(value: Any, what: str) -> None:
    """Refuse what is too deep, too long, or not plain data; without recursion."""
    level: list[tuple[Any, _Place]] = [(value, None)]
    for _ in range(MAX_NESTING + 1):
        below: list[tuple[Any, _Place]] = []
        for item, place in level:
            if item is None or isinstance(item, bool | int | float | str | bytes):
                continue
            if not isinstance(item, dict | list | tuple):
                raise RecordInvalid(what, f"value{_shown(place)} is a {type(item).__name__}")
            if len(item) > _MAX_LENGTH:
                raise RecordInvalid(what, f"value{_shown(place)} has {len(item)} items")
            if isinstance(item, dict):
                for key, inner in item.items():
                    if not isinstance(key, str):
                        raise RecordInvalid(what, f"value{_shown((place, key))} has no text as key")
                    below.append((inner, (place, key)))
            else:
                below.extend((inner, (place, index)) for index, inner in enumerate(item))
        if not below:
            return
        level = below
    raise RecordInvalid(what, f"nested deeper than {MAX_NESTING}")


def _shown(place: _Place) -> str:
    """Write a place as it is written in Python: `['a'][3]`."""
    steps = []
    while place is not None:
        place, step = place
        steps.append(f"[{step!r:.40}]")
    return "".join(reversed(steps))


# --- names as path parts -------------------------------------------------------


def quote(name: str) -> str:
    """Turn any text into one path part: letters, digits, `_`, `-`, `.` and `%` only.

    Never empty, never beginning with a dot; `unquote` gives the text back.

    Raises:
        DocumentTooLarge: the part is over `MAX_NAME_BYTES`. A request to
            ZooKeeper names some places many times, and one that is too large
            breaks the connection of everybody in this process.
    """
    return _checked(name, _quoted(name))


def quote_path(path: str) -> str:
    """Turn a document path into the same of quoted parts.

    Raises:
        RecordInvalid: it has an empty part, or too many.
        DocumentTooLarge: it is over `MAX_NAME_BYTES`.
    """
    return _checked(path, "/".join(_quoted(part) for part in path_parts(path)))


def _checked(name: str, quoted: str) -> str:
    if len(quoted) > MAX_NAME_BYTES:
        raise DocumentTooLarge(f"the name {name!r:.60}", len(quoted), MAX_NAME_BYTES)
    return quoted


def _quoted(name: str) -> str:
    if not name:
        return _EMPTY
    if name[0] != "." and _SAFE.issuperset(name):
        return name
    quoted = "".join(
        chr(byte) if chr(byte) in _SAFE else f"%{byte:02X}"
        for byte in name.encode("utf-8", "surrogatepass")
    )
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def unquote(part: str) -> str:
    """Turn a path part back into the text it was made from.

    Raises:
        RecordInvalid: `quote` never makes this.
    """
    if part == _EMPTY:
        return ""
    try:
        name = unquote_to_bytes(part).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise RecordInvalid(f"path part {part!r:.80}", "not text") from None
    if _quoted(name) != part:
        raise RecordInvalid(f"path part {part!r:.80}", "not quoted by us")
    return name


def fingerprint(public_key: str) -> str:
    """Return the path part that a key's record stands under: Z85 text has `/` and `%` in it."""
    return hashlib.sha256(public_key.encode("utf-8", "surrogatepass")).hexdigest()


# --- records as plain data -----------------------------------------------------


def to_plain(record: Any) -> dict[str, Any]:
    """Turn a record of the contract (a flat dataclass) into plain data."""
    plain = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()
    }


def from_plain(kind: type[Record], plain: Any, what: str = "a stored record") -> Record:
    """Build a record of the contract from plain data.

    Fields that a newer version added are left out; fields with a default may
    be missing.

    Args:
        kind: the record's class, e.g. `PresenceRecord`.
        plain: what `to_plain` made, or anything at all.
        what: what this is, for the error message.

    Raises:
        RecordInvalid: a field is missing or of another type.
    """
    if not isinstance(plain, dict):
        raise RecordInvalid(what, "not a record")
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in plain:
            if field.default is MISSING:
                raise RecordInvalid(what, f"{field.name} is missing")
            continue
        value = plain[field.name]
        if not _fits(value, str(field.type)):
            raise RecordInvalid(what, f"{field.name} is a {type(value).__name__}")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _fits(value: Any, wanted: str) -> bool:
    """Say whether a decoded value may stand in a field annotated as `wanted`."""
    if wanted == "str":
        return isinstance(value, str)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "bool":
        return isinstance(value, bool)
    if wanted == "tuple[str, ...]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    raise TypeError(f"no stored record has a field of type {wanted}")
