"""Tell what a run does, step by step, to the log and to whoever listens.

An event is plain data: `event`, `node`, `run_id`, `time`, `why_run` (then a
resource is `changed` that would be), and

- `run queued` (on the thread of its caller; never for a run that starts at
  once), `run waiting` with the `holder` of the run lock, `run started` with
  `run_list`, `run ended` with the `report` and the `unwashed` sinks (None of
  a run that says nothing of what is still in use);
- `handler failed` with `moment` (`start`, `report`, `exception`), `handler`
  and `error`: something of the site's that is called then raised;
- `notification taken up` with `resource`, `action`, `notified_by`, `from_run`
  and `maybe_unchanged`: left by a run that did not come to its end;
- `resource started`, `resource changed`, `resource unchanged`, `resource
  skipped`, `resource failed`, `resource retried` with `number` and `of`, the
  fields of its row in the report, and `notified_by` if it was; but for those of
  a start or retry, `diffs` and `row`, its place in the report from 1;
- `resource waiting` with `resource`, `wait`, what it `asks` for, the `last`
  answer and `seconds`; `waits in circle` with the same and the `circle`, told
  on another thread than the run's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from registry.wall_clock import now_text

log = logging.getLogger("flock.converge")

_LEVELS = {"ok": logging.INFO, "cancelled": logging.WARNING}
"""How the end of a run is logged, by its state; any other is an error."""

Listener = Callable[[dict[str, Any]], None]


class Events:
    """The events of one node's runs; any thread may listen or tell."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event, on the thread of the run; returns what ends it."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    def tell(
        self, run_id: str, event: str, said: Mapping[str, Any], more: Sequence[Listener] = ()
    ) -> None:
        """Tell an event to all, and to `more`; a listener that fails spoils nothing."""
        told = {"event": event, "node": self._node, "run_id": run_id, "time": now_text(), **said}
        _write_to_log(told)
        for listener in (*self._listeners, *more):
            try:
                listener(told)
            except (Exception, SystemExit):
                log.exception("a listener failed at %r", event)


def _write_to_log(told: Mapping[str, Any]) -> None:
    """Write the events that people want to read into the log."""
    event, node = told["event"], told["node"]
    run, would = ("why-run", "would ") if told.get("why_run") else ("run", "")
    if event == "resource changed":
        changes = ", ".join(told["changes"])
        log.info("%s: %s %s: %s%s", node, told["resource"], told["action"], would, changes)
    elif event == "resource failed":
        log.error("%s: %s %s failed: %s", node, told["resource"], told["action"], told["error"])
    elif event == "resource waiting":
        log.info("%s: %s: %s: %s", node, told["resource"], told["wait"], told["last"])
    elif event == "lock asked for":
        log.info("%s: lock %r is asked for", node, told["lockid"])
    elif event == "waits in circle":
        log.warning("%s: %s: %s", node, told["wait"], told["circle"])
    elif event == "notification taken up":
        log.info(
            "%s: %s %s: was notified by %s in run %s",
            node,
            told["resource"],
            told["action"],
            told["notified_by"],
            told["from_run"],
        )
    elif event == "run waiting":
        log.info("%s: %s %s waits for %s", node, run, told["run_id"], told["holder"])
    elif event == "run started":
        run_list = ", ".join(told["run_list"])
        log.info("%s: %s %s started: %s", node, run, told["run_id"], run_list)
    elif event == "run ended":
        report = told["report"]
        why = f": {report['error']}" if report["error"] else ""
        log.log(
            _LEVELS.get(report["state"], logging.ERROR),
            "%s: %s %s %s after %s s%s",
            node,
            run,
            told["run_id"],
            report["state"],
            report["seconds"],
            why,
        )
