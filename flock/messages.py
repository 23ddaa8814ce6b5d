"""What processes say to each other: one table of messages.

A frame is `FRAME_HEADER` (protocol version, sender's `CLOCK_BOOTTIME` in
nanoseconds) followed by a msgpack array of one or more messages, each an array
whose first element is its kind. Who sent it is known from the connection's key, never from
a message.

    kind         fields after the kind                                   limits
    -----------  ------------------------------------------------------  ----------------
    HELLO        protocol, generation, wanted, lane, answered, name      first on a lane
    CALL         id, actor, method, args, kwargs, seconds, chain, under
    ACCEPTED     id                                                      later answer
    TELL         actor, method, args, kwargs, seconds, chain, under
    REPLY        id, value
    FAIL         id, type, message, may_have_run, fields, traceback
    OPEN_CALLS   ids                                                     10,000 ids
    BYE          reason
    BATCH        id, actor, calls, seconds, chain, under
    WATCH        id, actor                                               empty: the node
    UNWATCH      id
    DOWN         id, reason, crashed
    PUBLISH      topic, value, number, publisher
    PROBE        id, actor, path                                         at most 64

    field         type        what it says
    ------------  ----------  ----------------------------------------------------
    protocol      int         `PROTOCOL` of the sender
    generation    str         the sender's run of its process
    wanted        str         the generation the sender means to talk to
    lane          int         number of this lane; grows with each the sender opens
    answered      int         number of the peer's lane this HELLO answers, 0 for none
    name          str         the sender's name; believed only without encryption
    id            int         number of a call or monitor, unique in the generation that set it
    actor         str         name of an actor; empty for the node itself
    method        str         a name of the actor's table
    args, kwargs  list, map   values (see `flock.wire`)
    seconds       float, nil  seconds left of the call's deadline, nil for none
    chain         list        calls that led here: [node, actor, id], first first;
                              at most 64
    under         list, nil   the lock it is under: [registry, lock, slot, token]
    may_have_run  bool        False if the method surely never started
    fields        map         the error's own fields
    ids           list        calls and monitors the sender still waits for
    calls         list        of [method, args, kwargs]
    crashed       bool        False if the actor, or the node, ended of its own will
    number        int         counts what a publisher sent to this peer on this topic;
                              a number that is left out was dropped on the way
    path          list        actors that wait for each other, first first: [node,
                              actor, a number made up for that wait]

`OPEN_CALLS` is sent after a lane was replaced: calls and monitors that the receiver
neither holds nor has unsent news of are answered with FAIL `ConnectionLost`.
"""

from __future__ import annotations

import struct
from typing import Any, Final

PROTOCOL: Final = 1
"""Version of the frames and messages below."""

FRAME_HEADER: Final = struct.Struct(">BQ")

HEADER_OF_ONE: Final = struct.Struct(FRAME_HEADER.format + "B")
ARRAY_OF_ONE: Final = 0x91
"""The header of a frame that holds one message, and how msgpack begins its array."""

ROUTE_MARK: Final = b"\xff"
ROUTE_BYTES: Final = 17
"""A lane's routing id: this mark and 16 random bytes, told to nobody but the peer's socket.

An id that libzmq makes up itself begins with a zero, and can be guessed; a frame begins
with `PROTOCOL`, so that neither can be taken for a route.
"""

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_CONTAINERS: Final = 200_000
MAX_CHAIN: Final = 64
MAX_OPEN_CALLS: Final = 10_000
MAX_NAME_BYTES: Final = 255

HELLO: Final = 0
CALL: Final = 1
ACCEPTED: Final = 2
TELL: Final = 3
REPLY: Final = 4
FAIL: Final = 5
OPEN_CALLS: Final = 6
BYE: Final = 7
BATCH: Final = 8
WATCH: Final = 9
UNWATCH: Final = 10
DOWN: Final = 11
PUBLISH: Final = 12
PROBE: Final = 13

NUMBER: Final = (int, float)

FIELD_TYPES: Final[dict[int, tuple[Any, ...]]] = {
    HELLO: (int, str, str, int, int, str),
    CALL: (int, str, str, list, dict, (*NUMBER, type(None)), list, (list, type(None))),
    ACCEPTED: (int,),
    TELL: (str, str, list, dict, (*NUMBER, type(None)), list, (list, type(None))),
    REPLY: (int, object),
    FAIL: (int, str, str, bool, dict, str),
    OPEN_CALLS: (list,),
    BYE: (str,),
    BATCH: (int, str, list, (*NUMBER, type(None)), list, (list, type(None))),
    WATCH: (int, str),
    UNWATCH: (int,),
    DOWN: (int, str, bool),
    PUBLISH: (str, object, int, str),
    PROBE: (int, str, list),
}
"""Types of the fields after the kind, as `isinstance` takes them."""

Link = tuple[str, str, int]
"""One call of a chain: the node and the actor that made it, and its id."""

Chain = tuple[Link, ...]
