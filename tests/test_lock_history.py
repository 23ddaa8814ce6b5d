"""The judge of lock histories: each breach of a lock's promise is found."""

from tests.lock_history import Claim, Entry, Fault, History

BOUNDS = {"stuck_after": 10.0, "settle": 5.0}


def enter(worker: str, token: int, slot: int = 0) -> Entry:
    return Entry(worker, "enter", slot, token)


def leave(worker: str, token: int, slot: int = 0) -> Entry:
    return Entry(worker, "leave", slot, token)


def problems(*journal: Entry, slots: int = 1) -> list[str]:
    return History({"web": slots}, {"web": list(journal)}).check(**BOUNDS)


def test_who_enters_and_leaves_one_after_the_other_breaks_nothing():
    assert problems(enter("a", 1), leave("a", 1), enter("b", 2), leave("b", 2)) == []


def test_who_never_leaves_has_died_and_the_next_may_enter():
    assert problems(enter("a", 1), enter("b", 2), leave("b", 2)) == []


def test_a_write_by_who_was_followed_already_is_found():
    (problem,) = problems(enter("a", 1), enter("b", 2), leave("a", 1), leave("b", 2))
    assert problem == "web: a (1) wrote in slot 0, which b (2) had"


def test_a_write_in_a_slot_that_nobody_has_is_found():
    (problem,) = problems(enter("a", 1), leave("a", 1), leave("a", 1))
    assert "which nobody had" in problem


def test_as_many_as_there_are_slots_may_be_inside():
    assert problems(enter("a", 1, 0), enter("b", 2, 1), leave("a", 1, 0), slots=2) == []


def test_more_holders_than_slots_are_found():
    (problem,) = problems(enter("a", 1, 0), enter("b", 2, 1))
    assert problem == "web: more holders than slots: a, b"


def test_a_token_that_does_not_grow_is_found():
    (problem,) = problems(enter("a", 2), leave("a", 2), enter("b", 2), leave("b", 2))
    assert problem == "web: slot 0 was given to b with token 2 after a with 2"


def test_tokens_of_different_slots_are_not_compared():
    assert problems(enter("a", 7, 0), enter("b", 3, 1), slots=2) == []


def history(claims: list[Claim], faults: list[Fault] | None = None) -> History:
    return History({"web": 1}, {"web": []}, claims, faults or [], ended=100.0)


def held(worker: str, token: int, *times: float) -> list[Claim]:
    first, *others = times
    return [
        Claim(first, worker, "web", "granted", 0, token),
        *(Claim(at, worker, "web", "held", 0, token) for at in others),
    ]


def test_two_that_were_told_that_they_hold_at_one_time_are_found():
    (problem,) = history(held("a", 1, 10.0, 12.0) + held("b", 2, 11.0, 13.0)).check(**BOUNDS)
    assert "a, b was told that it holds" in problem


def test_two_that_held_one_after_the_other_break_nothing():
    assert history(held("a", 1, 10.0, 11.0) + held("b", 2, 12.0, 13.0)).check(**BOUNDS) == []


def asked(worker: str, at: float) -> Claim:
    return Claim(at, worker, "web", "asked")


def test_a_slot_that_nobody_gets_after_its_holder_was_killed_is_found():
    claims = [*held("a", 1, 10.0, 11.0), asked("b", 10.5)]
    kill = Fault(11.1, 11.1, "kill", "a")
    (problem,) = history(claims, [kill]).check(**BOUNDS)
    assert "a was killed holding it at 11.100, and b had not got it" in problem
    assert history([*claims, *held("b", 2, 20.0)], [kill]).check(**BOUNDS) == []
    # One more who waits does so for b, and not for who was killed.
    assert history([*claims, asked("c", 10.6), *held("b", 2, 20.0)], [kill]).check(**BOUNDS) == []


def test_other_faults_give_a_killed_holders_slot_more_time():
    claims = [*held("a", 1, 10.0, 11.0), asked("b", 10.5), *held("b", 2, 27.0)]
    kill = Fault(11.1, 11.1, "kill", "a")
    assert len(history(claims, [kill]).check(**BOUNDS)) == 1
    outage = Fault(12.0, 18.0, "cut", "everything")
    assert history(claims, [kill, outage]).check(**BOUNDS) == []


def test_who_is_served_before_another_who_came_earlier_is_found():
    claims = [asked("a", 10.0), asked("b", 12.0), *held("b", 2, 13.0), *held("a", 3, 14.0)]
    (problem,) = history(claims).check(**BOUNDS)
    assert problem == ("web: b asked at 12.000 and was served before a, who had asked at 10.000")
    assert history(claims, [Fault(9.0, 9.5, "cut", "everything")]).check(**BOUNDS) == []


def test_figures_say_how_much_happened():
    one = History(
        {"web": 1}, {"web": [enter("a", 1), leave("a", 1)]}, [], [Fault(1, 1, "kill", "a")]
    )
    assert one.figures() == {"entered": {"web": 1}, "lost": 0, "faults": {"kill": 1}}
