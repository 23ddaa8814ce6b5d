"""The folder with the cookbooks, and the roles and environments beside it."""

from __future__ import annotations

import glob
import re
import tomllib
from pathlib import Path
from typing import Any

from flock.converge.attributes import WRITABLE_LEVELS
from flock.converge.properties import nearest
from flock.converge.run_list import Role
from flock.errors import RecipeError

_TOML_LINE = re.compile(r"\(at line (\d+),")
_ROLE_KEYS = ("name", "description", "run_list", "default_attributes", "override_attributes")
_ENVIRONMENT_KEYS = ("name", "description", "default_attributes", "override_attributes")


class Cookbooks:
    """Finds what belongs to cookbooks: `cookbooks/<name>/{recipes,attributes,templates,files}`.

    Everything is read when it is asked for: what was just pushed counts in the
    next run. `roles/` and `environments/` stand beside the folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: dict[str, Path] = {}

    def fall_back_to(self, folder: Path) -> None:
        """Use the cookbooks of another folder for what is not in the first one."""
        for path in sorted(folder.iterdir()):
            self._kept.setdefault(path.name, path)

    def names(self) -> list[str]:
        """Return the cookbooks that are there, sorted."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )

    def recipe_path(self, recipe: str, where: str) -> Path:
        """Return the file of `cookbook::recipe`.

        Raises:
            RecipeError: no such cookbook or recipe; says what is near.
        """
        cookbook, _, name = recipe.partition("::")
        recipes = self.cookbook_path(cookbook, where) / "recipes"
        path = recipes / f"{name}.py"
        if not path.is_file() and cookbook in self._kept:
            path = self._kept[cookbook] / "recipes" / f"{name}.py"
        if not path.is_file():
            known = [each.stem for each in recipes.glob("*.py")]
            raise RecipeError(
                f"cookbook {cookbook!r} has no recipe {name!r}{nearest(name, known)}: no {path}"
                f"{_not_read(path)}",
                where,
            )
        return path

    def cookbook_path(self, cookbook: str, where: str) -> Path:
        """Return a cookbook's folder.

        Raises:
            RecipeError: it is not there; says what is near.
        """
        found = self._home(cookbook)
        if found is not None:
            return found
        if self.folder is None:
            raise RecipeError(f"no cookbook {cookbook!r}: no folder of cookbooks is set", where)
        near = nearest(cookbook, self.names()) if self.folder.is_dir() else ", which is no folder"
        raise RecipeError(f"no cookbook {cookbook!r} in {self.folder}{near}", where)

    def attribute_files(self, cookbook: str) -> list[Path]:
        """Return a cookbook's attribute files, `default.toml` first."""
        home = self._home(cookbook)
        if home is None:
            return []
        found = sorted((home / "attributes").glob("*.toml"))
        return sorted(found, key=lambda path: path.stem != "default")

    def attribute_tables(self, path: Path) -> dict[str, Any]:
        """Return what an attribute file says: tables by level.

        Raises:
            RecipeError: no TOML, or something outside the levels.
        """
        tables = read_toml(path)
        for key, value in tables.items():
            if key not in WRITABLE_LEVELS and not nearest(key, WRITABLE_LEVELS):
                written = f"[default.{key}]" if isinstance(value, dict) else "it below [default]"
                raise RecipeError(
                    f"{key!r} is no level of attributes: write {written}", _line_of(path, key)
                )
        _check_keys(tables, WRITABLE_LEVELS, path, "level of attributes")
        for level, table in tables.items():
            if not isinstance(table, dict):
                raise RecipeError(f"{level} must be a table", _line_of(path, level))
        return tables

    def library_files(self, cookbook: str) -> list[Path]:
        """Return a cookbook's library files, sorted by name."""
        home = self._home(cookbook)
        return [] if home is None else sorted((home / "libraries").glob("*.py"))

    def path(self, cookbook: str, folder: str, source: str) -> Path:
        """Return a template or file that came with a cookbook.

        Looked for in `<folder>/<source>`, then as older Chef cookbooks have
        it, in `<folder>/default/<source>`.

        Raises:
            RecipeError: it is in neither.
        """
        base = self.cookbook_path(cookbook, "") / folder
        bases = [base, *([self._kept[cookbook] / folder] if cookbook in self._kept else [])]
        for each in bases:
            for path in (each / source, each / "default" / source):
                if path.is_file():
                    return path
        known = [str(each.relative_to(base)) for each in base.rglob("*") if each.is_file()]
        raise RecipeError(f"cookbook {cookbook!r} has no {folder}/{source}{nearest(source, known)}")

    def role(self, name: str, where: str) -> Role:
        """Return a role.

        Raises:
            RecipeError: its file is not there, or wrong.
        """
        path = self._beside("roles", name)
        if path is None or not path.is_file():
            near = nearest(name, self._stems("roles"))
            place = "folder of roles" if path is None else f"{path}{_not_read(path)}"
            raise RecipeError(f"no role {name!r}{near}: no {place}", where)
        table = read_toml(path)
        _check_keys(table, _ROLE_KEYS, path, "key of a role")
        run_list = table.get("run_list", [])
        if not isinstance(run_list, list) or not all(isinstance(item, str) for item in run_list):
            raise RecipeError("run_list must be a list of texts", _line_of(path, "run_list"))
        return Role(
            name,
            tuple(run_list),
            _table(table, "default_attributes", path),
            _table(table, "override_attributes", path),
            {item: _line_of(path, item) for item in run_list},
        )

    def environment(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return an environment's default and override attributes.

        Without a folder of environments, and for `_default` without a file,
        they are empty.

        Raises:
            RecipeError: the folder has no such environment, or its file is wrong.
        """
        path = self._beside("environments", name)
        if path is None or not path.parent.is_dir():
            return {}, {}
        if not path.is_file():
            if name == "_default":
                return {}, {}
            near = nearest(name, self._stems("environments"))
            place = f"{path}{_not_read(path)}"
            raise RecipeError(f"no environment {name!r}{near}: no {place}", "environment")
        table = read_toml(path)
        _check_keys(table, _ENVIRONMENT_KEYS, path, "key of an environment")
        return (
            _table(table, "default_attributes", path),
            _table(table, "override_attributes", path),
        )

    def _home(self, cookbook: str) -> Path | None:
        """Return a cookbook's folder, None if it is not there."""
        if self.folder is not None and (self.folder / cookbook).is_dir():
            return self.folder / cookbook
        return self._kept.get(cookbook)

    def _beside(self, folder: str, name: str) -> Path | None:
        """Return a file beside the folder of cookbooks."""
        return None if self.folder is None else self.folder.parent / folder / f"{name}.toml"

    def _stems(self, folder: str) -> list[str]:
        """Return the names that a folder beside the cookbooks knows."""
        if self.folder is None:
            return []
        return [path.stem for path in (self.folder.parent / folder).glob("*.toml")]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecipeError: with the file and the line.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        # Without a line it is at the end of the document.
        line = found[1] if found else max(1, len(text.splitlines()))
        raise RecipeError(str(error), f"{path}:{line}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", str(path)) from None


def _not_read(path: Path) -> str:
    """Name what stands beside a file that is missing under its name, as Chef's `web.json` does."""
    others = sorted(each.name for each in path.parent.glob(f"{glob.escape(path.stem)}.*"))
    return f" ({', '.join(others)} beside it is not read)" if others else ""


def _check_keys(table: dict[str, Any], known: tuple[str, ...], path: Path, what: str) -> None:
    """Refuse keys that mean nothing."""
    for key in table:
        if key not in known:
            raise RecipeError(f"unknown {what}: {key!r}{nearest(key, known)}", _line_of(path, key))


def _table(table: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Return a table of a file, empty if it is not there."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise RecipeError(f"{key} must be a table", _line_of(path, key))
    return value


def _line_of(path: Path, text: str) -> str:
    """Return `file:line` of the first line that has this text; the parser keeps no places."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text in line:
            return f"{path}:{number}"
    return str(path)
