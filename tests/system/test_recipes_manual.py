"""The files of `docs/recipes.md` and `docs/notices.md` do what the text says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.flockctl import flockctl_on
from tests.stand_ins import put_on_path
from tests.support import eventually

DOCS = Path(__file__).parents[2] / "docs"
FILES = re.compile(r"```\w+\n# ((?:cookbooks|roles|environments)/\S+)\n(.*?)```", re.DOTALL)
UNIT = {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"}


def lay_out(page: str, folder: Path) -> list[str]:
    """Write the files that a page shows, with paths of the test; returns the page's commands."""
    text = (DOCS / page).read_text()
    for name, content in FILES.findall(text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        here = content.replace("/srv", f"{folder}/srv")
        path.write_text(here.replace("['nginx', 'openssl']", "['base-files', 'dpkg']"))
    return re.findall(r"^(flockctl .*?)(?: {2,}#.*)?$", text, re.M)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="its packages are Debian's")
def test_the_recipe_of_the_manual_does_what_it_says(tmp_path, embedded_url, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    systemctl = put_on_path("systemctl", tmp_path, "stand_in_systemctl.py")
    units = systemctl.folder / "units.json"
    units.write_text(json.dumps({"nginx": UNIT | {"NeedDaemonReload": "no"}}))
    commands = lay_out("recipes.md", tmp_path)
    with flockctl_on(embedded_url, tmp_path) as flockctl:
        why, real, again, once = (
            flockctl(*command.replace("'", "").split()[1:], "--name", "app1", "--json")
            for command in commands
        )
    assert [ended.code for ended in (why, real, again, once)] == [0] * 4, real.err
    states = {
        row["resource"].replace(str(tmp_path), ""): row["state"] for row in real.value["resources"]
    }
    assert states["package[base-files, dpkg]"] == "unchanged"
    assert states["file[/srv/app/motd]"] == "changed"
    assert real.value["recipes"] == ["app::default", "app::extra"]
    config = (tmp_path / "srv/app/app.conf").read_text()
    assert config.splitlines()[:2] == ["port = 80", "workers = 4"]
    assert (tmp_path / "srv/app/greeting").read_text() == "hello"
    verbs = [next(each for each in call if each[0] != "-") for call in systemctl.calls]
    assert [verb for verb in verbs if verb != "show"] == ["enable", "start", "restart"]
    assert {row["state"] for row in again.value["resources"]} == {"unchanged", "skipped"}
    assert again.value["run_list"] == ["role[app]"]
    assert once.value["recipes"] == ["app::extra"]


def test_the_notices_of_the_manual_do_what_it_says(tmp_path, embedded_url):
    lay_out("notices.md", tmp_path)
    (tmp_path / "srv").mkdir()
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "app.toml").write_text('run_list = ["app"]\n')
    with flockctl_on(embedded_url, tmp_path) as flockctl:
        flockctl.node("app1", "--run-list", "role[app]")
        flockctl.node("db1", "--run-list", "db")
        assert flockctl("run", "db1").code == 0
        assert eventually((tmp_path / "srv" / "seen").exists, within=15.0)
        assert eventually((tmp_path / "srv" / "reloads").exists, within=15.0)
        assert flockctl("subscriptions", "db1", "--json").value[0]["subscriber"] == "app1"
