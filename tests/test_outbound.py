"""What the engine tells whoever tells other machines."""

from __future__ import annotations

import pytest


class Outbound:
    """Notes what it is told; concerns `bender1` for each resource that has remote notifications."""

    def __init__(self, folder):
        self.folder = folder
        self.told = []

    def arm(self, run_id, resource, action, trail):
        if not resource.remote_notifications:
            return None
        is_made = (self.folder / "a").exists()
        self.told.append(("armed", str(resource), action, trail, is_made))
        return resource.remote_notifications[0]

    def settle(self, armed, changed):
        self.told.append(("settled", armed.target, changed))
        row = {"id": "1", "to": "bender1", "resource": armed.target, "action": armed.action}
        return [row] if changed else []

    def foretell(self, resource, told):
        return [
            {"id": "", "to": "bender1", "resource": each.target, "action": each.action}
            for each in resource.remote_notifications
        ]

    def take_up(self, run_id, would_change):
        self.told.append(("taken up", would_change(f"file[{self.folder}/a]", "create")))

    def run_over(self, run_id, complete):
        self.told.append(("over", complete))
        return [{"id": "2"}]


@pytest.fixture
def outbound(site):
    return Outbound(site.folder)


NOTIFYING = """
    file('{here}/a', content='x').remote_notifies('run', 'execute[y]', node='bender1')
    file('{here}/b', content='x')
"""


def test_a_change_is_armed_before_it_is_made_and_settled_after(site, outbound):
    site.recipe(NOTIFYING)
    name = f"file[{site.folder}/a]"

    report = site.converge(outbound=outbound)

    assert outbound.told == [
        ("taken up", True),
        ("armed", name, "create", ((name, "create"),), False),
        ("settled", "execute[y]", True),
        ("over", True),
    ]
    assert report["notices"] == [
        {"id": "1", "to": "bender1", "resource": "execute[y]", "action": "run"},
        {"id": "2"},
    ]


def test_what_does_not_change_tells_nobody(site, outbound):
    site.recipe(NOTIFYING)
    site.converge()

    report = site.converge(outbound=outbound)

    assert outbound.told == [("taken up", False), ("over", True)]
    assert report["notices"] == [{"id": "2"}]


def test_a_why_run_tells_nothing_but_says_who_would_be_told(site, outbound):
    site.recipe(NOTIFYING)

    report = site.converge(outbound=outbound, why_run=True)

    assert outbound.told == []
    assert report["notices"] == [
        {"id": "", "to": "bender1", "resource": "execute[y]", "action": "run"}
    ]


def test_a_change_that_failed_is_dropped_and_the_run_was_not_complete(site, outbound):
    site.recipe("execute('false').remote_notifies('run', 'execute[y]', node='bender1')")

    site.converge(outbound=outbound)

    assert outbound.told[2:] == [("settled", "execute[y]", False), ("over", False)]


def test_an_override_run_list_is_not_the_complete_run(site, outbound):
    site.recipe("log('x')")
    kitchen = site.kitchen(outbound=outbound)

    kitchen.converge("x", override_run_list=["cb"])

    assert outbound.told == [("over", False)]


def test_an_action_between_runs_tells_too_and_hands_its_trail_on(site, outbound):
    site.recipe(NOTIFYING)
    kitchen = site.kitchen(outbound=outbound)
    kitchen.declare()
    name = f"file[{site.folder}/a]"

    report = kitchen.act(name, "create", "x", trail=(("log[z]", "write"),))

    assert outbound.told[0] == (
        "armed", name, "create", (("log[z]", "write"), (name, "create")), False,
    )  # fmt: skip
    assert outbound.told[-1] == ("over", False)
    assert len(report["notices"]) == 2


def test_a_standing_resource_can_be_asked_what_it_would_change(site):
    site.recipe("""
        file('{here}/a', content='x')
        execute('x', command='true', action='nothing')
        execute('y', command='true', creates='{here}/a', action='nothing')
        file('{here}/dir', content='x')
    """)
    (site.folder / "dir").mkdir()
    kitchen = site.kitchen()
    assert kitchen.would_change(f"file[{site.folder}/a]", "create") is None
    kitchen.declare()

    assert kitchen.would_change(f"file[{site.folder}/a]", "create") is True
    assert kitchen.would_change(f"file[{site.folder}/a]", "delete") is False
    assert kitchen.would_change("execute[x]", "run") is None
    assert kitchen.would_change("execute[y]", "run") is True
    assert kitchen.would_change(f"file[{site.folder}/dir]", "create") is None
    assert kitchen.would_change("log[nope]", "write") is None
    assert not (site.folder / "a").exists()
