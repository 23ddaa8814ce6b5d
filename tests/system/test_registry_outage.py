"""Half a minute without the registry: who knows whom talks on, who does not is told why."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zookeeper_servers import ZooKeeperEnsemble

from flock import Flock
from flock.errors import CallError, FlockError, NodeNotFound, RegistryUnavailable
from tests.support import eventually
from tests.system.flock_process import FlockProcess
from tests.system.ordered_process import OtherSideFailed

OUTAGE = 30.0
LOOK_UP = 4.5
"""Seconds a look-up may take until it says that the registry is away; 3, and some for the load."""


def look_up_end(look_up: Callable[[], Any]) -> type[Exception]:
    """Return what a look-up ends with; it must not take long."""
    began = time.monotonic()
    with pytest.raises(FlockError) as caught:
        look_up()
    assert time.monotonic() - began < LOOK_UP
    return caught.type


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_half_a_minute_without_the_registry_heals_by_itself(
    own_zookeeper: ZooKeeperEnsemble, tmp_path: Path, how: str
) -> None:
    url, server = own_zookeeper.url(), own_zookeeper.servers[0]
    there = FlockProcess("there", url, tmp_path)
    unmet = FlockProcess("unmet", url, tmp_path)
    try:
        with Flock(registry=url) as here:
            target = here["there"]["target"]
            assert target.add(1, 1) == 2
            server.kill() if how == "killed" else server.pause()
            began = time.monotonic()
            calls = 0
            while time.monotonic() - began < OUTAGE:
                # Whoever is connected does not need the registry.
                calls += 1
                assert target.add(calls, 1) == calls + 1
                assert target.work.future(str(calls)).get() == str(calls)
                assert here["there"].ping() is True
                assert look_up_end(lambda: here["unmet"]) is RegistryUnavailable
                assert look_up_end(lambda: here["nobody"]) is RegistryUnavailable
                assert look_up_end(lambda: list(here)) is RegistryUnavailable
                assert look_up_end(lambda: "unmet" in here) is RegistryUnavailable
                with pytest.raises(RegistryUnavailable):
                    Flock(registry=url).start()
            with pytest.raises(OtherSideFailed, match="RegistryUnavailable"):
                there.call("unmet", "target", "add", 1, 1)
            assert there.effects() == [str(number) for number in range(1, calls + 1)]

            own_zookeeper.start() if how == "killed" else server.resume()
            back = eventually(
                lambda: here["unmet"]["target"].add(1, 1), within=20.0, ignoring=FlockError
            )
            assert back == 2
            assert target.add(1, 1) == 2
            names = eventually(
                lambda: list(here), within=20.0, becomes=["there", "unmet"], ignoring=FlockError
            )
            assert names == ["there", "unmet"]
            assert look_up_end(lambda: here["nobody"]) is NodeNotFound
            # The sessions were over, and so were the keys: both ways are open again, once
            # the other processes are back at the registry, too.
            for process, other in ((there, "unmet"), (unmet, "there")):

                def call_other(process: FlockProcess = process, other: str = other) -> Any:
                    return process.call(other, "target", "add", 1, 1)

                assert eventually(call_other, within=20.0, ignoring=OtherSideFailed) == 2
            with Flock(registry=url) as newcomer:
                call = newcomer["there"]["target"].add
                assert eventually(lambda: call(2, 2), within=10.0, ignoring=CallError) == 4
    finally:
        there.close()
        unmet.close()
