"""Copies of cookbooks that a wash may need when the cookbooks themselves are gone.

Each copy is a folder named after the hash of what is in it, and holds the
wash recipe's whole cookbook, with those that recipe includes by literal names.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flock.converge.cookbooks import Cookbooks
from flock.converge.run_list import full_recipe_name
from flock.errors import RecipeError

log = logging.getLogger("flock.converge")

_LEFT_OUT = ("__pycache__", ".git")


class KeptCookbooks:
    """The copies of one node; used by one run at a time."""

    def __init__(self, folder: Path, live: Cookbooks) -> None:
        """Look into a folder, which is made when something is kept.

        Args:
            folder: where the copies lie.
            live: the cookbooks that are copied.
        """
        self._folder = folder
        self._live = live

    def folder(self, digest: str) -> Path | None:
        """Return the folder of cookbooks with this hash, None if there is none."""
        path = self._folder / digest
        return path if digest.isalnum() and path.is_dir() else None

    def digest(self, recipe: str, where: str) -> str:
        """Return the hash of what would be kept for a recipe now.

        Raises:
            RecipeError: there is no such recipe.
        """
        return _digest(self._needed(recipe, where))

    def keep(self, recipe: str, where: str) -> str:
        """Keep what a recipe needs; returns the hash of what lies there then.

        A process that dies meanwhile leaves no half copy under a hash.

        Raises:
            RecipeError: there is no such recipe.
            OSError: it could not be copied.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self._folder) as beside:
            copied: dict[str, Path] = {}
            for cookbook, path in self._needed(recipe, where, warn=True).items():
                copied[cookbook] = Path(beside) / "cookbooks" / cookbook
                shutil.copytree(path, copied[cookbook], ignore=_left_out)
            digest = _digest(copied)
            if self.folder(digest) is None:
                (Path(beside) / "cookbooks").rename(self._folder / digest)
        return digest

    def forget_all_but(self, digests: Iterable[str]) -> None:
        """Remove copies that no record names any more."""
        wanted = set(digests)
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _needed(self, recipe: str, where: str, *, warn: bool = False) -> dict[str, Path]:
        """Return the cookbooks that a recipe needs, by name, as its text says."""
        needed: dict[str, Path] = {}
        seen: set[str] = set()
        waiting = [(recipe, where)]
        while waiting:
            name, asked = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            cookbook = name.partition("::")[0]
            try:
                path = self._live.recipe_path(name, asked)
            except RecipeError as error:
                if name == recipe:
                    raise
                if warn:
                    log.warning("%s is not kept for %s: %s", name, recipe, error)
                continue
            needed[cookbook] = self._live.cookbook_path(cookbook, asked)
            for included, place in _included(path, cookbook):
                if included is not None:
                    waiting.append((included, place))
                elif warn:
                    log.warning(
                        "%s: include_recipe with a computed name: what it names is not kept"
                        " for the day when %s is gone",
                        place,
                        recipe,
                    )
        return needed


def _included(path: Path, cookbook: str) -> Iterator[tuple[str | None, str]]:
    """Return each name that a recipe's `include_recipe` calls give, None for a computed one."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"syntax error: {error}", str(path)) from None
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        word = call.func
        said = word.id if isinstance(word, ast.Name) else getattr(word, "attr", "")
        if said != "include_recipe":
            continue
        place = f"{path}:{call.lineno}"
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield full_recipe_name(argument.value, place, inside=cookbook), place
            else:
                yield None, place


def _files(home: Path) -> Iterator[Path]:
    """Return the files below a folder, through links, as they are copied."""
    for folder, folders, names in os.walk(home, followlinks=True):
        left_out = _left_out(folder, [*folders, *names])
        folders[:] = [name for name in folders if name not in left_out]
        yield from (Path(folder) / name for name in names if name not in left_out)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Return what of a folder is not kept: links to nowhere, as editors leave them; pipes."""

    def is_kept(name: str) -> bool:
        path = Path(folder) / name
        return name not in _LEFT_OUT and (path.is_file() or path.is_dir())

    return {name for name in names if not is_kept(name)}


def _digest(cookbooks: Mapping[str, Path]) -> str:
    """Return the hash of the files of some cookbooks, their names included."""
    whole = hashlib.sha256()
    for cookbook in sorted(cookbooks):
        home = cookbooks[cookbook]
        for path in sorted(_files(home)):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(f"{cookbook}/{path.relative_to(home)}\0{content}\n".encode())
    return whole.hexdigest()[:32]
