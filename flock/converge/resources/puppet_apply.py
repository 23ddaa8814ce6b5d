"""`puppet_apply`: apply a manifest of Puppet without a server."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.commands import Completed
from flock.converge.engine import Engine, EngineProvider, engine_failed
from flock.converge.provider import Kind, Outcome
from flock.converge.text_diff import cut

_EVENT = re.compile(r"^Notice: (/Stage\[.*)$")
_DRY_EVENT = re.compile(r"\(noop\)$|Would have triggered")
_ERROR = re.compile(r"^Error: (?!Facter: )(.*)$", re.MULTILINE)

_CHANGED, _FAILED, _CHANGED_AND_FAILED = 2, 4, 6
"""What `--detailed-exitcodes` says; 0 is no change, 1 that no catalog was made."""


@dataclass
class PuppetApply(Engine):
    """A run of `puppet apply`; changed if Puppet changed resources.

    Attributes:
        manifest: a file or directory; the resource's name by default.
        code: the manifest itself, instead of a file.
        modulepath: directories with modules.
        hiera_config: Hiera's configuration file.
    """

    kind: ClassVar[str] = "puppet_apply"

    manifest: str = ""
    code: str | None = None
    modulepath: str | list[str] | tuple[str, ...] = ()
    hiera_config: str | None = None

    def check(self) -> None:
        """Fill in the manifest; refuse two of them."""
        super().check()
        if self.code is not None and self.manifest:
            raise ValueError("manifest and code exclude each other")
        if self.code is None:
            self.manifest = self.manifest or self.name
            if not os.path.isabs(self.manifest) and self.cwd is None:
                raise ValueError(f"manifest must be absolute, or cwd be given: {self.manifest!r}")


class PuppetApplyProvider(EngineProvider[PuppetApply]):
    """Reads Puppet's detailed exit codes, and its events for what was changed."""

    program = "puppet"
    how_to_get = "apt-get install puppet-agent"

    def stdin(self, wanted: PuppetApply) -> str | None:
        """Hand over a manifest that has no file."""
        return wanted.code

    def arguments(self, wanted: PuppetApply, *, dry: bool, data_file: str) -> Sequence[str]:
        """Return the arguments."""
        del data_file
        arguments = ["apply", "--detailed-exitcodes", "--color=false", "--show_diff"]
        arguments += ["--logdest", "console", *(["--noop"] if dry else [])]
        folders = wanted.modulepath
        folders = [folders] if isinstance(folders, str) else list(folders)
        if folders:
            arguments += ["--modulepath", os.pathsep.join(folders)]
        if wanted.hiera_config is not None:
            arguments += ["--hiera_config", wanted.hiera_config]
        if wanted.code is None:
            arguments.append(str(Path(wanted.cwd or "/", wanted.manifest)))
        return arguments

    def outcome(self, done: Completed, *, dry: bool) -> Outcome:
        """Tell from exit code and events."""
        if done.exit_code not in (0, _CHANGED):
            errors = dict.fromkeys(_ERROR.findall(f"{done.stderr}\n{done.stdout}"))
            reason = "; ".join(errors)[:2000]
            if done.exit_code == _CHANGED_AND_FAILED:
                reason = f"some resources changed, others failed: {reason}"
            raise engine_failed("puppet apply", done, reason)
        events, diff = _read(done.stdout)
        if dry:
            return Outcome([each for each in events if _DRY_EVENT.search(each)], diff)
        if done.exit_code == 0:
            return Outcome([])
        return Outcome(events or ["puppet apply changed something"], diff)


def _read(output: str) -> tuple[list[str], str | None]:
    """Return Puppet's events, and the differences it showed."""
    events: list[str] = []
    shown: list[str] = []
    in_diff = False
    for line in output.splitlines():
        if line.startswith(("Notice: ", "Info: ", "Warning: ", "Error: ", "Debug: ")):
            in_diff = False
            event = _EVENT.match(line)
            # An event without a text is followed by its difference, then comes again with one.
            if event is not None and not event[1].endswith(": "):
                events.append(event[1])
        elif line.startswith("--- "):
            in_diff = True
        if in_diff and line:
            shown.append(line)
    return events, cut(shown) or None


KIND = Kind(PuppetApply, PuppetApplyProvider)
