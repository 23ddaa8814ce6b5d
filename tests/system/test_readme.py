"""What the README shows works as it is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.flockctl import flockctl_on

ROOT = Path(__file__).parents[2]
BLOCKS = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
READY = "until grep -q READY node.log; do sleep 0.1; done"


def blocks_of(section: str) -> list[tuple[str, str]]:
    """Return the blocks of code below a heading of the README, each with its language."""
    text = (ROOT / "README.md").read_text()
    _, found, rest = text.partition(f"\n## {section}\n")
    assert found
    return BLOCKS.findall(rest.partition("\n## ")[0])


def test_the_tour_works_line_by_line_on_every_registry(registry_url, tmp_path):
    (shell, tour), (language, asking), (_, actor) = blocks_of("A tour")
    assert (shell, language) == ("sh", "python")
    lines = tour.replace("/tmp/fubar", f"{tmp_path}/fubar").splitlines()
    # The Python of the tests is set up already; and nobody guesses how long a start takes.
    assert lines.pop(0) == "make setup && . .venv/bin/activate"
    script = "\n".join(lines)
    script, node = re.subn(r"^(flockctl node .*) &.*$", r"\1 >& node.log &", script, flags=re.M)
    script, wait = re.subn(r"^sleep 2 .*$", READY, script, flags=re.M)
    script, prompt = re.subn(r"^(flockctl shell) .*$", r"\1 < asking.py", script, flags=re.M)
    script, end = re.subn(r"^kill %1 .*$", "kill %1 && wait %1", script, flags=re.M)
    assert (node, wait, prompt, end) == (1, 1, 1, 1)
    shown = r"^(\S.*?)\s+# (?:.*: )?('\w+'|\[.*\]|False)$"
    asking, values = re.subn(shown, r"assert (\1) == \2", asking, flags=re.M)
    assert values == 3
    with flockctl_on(registry_url, tmp_path) as command:
        (tmp_path / "asking.py").write_text("")
        (tmp_path / "python.py").write_text(asking)
        (tmp_path / "actor.py").write_text(actor)
        run_python = f"{sys.executable} python.py"
        script = script.replace("kill %1", f"{run_python}\nkill %1")
        done = subprocess.run(
            ["bash", "-e", "-c", f"trap 'kill %1' EXIT\n{script}\ntrap - EXIT"],
            cwd=tmp_path,
            env=command.environment
            | {
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "FLOCK_STATE_DIR": str(tmp_path / "state"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "fubar.size").read_text().startswith("7 ")
        assert "bender0  idle" in done.stdout
        assert command("nodes").err.startswith("no nodes")
    compile(actor, "README.md", "exec")


def test_every_document_that_is_named_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} names {target}"
