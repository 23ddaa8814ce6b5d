r"""Questions to node objects: `roles:web AND chef_environment:prod`, as in Chef.

Grammar: `field:value`, joined with `AND`, `OR`, `NOT` and brackets; two terms
side by side mean `OR`, in which `-term` and `NOT term` exclude and `+term` is
required. Values may be

- words, with `*` (any text) and `?` (one character); `field:*` is "has it",
  `*:*` is everything;
- phrases in quotes, in which nothing is special but the backslash;
- ranges, `[1 TO 5]` with and `{1 TO 5}` without the ends, `*` for open, and
  `>5`, `>=5`, `<5`, `<=5`; compared as numbers if all three are numbers, as
  text otherwise;
- `word~` or `word~1`: at most 2, or 1, letters differ.

A backslash makes the next character ordinary: `recipes:apache2\:\:mod_ssl`.
Upper and lower case differ. Fields are the flattened attributes of a node
(`flatten`), so `kernel_release:6*` and `release:6*` both find a kernel; a
field may have wildcards, too. A value that has spaces is found whole and by
each of its words. A query without any field is looked for within names, tags,
roles, fqdn and addresses.

Differs from Chef: an explicit `a OR NOT b` means what logic says, not "a but
not b". Regular expressions and `"a b"~3` are refused, `^2` changes nothing
because results have no order of weight.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from flock.errors import UsageError

Flat: TypeAlias = Mapping[str, Sequence[str]]
"""A node's fields: every value of each, as text."""

HEAD_FIELDS = frozenset(
    {
        "chef_environment",
        "environment",
        "name",
        "node",
        "recipe",
        "recipes",
        "role",
        "roles",
        "run_list",
        "tags",
    }
)
"""What is known from a node object's head alone."""

_ANYWHERE = ("name", "tags", "roles", "fqdn", "addresses")
"""Where a query without a field looks, for a part of a value: Chef's own and the name."""

_MAX_EDITS = 2
_MAX_LENGTH = 10_000
_making_parser = threading.Lock()
_WILDCARD = re.compile(r"(?<!\\)(?:\\\\)*[*?]")
_TOKEN = re.compile(r"\\(.)|([*?])|([^\\*?]+)|\\", re.DOTALL)

_Test: TypeAlias = Callable[[str], bool]
_Matcher: TypeAlias = Callable[[Flat, bool], bool | None]
"""Answers for a node's fields; where only those of its head are given, None for "cannot tell"."""


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed question; any thread may ask it.

    Attributes:
        text: as it was written.
        fields: the fields it asks for, as they were written.
    """

    text: str
    fields: frozenset[str]
    _matcher: _Matcher

    @property
    def head_only(self) -> bool:
        """True if heads of node objects are enough to answer."""
        return self.fields <= HEAD_FIELDS

    @property
    def wanted(self) -> frozenset[str] | None:
        """The fields that `flatten` must give for an answer; None for all."""
        if any(_WILDCARD.search(field) for field in self.fields):
            return None
        return frozenset(_literal(field) for field in self.fields)

    def matches(self, flat: Flat) -> bool:
        """Say whether a node with these fields is meant.

        Args:
            flat: what `flatten` and `flatten_head` made.
        """
        return self._matcher(flat, False) is True

    def may_match(self, head: Flat) -> bool:
        """Say whether a node with this head may be meant; False is certain.

        Args:
            head: what `flatten_head` made.
        """
        return self._matcher(head, True) is not False


def parse(query: str) -> Query:
    """Read a query.

    Raises:
        UsageError: it is none; the message says where and what to write.
    """
    from luqum.exceptions import ParseError

    parse_lucene = _lucene_parser()
    if not query.strip():
        raise UsageError("an empty query means nobody: write '*:*' for every node")
    if len(query) > _MAX_LENGTH:
        raise UsageError(f"a query has at most {_MAX_LENGTH} characters, this one {len(query)}")
    try:
        tree = parse_lucene(query)
        reader = _Reader()
        matcher = reader.read(tree, None)
    except ParseError as error:
        reason = _one_line(str(error)).removeprefix("Syntax error in input : ").rstrip("!")
        is_special = re.search(r"unexpected\s+'[\[\]:]'", reason)
        hint = r"; within a value write \: \[ \] for : [ ]" if is_special else ""
        raise UsageError(f"{query!r} is no query: {reason}{hint}") from None
    except RecursionError:
        raise UsageError(f"a query of {len(query)} characters is nested too deep") from None
    return Query(query, frozenset(reader.fields), matcher)


def _lucene_parser() -> Callable[[str], Any]:
    """Return luqum's parser, quietly.

    Python from 3.13 on keeps docstrings, which are its grammar, without their
    indentation, so the tables that luqum comes with are made anew: PLY would
    say so on standard error, and write beside luqum's own files.
    """
    from ply import yacc

    with _making_parser:
        make = yacc.yacc
        yacc.yacc = functools.partial(
            make, debug=False, write_tables=False, errorlog=yacc.NullLogger()
        )
        try:
            from luqum.thread import parse as parse_lucene
        finally:
            yacc.yacc = make
    return cast("Callable[[str], Any]", parse_lucene)


def flatten(
    attributes: Mapping[str, Any], wanted: frozenset[str] | None = None
) -> dict[str, list[str]]:
    """Turn nested attributes into fields as Chef's index has them.

    A value stands under its keys joined with `_`, and under its last key
    alone; the keys of a table are values of the table's field; the items of a
    list are values of the list's field.

    Args:
        attributes: plain data.
        wanted: the fields to give; None for all.
    """
    flat: dict[str, list[str]] = {}

    def add(joined: str, last: str, value: object) -> None:
        if wanted is None or joined in wanted:
            flat.setdefault(joined, []).append(_text(value))
        if last != joined and (wanted is None or last in wanted):
            flat.setdefault(last, []).append(_text(value))

    def walk(joined: str, last: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if joined:
                    add(joined, last, key)
                    walk(f"{joined}_{key}", key, inner)
                else:
                    walk(key, key, inner)
        elif isinstance(value, list):
            for inner in value:
                walk(joined, last, inner)
        else:
            add(joined, last, value)

    walk("", "", attributes)
    return flat


def flatten_head(
    *,
    name: str,
    environment: str,
    run_list: Iterable[str],
    roles: Iterable[str],
    recipes: Iterable[str],
    tags: Iterable[str],
) -> dict[str, list[str]]:
    """Return the fields of a node object's head.

    `role` and `recipe` are what the run list itself names, `roles` and
    `recipes` what it comes to; `cb::default` is found as `cb`, too.
    """
    items = list(run_list)
    named_roles = [item[5:-1] for item in items if item.startswith("role[")]
    named_recipes = [
        item[7:-1] if item.startswith("recipe[") else item
        for item in items
        if not item.startswith("role[")
    ]
    return {
        "name": [name],
        "node": [name],
        "chef_environment": [environment],
        "environment": [environment],
        "run_list": items,
        "role": named_roles,
        "roles": list(roles),
        "recipe": _both_names(named_recipes),
        "recipes": _both_names(recipes),
        "tags": [str(tag) for tag in tags],
    }


def _both_names(recipes: Iterable[str]) -> list[str]:
    """Return recipes by both names, if they have two: `cb` and `cb::default`."""
    names: dict[str, None] = {}
    for recipe in recipes:
        names[recipe] = None
        if recipe.endswith("::default"):
            names[recipe.removesuffix("::default")] = None
        elif "::" not in recipe:
            names[f"{recipe}::default"] = None
    return list(names)


def _text(value: object) -> str:
    """Write a value as Chef's index does."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# --- from the tree to a matcher ------------------------------------------------


class _Reader:
    """Turns a tree of luqum into a matcher, and notes the fields."""

    def __init__(self) -> None:
        self.fields: set[str] = set()

    def read(self, tree: Any, field: str | None) -> _Matcher:
        """Return the matcher of a part of the tree; `field` is the one it stands in."""
        from luqum import tree as kinds

        if isinstance(tree, kinds.SearchField):
            return self.read(tree.expr, str(tree.name))
        if isinstance(tree, kinds.Group | kinds.FieldGroup | kinds.Boost):
            return self.read(tree.children[0], field)
        if isinstance(tree, kinds.AndOperation):
            return _all_of([self.read(child, field) for child in tree.children])
        if isinstance(tree, kinds.UnknownOperation):
            return self._side_by_side(tree.children, field)
        if isinstance(tree, kinds.OrOperation):
            return _any_of([self.read(child, field) for child in tree.children])
        if isinstance(tree, kinds.Not | kinds.Prohibit):
            return _not(self.read(tree.children[0], field))
        if isinstance(tree, kinds.Plus):
            return self.read(tree.children[0], field)
        return self._leaf(tree, field)

    def _side_by_side(self, children: Sequence[Any], field: str | None) -> _Matcher:
        """Read terms that no operator joins: one of them, all with `+`, none with `-` or `NOT`."""
        from luqum import tree as kinds

        required, refused, wanted = [], [], []
        for child in children:
            matcher = self.read(child, field)
            if isinstance(child, kinds.Plus):
                required.append(matcher)
            elif isinstance(child, kinds.Not | kinds.Prohibit):
                refused.append(matcher)
            else:
                wanted.append(matcher)

        if wanted and not required:
            required.append(_any_of(wanted))
        return _all_of([*required, *refused])

    def _leaf(self, tree: Any, field: str | None) -> _Matcher:
        """Read what stands at the end of a branch."""
        if field is None:
            return self._anywhere(tree)
        if field == "*":
            if str(tree) == "*":
                return lambda _, __: True
            raise UsageError(f"'*:{tree}' names no field; only '*:*' is understood, for everything")
        self.fields.add(field)
        test = _value_test(tree)
        if not _WILDCARD.search(field):
            name = _literal(field)
            is_in_head = name in HEAD_FIELDS

            def matches(flat: Flat, head_only: bool) -> bool | None:
                if head_only and not is_in_head:
                    return None
                return any(map(test, flat.get(name, ())))

            return matches
        fits = _pattern(field).fullmatch

        def matches_any(flat: Flat, head_only: bool) -> bool | None:
            # The body may have further fields that fit.
            found = any(fits(key) and any(map(test, values)) for key, values in flat.items())
            return found or (None if head_only else False)

        return matches_any

    def _anywhere(self, tree: Any) -> _Matcher:
        """Read a value without a field: part of a value of certain fields."""
        from luqum import tree as kinds

        self.fields.update(_ANYWHERE)
        if isinstance(tree, kinds.Word):
            if str(tree) in ("&&", "||", "!"):
                raise UsageError(f"write AND, OR and NOT, not {tree}")
            within = _pattern(f"*{tree}*").fullmatch
            test: _Test = lambda text: within(text) is not None  # noqa: E731
        elif isinstance(tree, kinds.Phrase):
            part = _literal(str(tree)[1:-1])
            test = lambda text: part in text  # noqa: E731
        else:
            test = _value_test(tree)

        def matches(flat: Flat, head_only: bool) -> bool | None:
            found = any(any(map(test, flat.get(name, ()))) for name in _ANYWHERE)
            return found or (None if head_only else False)

        return matches


def _all_of(parts: Sequence[_Matcher]) -> _Matcher:
    def matches(flat: Flat, head_only: bool) -> bool | None:
        answer: bool | None = True
        for part in parts:
            one = part(flat, head_only)
            if one is False:
                return False
            answer = answer and one
        return answer

    return matches


def _any_of(parts: Sequence[_Matcher]) -> _Matcher:
    def matches(flat: Flat, head_only: bool) -> bool | None:
        answer: bool | None = False
        for part in parts:
            one = part(flat, head_only)
            if one:
                return True
            answer = None if one is None else answer
        return answer

    return matches


def _not(part: _Matcher) -> _Matcher:
    def matches(flat: Flat, head_only: bool) -> bool | None:
        one = part(flat, head_only)
        return None if one is None else not one

    return matches


def _value_test(tree: Any) -> _Test:
    """Return what says whether one value is meant."""
    from luqum import tree as kinds

    if isinstance(tree, kinds.Word):
        return _word_test(str(tree))
    if isinstance(tree, kinds.Phrase):
        phrase = " ".join(_literal(str(tree)[1:-1]).split())
        return lambda text: phrase == text or f" {phrase} " in f" {' '.join(text.split())} "
    if isinstance(tree, kinds.Range):
        return _range_test(
            _bound(tree.low),
            _bound(tree.high),
            with_low=tree.include_low,
            with_high=tree.include_high,
        )
    if isinstance(tree, kinds.From):
        return _range_test(_bound(tree.a), None, with_low=tree.include, with_high=True)
    if isinstance(tree, kinds.To):
        return _range_test(None, _bound(tree.a), with_low=True, with_high=tree.include)
    if isinstance(tree, kinds.Fuzzy):
        # Below 1 it is the likeness of old Lucene, which means its default of edits.
        degree = float(tree.degree)
        return _fuzzy_test(_literal(str(tree.term)), int(degree) if degree >= 1 else _MAX_EDITS)
    if isinstance(tree, kinds.Proximity):
        raise UsageError(f"{tree} is not understood: join single words with AND")
    if isinstance(tree, kinds.Regex):
        raise UsageError(f"{tree}: regular expressions are not understood, use * and ?")
    raise UsageError(f"{str(tree)!r} is not understood in a query")


def _word_test(word: str) -> _Test:
    if word == "*":
        return lambda _: True
    if not _WILDCARD.search(word):
        literal = _literal(word)
        return lambda text: text == literal or (" " in text and literal in text.split())
    fits = _pattern(word).fullmatch
    return lambda text: fits(text) is not None or (" " in text and any(map(fits, text.split())))


def _range_test(low: str | None, high: str | None, *, with_low: bool, with_high: bool) -> _Test:
    numbers = [None if bound is None else _number(bound) for bound in (low, high)]
    by_number = all(
        number is not None or bound is None
        for number, bound in zip(numbers, (low, high), strict=True)
    )

    def matches(text: str) -> bool:
        number = _number(text) if by_number else None
        if number is not None:
            return _between(number, numbers[0], numbers[1], with_low, with_high)
        return _between(text, low, high, with_low, with_high)

    return matches


def _between(value: Any, low: Any, high: Any, with_low: bool, with_high: bool) -> bool:
    if low is not None and not (value > low or (with_low and value == low)):
        return False
    return high is None or bool(value < high or (with_high and value == high))


def _bound(tree: Any) -> str | None:
    """Return a range's end as text, None for an open one."""
    text = str(tree).strip()
    if text == "*":
        return None
    return _literal(text[1:-1] if text.startswith('"') and len(text) > 1 else text)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fuzzy_test(word: str, edits: int) -> _Test:
    most = min(edits, _MAX_EDITS)
    return lambda text: any(_is_near(word, candidate, most) for candidate in {text, *text.split()})


def _is_near(word: str, other: str, most: int) -> bool:
    """Say whether at most so many letters must be added, left out or replaced."""
    if abs(len(word) - len(other)) > most:
        return False
    row = list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        above, row[0] = row[0], i
        for j, its in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != its))
    return row[-1] <= most


def _literal(text: str) -> str:
    """Take the backslashes off."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _pattern(text: str) -> re.Pattern[str]:
    """Make a regular expression of a word with wildcards.

    Its time grows with the length of what is matched, never faster: each
    stretch between two stars is found once, at its first place.
    """
    stretches = [""]
    for escaped, wildcard, plain in _TOKEN.findall(text):
        if wildcard == "*":
            stretches.append("")
        else:
            stretches[-1] += "." if wildcard else re.escape(escaped or plain or "\\")
    first, *others = stretches
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{stretch})" for stretch in others[:-1] if stretch)
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)


def _one_line(text: str) -> str:
    return " ".join(text.split())
