"""Notices between real nodes: what changed here is acted on there, whatever is down meanwhile."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.flockctl import flockctl_on
from tests.notices import Fleet, nursery
from tests.support import eventually

WITHIN = 30.0


@pytest.fixture(scope="module")
def nurse():
    with tempfile.TemporaryDirectory(prefix="flk-") as folder, nursery(Path(folder)) as path:
        yield path


@pytest.fixture
def fleet(registry_url, short_path, nurse):
    fleet = Fleet(short_path, registry_url, nurse)
    yield fleet
    fleet.close()


@pytest.fixture
def alone(embedded_url, short_path, nurse):
    """Give a fleet on the embedded registry only, for what no registry has a part in."""
    fleet = Fleet(short_path, embedded_url, nurse)
    yield fleet
    fleet.close()


def settled(*nodes):
    """Wait until nothing is on its way to or from these nodes."""
    return eventually(lambda: [row for node in nodes for row in node.notices()], WITHIN, becomes=[])


def acted(fleet, *wanted):
    """Wait until exactly this was done, in this order."""
    return eventually(lambda: fleet.lines("out"), WITHIN, becomes=list(wanted)) == list(wanted)


SENDER = """
file('{here}/fubar', content='foobar').remote_notifies(
    'run', 'execute[kill all humans]', node='bender1')
"""
RECEIVER = "execute('kill all humans', command='echo done >> {here}/out', action='nothing')"


# --- the examples of the original's README -----------------------------------------


def test_a_file_that_changed_runs_a_command_on_another_machine(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe("bender1", RECEIVER)
    receiver, sender = fleet.node("bender1"), fleet.node("bender0")

    report = sender.run()

    (row,) = report["notices"]
    assert row["to"] == "bender1"
    assert (row["resource"], row["action"]) == ("execute[kill all humans]", "run")
    assert acted(fleet, "done")
    assert settled(receiver, sender) == []
    (there,) = receiver.notices(all_of_them=True)
    assert (there["id"], there["state"], there["from"]) == (row["id"], "done", "bender0")
    assert there["trail"] == [["bender0", f"file[{fleet.folder}/fubar]", "create"]]
    assert [each["state"] for each in sender.notices(all_of_them=True)] == ["sent"]


def test_a_machine_subscribes_to_a_command_on_another_one(fleet):
    fleet.recipe("bender0", "execute('kill all humans', command='true')")
    fleet.recipe(
        "bender1",
        "file('{here}/fubar', content='foobar', action='nothing')"
        ".remote_subscribes('create', 'execute[kill all humans]', node='bender0')",
    )
    sender, receiver = fleet.node("bender0"), fleet.node("bender1")

    def known():
        return sender.call("bender0", "resource_manager", "subscriptions")

    (subscription,) = eventually(known, WITHIN)
    assert (subscription["subscriber"], subscription["recipe"]) == ("bender1", "cb::default")

    report = sender.run()

    assert [row["resource"] for row in report["notices"]] == [f"file[{fleet.folder}/fubar]"]
    assert eventually((fleet.folder / "fubar").exists, WITHIN)
    assert settled(sender, receiver) == []


def test_what_did_not_change_tells_nobody_and_a_why_run_says_whom_it_would_tell(alone):
    alone.recipe("bender0", SENDER)
    sender = alone.node("bender0")
    why = sender.call("bender0", "flock_api", "run_chef", wait=True, why_run=True)
    assert sender.notices(all_of_them=True) == []
    told = sender.run()["notices"]
    assert len(told) == 1
    assert why["notices"] == [{**told[0], "id": ""}]

    assert sender.run()["notices"] == []

    assert len(sender.notices(all_of_them=True)) == 1


# --- who is down --------------------------------------------------------------------


def test_a_receiver_that_was_down_for_the_whole_run_acts_when_it_starts(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe("bender1", RECEIVER)
    sender = fleet.node("bender0")
    assert sender.run()["state"] == "ok"
    assert settled(sender) == []
    assert fleet.lines("out") == []

    fleet.node("bender1")

    assert acted(fleet, "done")


def test_a_sender_that_is_gone_before_the_receiver_is_back_has_told_it(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe("bender1", RECEIVER)
    receiver = fleet.node("bender1")
    receiver.kill()
    sender = fleet.node("bender0")
    sender.run()
    sender.leave()

    fleet.node("bender1")

    assert acted(fleet, "done")


def test_a_sender_killed_right_after_its_change_tells_of_it_when_it_is_back(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe("bender1", RECEIVER)
    receiver, sender = fleet.node("bender1"), fleet.begin("bender0", "change:1").begun()
    with pytest.raises(Exception, match="bender0"):
        sender.run()
    assert (fleet.folder / "fubar").exists()

    sender = fleet.node("bender0")

    assert acted(fleet, "done")
    assert settled(sender, receiver) == []
    assert [row["mark"] for row in receiver.notices(all_of_them=True)] == [None]


def test_a_command_whose_end_nobody_saw_is_told_of_and_marked(fleet):
    fleet.recipe(
        "bender0",
        "execute('true').remote_notifies('run', 'execute[kill all humans]', node='bender1')",
    )
    fleet.recipe("bender1", RECEIVER)
    receiver, sender = fleet.node("bender1"), fleet.begin("bender0", "arm:1").begun()
    with pytest.raises(Exception, match="bender0"):
        sender.run()

    fleet.node("bender0")

    assert acted(fleet, "done")
    assert eventually(lambda: receiver.notices(all_of_them=True), WITHIN)[0]["mark"] == (
        "maybe unchanged"
    )


def test_a_registry_that_is_away_for_the_whole_run_holds_up_nothing(
    own_zookeeper, short_path, nurse
):
    fleet = Fleet(short_path, f"zookeeper://{own_zookeeper.connection_string}/t", nurse)
    try:
        fleet.recipe("bender0", SENDER)
        fleet.recipe("bender1", RECEIVER)
        receiver, sender = fleet.node("bender1"), fleet.node("bender0")
        own_zookeeper.servers[0].kill()

        report = sender.run()

        assert report["resources"][0]["state"] == "changed"
        assert report["resources"][0]["seconds"] < 2.0  # an operation without a registry takes 3
        assert len(report["notices"]) == 1
        own_zookeeper.servers[0].start()
        assert eventually(lambda: fleet.lines("out"), 40.0) == ["done"]
        assert settled(sender, receiver) == []
    finally:
        fleet.close()


# --- together, in order, and in circles ----------------------------------------------


def test_500_notices_for_one_resource_that_wait_together_make_one_action(fleet):
    fleet.recipe(
        "bender0",
        """
        for number in range(500):
            file(f'{here}/f{number}', content='x').remote_notifies(
                'run', 'execute[kill all humans]', node='bender1')
        """,
    )
    fleet.recipe("bender1", RECEIVER)
    sender = fleet.node("bender0")
    assert len(sender.run()["notices"]) == 500
    assert eventually(sender.notices, 30.0, becomes=[]) == []

    receiver = fleet.node("bender1")

    assert acted(fleet, "done")
    assert eventually(receiver.notices, 30.0, becomes=[]) == []
    done = receiver.notices(all_of_them=True)
    assert [row["state"] for row in done] == ["done"] * 500
    assert fleet.lines("out") == ["done"]


def test_notices_arrive_in_the_order_of_the_changes(alone):
    alone.recipe(
        "bender0",
        """
        for number in range(20):
            file(f'{here}/f{number}', content='x').remote_notifies(
                'run', f'execute[{number}]', node='bender1')
        """,
    )
    alone.recipe(
        "bender1",
        """
        for number in range(20):
            execute(str(number), command=f'echo {number} >> {here}/out', action='nothing')
        """,
    )
    alone.node("bender1")

    alone.node("bender0").run()

    assert acted(alone, *map(str, range(20)))


def test_delayed_ones_leave_at_the_end_of_the_run_once(alone):
    alone.recipe(
        "bender0",
        """
        for number in range(3):
            file(f'{here}/f{number}', content='x').remote_notifies(
                'run', 'execute[kill all humans]', 'delayed', node='bender1')
        execute('look', command='ls {here}/out > /dev/null 2>&1 || echo first >> {here}/out')
        """,
    )
    alone.recipe("bender1", RECEIVER)
    alone.node("bender1")

    report = alone.node("bender0").run()

    assert [row["action"] for row in report["notices"]] == ["run"]
    assert acted(alone, "first", "done")


def test_two_that_enable_each_other_are_cut_when_the_same_comes_round(fleet):
    for name, other in (("bender0", "bender1"), ("bender1", "bender0")):
        fleet.recipe(
            name,
            f"""
            file('{{here}}/go-{name}', content='x').remote_notifies(
                'run', 'execute[x]', node='{other}')
            execute('x', command='echo {name} >> {{here}}/out', action='nothing').remote_notifies(
                'run', 'execute[x]', node='{other}')
            """,
        )
    first, second = fleet.node("bender0"), fleet.node("bender1")

    assert len(first.run()["notices"]) == 1

    assert acted(fleet, "bender1", "bender0")
    assert settled(first, second) == []
    (cut,) = eventually(lambda: first.notices(dead=True), WITHIN)
    assert cut["error"] == (
        "it comes round: bender1 run execute[x] → bender0 run execute[x] → bender1 run execute[x]"
    )
    assert fleet.lines("out") == ["bender1", "bender0"]


def test_two_that_notify_each_other_while_both_converge_do_not_wait_for_each_other(alone):
    for name, other in (("bender0", "bender1"), ("bender1", "bender0")):
        alone.recipe(
            name,
            f"""
            file('{{here}}/met-{name}', content='x').remote_notifies(
                'run', 'execute[x]', node='{other}')
            execute('x', command='echo {name} >> {{here}}/out', action='nothing')
            execute('meet', command='while [ ! -e {{here}}/met-{other} ]; do sleep 0.02; done')
            """,
        )
    first, second = alone.node("bender0"), alone.node("bender1")
    first.call("bender0", "flock_api", "run_chef")

    assert second.run()["state"] == "ok"

    assert eventually(lambda: sorted(alone.lines("out")), WITHIN, becomes=["bender0", "bender1"])
    assert settled(first, second) == []


# --- where it is for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("node=['bender1', 'bender2']", ["bender1", "bender2"]),
        ("node='bender2', environment='prod'", ["bender2"]),
        ("environment='prod'", ["bender1"]),
        ("roles='web'", ["bender1"]),
        ("roles=['web', 'db'], environment='prod'", ["bender1"]),
        ("roles=['web'], environment='test'", []),
        ("recipes='cb'", ["bender1", "bender2"]),
        ("recipes=['cb::default'], environment='test'", ["bender2"]),
        ("query='name:bender1 OR name:bender2'", ["bender1", "bender2"]),
        ("query='name:bender*', environment='test'", ["bender2"]),
    ],
)
def test_every_form_of_location_finds_its_machines(alone, location, found):
    alone.recipe(
        "sender",
        f"file('{{here}}/f', content='x').remote_notifies('run', 'execute[x]', {location})",
    )
    for name in ("bender1", "bender2"):
        alone.recipe(name, f"execute('x', command='echo {name} >> {{here}}/out', action='nothing')")
    for role in ("web", "db"):
        alone.write("bender1", f"roles/{role}.toml", "run_list = ['cb']")
    nodes = [
        alone.node("bender1", environment="prod", run_list=["role[web]", "role[db]"]),
        alone.node("bender2", environment="test"),
        # It is not among those that are found: it runs what it calls something else.
        alone.node("sender", environment="staging", run_list=["cb::default"]),
    ]
    if "recipes" in location and "environment" not in location:
        alone.recipe(
            "sender",
            f"file('{{here}}/f', content='x').remote_notifies('run', 'execute[x]', {location}, "
            "query='NOT name:sender')",
        )

    nodes[-1].run()

    assert eventually(lambda: sorted(alone.lines("out")), WITHIN, becomes=found) == found
    assert settled(*nodes) == []
    assert sorted(alone.lines("out")) == found


# --- what cannot be done -----------------------------------------------------------------


def test_a_notice_for_an_unknown_resource_waits_until_a_run_declares_it(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe("bender1", "log('nothing yet')")
    receiver, sender = fleet.node("bender1"), fleet.node("bender0")
    sender.run()
    (row,) = eventually(receiver.notices, WITHIN, until=lambda rows: rows and rows[0]["error"])
    assert row["state"] == "aside"
    assert row["error"] == "no recipe declares execute[kill all humans] yet"

    fleet.recipe("bender1", RECEIVER)
    assert receiver.run()["state"] == "ok"

    assert acted(fleet, "done")
    assert settled(receiver) == []


def test_a_failed_action_is_a_dead_letter_at_both_ends_and_can_be_tried_again(fleet):
    fleet.recipe("bender0", SENDER)
    fleet.recipe(
        "bender1",
        "execute('kill all humans', command='test -e {here}/good && echo done >> {here}/out',"
        " action='nothing')",
    )
    receiver, sender = fleet.node("bender1"), fleet.node("bender0")
    sender.run()

    (there,) = eventually(lambda: receiver.notices(dead=True), WITHIN)
    (here,) = eventually(lambda: sender.notices(dead=True), WITHIN)
    assert there["id"] == here["id"]
    assert "exit code 1" in there["error"]
    assert here["error"] == there["error"]
    report = receiver.call("bender1", "resource_manager", "report", notice=there["id"])
    assert [row["state"] for row in report["resources"]] == ["failed"]

    (fleet.folder / "good").touch()
    assert sender.call("bender1", "resource_manager", "retry", notice=there["id"])
    assert acted(fleet, "done")
    assert sender.call("bender0", "resource_manager", "retry", notice=here["id"])
    assert acted(fleet, "done", "done")


# --- subscriptions -------------------------------------------------------------------------


def subscribed(fleet, node, *wanted):
    """Wait until exactly these resources of others are told by a node."""

    def told():
        found = node.call("bender0", "resource_manager", "subscriptions")
        return sorted(row["resource"] for row in found)

    return eventually(told, WITHIN, becomes=sorted(wanted)) == sorted(wanted)


SUBSCRIBER = """
file('{here}/a', content='x', action='nothing').remote_subscribes(
    'create', 'log[x]', node='bender0')
"""


def test_a_subscription_that_its_recipe_drops_is_gone_after_the_next_good_run(fleet):
    fleet.recipe("bender0", "log('x')")
    fleet.recipe("bender1", SUBSCRIBER + SUBSCRIBER.replace("/a", "/b"))
    publisher, subscriber = fleet.node("bender0"), fleet.node("bender1")
    a, b = f"file[{fleet.folder}/a]", f"file[{fleet.folder}/b]"
    assert subscribed(fleet, publisher, a, b)

    fleet.recipe("bender1", SUBSCRIBER + "execute('false')")
    assert subscriber.run()["state"] == "failed"
    why = subscriber.call("bender1", "flock_api", "run_chef", wait=True, why_run=True)
    assert why["why_run"]
    assert subscribed(fleet, publisher, a, b)

    fleet.recipe("bender1", SUBSCRIBER)
    assert subscriber.run()["state"] == "ok"
    assert subscribed(fleet, publisher, a)

    fleet.recipe("bender1", "log('y')")
    assert subscriber.run()["state"] == "ok"
    assert subscribed(fleet, publisher)


def test_a_publisher_that_starts_anew_knows_its_subscribers_at_its_first_run(fleet):
    fleet.recipe("bender0", "log('y')")
    fleet.recipe("bender1", RECEIVER + ".remote_subscribes('run', 'execute[go]', node='bender0')")
    publisher, subscriber = fleet.node("bender0"), fleet.node("bender1")
    assert subscribed(fleet, publisher, "execute[kill all humans]")
    publisher.kill()
    subscriber.leave()
    fleet.recipe("bender0", "execute('go', command='true')")

    publisher = fleet.node("bender0")
    assert len(publisher.run()["notices"]) == 1
    fleet.node("bender1")

    assert acted(fleet, "done")


def test_one_who_subscribes_while_the_publisher_is_down_is_told_by_its_first_run(fleet):
    fleet.recipe("bender0", "execute('go', command='true')")
    fleet.recipe("bender1", RECEIVER + ".remote_subscribes('run', 'execute[go]', node='bender0')")
    with flockctl_on(fleet.registry, fleet.folder) as flockctl:
        fleet.node("bender1")
        assert eventually(lambda: flockctl("subscriptions", "--json").value, WITHIN)

    assert len(fleet.node("bender0").run()["notices"]) == 1

    assert acted(fleet, "done")


# --- the command line ------------------------------------------------------------------------


def test_notices_are_sent_and_seen_from_the_command_line(fleet):
    fleet.recipe("bender1", RECEIVER + ".remote_subscribes('run', 'log[x]', node='bender0')")
    receiver = fleet.node("bender1")
    with flockctl_on(fleet.registry, fleet.folder) as flockctl:
        sent = flockctl("notify", "bender1", "execute[kill all humans]", "run", "--json")
        assert (sent.code, sent.value["to"]) == (0, "bender1")
        assert acted(fleet, "done")
        assert settled(receiver) == []
        (done,) = flockctl("notices", "bender1", "--all", "--json").value
        assert (done["id"], done["state"]) == (sent.value["id"], "done")
        assert " ".join(done) == (
            "id from to resource action timing state tries created trail error mark waited"
        )

        (row,) = flockctl("subscriptions", "--json").value
        assert (row["publisher"], row["watched"]) == ("bender0", "log[x]")

        unknown = flockctl("notify", "bender1", "execute[other]", "fly", "--json").value["id"]
        assert eventually(receiver.notices, WITHIN, until=lambda rows: rows and rows[0]["error"])
        shown = flockctl("notices")
        assert unknown in shown.out
        assert flockctl("notices", "bender1", "--retry", unknown).code == 2
        assert flockctl("notices", "nobody").code == 3
        assert flockctl("notify", "nobody", "execute[x]", "run").code == 3
        assert flockctl("notify", "bender1", "nothing", "run").code == 2

        receiver.leave()
        assert flockctl("notify", "bender1", "execute[kill all humans]", "run").code == 0
        down = flockctl("notices", "bender1", "--json")
        assert [row["state"] for row in down.value] == ["waiting"]
        assert "bender1 is down" in down.err
        forgotten = flockctl("forget", "bender1", "--json").value
        assert (forgotten["notices"], forgotten["subscriptions"]) == (1, 1)
        assert flockctl("subscriptions", "--json").value == []
        assert flockctl("notices", "--json").value == []


def test_a_single_converge_sends_its_notices_before_it_ends(fleet):
    fleet.recipe("bender1", RECEIVER)
    fleet.recipe("bender0", SENDER)
    fleet.node("bender1")
    with flockctl_on(fleet.registry, fleet.folder) as flockctl:
        ended = flockctl(
            "converge",
            "--name",
            "bender0",
            "--cookbooks",
            str(fleet.folder / "bender0" / "cookbooks"),
            "--run-list",
            "cb",
            "--state-dir",
            str(fleet.folder / "bender0" / "state"),
            "--json",
        )
        assert ended.code == 0, ended.err
        assert len(ended.value["notices"]) == 1
        assert "not sent" not in ended.err

    assert acted(fleet, "done")
