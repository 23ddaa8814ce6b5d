"""`git`: a working tree of a repository, at a revision."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flock.converge.files import Ownership
from flock.converge.programs import needed_program
from flock.converge.provider import Change, Kind, Provider
from flock.converge.resource import Resource
from flock.errors import CommandFailed

_CREDENTIALS = re.compile(r"\b((?:https?|ftps?)://)[^/@\s]+@", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass
class Git(Resource):
    """A working tree of a repository.

    `sync` brings it to the revision, whatever was changed in tracked files;
    `checkout` makes it if it is not there and leaves it then; `export` the
    same, without the history. A tree is made beside its place and moved there.

    Attributes:
        destination: where; the resource's name by default.
        repository: a URL or path.
        revision: a branch, tag or full commit; `HEAD` for the repository's own branch.
        remote: what the repository is called in the tree.
        depth: commits of history that are fetched; None for all.
        enable_submodules: bring its submodules too.
        user, group: whom git runs as, and whose the tree is.
        environment: variables beside the node's own, as `GIT_SSH_COMMAND`.
        timeout: seconds that a step may take.
    """

    kind: ClassVar[str] = "git"
    actions: ClassVar[tuple[str, ...]] = ("sync", "checkout", "export")

    destination: str = ""
    repository: str = ""
    revision: str = "HEAD"
    remote: str = "origin"
    depth: int | None = None
    enable_submodules: bool = False
    user: str | None = None
    group: str | None = None
    environment: dict[str, str] | None = None
    timeout: float = 1800.0

    def check(self) -> None:
        """Fill in the destination; refuse what git would take for an option."""
        self.destination = self.destination or self.name
        if not os.path.isabs(self.destination) or os.path.normpath(self.destination) == "/":
            raise ValueError(f"destination must be an absolute path, not {self.destination!r}")
        if not self.repository:
            raise ValueError("repository is missing: a URL or path")
        for what in ("repository", "revision", "remote"):
            value = getattr(self, what)
            if not value or value.startswith("-") or not value.isprintable():
                raise ValueError(f"{what} cannot be {value!r}")
        if ":" not in self.repository and not os.path.isabs(self.repository):
            raise ValueError(f"repository must be a URL or absolute, not {self.repository!r}")
        if re.search(r"[\s~^:?*\[\\]|\.\.", self.revision):
            raise ValueError(f"revision must be a branch, tag or commit, not {self.revision!r}")
        if self.depth is not None and self.depth < 1:
            raise ValueError("depth must be at least 1")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0 s")


class GitProvider(Provider[Git]):
    """Names the changes a working tree needs."""

    def sync(self, wanted: Git) -> Iterator[Change]:
        """Name what brings the tree to the revision."""
        path = Path(wanted.destination)
        if _is_vacant(path):
            yield from self._make(wanted, path, keep_history=True)
            return
        if needed_program(self.machine, "git", "apt-get install git") is None:
            yield Change(f"bring {path} to {wanted.revision}", lambda: None)
            return
        stands = self._head(wanted)
        commit = self._resolve(wanted)
        if self._remote_url(wanted) != wanted.repository:
            yield Change(
                f"let {wanted.remote} of {path} be {_public(wanted.repository)}",
                lambda: self._set_remote(wanted),
            )
        if stands != commit or self._is_dirty(wanted):
            text = f"bring {path} from {(stands or 'nothing')[:12]} to {commit[:12]}"
            if stands == commit:
                text = f"undo changes of tracked files in {path}, at {commit[:12]}"
            yield Change(text, lambda: self._bring(wanted, commit))

    def checkout(self, wanted: Git) -> Iterator[Change]:
        """Name what makes the tree if it is not there."""
        path = Path(wanted.destination)
        if _is_vacant(path):
            yield from self._make(wanted, path, keep_history=True)

    def export(self, wanted: Git) -> Iterator[Change]:
        """Name what makes the tree without its history if it is not there."""
        path = Path(wanted.destination)
        if _is_vacant(path):
            yield from self._make(wanted, path, keep_history=False)

    # --- looking

    def _head(self, wanted: Git) -> str | None:
        """Return the commit that the tree stands at; None in a tree without one.

        Raises:
            FileExistsError: what is there is no working tree.
        """
        if not Path(wanted.destination, ".git").exists():
            raise FileExistsError(f"{wanted.destination} is there and is no working tree of git")
        done = self._git(
            wanted, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", returns=(0, 1)
        )
        return done.strip() or None

    def _resolve(self, wanted: Git) -> str:
        """Return the commit that the revision means.

        Raises:
            CommandFailed: the repository does not answer, or has no such revision.
        """
        if _COMMIT.fullmatch(wanted.revision):
            return wanted.revision
        name = wanted.revision
        answer = self._git(
            wanted, "ls-remote", "--", wanted.repository, name, f"{name}^{{}}", at="/"
        )
        found = {
            reference: commit
            for commit, _, reference in (line.partition("\t") for line in answer.splitlines())
        }
        # The commit of an annotated tag is what its `^{}` line names.
        for reference in (
            name,
            f"refs/tags/{name}^{{}}",
            f"refs/tags/{name}",
            f"refs/heads/{name}",
        ):
            if reference in found:
                return found[reference]
        raise CommandFailed(
            f"{_public(wanted.repository)} has no branch or tag {name!r}"
            " (a commit is written in full)"
        )

    def _remote_url(self, wanted: Git) -> str:
        """Return the repository that the tree belongs to; empty if it has none."""
        key = f"remote.{wanted.remote}.url"
        return self._git(wanted, "config", "--get", key, returns=(0, 1)).strip()

    def _is_dirty(self, wanted: Git) -> bool:
        """Say whether tracked files are other than in the commit."""
        arguments = ["status", "--porcelain", "--untracked-files=no"]
        return bool(self._git(wanted, *arguments).strip())

    # --- doing

    def _make(self, wanted: Git, path: Path, *, keep_history: bool) -> Iterator[Change]:
        """Name what makes a tree where none is."""
        if not path.parent.is_dir() and not self.machine.why_run:
            raise FileNotFoundError(f"the directory {path.parent} does not exist")
        verb = "check out" if keep_history else "export"
        if needed_program(self.machine, "git", "apt-get install git") is None:
            text = f"{verb} {_public(wanted.repository)} at {wanted.revision} to {path}"
            yield Change(text, lambda: None)
            return
        commit = self._resolve(wanted)
        yield Change(
            f"{verb} {_public(wanted.repository)} at {commit[:12]} to {path}",
            lambda: self._clone(wanted, path, commit, keep_history=keep_history),
        )

    def _clone(self, wanted: Git, path: Path, commit: str, *, keep_history: bool) -> None:
        """Make a tree beside its place, then move it there."""
        # Always the same name: what a run that died has left is taken away by the next.
        beside = path.with_name(f".{path.name[:200]}.flock-git")
        if beside.exists():
            shutil.rmtree(beside)
        beside.mkdir()
        at = str(beside)
        try:
            # Who runs git need not be allowed to write in the folder around it.
            Ownership.of(wanted.user, wanted.group, None).apply_to(beside)
            self._git(wanted, "init", "--quiet", at=at)
            self._git(wanted, "remote", "add", wanted.remote, wanted.repository, at=at)
            self._bring(wanted, commit, at=at)
            if not keep_history:
                shutil.rmtree(beside / ".git")
            beside.rename(path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _bring(self, wanted: Git, commit: str, *, at: str = "") -> None:
        """Fetch what is missing and let the tree be as the commit."""
        at = at or wanted.destination
        depth = [] if wanted.depth is None else ["--depth", str(wanted.depth)]
        fetch = ["fetch", "--quiet", "--force", *depth, wanted.remote]
        if not _COMMIT.fullmatch(wanted.revision):
            self._git(wanted, *fetch, wanted.revision, at=at)
        elif not self._has(wanted, commit, at):
            # Not every server hands out a commit by its name: all branches and tags have it.
            try:
                self._git(wanted, *fetch, commit, at=at)
            except CommandFailed:
                everything = ["fetch", "--quiet", "--force", "--tags", wanted.remote]
                branches = f"+refs/heads/*:refs/remotes/{wanted.remote}/*"
                self._git(wanted, *everything, branches, at=at)
        self._git(wanted, "checkout", "--quiet", "--force", "--detach", commit, "--", at=at)
        if wanted.enable_submodules:
            update = ["submodule", "update", "--quiet", "--init", "--recursive", "--force"]
            self._git(wanted, "submodule", "sync", "--quiet", "--recursive", at=at)
            self._git(wanted, *update, *depth, at=at)

    def _has(self, wanted: Git, commit: str, at: str) -> bool:
        """Say whether a commit is there already."""
        kind = self._git(wanted, "cat-file", "-t", commit, at=at, returns=(0, 1, 128))
        return kind.strip() == "commit"

    def _set_remote(self, wanted: Git) -> None:
        """Let the tree belong to the repository."""
        self._git(wanted, "config", f"remote.{wanted.remote}.url", wanted.repository)

    def _git(
        self, wanted: Git, *arguments: str, at: str = "", returns: tuple[int, ...] = (0,)
    ) -> str:
        """Run git in the tree, or at a place, and return what it wrote."""
        program = needed_program(self.machine, "git", "apt-get install git")
        assert program is not None
        try:
            done = self.machine.run(
                [program, *arguments],
                returns=returns,
                cwd=at or wanted.destination,
                user=wanted.user,
                group=wanted.group,
                environment={
                    # Nobody is there to type a password.
                    "GIT_TERMINAL_PROMPT": "0",
                    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
                    "LC_ALL": "C",
                    **(wanted.environment or {}),
                },
                timeout=wanted.timeout,
            )
        except CommandFailed as error:
            raise CommandFailed(_public(str(error))) from None
        return done.stdout


def _public(text: str) -> str:
    """Return text in which no URL says who asks, and with which password or token."""
    return _CREDENTIALS.sub(r"\1…@", text)


def _is_vacant(path: Path) -> bool:
    """Say whether nothing is there, or an empty directory."""
    try:
        return next(path.iterdir(), None) is None
    except FileNotFoundError:
        return True


KIND = Kind(Git, GitProvider)
