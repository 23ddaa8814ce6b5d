"""What nodes report of runs, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flock.ctl.output import Output, one_line, printable


def summary(report: Mapping[str, Any]) -> str:
    """Say in one line how a run ended: `ok, 2 of 5 changed, 0.4 s`."""
    rows = report["resources"]
    counts = {state: sum(row["state"] == state for row in rows) for state in ("changed", "failed")}
    would = "would change" if report["why_run"] else "changed"
    if report["state"] == "failed" and not rows:
        parts = ["failed", "nothing was done"]
    else:
        parts = [report["state"], f"{counts['changed']} of {len(rows)} {would}"]
    if counts["failed"]:
        ignored = " and ignored" if report["state"] == "ok" else ""
        parts.append(f"{counts['failed']} failed{ignored}")
    parts.append(f"{report['seconds']:.1f} s")
    said = ", ".join(parts)
    return f"{said}: {report['error']}" if report["error"] else said


def resource_line(row: Mapping[str, Any], *, why_run: bool = False) -> str:
    """Say in one line what became of a resource."""
    state = row["state"]
    if state == "changed" and why_run:
        state = "would change"
    said = f"{row['resource']} {row['action']}: {state}"
    details = "; ".join(row["changes"]) if state != "failed" else row["error"]
    if state == "skipped":
        details = row["error"]
    return one_line(f"{said} ({details})" if details else said)


def beside_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what a run did beside its resources: locks that it did not get or lost, notices sent."""
    for lock in report["locks"]:
        if lock["state"] in ("not held", "lost"):
            holder = lock["holder"]
            who = f": {holder['owner']} has it since {holder['since']}" if holder else ""
            yield f"lock {lock['lockid']!r} {lock['state']}{who}"
    notice_to = "would notify" if report["why_run"] else "notice to"
    for notice in report["notices"]:
        yield f"{notice_to} {notice['to']}: {notice['action']} {notice['resource']}"


def diff_lines(event: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines of the differences that an event tells, set in, fit to be printed."""
    for diff in event.get("diffs", ()):
        yield from (f"    {printable(line)}" for line in diff.split("\n"))


def show_report(output: Output, report: Mapping[str, Any]) -> None:
    """Print what a run did: a line for each resource that was not right already."""
    for row in report["resources"]:
        if row["state"] != "unchanged":
            output.text(resource_line(row, why_run=report["why_run"]))
    for line in beside_lines(report):
        output.say(f"{report['node']}: {line}")
    output.say(f"{report['node']}: run {report['run_id']} {summary(report)}")
