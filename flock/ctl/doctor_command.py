"""`flockctl doctor`: what is wrong here, or on the way to a node, and how to mend it."""

from __future__ import annotations

import click

from flock.ctl.options import CommandLine, open_within, pass_line, reachable
from flock.ctl.output import Ended, shared_code


@click.command()
@click.argument("node", required=False)
@reachable
@pass_line
def doctor(line: CommandLine, node: str | None) -> None:
    """Look at this machine's way into the flock; with NODE also at the way there and back.

    Each thing is ok, or its cause and the mend are named; what depends on
    something that is wrong is left out. With --json a row for each: check, ok,
    found, mend. Exits 0 only if all is ok.
    """
    from flock.doctor import examine

    name = None if node is None else line.talk_to(node)
    output, findings = line.output, []
    for finding in examine(line.given, name, open_within()):
        findings.append(finding)
        if not output.wants_json:
            output.text(f"{'ok  ' if finding.ok else 'BAD '} {finding.check}: {finding.found}")
            if finding.mend:
                output.text(f"     mend: {finding.mend}")
    if output.wants_json:
        output.value([finding.as_row() for finding in findings])
    wrong = [finding.check for finding in findings if not finding.ok]
    if wrong:
        output.say(f"{len(wrong)} of {len(findings)} are not ok: {', '.join(wrong)}")
    raise Ended(shared_code(finding.code for finding in findings))
