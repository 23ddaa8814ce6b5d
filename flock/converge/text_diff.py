"""What changes between two texts, line by line, for people to read.

Comparing takes time that grows with the square of the lines, and a process has
other things to do: so long texts are compared window by window, and no further
than what is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

MAX_DIFF_LINES = 200
"""Lines of a text difference that are shown; a longer one is cut."""

_WINDOW = 2000
"""Lines of either text that are compared at a time."""

_CONTEXT = 3
"""Lines shown before and after a change."""

_NO_NEWLINE = "\n\\ No newline at end of file"

_Step: TypeAlias = tuple[str, int, int, int, int]
"""As in `difflib`: what is done to which lines of the old text, and becomes which of the new."""


def text_diff(old: str | bytes | None, new: str | bytes | None, path: str) -> str | None:
    """Return a unified difference, cut at `MAX_DIFF_LINES`; None if there is no text.

    Args:
        old: what is there; None for no file.
        new: what should be there; None for no file.
        path: what the difference is headed with.
    """
    before, after = _text_lines(old), _text_lines(new)
    if before is None or after is None:
        return None
    if before and after and _ends_line(old) != _ends_line(new):
        last = after if _ends_line(old) else before
        last[-1] += _NO_NEWLINE
    steps, is_whole = _first_steps(before, after)
    lines = [line for hunk in _hunks(steps) for line in _hunk_lines(hunk, before, after)]
    if not lines:
        return None
    label = path.replace("\n", "\\n")
    lines[:0] = [
        f"--- {label if old is not None else '/dev/null'}",
        f"+++ {label if new is not None else '/dev/null'}",
    ]
    return cut(lines, is_whole=is_whole)


def cut(lines: Sequence[str], *, is_whole: bool = True) -> str:
    """Return the lines of a difference as they are shown: at most `MAX_DIFF_LINES`.

    Args:
        lines: all that are known.
        is_whole: False if there are more.
    """
    shown = list(lines)
    if len(shown) > MAX_DIFF_LINES:
        left = f"{len(shown) - MAX_DIFF_LINES} more lines"
        shown[MAX_DIFF_LINES:] = [f"… {left}" if is_whole else f"… more than {left}"]
    return "\n".join(shown)


def _text_lines(content: str | bytes | None) -> list[str] | None:
    """Split text into lines; None for what is no text."""
    if content is None:
        return []
    if isinstance(content, bytes):
        if b"\0" in content:
            return None
        try:
            content = content.decode()
        except UnicodeDecodeError:
            return None
    return content.removesuffix("\n").split("\n") if content else []


def _ends_line(content: str | bytes | None) -> bool:
    """Say whether a text ends with the end of a line."""
    return content is not None and content[-1:] in ("\n", b"\n")


def _first_steps(before: Sequence[str], after: Sequence[str]) -> tuple[list[_Step], bool]:
    """Return the steps from one text to the other that will be shown; say whether that is all."""
    steps: list[_Step] = []
    shown = 0
    for each in _steps(before, after):
        step = each
        if shown > MAX_DIFF_LINES:
            return steps, False
        if step[0] != "equal":
            shown += step[2] - step[1] + step[4] - step[3]
        elif steps and steps[-1][0] == "equal":
            what, old_begin, _, new_begin, _ = steps.pop()
            step = (what, old_begin, step[2], new_begin, step[4])
        steps.append(step)
    return steps, True


def _steps(before: Sequence[str], after: Sequence[str]) -> Iterator[_Step]:
    """Yield what leads from one text to the other."""
    old = new = 0
    while old < len(before) or new < len(after):
        window = difflib.SequenceMatcher(
            None, before[old : old + _WINDOW], after[new : new + _WINDOW]
        ).get_opcodes()
        is_last = max(len(before) - old, len(after) - new) <= _WINDOW
        if not is_last and len(window) > 1 and window[-1][0] != "equal":
            # It may be equal to what stands behind the windows: compared once more with that.
            del window[-1]
        for what, old_begin, old_end, new_begin, new_end in window:
            yield what, old + old_begin, old + old_end, new + new_begin, new + new_end
        old, new = old + window[-1][2], new + window[-1][4]


def _hunks(steps: Sequence[_Step]) -> Iterator[list[_Step]]:
    """Yield the steps in groups, each with a little of what is equal around it."""
    hunk: list[_Step] = []
    for number, step in enumerate(steps):
        what, old_begin, old_end, new_begin, new_end = step
        if what != "equal":
            hunk.append(step)
            continue
        length = old_end - old_begin
        is_first, is_last = not hunk, number == len(steps) - 1
        if not is_first and (is_last or length > 2 * _CONTEXT):
            keep = min(length, _CONTEXT)
            yield [*hunk, (what, old_begin, old_begin + keep, new_begin, new_begin + keep)]
            hunk, is_first = [], True
        if is_last:
            return
        skip = max(0, length - _CONTEXT) if is_first else 0
        hunk.append((what, old_begin + skip, old_end, new_begin + skip, new_end))
    if any(step[0] != "equal" for step in hunk):
        yield hunk


def _hunk_lines(hunk: Sequence[_Step], before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return a group's lines, its head first."""
    first, last = hunk[0], hunk[-1]
    lines = [f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"]
    for what, old_begin, old_end, new_begin, new_end in hunk:
        if what == "equal":
            lines += [f" {line}" for line in before[old_begin:old_end]]
            continue
        lines += [f"-{line}" for line in before[old_begin:old_end]]
        lines += [f"+{line}" for line in after[new_begin:new_end]]
    return lines


def _range(begin: int, end: int) -> str:
    """Write the lines from `begin`, counted from 0, up to `end` as a unified difference does."""
    length = end - begin
    if length == 1:
        return str(begin + 1)
    return f"{begin + 1 if length else begin},{length}"
