"""No notice is lost, whenever and wherever a process is killed.

Each round changes two things on the sender: a file, of which one can tell
whether it is as it should be, and what a command does, of which one cannot.
Each has a resource of its own on the receiver, which notes that it acted. Both
processes are told at which step of which notice they die, and are begun again.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flock.notice import DIED, MAYBE_TWICE, MAYBE_UNCHANGED
from tests.notices import Died, Fleet, NodeProcess, nursery
from tests.support import eventually

KILLS = 160
"""Of each registry, by all pairs together."""

PAIRS = 4
ROUNDS = 80
"""More than a pair needs for its kills; its receiver declares a resource for each of them."""

SENDER_STEPS = ("arm", "change", "due", "append", "nudge", "sent")
RECEIVER_STEPS = ("receipt", "action", "done", "removal")

SENDER = """
number = open('{here}/round').read()
file(f'{here}/f{number}', content='x').remote_notifies(
    'run', f'execute[f{number}]', node='RECEIVER')
execute(f'x{number}', command=f'touch {here}/x{number}').not_if(
    f'test -e {here}/x{number}').remote_notifies('run', f'execute[x{number}]', node='RECEIVER')
"""

RECEIVER = f"""
for number in range({ROUNDS}):
    for kind in 'fx':
        name = f'{{kind}}{{number}}'
        execute(name, command=f'echo {{name}} >> {{here}}/acted', action='nothing')
"""


class Pair:
    """A sender and a receiver, begun again when they die."""

    def __init__(self, fleet: Fleet, number: int, seed: int) -> None:
        self.fleet = fleet
        self.sender_name = f"sender{number}"
        self.receiver_name = f"receiver{number}"
        self.kills: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._round = 0
        fleet.recipe(self.sender_name, SENDER.replace("RECEIVER", self.receiver_name))
        fleet.recipe(self.receiver_name, RECEIVER)
        self._set_round()
        self._planned: dict[str, str] = {}
        self._living: dict[str, NodeProcess] = {}

    def work(self, kills: int) -> None:
        """Make rounds until so many processes were killed; then let all that waits be done."""
        while self.kills.total() < kills:
            assert self._round < ROUNDS, f"only {self.kills.total()} kills"
            self._make_a_round()
            self._round += 1
            self._set_round()
        self._round -= 1
        self._set_round()
        for process in self._living.values():
            process.kill()
        self._begin(self.receiver_name, "")
        self._begin(self.sender_name, "").run()

    def problems(self) -> list[str]:
        """Return what is not as it was promised."""
        acted = Counter(self.fleet.lines("acted"))
        by_resource: dict[str, list[dict[str, object]]] = {}
        for receipt in self.fleet.receipts(self.receiver_name):
            by_resource.setdefault(str(receipt["resource"]), []).append(receipt)
        found = []
        for number in range(self._round + 1):
            for kind in "fx":
                name = f"{kind}{number}"
                receipts = by_resource.get(f"execute[{name}]", [])
                problem = _problem(kind, acted[name], receipts)
                if problem:
                    found.append(f"{name}: {problem}: acted {acted[name]} times, {receipts}")
        return found

    def is_settled(self) -> bool:
        """Say whether nothing is on its way any more."""
        return all(self._living[name].notices() == [] for name in self._living)

    def _set_round(self) -> None:
        (self.fleet.folder / "round").write_text(str(self._round))

    def _make_a_round(self) -> None:
        """Have the sender converge this round's list until it says that it has."""
        while True:
            for name, steps in (
                (self.receiver_name, RECEIVER_STEPS),
                (self.sender_name, SENDER_STEPS),
            ):
                self._bury(name)
                while name not in self._living:
                    fault = f"{self._dice.choice(steps)}:{self._dice.choice((1, 1, 1, 2))}"
                    try:
                        self._begin(name, fault)
                    except Died:
                        self._bury(name)
            try:
                report = self._living[self.sender_name].run()
            except Died:
                continue
            assert report["state"] == "ok", report
            return

    def _begin(self, name: str, fault: str) -> NodeProcess:
        self._planned[name] = fault
        self._living[name] = self.fleet.begin(name, fault, log="CRITICAL")
        return self._living[name].begun()

    def _bury(self, name: str) -> None:
        """Note a node's death, if it is dead."""
        process = self._living.get(name)
        if process is not None and process.is_dead(within=0.02):
            self.kills[self._planned[name].partition(":")[0]] += 1
            process.close()
            del self._living[name]


def _problem(kind: str, acted: int, receipts: list[dict[str, object]]) -> str:
    """Say what is wrong with what became of one change."""
    if not receipts:
        return "lost in silence"
    unmarked = [each for each in receipts if MAYBE_UNCHANGED not in str(each["mark"])]
    if kind == "f" and len(receipts) > 1:
        return "told twice"
    if len(unmarked) > 1 or (kind == "f" and not unmarked):
        return "told twice without a mark, or marked though one can tell"
    least = most = 0
    for each in receipts:
        if each["state"] == "dead":
            if each["error"] != DIED:
                return "a dead letter for no reason that was promised"
            most += 2
        elif each["state"] == "done":
            # Two that stand next to each other, one of them marked, run as one.
            least = 1
            most += 2 if MAYBE_TWICE in str(each["mark"]) else 1
        else:
            return "not over"
    if not least <= acted <= most:
        return f"acted not between {least} and {most} times"
    return ""


@pytest.mark.timeout(300)
def test_every_action_runs_once_or_is_marked_whoever_is_killed_at_whatever_step(
    registry_url, short_path
):
    with nursery(short_path) as nurse:
        pairs = []
        for number in range(PAIRS):
            folder = Path(short_path, f"pair{number}")
            folder.mkdir()
            pairs.append(Pair(Fleet(folder, registry_url, nurse), number, seed=number))
        try:
            with ThreadPoolExecutor(PAIRS) as pool:
                for done in [pool.submit(pair.work, KILLS // PAIRS) for pair in pairs]:
                    done.result()
            for pair in pairs:
                assert eventually(pair.is_settled, within=20.0, pause=0.2)
        finally:
            for pair in pairs:
                pair.fleet.close()
        assert [problem for pair in pairs for problem in pair.problems()] == []
        kills = sum((pair.kills for pair in pairs), Counter[str]())
        assert kills.total() >= KILLS
        # Each step was come to often enough that a loss there would have been seen.
        assert set(kills) == {*SENDER_STEPS, *RECEIVER_STEPS}, kills
