"""`chef_client`: run Chef Infra Client."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flock.converge.commands import Completed
from flock.converge.engine import Engine, EngineProvider, engine_failed
from flock.converge.provider import Kind, Outcome

_UPDATED = re.compile(r"\b(\d+)/\d+ resources (?:would have been )?updated")
_STEP = re.compile(r"^\s*\* (\S+\[.*\]) action (\S+)(.*)$", re.MULTILINE)
_NOTHING_DONE = ("(up to date)", "(skipped", "(no action taken)")

_GOOD = {
    0: "",
    35: "chef-client has scheduled a reboot",
    37: "chef-client says that a reboot is needed",
}
"""Exit codes of a run that succeeded. Source: Chef RFC 062."""

_CLIENT_UPGRADED = 213


@dataclass
class ChefClient(Engine):
    """A run of `chef-client`; changed if Chef updated resources.

    A client that upgraded itself (exit code 213) counts as changed: what it
    had left is done by the next run.

    Attributes:
        config: its configuration file; its own default otherwise.
        local_mode: without a server, on the cookbooks in `cwd`.
        override_runlist: what it runs instead of the node's run list.
        named_run_list: a run list of the node's policy.
        json_attributes: a file or URL with attributes.
        chef_environment: the environment it sets on the node.
    """

    kind: ClassVar[str] = "chef_client"

    config: str | None = None
    local_mode: bool = False
    override_runlist: str | list[str] | tuple[str, ...] = ()
    named_run_list: str | None = None
    json_attributes: str | None = None
    chef_environment: str | None = None


class ChefClientProvider(EngineProvider[ChefClient]):
    """Reads Chef's own lines: the doc formatter counts and names what was updated."""

    program = "chef-client"
    how_to_get = "install Chef Infra Client from its vendor's packages"

    def arguments(self, wanted: ChefClient, *, dry: bool, data_file: str) -> Sequence[str]:
        """Return the arguments; the formatter is the one that is read here."""
        del data_file
        arguments = ["--format", "doc", "--force-formatter", "--no-color", "--once", "--no-fork"]
        if dry:
            arguments.append("--why-run")
        if wanted.local_mode:
            arguments.append("--local-mode")
        for option, value in (
            ("--config", wanted.config),
            ("--named-run-list", wanted.named_run_list),
            ("--json-attributes", wanted.json_attributes),
            ("--environment", wanted.chef_environment),
        ):
            if value is not None:
                arguments += [option, value]
        items = wanted.override_runlist
        items = [items] if isinstance(items, str) else list(items)
        if items:
            arguments += ["--override-runlist", ",".join(items)]
        return arguments

    def outcome(self, done: Completed, *, dry: bool) -> Outcome:
        """Tell from exit code and last line."""
        if done.exit_code == _CLIENT_UPGRADED:
            return Outcome(["chef-client upgraded itself; its next run does what was left"])
        if done.exit_code not in _GOOD:
            raise engine_failed(self.program, done)
        texts = [text] if (text := _GOOD[done.exit_code]) else []
        counted = _UPDATED.search(done.stdout)
        if counted is None:
            return Outcome([*texts, f"run {self.program}, which does not say what it updated"])
        if int(counted[1]) == 0:
            return Outcome(texts)
        steps = [
            f"{step[1]} action {step[2]}"
            for step in _STEP.finditer(done.stdout)
            if not step[3].strip().startswith(_NOTHING_DONE)
        ]
        verb = "would update" if dry else "updated"
        return Outcome([*texts, *(steps or [f"chef-client {verb} {counted[1]} resources"])])


KIND = Kind(ChefClient, ChefClientProvider)
