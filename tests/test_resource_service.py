"""The kind service: against a stand-in for systemctl, and a real one where systemd runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path


class Systemd:
    """The stand-in with its units."""

    def __init__(self, stand_in):
        self.stand_in = stand_in
        self.set(
            app={
                "LoadState": "loaded",
                "ActiveState": "inactive",
                "UnitFileState": "disabled",
                "NeedDaemonReload": "no",
            }
        )

    def set(self, **units):
        (self.stand_in.folder / "units.json").write_text(json.dumps(units))

    def change(self, **properties):
        self.set(app={**self.unit, **properties})

    @property
    def unit(self):
        return json.loads((self.stand_in.folder / "units.json").read_text())["app"]

    @property
    def orders(self):
        return [
            [each for each in call if not each.startswith("-")]
            for call in self.stand_in.calls
            if "show" not in call
        ]


@pytest.fixture
def systemd(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return Systemd(put_on_path("systemctl", tmp_path, "stand_in_systemctl.py"))


def test_a_service_is_enabled_and_started_once(site, systemd):
    site.recipe("service('app', action=['enable', 'start'])")

    assert changes(site.converge()) == [["enable service app"], ["start service app"]]
    assert (systemd.unit["ActiveState"], systemd.unit["UnitFileState"]) == ("active", "enabled")
    assert states(site.converge()) == ["unchanged", "unchanged"]
    assert systemd.orders == [["enable", "app"], ["start", "app"]]


def test_a_unit_that_is_only_linked_is_enabled_and_never_unlinked(site, systemd):
    systemd.change(UnitFileState="linked")
    site.recipe("service('app', action='disable')")
    assert states(site.converge()) == ["unchanged"]

    site.recipe("service('app', action='enable')")
    assert states(site.converge()) == ["changed"]
    assert systemd.orders == [["enable", "app"]]


def test_a_service_is_stopped_disabled_and_masked_once(site, systemd):
    systemd.change(ActiveState="active", UnitFileState="enabled")
    site.recipe("service('app', action=['stop', 'disable', 'mask'])")

    assert states(site.converge()) == ["changed"] * 3
    assert states(site.converge()) == ["unchanged"] * 3
    assert systemd.orders == [["stop", "app"], ["disable", "app"], ["mask", "app"]]

    site.recipe("service('app', action='unmask')")
    assert states(site.converge()) == ["changed"]
    assert states(site.converge()) == ["unchanged"]


def test_by_itself_a_service_does_nothing_until_it_is_notified(site, systemd):
    site.recipe("""
        service('app')
        file('{here}/a', content='x').notifies('restart', 'service[app]')
    """)

    assert states(site.converge()) == ["changed", "changed"]
    assert systemd.orders == [["restart", "app"]]
    assert states(site.converge()) == ["unchanged"]
    assert systemd.orders == [["restart", "app"]]


def test_a_reload_is_only_for_a_service_that_runs(site, systemd):
    site.recipe("service('app', action='reload')")
    assert states(site.converge()) == ["unchanged"]

    systemd.change(ActiveState="active")
    assert states(site.converge()) == ["changed"]


def test_a_unit_that_changed_on_disk_is_read_first(site, systemd):
    systemd.change(NeedDaemonReload="yes")
    site.recipe("service('app', action='start')")

    assert changes(site.converge()) == [["let systemd read its units anew", "start service app"]]
    assert systemd.orders == [["daemon-reload"], ["start", "app"]]


def test_a_static_unit_counts_as_enabled(site, systemd):
    systemd.change(UnitFileState="static")
    site.recipe("service('app', action=['enable', 'disable'])")

    assert states(site.converge()) == ["unchanged", "unchanged"]


def test_an_unknown_unit_cannot_be_started_and_need_not_be_stopped(site, systemd):
    site.recipe("service('nobody', action=['stop', 'disable', 'start'])")

    assert "systemd knows no unit nobody" in failure(site.converge())
    assert systemd.orders == []


def test_a_unit_that_does_not_start_fails(site, systemd):
    systemd.change(fails=True)
    site.recipe("service('app', action='start')")

    assert "Job for app.service failed." in failure(site.converge())


@pytest.mark.parametrize("hierarchies", ["0::{}\n", "1:cpu:/\n9:name=systemd:{}/below\n0::/\n"])
def test_the_end_of_our_own_unit_is_not_waited_for(
    site, systemd, monkeypatch, tmp_path, hierarchies
):
    group = "/system.slice/app.service"
    ours = tmp_path / "cgroup"
    monkeypatch.setattr("flock.converge.resources.service._OUR_CONTROL_GROUPS", ours)
    systemd.change(ActiveState="active", ControlGroup=group)
    site.recipe("service('app', action=['restart', 'stop'])")

    ours.write_text(hierarchies.format("/system.slice/app.service-of-another"))
    assert changes(site.converge()) == [["restart service app"], ["stop service app"]]

    ours.write_text(hierarchies.format(group))
    systemd.change(ActiveState="active")
    ending = "service app, which we run in, without waiting"
    assert changes(site.converge()) == [[f"restart {ending}"], [f"stop {ending}"]]
    assert ["--no-block" in call for call in systemd.stand_in.calls if "show" not in call] == [
        *[False] * 2,
        *[True] * 2,
    ]


def test_without_systemd_there_is_one_clear_error(site, systemd):
    (systemd.stand_in.folder / "no-systemd").touch()
    site.recipe("service('app', action='start')")

    assert "systemd does not run on this machine, service app cannot be managed" in failure(
        site.converge()
    )


def test_a_why_run_gives_no_order_even_for_units_that_are_not_there_yet(site, systemd):
    site.recipe("service('app', action=['enable', 'start'])\nservice('new', action='restart')")

    assert states(site.converge(why_run=True)) == ["changed"] * 3
    assert systemd.orders == []


@pytest.mark.parametrize("name", ["-x", "a b", "a;b", ""])
def test_what_cannot_be_a_unit_is_refused_in_the_recipe(site, name):
    place = site.recipe(f"service('app', service_name={name or ' '!r})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and "must be the name of a unit" in error


@pytest.mark.system_changes
@pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="systemd does not run here")
def test_a_real_unit_is_started_and_stopped(site):
    unit = Path("/run/systemd/system/flock-test-kinds.service")
    systemctl = shutil.which("systemctl")
    assert systemctl is not None
    unit.write_text("[Service]\nExecStart=/bin/sleep 300\n")
    try:
        site.recipe("service('flock-test-kinds', action='start')")
        assert changes(site.converge())[0][-1] == "start service flock-test-kinds"
        assert states(site.converge()) == ["unchanged"]
        site.recipe("service('flock-test-kinds', action='stop')")
        assert states(site.converge()) == ["changed"]
        assert states(site.converge()) == ["unchanged"]
    finally:
        subprocess.run([systemctl, "stop", "flock-test-kinds"], check=False, timeout=30)
        unit.unlink()
        subprocess.run([systemctl, "daemon-reload"], check=False, timeout=30)
