"""The time of day as records, reports and logs show it; nothing is decided by it."""

from __future__ import annotations

import datetime


def time_text(when: datetime.datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_text() -> str:
    """Return the present time, as `time_text` writes it."""
    return time_text(datetime.datetime.now(datetime.UTC))
