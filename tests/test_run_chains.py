"""Runs carry the chains of the calls that wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from flock.context import current
from flock.converge.cancellation import Cancellation
from flock.errors import DeadlockError
from flock.messages import Chain
from flock.run_chains import RunChains


@dataclass
class Ordered:
    """A run, as far as it matters here."""

    run_id: str
    cancellation: Cancellation = field(default_factory=Cancellation)


@pytest.fixture(autouse=True)
def no_chain() -> Iterator[None]:
    current.chain = ()
    yield
    current.chain = ()


def chain_of(chains: RunChains, run: Ordered) -> Chain:
    with chains.around(run):
        return current.chain


def test_a_run_keeps_its_chains_until_it_is_over() -> None:
    chains, run = RunChains("bender0"), Ordered("r1")
    current.chain = (("fry", "caller", 7),)
    chains.order_and_wait(lambda: run)
    current.chain = ()

    first, second = chain_of(chains, run), chain_of(chains, run)
    chains.over("r1")

    assert first == second == (("fry", "caller", 7), ("bender0", "run r1", 0))
    assert chain_of(chains, run) == (("bender0", "run r1", 0),)


def test_a_run_that_nobody_waits_for_carries_itself() -> None:
    assert chain_of(RunChains("bender0"), Ordered("r1")) == (("bender0", "run r1", 0),)
    assert current.chain == ()


def test_a_run_carries_the_chains_of_all_who_wait_for_it() -> None:
    chains, run = RunChains("bender0"), Ordered("r1")
    for node in ("fry", "leela"):
        current.chain = ((node, "caller", 7),)
        assert chains.order_and_wait(lambda: run) is run

    assert chain_of(chains, run) == (
        ("fry", "caller", 7),
        ("leela", "caller", 7),
        ("bender0", "run r1", 0),
    )


def test_an_order_that_comes_from_the_run_that_goes_on_is_refused() -> None:
    chains = RunChains("bender0")
    ordered: list[Ordered] = []

    def order() -> Ordered:
        ordered.append(Ordered("r2"))
        return ordered[-1]

    with chains.around(Ordered("r1")):
        current.chain = (*current.chain, ("bender1", "flock_api", 3))
        with pytest.raises(DeadlockError, match="run r1 here would wait"):
            chains.order_and_wait(order)
    assert ordered == []


def test_an_order_from_a_run_that_is_over_is_taken() -> None:
    chains = RunChains("bender0")
    current.chain = chain_of(chains, Ordered("r1"))
    chains.over("r1")
    assert chains.order_and_wait(lambda: Ordered("r2")).run_id == "r2"
