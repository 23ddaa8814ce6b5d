"""Two machines whose recipes wait for each other's runs are told so."""

from __future__ import annotations

from pathlib import Path

from flock import Flock

RECIPE = """
from flock.recipe import FlockOfChefs, log

def other_is_ok():
    return FlockOfChefs['{other}']['flock_api'].run_chef(wait=True)['state'] == 'ok'

log('the other is fine').only_if(other_is_ok)
"""


def node(name: str, other: str, registry: str, folder: Path) -> Flock:
    recipes = folder / name / "cookbooks" / "mutual" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "default.py").write_text(RECIPE.format(other=other))
    return Flock(
        name=name,
        registry=registry,
        state_dir=folder / name / "state",
        cookbooks=folder / name / "cookbooks",
        run_list=["recipe[mutual]"],
    ).start()


def test_runs_that_would_wait_for_each_other_fail_with_the_circle(
    registry_url: str, tmp_path: Path
) -> None:
    bender0 = node("bender0", "bender1", registry_url, tmp_path)
    bender1 = node("bender1", "bender0", registry_url, tmp_path)
    with Flock(registry=registry_url) as visitor:
        future = visitor["bender0"]["flock_api"].run_chef.future(wait=True)
        report = future.get(timeout=20)

        # The inner order was refused, so the other's run failed, and ours saw that it did.
        (row,) = report["resources"]
        assert row["state"] == "skipped"
        inner = visitor["bender1"]["flock_api"].last_run()
        assert inner["state"] == "failed"
        assert "DeadlockError" in inner["error"] or "would wait for a run" in inner["error"]
        assert visitor["bender0"]["flock_api"].active() is False
    bender1.close()
    bender0.close()
