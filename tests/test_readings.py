"""Notes of what a thread reads."""

from __future__ import annotations

import threading

from registry.readings import Reading, note, noted, takes_notes


def test_outside_nothing_is_noted():
    note("document", "a")
    with noted() as notes:
        assert takes_notes()
    assert notes == set()
    assert not takes_notes()


def test_the_outer_notes_have_what_was_read_inside():
    with noted() as outer:
        note("nodes")
        with noted() as inner:
            note("lock", "web")
    assert inner == {Reading("lock", "web")}
    assert outer == {Reading("nodes"), Reading("lock", "web")}
    assert sorted(str(each) for each in outer) == ["lock web", "nodes"]


def test_each_thread_has_notes_of_its_own():
    with noted() as notes:
        other = threading.Thread(target=note, args=("document", "a"))
        other.start()
        other.join()
    assert notes == set()


def test_an_error_does_not_go_on_taking_notes():
    try:
        with noted():
            raise RuntimeError("on purpose")
    except RuntimeError:
        assert not takes_notes()
