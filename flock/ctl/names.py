"""The names of nodes as last seen here: what completion offers without asking the network.

A file in the user's cache folder, one for each registry. Commands that list
nodes write it; nobody depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from registry.contract import is_node_name

if TYPE_CHECKING:
    from flock.settings import Settings

_MOST = 20_000


def note_names(settings: Settings, names: Iterable[str]) -> None:
    """Keep names for completion; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(settings)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = "".join(f"{name}\n" for name in sorted(set(names))[:_MOST]).encode()
        if path.exists() and path.read_bytes() == text:
            return
        # Renamed when it is whole: completion may read at any moment.
        handle, beside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            Path(beside).replace(path)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise


def known_names(settings: Settings) -> list[str]:
    """Return the names as last seen; empty if none were, or nobody may look."""
    with contextlib.suppress(OSError, RuntimeError, UnicodeDecodeError):
        return [name for name in _path(settings).read_text().split() if is_node_name(name)]
    return []


def _path(settings: Settings) -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path there counts for nothing.
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    registry = hashlib.sha256(settings.shown_registry.encode()).hexdigest()[:16]
    return base / "flock" / f"names-{registry}"
