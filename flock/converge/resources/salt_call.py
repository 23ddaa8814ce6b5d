"""`salt_call`: apply states of Salt to this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flock.converge.commands import Completed
from flock.converge.engine import Engine, EngineProvider, engine_failed
from flock.converge.provider import Kind, Outcome


@dataclass
class SaltCall(Engine):
    """A run of `salt-call state.apply`; changed if a state changed something.

    Attributes:
        states: names of states; none for the highstate.
        local: without a master.
        config_dir: Salt's configuration directory.
        pillar: pillar data that wins over all other; not for secrets: it stands
            in the list of processes.
    """

    kind: ClassVar[str] = "salt_call"

    states: str | list[str] | tuple[str, ...] = ()
    local: bool = False
    config_dir: str | None = None
    pillar: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse data that cannot travel, and names that would be options."""
        super().check()
        try:
            json.dumps(self.pillar)
        except TypeError as error:
            raise ValueError(f"pillar must be plain data: {error}") from None
        self.states = [self.states] if isinstance(self.states, str) else list(self.states)
        for name in self.states:
            if not name or name.startswith("-") or "=" in name or "," in name:
                raise ValueError(f"states must be names of states, not {name!r}")


class SaltCallProvider(EngineProvider[SaltCall]):
    """Reads the JSON that Salt returns."""

    program = "salt-call"
    how_to_get = "install the package salt-minion"

    def arguments(self, wanted: SaltCall, *, dry: bool, data_file: str) -> Sequence[str]:
        """Return the arguments."""
        del data_file
        arguments = ["--out", "json", "--no-color", "--retcode-passthrough", "--log-level", "error"]
        if wanted.local:
            arguments.append("--local")
        if wanted.config_dir is not None:
            arguments += ["--config-dir", wanted.config_dir]
        arguments.append("state.apply")
        if wanted.states:
            arguments.append(",".join(wanted.states))
        if dry:
            arguments.append("test=True")
        if wanted.pillar is not None:
            arguments.append(f"pillar={json.dumps(wanted.pillar)}")
        return arguments

    def outcome(self, done: Completed, *, dry: bool) -> Outcome:
        """Tell from what each state returned: a failure is one, whatever the exit code says."""
        returned = _returned(done)
        if isinstance(returned, list):
            raise engine_failed(self.program, done, "; ".join(map(str, returned)))
        if not isinstance(returned, Mapping):
            raise engine_failed(self.program, done, "" if done.stderr else "it returned no states")
        rows = [each for each in returned.values() if isinstance(each, Mapping)]
        failed = [each for each in rows if each.get("result") is False]
        if failed or done.exit_code not in ((0, 2) if dry else (0,)):
            reasons = [f"{_name(each)}: {each.get('comment', '')}".strip() for each in failed]
            raise engine_failed(self.program, done, "; ".join(reasons)[:2000])
        rows.sort(key=lambda each: each.get("__run_num__", 0))
        changed = [each for each in rows if each.get("changes") or each.get("result") is None]
        diffs = [diff for each in changed for diff in _diffs(each)]
        return Outcome([_name(each) for each in changed], "\n".join(diffs) or None)


def _returned(done: Completed) -> Any:
    """Return what the minion returned; None if that is not to be read."""
    # Warnings of Salt's own may stand before the answer.
    text = done.stdout[max(done.stdout.find("{"), 0) :]
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    if not isinstance(answer, dict) or len(answer) != 1:
        return None
    return next(iter(answer.values()))


def _name(state: Mapping[str, Any]) -> str:
    """Name a state in a report: its id, and what it is about where that is something else."""
    identifier, about = state.get("__id__", ""), state.get("name", "")
    if identifier and about and identifier != about:
        return f"{identifier} ({about})"
    return str(identifier or about or "a state")


def _diffs(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text differences of a state."""
    changes = state.get("changes")
    if isinstance(changes, Mapping) and isinstance(changes.get("diff"), str):
        yield changes["diff"]


KIND = Kind(SaltCall, SaltCallProvider)
