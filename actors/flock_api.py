"""`flock_api`: lets other nodes order a converge here and ask how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flock.actor import Actor
from flock.converge.kitchen import Kitchen
from flock.converge.locks import LockWish
from flock.converge.run import Run
from flock.errors import UsageError
from flock.future import Future
from flock.run_chains import RunChains


class FlockApi(Actor):
    """Lets other nodes order a converge here and ask how it goes.

    It never converges on its own thread: a run takes minutes, and an actor
    that is busy for minutes cannot answer `active`.
    """

    survives_tells: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("kitchen", "chains")

    def __init__(self, kitchen: Kitchen, chains: RunChains) -> None:
        """Answer for a kitchen; `chains` knows on whose behalf its runs work."""
        super().__init__()
        self._kitchen = kitchen
        self._chains = chains

    def run_chef(
        self,
        wait: bool = False,
        override_run_list: Sequence[str] | None = None,
        why_run: bool = False,
        lock: str | None = None,
    ) -> dict[str, Any] | Future[dict[str, Any]]:
        """Order a converge; while one runs exactly one more is queued.

        Who wants the same as the queued run joins it.

        Args:
            wait: answer when the run has ended instead of at once.
            override_run_list: run this instead of the node's own run list.
            why_run: name the changes, make none.
            lock: the lock that the run takes first, however long that takes,
                and holds to its end.

        Returns:
            The run as plain data, with `run_id` and `state` (`queued` or
            `running`); with `wait` its report, also when it failed.

        Raises:
            BusyError: another kind of run is queued; says its id.
            DeadlockError: with `wait`, the call came from the run going on here.
        """
        if isinstance(override_run_list, str):
            override_run_list = [override_run_list]

        def order() -> Run:
            return self._kitchen.order_run(
                self.caller or "this node",
                override_run_list=override_run_list,
                why_run=why_run,
                lock=None if lock is None else LockWish(str(lock), None, reason="a run"),
            )

        if not wait:
            return order().as_data()
        report = self.later()
        self._chains.order_and_wait(order).on_ended(report.set)
        return report

    def active(self) -> bool:
        """Say whether a run was accepted and is not over yet."""
        return self._kitchen.active()

    def status(self) -> dict[str, Any]:
        """Return what is going on: the running and the queued run, resource n of m."""
        return self._kitchen.status()

    def last_run(self) -> dict[str, Any] | None:
        """Return the report of the last run that ended, None if there was none."""
        return self._kitchen.last_run()

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the heads of the last runs, the newest first."""
        return self._kitchen.runs(limit)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of one run as it stands, None if it is not kept."""
        return self._kitchen.run(run_id)

    def cancel(self, run_id: str | None = None, reason: str = "") -> dict[str, Any] | None:
        """End a run: its command is killed within 5 s, its waits end.

        Args:
            run_id: which one; None for the one that runs, else the queued one.
            reason: for the report.

        Returns:
            The run, None if no such run goes on.
        """
        why = f"cancelled by {self.caller or 'this node'}" + (f": {reason}" if reason else "")
        run = self._kitchen.cancel(run_id, reason=why)
        return None if run is None else run.as_data()

    def node(self, path: str | None = None) -> Any:
        """Return attributes of this node as plain data, without the sensitive ones.

        Args:
            path: dotted keys and indices, `kernel.release`; None for all.

        Raises:
            LookupError: names the first key that is missing.
        """
        if path is not None and not isinstance(path, str):
            raise UsageError("a path is text, as 'kernel.release'")
        return self._kitchen.node_attributes(path)

    def node_hash(self) -> dict[str, Any]:
        """Return all attributes of this node as plain data, without the sensitive ones."""
        attributes: dict[str, Any] = self._kitchen.node_attributes(None)
        return attributes
