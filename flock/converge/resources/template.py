"""`template`: a file whose content is written by a Jinja2 template of the cookbook."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import jinja2

from flock.converge.files import stat_or_none
from flock.converge.mistakes import mistake_text
from flock.converge.placed_file import PlacedFile, content_changes, removal_changes
from flock.converge.properties import nearest
from flock.converge.provider import Change, CookbookFiles, Kind, Provider
from flock.errors import RecipeError

_FOLDER = "templates"


@dataclass
class Template(PlacedFile):
    """A file that should hold what its template says.

    The template sees `variables` and `node`, the node's attributes:
    `{{ node.kernel.release }}`. A variable that is missing is an error with the
    template's line, never an empty text. It may include and extend other
    templates of its cookbook.

    Attributes:
        source: the template below the cookbook's `templates/`; by default the
            file's name with `.j2`.
        cookbook: whose template; that of the recipe by default.
        variables: what the template sees beside `node`.
    """

    kind: ClassVar[str] = "template"
    actions: ClassVar[tuple[str, ...]] = ("create", "create_if_missing", "delete")

    source: str = ""
    cookbook: str = ""
    variables: dict[str, Any] | None = None

    def check(self) -> None:
        """Fill in the source; refuse variables that would hide the node."""
        super().check()
        self.source = self.source or f"{Path(self.path).name}.j2"
        for name in self.variables or {}:
            if not name.isidentifier() or name == "node":
                raise ValueError(f"variables cannot have the name {name!r}")


class TemplateProvider(Provider[Template]):
    """Names the changes a file from a template needs."""

    def create(self, wanted: Template) -> Iterator[Change]:
        """Name what makes the file as its template says; one step for a crash."""
        content = self._render(wanted).encode()
        yield from content_changes(Path(wanted.path), content, wanted.ownership(self.machine))

    def create_if_missing(self, wanted: Template) -> Iterator[Change]:
        """Name what makes the file if nothing is at its place."""
        if not os.path.lexists(wanted.path):
            yield from self.create(wanted)

    def delete(self, wanted: Template) -> Iterator[Change]:
        """Name the removal of the file."""
        yield from removal_changes(Path(wanted.path))

    def _render(self, wanted: Template) -> str:
        """Return what the template says.

        Raises:
            RecipeError: it is not there or wrong, or a variable is missing;
                with the template's file and line.
        """
        cookbook = wanted.cookbook or wanted.home_cookbook
        variables: Mapping[str, Any] = {
            **(wanted.variables or {}),
            "node": self.machine.attributes,
        }
        files = cast(Hashable, self.machine.files)
        return _templates(files, cookbook).render(wanted.source, variables)


class _Missing(jinja2.StrictUndefined):
    """What is not there: an error as soon as it is used, and one that names our tables as such."""

    @property
    def _undefined_message(self) -> str:
        table = self._undefined_obj
        if isinstance(table, Mapping) and self._undefined_hint is None:
            return (
                f"there is no {self._undefined_name!r}{nearest(str(self._undefined_name), table)}"
            )
        return super()._undefined_message


class _Templates(jinja2.BaseLoader):
    """The templates of one cookbook; one that was changed meanwhile is read again."""

    def __init__(self, files: CookbookFiles, cookbook: str) -> None:
        self._files = files
        self._cookbook = cookbook
        self._paths: set[str] = set()
        # What is written are configuration files: nothing is to be escaped for HTML.
        self._environment = jinja2.Environment(  # noqa: S701
            loader=self,
            undefined=_Missing,
            keep_trailing_newline=True,
            cache_size=1000,
        )

    def get_source(
        self,
        environment: jinja2.Environment,  # noqa: ARG002 - the loader's signature
        template: str,
    ) -> tuple[str, str, Callable[[], bool]]:
        """Return a template's text, its file, and a function that says if it is still so."""
        path = self._files.path(self._cookbook, _FOLDER, template)
        state = _state(path)
        self._paths.add(str(path))
        return _text_of(path), str(path), lambda: _state(path) == state

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return what a template says.

        Raises:
            RecipeError: with the template's file and line.
        """
        try:
            return self._environment.get_template(source).render(variables)
        except RecipeError as error:
            if error.where:
                raise
            # Raised by ourselves, for a template that another one includes.
            raise RecipeError(str(error), self._place(error)) from None
        except jinja2.TemplateSyntaxError as error:
            where = f"{error.filename or error.name}:{error.lineno}"
            raise RecipeError(str(error.message), where) from error
        except jinja2.TemplateError as error:
            raise RecipeError(str(error), self._place(error)) from error
        except Exception as error:
            raise RecipeError(mistake_text(error), self._place(error)) from error

    def _place(self, error: Exception) -> str:
        """Return `file:line` of an error: Jinja2 writes the templates' lines into the traceback."""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename in self._paths:
                return f"{frame.filename}:{frame.lineno}"
        return ""


@functools.lru_cache(maxsize=64)
def _templates(files: Hashable, cookbook: str) -> _Templates:
    """Return the templates of a cookbook; each is compiled when it is first used."""
    return _Templates(cast(CookbookFiles, files), cookbook)


def _text_of(path: Path) -> str:
    """Return a template's text.

    Raises:
        RecipeError: it is none; with its file and line.
    """
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"byte 0x{content[error.start]:02x} is no UTF-8 text"
        raise RecipeError(text, f"{path}:{line}") from None


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what differs as soon as a file was changed."""
    found = stat_or_none(path)
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


KIND = Kind(Template, TemplateProvider)
