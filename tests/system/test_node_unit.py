"""The unit of the examples, with a real systemd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "flock-node.service"
UNIT = "flock-test-node"

pytestmark = [
    pytest.mark.system_changes,
    pytest.mark.skipif(
        not Path("/run/systemd/system").is_dir(), reason="systemd does not run here"
    ),
]


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", *words], capture_output=True, text=True, timeout=60, check=False
    )


def shown(what: str) -> str:
    return systemctl("show", "--value", "--property", what, UNIT).stdout.strip()


@pytest.fixture
def settings(alone) -> Iterator[Path]:
    """Give the settings of a node that the unit of the example keeps up, not started yet."""
    path = alone.folder / "flock.toml"
    path.write_text(f'name = "fry"\nstate_dir = "{alone.folder}/fry"\n')
    (command,) = [
        line for line in EXAMPLE.read_text().splitlines() if line.startswith("ExecStart=")
    ]
    assert command == "ExecStart=/opt/flock/bin/flockctl node"
    unit = Path(f"/run/systemd/system/{UNIT}.service")
    ours = [
        f"ExecStart={sys.executable} -m flock node",
        f"WorkingDirectory={EXAMPLE.parents[1]}",
        f"Environment=FLOCK_CONFIG={path} FLOCK_REGISTRY={alone.url}",
    ]
    unit.write_text(EXAMPLE.read_text().replace(command, "\n".join(ours)))
    assert systemctl("daemon-reload").returncode == 0
    yield path
    systemctl("stop", UNIT)
    unit.unlink()
    systemctl("daemon-reload")


def test_systemd_starts_a_node_when_it_can_be_called_and_again_after_its_death(alone, settings):
    assert systemctl("start", UNIT).returncode == 0
    assert alone("call", "fry", "info", "uptime").code == 0  # started means that
    pid = shown("MainPID")

    assert systemctl("kill", "--signal", "KILL", UNIT).returncode == 0
    assert eventually(lambda: shown("MainPID") not in ("0", pid), within=20.0)
    assert eventually(lambda: alone("call", "fry", "info", "uptime").code, 20.0, becomes=0) == 0

    assert systemctl("stop", UNIT).returncode == 0
    assert (shown("Result"), shown("ExecMainStatus")) == ("success", "0")
    assert alone("nodes", "--json").value == []


def test_a_run_that_restarts_its_own_node_comes_to_its_end_first(alone, settings):
    alone.recipe(
        "default",
        f"""
        from flock.recipe import service
        file('{alone.folder}/conf', content='new').notifies('restart', 'service[{UNIT}]')
        service('{UNIT}')
        """,
    )
    with settings.open("a") as file:
        file.write(f'cookbooks = "{alone.cookbooks}"\nrun_list = ["recipe[cb]"]\n')
    assert systemctl("start", UNIT).returncode == 0
    pid = shown("MainPID")

    ran = alone("run", "fry", "--timeout", "30")
    assert ran.code == 0, ran
    assert f"restart service {UNIT}, which we run in, without waiting" in ran.err
    assert eventually(lambda: shown("MainPID") not in ("0", pid), within=20.0)
    assert eventually(lambda: alone("runs", "fry").code, 20.0, becomes=0) == 0
    assert [row["state"] for row in alone("runs", "fry", "--json").value] == ["ok"]


def test_systemd_does_not_try_wrong_settings_again(alone, settings):
    settings.write_text("intervall = 3\n")

    assert systemctl("start", UNIT).returncode != 0
    assert (shown("ActiveState"), shown("ExecMainStatus")) == ("failed", "2")
