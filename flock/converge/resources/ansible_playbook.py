"""`ansible_playbook`: run a playbook of Ansible."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flock.converge.commands import Completed
from flock.converge.engine import Engine, EngineProvider, engine_failed
from flock.converge.provider import Kind, Outcome
from flock.converge.text_diff import cut

_HEADING = re.compile(r"^(?:TASK|RUNNING HANDLER|PLAY)(?: \[(?P<name>.*)\])?\s+\*+$")
_CHANGED = re.compile(r"^changed: \[(?P<host>[^\]]+)\](?P<item> => \(item=.*)?")
_RECAP = re.compile(
    r"^(?P<host>\S+)\s+: ok=\d+\s+changed=(?P<changed>\d+)\s+"
    r"unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)"
)
_FAILED = re.compile(r"^(?:fatal|failed|ERROR!|\[ERROR\]:)")


@dataclass
class AnsiblePlaybook(Engine):
    """A run of `ansible-playbook`; changed if a task changed something.

    Attributes:
        playbook: its file; the resource's name by default, relative to `cwd`.
        inventory: files or `host,host`; this machine alone by default, without ssh.
        limit: hosts of the inventory.
        tags, skip_tags: tasks that are run, or not.
        extra_vars: variables that win over all others; not shown.
    """

    kind: ClassVar[str] = "ansible_playbook"

    playbook: str = ""
    inventory: str | list[str] | tuple[str, ...] = ()
    limit: str | None = None
    tags: str | list[str] | tuple[str, ...] = ()
    skip_tags: str | list[str] | tuple[str, ...] = ()
    extra_vars: dict[str, Any] | None = None

    def check(self) -> None:
        """Fill in the playbook; refuse what cannot be one, or cannot travel."""
        super().check()
        self.playbook = self.playbook or self.name
        if not os.path.isabs(self.playbook) and self.cwd is None:
            raise ValueError(f"playbook must be absolute, or cwd be given: {self.playbook!r}")
        try:
            json.dumps(self.extra_vars)
        except TypeError as error:
            raise ValueError(f"extra_vars must be plain data: {error}") from None


class AnsiblePlaybookProvider(EngineProvider[AnsiblePlaybook]):
    """Reads what Ansible's default callback prints: it is the one that all versions ship."""

    program = "ansible-playbook"
    how_to_get = "pip install 'flock-of-chefs[ansible]'"

    def own_environment(self, wanted: AnsiblePlaybook) -> dict[str, str]:
        """Return what makes the output readable, whatever `ansible.cfg` says."""
        environment = {
            "ANSIBLE_STDOUT_CALLBACK": "default",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOWS": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
        }
        if not wanted.inventory and "ANSIBLE_PYTHON_INTERPRETER" not in os.environ:
            # Tasks run on this machine: a search for its Python only costs time,
            # and may find one that does not work.
            environment["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable
        return environment

    def data(self, wanted: AnsiblePlaybook) -> str | None:
        """Hand over the variables without showing them in the list of processes."""
        return None if wanted.extra_vars is None else json.dumps(wanted.extra_vars)

    def arguments(self, wanted: AnsiblePlaybook, *, dry: bool, data_file: str) -> Sequence[str]:
        """Return the arguments."""
        arguments = ["--diff", *(["--check"] if dry else [])]
        inventory = _listed(wanted.inventory)
        for each in inventory:
            arguments += ["--inventory", each]
        if not inventory:
            arguments += ["--inventory", "localhost,", "--connection", "local"]
        if wanted.limit is not None:
            arguments += ["--limit", wanted.limit]
        for option, tags in (("--tags", wanted.tags), ("--skip-tags", wanted.skip_tags)):
            if tags:
                arguments += [option, ",".join(_listed(tags))]
        if data_file:
            arguments += ["--extra-vars", f"@{data_file}"]
        return [*arguments, str(Path(wanted.cwd or "/", wanted.playbook))]

    def outcome(self, done: Completed, *, dry: bool) -> Outcome:
        """Tell from exit code and recap."""
        del dry
        changed, broken = 0, []
        for line in done.stdout.splitlines():
            if (row := _RECAP.match(line)) is not None:
                changed += int(row["changed"])
                if int(row["unreachable"]) or int(row["failed"]):
                    broken.append(row["host"])
        if done.exit_code != 0 or broken:
            raise engine_failed(self.program, done, _reason(done))
        if not changed:
            return Outcome([])
        texts, diff = _read(done.stdout)
        return Outcome(texts or [f"ansible-playbook changed {changed} things"], diff)


def _read(output: str) -> tuple[list[str], str | None]:
    """Return which tasks changed something, and the differences they showed."""
    texts: list[str] = []
    shown: list[str] = []
    task, in_diff = "", False
    for line in output.splitlines():
        heading = _HEADING.match(line)
        if heading is not None:
            task, in_diff = heading["name"] or "", False
        elif (change := _CHANGED.match(line)) is not None:
            in_diff = False
            texts.append(f"{task} on {change['host']}{change['item'] or ''}")
        elif line.startswith("--- "):
            in_diff = True
        elif line.startswith(("ok: [", "skipping: [", "fatal: [", "failed: [")):
            in_diff = False
        if in_diff and line:
            shown.append(line)
    return texts, cut(shown) or None


def _reason(done: Completed) -> str:
    """Return the lines that say what went wrong."""
    lines = [
        line
        for line in [*done.stdout.splitlines(), *done.stderr.splitlines()]
        if _FAILED.match(line)
    ]
    return "; ".join(lines)[:2000]


def _listed(given: str | Sequence[str]) -> list[str]:
    """Return one or several as a list."""
    return [given] if isinstance(given, str) else list(given)


KIND = Kind(AnsiblePlaybook, AnsiblePlaybookProvider)
