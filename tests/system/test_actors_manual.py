"""The examples of `docs/actors.md` do what the text says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from flock import Flock
from flock.errors import ActorDead
from tests.support import eventually

MANUAL = (Path(__file__).parents[2] / "docs" / "actors.md").read_text()
KITCHEN, GUEST = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)

VALUE = r"^(\S.*?) +# ('[^']*'|\d+|True|\[[^]]*\])(?:[,;] .*)?$"
"""A line of the guest that says what comes of it."""


def test_the_actors_of_the_manual_do_what_it_says(flockctl):
    (flockctl.folder / "kitchen.py").write_text(
        f"{KITCHEN}\nprint('open', flush=True)\nfleet.serve_forever()\n"
    )
    guest, values = re.subn(VALUE, r"seen = \1; assert seen == \2, seen", GUEST, flags=re.M)
    assert values == 8
    (flockctl.folder / "guest.py").write_text(guest)
    environment = flockctl.environment | {"FLOCK_STATE_DIR": str(flockctl.folder / "state")}
    kitchen = subprocess.Popen(
        [sys.executable, "kitchen.py"],
        cwd=flockctl.folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert kitchen.stdout is not None
        assert kitchen.stdout.readline() == "open\n"
        came = subprocess.run(
            [sys.executable, "guest.py"],
            cwd=flockctl.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert came.returncode == 0, came.stderr

        with Flock(registry=flockctl.url) as flock:
            oven = flock["kitchen"]["oven"]
            assert eventually(oven.count, 10.0, becomes=0, ignoring=ActorDead) == 0
            waiter = flock["kitchen"]["waiter"]
            news = eventually(waiter.told, 10.0, until=lambda told: "oven crashed" in told)
        baked = ["bread", "cake", "pie", "bun", "tart"]
        assert [each for each in news if ": " in each and "gone" not in each] == [
            f"kitchen: {what}" for what in baked
        ]
        assert "oven is gone: RuntimeError: gas" in news
        assert news.count("oven crashed") == 1
        assert flockctl("actors", "kitchen").code == 0
        assert "till" in flockctl("stack", "kitchen").out
    finally:
        kitchen.kill()
        kitchen.communicate()
