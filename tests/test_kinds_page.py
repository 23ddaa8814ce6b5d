"""The page about kinds, and the words of recipes, hold every kind there is."""

from __future__ import annotations

import kinds_page
import pytest

import flock.recipe
from flock.converge.kinds import stock_kind_names
from tests.kitchens import states


def test_the_page_says_what_the_kinds_are():
    assert kinds_page.PAGE.read_text(encoding="utf-8") == kinds_page.page(), (
        "docs/kinds.md is stale: run scripts/kinds_page.py"
    )


@pytest.mark.parametrize("name", stock_kind_names())
def test_every_kind_is_a_word_that_type_checkers_know(name):
    assert name in flock.recipe.__all__


def test_the_kind_of_the_example_works(site):
    library = kinds_page.page().partition("```python\n")[2].partition("```")[0]
    site.write("cookbooks/site/libraries/motd.py", library)
    path = site.recipe("", "site::default")
    path.write_text(
        f"from flock.recipe import motd\nmotd('x', path='{site.folder}/motd', text='hi')\n"
    )

    assert states(site.converge("site", why_run=True)) == ["changed"]
    assert not (site.folder / "motd").exists()
    assert states(site.converge("site")) == ["changed"]
    assert site.text("motd") == "hi"
    assert states(site.converge("site")) == ["unchanged"]
