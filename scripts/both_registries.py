"""A registry of either kind, each in a folder of its own, for measurements on both."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zookeeper_servers import ZooKeeperEnsemble


@contextlib.contextmanager
def both_registries() -> Iterator[list[tuple[str, str, Path]]]:
    """Give kind, URL and folder of an embedded registry and of one in ZooKeeper.

    The servers end, and the folders go, with the block.
    """
    with contextlib.ExitStack() as stack:

        def new_folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flk-")))

        servers = ZooKeeperEnsemble(new_folder() / "zk", 1, dies_with_us=True)
        hosts = stack.enter_context(servers).connection_string
        embedded, zookeeper = new_folder(), new_folder()
        yield [
            ("embedded", f"embedded:{embedded}/registry", embedded),
            ("zookeeper", f"zookeeper://{hosts}/bench", zookeeper),
        ]
