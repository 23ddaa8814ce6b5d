"""How runs on several nodes go, live: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from flock.ctl.output import Output, one_line
from flock.ctl.service import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """Where it is shown how runs go."""

    def goes_on(self, node: str, run_id: str | None, status: Mapping[str, Any]) -> None:
        """Show how far a node's run is.

        Args:
            node: the node's name.
            run_id: the run that is followed, None if it is not known.
            status: what its `flock_api.status` answered.
        """

    def did(self, node: str, event: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Show what a node's run did.

        Args:
            node: the node's name.
            event: what happened to a resource; see `flock.converge.events`.
            lines: what is to be read of it; none for what only moves on.
        """

    def ended(self, node: str, result: str) -> None:
        """Show how a node's run ended."""


class Lines:
    """Tells a line whenever there is something new of a node."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""

    def goes_on(self, node: str, run_id: str | None, status: Mapping[str, Any]) -> None:
        """Tell how far a node's run is, unless that was said before."""
        line = going_on(run_id, status)
        if self._told.get(node) != line:
            self._told[node] = line
            self._output.say(f"{node}: {line}")

    def did(self, node: str, event: Mapping[str, Any], lines: Sequence[str]) -> None:  # noqa: ARG002 - the lines say it
        """Tell what a node's run did."""
        for line in lines:
            self._output.say(f"{node}: {line}")

    def ended(self, node: str, result: str) -> None:
        """Tell how a node's run ended."""
        self._output.say(f"{node}: {result}")


class Bars:
    """A bar for each node, drawn on the terminal; how a run ended stays as a line above them."""

    def __init__(self, nodes: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._progress: RichProgress = RichProgress(
            TextColumn("{task.fields[node]}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {
            node: self._progress.add_task("asked", node=node, total=None) for node in nodes
        }

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self._progress.stop()

    def goes_on(self, node: str, run_id: str | None, status: Mapping[str, Any]) -> None:
        """Move the bar of a node."""
        if node in self._tasks:
            self._progress.update(
                self._tasks[node],
                completed=max(0, status["number"] - 1),
                total=status["of"] or None,
                description=one_line(going_on(run_id, status)),
            )

    def did(self, node: str, event: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Move the bar of a node, and leave lines above it."""
        if node in self._tasks and event.get("of"):
            self._progress.update(
                self._tasks[node],
                completed=max(0, event["number"] - 1),
                total=event["of"],
                description=one_line(f"{event['number']} of {event['of']}, {event['resource']}"),
            )
        for line in lines:
            self._print(f"{node}: {line}")

    def ended(self, node: str, result: str) -> None:
        """Turn the bar of a node into a line."""
        if node in self._tasks:
            self._progress.remove_task(self._tasks.pop(node))
        self._print(f"{node}: {result}")

    def _print(self, line: str) -> None:
        self._progress.console.print(one_line(line), markup=False, soft_wrap=True)


def progress_of(output: Output, nodes: Sequence[str]) -> Lines | Bars:
    """Return what shows the progress of runs on `nodes`, as standard error allows."""
    return Bars(nodes) if is_terminal() else Lines(output)


def going_on(run_id: str | None, status: Mapping[str, Any]) -> str:
    """Say in one line what a node is at: `2 of 5, file[/tmp/x]`."""
    running = status["running"]
    if running is None or (run_id is not None and running["run_id"] != run_id):
        behind = f" behind run {running['run_id']}" if running is not None else ""
        if running is None and status["acting"]:
            behind = f" behind {deed_of(status['acting'])}"
            if status["waiting"]:
                behind += f", {waits_for(status['waiting'])}"
        return f"run {run_id or ''} waits for its turn{behind}".replace("  ", " ")
    said = f"run {running['run_id']} has begun"
    if status["of"]:
        said = f"{status['number']} of {status['of']}"
        if status["resource"]:
            said += f", {status['resource']}"
    return f"{said}, {waits_for(status['waiting'])}" if status["waiting"] else said


def deed_of(acting: Mapping[str, Any]) -> str:
    """Say which action of a notice goes on, and whose notice it is."""
    return f"{acting['deed']} ({acting['asked_by']})"


def waits_for(waiting: Mapping[str, Any]) -> str:
    """Say what a run waits for, with the last answer, and the circle that it is in."""
    said = f"waits: {waiting['wait']}"
    if waiting["last"]:
        said += f": {waiting['last']}"
    return f"{said}; {waiting['circle']}" if waiting["circle"] else said
