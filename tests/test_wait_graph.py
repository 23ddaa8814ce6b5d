"""Circles of waits, and what is none."""

from __future__ import annotations

import pytest

from flock.wait_graph import MAX_NODES, Need, Standing, collect, find_circle


def run_of(name, *, sure=True, run_id=""):
    return Need(f"the run of {name}", ((name, run_id, 0),), sure)


def lock_of(*holders, sure=True):
    return Need("lock 'web'", tuple((name, run_id, token) for name, run_id, token in holders), sure)


def waits(name, *needs, since=1.0, plain=True, number=7, run_id="r"):
    return Standing(name, run_id, number, since, f"wait of {name}", plain, needs)


def works(name):
    return Standing(name, "r")


def circle(me, *standings):
    return find_circle({each.node: each for each in standings}, me)


def test_two_that_wait_for_each_other_are_a_sure_circle():
    found = circle("a", waits("a", run_of("b")), waits("b", run_of("a"), since=2.0))
    assert found.path == ("a", "b")
    assert found.is_sure
    assert found.youngest == "b"
    assert found.text == (
        "these wait for each other: a (wait of a) waits for the run of b"
        " -> b (wait of b) waits for the run of a"
    )


def test_all_of_a_circle_agree_who_is_the_youngest():
    standings = [
        waits("a", run_of("b"), since=5.0),
        waits("b", run_of("c"), run_of("a"), since=9.0),
        waits("c", run_of("a"), since=9.0),
    ]
    assert {circle(name, *standings).youngest for name in "abc"} == {"c"}
    assert circle("c", *standings).path == ("c", "a", "b")


def test_a_run_that_waits_for_itself_is_a_circle():
    found = circle("a", waits("a", run_of("a")))
    assert (found.path, found.is_sure, found.youngest) == (("a",), True, "a")


def test_a_circle_through_a_lock_needs_the_run_that_holds_it():
    holder = waits("a", run_of("b"), run_id="r1")
    assert circle("a", holder, waits("b", lock_of(("a", "r1", 5)))).is_sure
    assert circle("a", holder, waits("b", lock_of(("a", "another", 5)))) is None


def test_a_lock_with_two_holders_is_free_when_either_gives_it_back():
    lock = lock_of(("a", "r", 5), ("c", "r", 6))
    stuck = [waits("a", run_of("b")), waits("b", lock)]
    assert not circle("a", *stuck, works("c")).is_sure
    assert circle("a", *stuck, waits("c", run_of("b"))).is_sure
    assert not circle("a", *stuck).is_sure


NO_CIRCLES = {
    "the other works": [waits("a", run_of("b")), works("b")],
    "nothing goes on there": [waits("a", run_of("b")), Standing("b")],
    "the other did not answer": [waits("a", run_of("b"))],
    "a line": [waits("a", run_of("b")), waits("b", run_of("c")), works("c")],
    "behind a circle": [waits("a", run_of("b")), waits("b", run_of("c")), waits("c", run_of("b"))],
    "nobody's": [waits("a", Need("document x")), waits("b", run_of("a"))],
    "I work": [works("a"), waits("b", run_of("a"))],
}


@pytest.mark.parametrize("standings", NO_CIRCLES.values(), ids=NO_CIRCLES)
def test_what_is_no_circle_is_not_called_one(standings):
    assert circle("a", *standings) is None


UNSURE = {
    "the question may ask something else": waits("b", run_of("a"), plain=False),
    "it reads something else, too": waits("b", run_of("a"), Need("document x")),
    "it asks an actor": waits("b", Need("actor a/x", (("a", "", 0),))),
    "it waits for one that works, too": waits("b", run_of("a"), run_of("c")),
}


@pytest.mark.parametrize("other", UNSURE.values(), ids=UNSURE)
def test_a_circle_that_something_else_may_end_is_not_sure(other):
    found = circle("a", waits("a", run_of("b")), other, works("c"))
    assert not found.is_sure
    assert found.text.startswith("these may wait for each other: ")


def test_two_looks_are_the_same_only_with_the_very_same_waits():
    def look(number=7, token=5):
        return circle(
            "a", waits("a", run_of("b")), waits("b", lock_of(("a", "r", token)), number=number)
        )

    assert look().is_same_as(look())
    assert not look().is_same_as(look(number=8))
    assert not look().is_same_as(look(token=6))


def test_an_unsure_circle_is_the_same_while_its_waits_are():
    def look(number, text):
        return circle(
            "a", waits("a", run_of("b")), waits("b", run_of("a"), Need(text), number=number)
        )

    assert look(7, "document x").is_same_as(look(7, "document y"))
    assert not look(7, "document x").is_same_as(look(8, "document x"))


def test_what_the_nodes_say_is_gathered_along_the_waits():
    there = {"b": waits("b", run_of("c")), "c": works("c")}
    asked = []

    def ask(names):
        asked.append(sorted(names))
        return {name: there[name] for name in names if name in there}

    found = collect(waits("a", run_of("b"), run_of("gone")), ask)

    assert asked == [["b", "gone"], ["c"]]
    assert sorted(found) == ["a", "b", "c"]


def test_too_many_nodes_are_not_asked():
    needs = [run_of(f"n{number}") for number in range(MAX_NODES)]
    assert list(collect(waits("a", *needs), lambda names: pytest.fail("asked"))) == ["a"]


def test_what_a_node_says_travels_as_plain_data():
    said = waits("a", lock_of(("b", "r", 5)), Need("nodes"))
    assert Standing.from_data("a", said.as_data()) == said


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        waits("a").as_data() | {"needs": [["x", [["b", "r"]], True]]},
        waits("a").as_data() | {"wait": "x"},
    ],
)
def test_what_cannot_be_read_is_refused(said):
    with pytest.raises(ValueError, match="a says of its run what cannot be read"):
        Standing.from_data("a", said)


def test_a_call_that_a_run_waits_for_counts_as_a_wait():
    call = waits("a", run_of("b"), number=-3)
    assert circle("b", call, waits("b", run_of("a"))).is_sure
