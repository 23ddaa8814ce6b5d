"""What is shown of the difference between two texts."""

from __future__ import annotations

import difflib
import random
import time

from flock.converge.text_diff import MAX_DIFF_LINES, text_diff


def test_differences_are_shown_for_texts_only():
    assert text_diff("a\n", "b\n", "/x") == "--- /x\n+++ /x\n@@ -1 +1 @@\n-a\n+b"
    assert text_diff(None, "b", "/x") == "--- /dev/null\n+++ /x\n@@ -0,0 +1 @@\n+b"
    assert text_diff("a", None, "/x") == "--- /x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a"
    assert text_diff(b"\0", "b", "/x") is None
    assert text_diff("a", b"\xff", "/x") is None
    assert text_diff("a", "a", "/x") is None


def test_a_long_difference_is_cut():
    long = text_diff("", "x\n" * 1000, "/x")
    assert long is not None
    assert len(long.splitlines()) == MAX_DIFF_LINES + 1
    assert long.endswith("803 more lines")


def test_a_newline_at_the_end_is_a_difference_and_so_is_what_ends_a_line():
    shown = text_diff("a", "a\n", "/x")
    assert shown == "--- /x\n+++ /x\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a"
    assert text_diff("a\r\n", b"a\n", "/x") == "--- /x\n+++ /x\n@@ -1 +1 @@\n-a\r\n+a"


def test_a_path_with_a_newline_stays_on_its_line():
    shown = text_diff("a\n", "b\n", "/x\ny")
    assert shown is not None
    assert shown.startswith("--- /x\\ny\n+++ /x\\ny\n@@")


def test_short_texts_differ_as_difflib_says():
    chance = random.Random(1)
    for _ in range(300):
        old = [f"line {chance.randrange(9)}" for _ in range(chance.randrange(1, 40))]
        new = [line if chance.random() < 0.9 else "new" for line in old if chance.random() < 0.9]
        wanted = "\n".join(difflib.unified_diff(old, new, "/x", "/x", lineterm=""))
        before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
        assert text_diff(before, after, "/x") == (wanted or None)


def test_changes_far_apart_in_a_long_text_are_shown():
    old = [f"line {number}" for number in range(50_000)]
    new = [*old[:7], "added", *old[7:40_000], "other", *old[40_001:]]
    shown = text_diff("\n".join(old), "\n".join(new), "/x")
    wanted = "\n".join(difflib.unified_diff(old, new, "/x", "/x", lineterm=""))
    assert shown == wanted


def test_texts_that_are_long_and_hard_to_compare_take_no_time():
    chance = random.Random(1)
    old = [f"line {chance.randrange(300)}\n" for _ in range(80_000)]
    new = chance.sample(old, len(old))
    began = time.process_time()
    shown = text_diff("".join(old), "".join(new), "/x")
    assert time.process_time() - began < 3.0
    assert shown is not None
    assert "… more than " in shown
