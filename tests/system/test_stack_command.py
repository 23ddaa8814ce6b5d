"""What the actors of a node are doing, asked by command and by signal."""

from __future__ import annotations

import signal

from flock.stack_dump import stack_lines
from tests.flockctl import Flockctl


def test_the_stack_of_a_node_is_shown_and_logged_at_sigusr1(alone: Flockctl) -> None:
    node = alone.start_node("bender0")
    assert node.says("READY bender0"), node.err

    shown = alone("stack", "bender0")
    rows = alone("stack", "bender0", "--json").value

    assert shown.code == 0
    assert "flock_api (FlockApi): idle, 0 waiting" in shown.out.splitlines()
    assert {"flock_api", "info"} <= {row["name"] for row in rows}
    assert all(row["busy_with"] is None for row in rows)

    node.process.send_signal(signal.SIGUSR1)
    assert node.says("what the actors are doing"), node.err
    assert node.says("flock_api (FlockApi): idle"), node.err
    assert alone("stack", "nobody").code == 3


def test_a_busy_actor_is_shown_with_who_called_it_and_where_it_is() -> None:
    row = {
        "name": "book",
        "class": "Notebook",
        "busy_with": "hold",
        "busy_for": 2.04,
        "called_by": "fry",
        "waits_for": "bender1/flock_api.active()",
        "waiting": 3,
        "slowest": [[1.5, "hold"]],
        "stack": ['  File "book.py", line 7, in hold\n    wait()\n'],
    }
    head, *rest = stack_lines([row])
    doing = "in hold for 2.0 s, called by fry, waits for bender1/flock_api.active()"
    assert head == f"book (Notebook): {doing}, 3 waiting"
    assert rest == [
        "    took 1.500 s: hold",
        '      File "book.py", line 7, in hold',
        "        wait()",
    ]
