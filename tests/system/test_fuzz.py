"""A hundred thousand frames of rubbish through a real socket: the node lives, and stays small."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import msgpack
import zmq

from flock import Flock
from flock.calls import CallOptions
from flock.lanes import lane_socket
from flock.messages import (
    ACCEPTED,
    BATCH,
    CALL,
    DOWN,
    FAIL,
    FRAME_HEADER,
    HELLO,
    OPEN_CALLS,
    PROBE,
    PROTOCOL,
    PUBLISH,
    REPLY,
    TELL,
    UNWATCH,
    WATCH,
)
from flock.wire import Codec, frame_of
from tests.support import eventually
from tests.system.flock_process import FlockProcess

FRAMES = 100_000
SEED = 20_261_126

MESSAGES: list[tuple[Any, ...]] = [
    (HELLO, PROTOCOL, "g" * 32, "w" * 32, 1, 0, "name"),
    (CALL, 1, "target", "echo", [1, "x", {"k": None}], {"a": b"b"}, 10.0, [], None),
    (CALL, 2, "nobody", "add", [1, 2], {}, None, [["n", "a", 1]], ["r", "lock", 0, 7]),
    (TELL, "target", "nothing", [2.5], {}, None, [], None),
    (ACCEPTED, 77),
    (REPLY, 2**40, {"deep": [[[["x" * 40]]]], "n": [-1, 300, 70_000, 2**40]}),
    (FAIL, 78, "ValueError", "text", True, {"args": []}, "a traceback"),
    (OPEN_CALLS, [1, 2, 3]),
    (BATCH, 3, "target", [["add", [1, 2], {}]], None, [], None),
    (WATCH, 4, "target"),
    (UNWATCH, 4),
    (DOWN, 5, "gone", True),
    (PUBLISH, "topic", {"v": 1}, 9, "publisher"),
    (PROBE, 6, "target", [["n", "a", 1]]),
]
"""One of each kind: what is not damaged is a reply to a call nobody made, and the like.

But for BYE, which ends a lane: what comes after it is dropped unread.
"""


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a frame that is random, cut, too long, nested without end, or changed somewhere."""
    choice = rng.random()
    if choice < 0.1:
        return rng.randbytes(rng.randrange(0, 200))
    if choice < 0.13:
        return FRAME_HEADER.pack(PROTOCOL, 1) + b"\x91" * 10_000
    if choice < 0.16:
        unknown: bytes = msgpack.packb([[rng.randrange(256), 1]])
        return FRAME_HEADER.pack(rng.randrange(256), 1) + unknown
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 5)):
        position = rng.randrange(len(data))
        what = rng.random()
        if what < 0.6:
            data[position] = rng.randrange(256)
        elif what < 0.75:
            del data[position:]
        elif what < 0.9:
            data[position:position] = rng.randbytes(rng.randrange(1, 6))
        else:
            data += data[9:] * rng.randrange(1, 40)
        data = data or bytearray(b"\x00")
    return bytes(data)


def test_a_hundred_thousand_damaged_frames_are_dropped_and_the_node_lives(
    embedded_url: str, tmp_path: Path
) -> None:
    rng, codec = random.Random(SEED), Codec()
    seeds = [frame_of([codec.encode(message)], 99) for message in MESSAGES]
    there = FlockProcess("there", embedded_url, tmp_path, rubbish_pause=0)
    context: zmq.Context[Any] = zmq.Context()
    try:
        with Flock(registry=embedded_url) as visitor, Flock(registry=embedded_url) as rogue:
            node = visitor["there"]
            assert node["target"].work("before") == "before"
            before = there.do("kept")
            # A process that was let in: its key is good, its frames are not.
            identity = rogue.node.identity
            sender = lane_socket(
                context,
                server_key=node.record.public_key.encode(),
                own_public_key=identity.public_key,
                own_secret_key=identity.secret_key,
            )
            sender.sndhwm = 1000
            sender.connect(there.address)
            # Newer than any lane that the rogue's own runtime opens to answer the node.
            lane = 2**40
            greeting = (HELLO, PROTOCOL, identity.generation, node.record.generation, lane, 0, "r")
            hello = frame_of([codec.encode(greeting)], time.time_ns())
            reply = frame_of([codec.encode((REPLY, 2**40, "to a call nobody made"))], 99)

            def counted() -> dict[str, int]:
                asked: tuple[Any, ...] = (
                    visitor.peer("there"),
                    "",
                    "counters",
                    (),
                    {},
                    CallOptions(),
                )
                counts: dict[str, int] = visitor.calls.call(*asked)
                return counts

            def known() -> int:
                """Answer what nobody asked: it is counted as that once the lane is known."""
                sender.send(reply)
                return counted()["late_answers"]

            sender.send(hello)
            assert eventually(known, within=10.0)
            first = counted()
            for number in range(FRAMES):
                if number % 1000 == 0:
                    sender.send(hello)  # should a damaged one have ended the lane
                sender.send(damaged(rng, seeds))
            counters = eventually(
                counted,
                within=60.0,
                until=lambda now: now["frames"] >= FRAMES + first["frames"],
                pause=0.2,
            )
            assert counters["frames"] >= FRAMES + first["frames"]
            assert counters["bad_frames"] > FRAMES // 2
            # Replies to calls nobody made: the lane was heard, not only its frames counted.
            assert counters["late_answers"] > first["late_answers"] + 100
            assert counters["ignored"] == 0

            assert node["target"].work("after") == "after"
            assert there.effects() == ["before", "after"]
            after = there.do("kept")
            assert after["kib"] - before["kib"] < 48 * 1024
            assert after["threads"] - before["threads"] < 10
            assert after["files"] - before["files"] < 10
            sender.close()
    finally:
        context.destroy(linger=0)
        there.close()
