"""The action of a notice is seen while it goes on, by whoever asks what its node does."""

from __future__ import annotations

from tests.support import eventually


def test_a_long_action_of_a_notice_is_shown_and_can_be_ended(alone):
    alone.recipe(
        "default",
        """
        execute('long', command='touch {here}/reached; exec sleep 60', action='nothing')
    """,
    )
    alone.node("bender0", "--run-list", "cb")
    sent = alone("notify", "bender0", "execute[long]", "run", "--json").value
    assert eventually((alone.folder / "reached").exists, within=30.0)

    def state():
        return alone("nodes", "--json").value[0]["state"]

    assert eventually(state, within=30.0, becomes="acting") == "acting"
    what = f"run execute[long] (notice {sent['id']} from {sent['from']})"
    shown = alone("runs", "bender0")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == f"bender0: now: {what}\nbender0: no runs yet\n"
    run = alone.start("run", "bender0")
    assert run.says(f"waits for its turn behind {what}"), run.err

    ended = alone("cancel", "bender0", "--reason", "enough")
    assert ended.err == f"bender0: {what} is told to end\n"
    assert run.ended().code == 0
    assert eventually(state, within=30.0, becomes="idle") == "idle"
    (dead,) = eventually(lambda: alone("notices", "bender0", "--dead", "--json").value, 30.0)
    assert (dead["id"], dead["state"]) == (sent["id"], "dead")
    assert dead["error"].startswith("cancelled by ")
    assert dead["error"].endswith(": enough")
    assert alone("cancel", "bender0").err == "bender0: no run goes on\n"

    assert alone("run", "bender0", "--why-run").code == 0
    first, second = alone("runs", "bender0").out.splitlines()[1:]
    assert "ok (why-run)" in first
    assert "why-run" not in second
