"""`ansible_module`: run one module of Ansible on this machine, without a playbook."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flock.converge.commands import Completed
from flock.converge.provider import Change, Kind, Outcome, Provider
from flock.converge.resource import Resource
from flock.converge.text_diff import text_diff
from flock.errors import CommandFailed

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*\.[A-Za-z_]\w*)?")

_CONTROLLER_ONLY = {
    "package": "use package(...), or the module apt or dnf",
    "template": "use template(...)",
    "shell": "use execute(...)",
    "raw": "use execute(...)",
    "script": "use execute(...)",
    "fetch": "it copies to the controller",
    "debug": "use log(...)",
    "set_fact": "use node.default",
    "reboot": "use execute(...)",
}
"""What to use instead of modules whose work Ansible's controller does."""

_LAUNCHER = """\
import os, runpy, sys
import ansible
name = sys.argv.pop(1)
extra = {
    "_module_fqn": name,
    "_modlib_path": os.path.dirname(os.path.dirname(ansible.__file__)),
}
runpy.run_module(name, extra, "__main__", True)
"""
"""Does what `python -m NAME` does, and leaves what a module needs that starts itself again.

The modules apt and dnf look for the Python that has the system's bindings; the
two names tell them what to start there. Source: ansible-core, `_ansiballz`.
"""


@dataclass
class AnsibleModule(Resource):
    """One run of a module; changed if the module says so.

    Attributes:
        module: its name: `apt`, or `community.general.timezone`; the resource's
            name by default.
        args: its arguments, plain data; not shown.
        python: the Python that has Ansible; our own by default.
        environment: variables beside the node's own.
        user: whom it runs as.
        timeout: seconds after which it is ended and has failed; None for no limit.
    """

    kind: ClassVar[str] = "ansible_module"
    actions: ClassVar[tuple[str, ...]] = ("run",)

    module: str = ""
    args: dict[str, Any] | None = None
    python: str = ""
    environment: dict[str, str] | None = None
    user: str | None = None
    timeout: float | None = 3600.0

    def check(self) -> None:
        """Fill in the module; refuse what cannot be run without a controller."""
        self.module = self.module or self.name
        self.python = self.python or sys.executable
        if not _NAME.fullmatch(self.module):
            raise ValueError(f"module must be a name like apt or a.b.c, not {self.module!r}")
        try:
            json.dumps(self.args)
        except TypeError as error:
            raise ValueError(f"args must be plain data: {error}") from None
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")
        if self.short_name == "copy" and "content" in (self.args or {}):
            raise ValueError(
                "copy with content is the work of Ansible's controller, no module: use file(...)"
            )

    @property
    def short_name(self) -> str:
        """The module's name without that of its collection, if it is Ansible's own."""
        return self.module.removeprefix("ansible.builtin.")

    @property
    def python_name(self) -> str:
        """What Python imports it as."""
        if "." not in self.short_name:
            return f"ansible.modules.{self.short_name}"
        space, collection, module = self.module.split(".")
        return f"ansible_collections.{space}.{collection}.plugins.modules.{module}"


class AnsibleModuleProvider(Provider[AnsibleModule]):
    """Runs the module, in a why-run in its check mode, and reads its JSON."""

    def run(self, wanted: AnsibleModule) -> Iterator[Change]:
        """Name the module's run; in a why-run what the module says it would do."""
        text = f"run the Ansible module {wanted.module}"
        if not self.machine.why_run:
            yield Change(text, lambda: self._run(wanted, text))
            return
        answer = self._answer(wanted, dry=True)
        if answer.get("skipped"):
            yield Change(f"{text}, which cannot say what it would change", _nothing)
        elif answer.get("changed"):
            yield Change(text, _nothing, _diff(answer))

    def _run(self, wanted: AnsibleModule, text: str) -> Outcome:
        """Run it, and say what it said."""
        answer = self._answer(wanted, dry=False)
        return Outcome([text], _diff(answer)) if answer.get("changed") else Outcome([])

    def _answer(self, wanted: AnsibleModule, *, dry: bool) -> Mapping[str, Any]:
        """Run the module to its end.

        Raises:
            CommandFailed: it failed, or is not there.
        """
        arguments = {
            **(wanted.args or {}),
            "_ansible_check_mode": dry,
            "_ansible_diff": not wanted.sensitive,
            "_ansible_no_log": wanted.sensitive,
        }
        done = self.machine.run(
            [wanted.python, "-c", _LAUNCHER, wanted.python_name],
            returns=None,
            user=wanted.user,
            environment=wanted.environment,
            stdin=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            timeout=wanted.timeout,
        )
        answer = _read(done.stdout)
        if answer is None:
            raise CommandFailed(_silence(wanted, done))
        if answer.get("failed"):
            said = answer.get("msg") or done.last_words()
            raise CommandFailed(f"the Ansible module {wanted.module} failed: {said}")
        return answer


def _read(output: str) -> Mapping[str, Any] | None:
    """Return a module's answer: the last line that is a JSON object."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict):
                return answer
    return None


def _silence(wanted: AnsibleModule, done: Completed) -> str:
    """Say why a module did not answer."""
    if "No module named 'ansible'" in done.stderr:
        return (
            f"Ansible is not installed for {wanted.python}: pip install 'flock-of-chefs[ansible]'"
        )
    if "No module named" in done.stderr and wanted.python_name.rpartition(".")[2] in done.stderr:
        return f"Ansible has no module {wanted.module!r} here"
    if done.exit_code == 0 and not done.stdout.strip():
        instead = _CONTROLLER_ONLY.get(wanted.short_name, "")
        return (
            f"{wanted.module} answers nothing: it is a plug-in of Ansible's controller, no module"
            + (f": {instead}" if instead else "")
        )
    return f"the Ansible module {wanted.module} gave no answer: {done.last_words()}"


def _diff(answer: Mapping[str, Any]) -> str | None:
    """Return the difference a module reports."""
    given = answer.get("diff")
    parts = given if isinstance(given, list) else [given]
    texts = [_part_diff(part) for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if text) or None


def _part_diff(part: Mapping[str, Any]) -> str | None:
    """Return one difference: prepared by the module, or of before and after."""
    if isinstance(part.get("prepared"), str):
        return str(part["prepared"])
    before, after = (_as_text(part.get(key)) for key in ("before", "after"))
    title = part.get("after_header") or part.get("before_header") or "state"
    return text_diff(before, after, str(title))


def _as_text(value: object) -> str:
    """Write one side of a difference as text."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, indent=1, sort_keys=True)


def _nothing() -> None:
    """Stand for what a why-run does not do."""


KIND = Kind(AnsibleModule, AnsibleModuleProvider)
