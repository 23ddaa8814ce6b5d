"""A link that is cut lets nothing through, and a healed one does."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from tests.system.network import Network, Pair, both_ways, in_own_network, why_impossible

SERVE = """
import socket
listener = socket.create_server(("0.0.0.0", 7))
print("serves", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"hello")
"""
ASK = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], 7), float(sys.argv[2])).recv(5).decode())
except TimeoutError:
    print("silence")
"""


@pytest.mark.skipif(bool(why_impossible()), reason=why_impossible())
def test_a_cut_link_is_silent_and_the_others_stay():
    def inside() -> dict[str, list[str]]:
        with contextlib.closing(Network(3)) as network:
            one, other, third = network.places
            server = subprocess.Popen(
                [*other.enter, sys.executable, "-c", SERVE], stdout=subprocess.PIPE
            )
            assert server.stdout is not None
            assert server.stdout.readline() == b"serves\n"

            def answers(patience: float = 30.0) -> list[str]:
                return [
                    subprocess.run(
                        [*place.enter, sys.executable, "-c", ASK, other.host, str(seconds)],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.strip()
                    for place, seconds in ((one, patience), (third, 30.0))
                ]

            try:
                found = {"before": answers()}
                with network.cut(both_ways(one, [other])):
                    found["cut"] = answers(0.5)
                with network.cut([Pair(other.host, one.host)]):
                    found["one way"] = answers(0.5)
                found["healed"] = answers()
            finally:
                server.kill()
                server.wait(10)
                server.stdout.close()
        return found

    assert in_own_network(inside) == {
        "before": ["hello", "hello"],
        "cut": ["silence", "hello"],
        "one way": ["silence", "hello"],
        "healed": ["hello", "hello"],
    }
