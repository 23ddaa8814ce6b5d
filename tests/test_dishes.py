"""Dishes: what is washed, when, how often; and what is left alone."""

from __future__ import annotations

import itertools
import os
import shutil

import pytest

from tests.kitchens import failure, rows, states


def dish_and_sink(site, *, action="use", sink="default", wash="cb::wash"):
    """Write `cb::dish`, `cb::sink`, the watched `cb::daemon` and its wash recipe."""
    site.recipe(f"dishes_dish('cb::daemon', wash_recipe='{wash}', sink='{sink}')", "cb::dish")
    site.recipe("dishes_dish('cb::daemon', action='toss')", "cb::toss")
    site.recipe("dishes_sink('default')", "cb::sink")
    site.recipe("log('daemon')", "cb::daemon")
    site.recipe("include_recipe('::daemon')", "cb::wrapper")
    site.recipe("execute('echo washed >> {here}/washed')", "cb::wash")


def record(kitchen, name="cb::daemon"):
    """Return the row of a dish, None if there is none."""
    return next((row for row in kitchen.dishes() if row["name"] == name), None)


def converge(kitchen, *run_list, **options):
    """Run with this run list as the node's own."""
    kitchen.set_run_list(run_list)
    return kitchen.converge("the test", **options)


def sink_state(report):
    """Return what became of the sink."""
    (state,) = [state for name, _, state in rows(report) if name.startswith("dishes_sink")]
    return state


# --- the table ---------------------------------------------------------------------

PRESENCE = {"present": ["cb::daemon"], "included": ["cb::wrapper"], "absent": []}
EXECUTED = {
    "present": ["cb::daemon"],
    "included": ["cb::wrapper", "cb::daemon"],
    "absent": [],
}
WASHED = ("execute[echo washed >> {here}/washed]", "run", "changed")
TABLE = list(
    itertools.product(
        PRESENCE,
        ("wash present", "wash absent"),
        ("default", "other"),
        ("use", "toss"),
        ("used before", "new"),
    )
)


@pytest.mark.parametrize(("recipe", "wash", "sink", "action", "history"), TABLE)
def test_what_is_executed_and_what_changes_in_a_first_and_a_second_run(
    site, recipe, wash, sink, action, history
):
    dish_and_sink(site, sink=sink)
    kitchen = site.kitchen()
    if history == "used before":
        assert rows(converge(kitchen, "cb::dish", "cb::daemon")) == [
            ("dishes_dish[cb::daemon]", "use", "changed"),
            ("log[daemon]", "write", "unchanged"),
        ]
    head = "cb::dish" if action == "use" else "cb::toss"
    wash_listed = ["cb::wash"] if wash == "wash present" else []
    run_list = [head, *PRESENCE[recipe], *wash_listed, "cb::sink"]
    executed = [head, *EXECUTED[recipe], *wash_listed, "cb::sink"]
    own = [("log[daemon]", "write", "unchanged")] if recipe != "absent" else []
    washed = (WASHED[0].replace("{here}", str(site.folder)), *WASHED[1:])
    own += [washed] if wash_listed else []
    is_dirty = (recipe, wash, action) == ("absent", "wash absent", "use")
    is_washed = is_dirty and sink == "default"

    first, second = converge(kitchen, *run_list), converge(kitchen, *run_list)

    assert (first["state"], second["state"]) == ("ok", "ok")
    assert first["recipes"] == executed + (["cb::wash"] if is_washed else [])
    assert second["recipes"] == executed
    record_changes = (action == "use") == (history == "new")
    assert rows(first) == [
        ("dishes_dish[cb::daemon]", action, "changed" if record_changes else "unchanged"),
        *own,
        ("dishes_sink[default]", "wash", "changed" if is_washed else "unchanged"),
        *([washed, ("dishes_dish[cb::daemon]", "wash", "changed")] if is_washed else []),
    ]
    assert rows(second) == [
        ("dishes_dish[cb::daemon]", action, "unchanged"),
        *own,
        ("dishes_sink[default]", "wash", "unchanged"),
    ]
    if action == "toss":
        assert kitchen.dishes() == []
    else:
        (row,) = kitchen.dishes()
        assert row["state"] == ("washed" if is_washed else "dirty" if is_dirty else "clean")
        assert (row["washed_at"] or "").endswith("Z") == is_washed


# --- washing -----------------------------------------------------------------------


def test_wash_recipes_converge_right_after_the_sink_in_order_of_first_use(site):
    for name in ("b", "a"):
        site.recipe(f"log('{name}')", f"cb::wash_{name}")
    site.recipe(
        """
        dishes_dish('z', recipe='cb::b', wash_recipe='cb::wash_b')
        dishes_dish('y', recipe='cb::a', wash_recipe='cb::wash_a')
    """,
        "cb::use",
    )
    site.recipe("dishes_sink('default')\nlog('after')")
    kitchen = site.kitchen()
    converge(kitchen, "cb::use", "cb::wash_a", "cb::wash_b")

    report = converge(kitchen, "cb")

    assert report["state"] == "ok"
    assert rows(report) == [
        ("dishes_sink[default]", "wash", "changed"),
        ("log[b]", "write", "unchanged"),
        ("dishes_dish[z]", "wash", "changed"),
        ("log[a]", "write", "unchanged"),
        ("dishes_dish[y]", "wash", "changed"),
        ("log[after]", "write", "unchanged"),
    ]
    assert report["resources"][0]["changes"] == [
        "wash z: include cb::wash_b",
        "wash y: include cb::wash_a",
    ]
    assert report["resources"][2]["changes"] == ["washed cb::b by cb::wash_b"]


def test_a_mark_goes_when_the_recipe_is_seen_again_and_the_dish_is_washed_again(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")
    for time in (1, 2):
        converge(kitchen, "cb::sink")
        converge(kitchen, "cb::sink")
        assert site.text("washed") == "washed\n" * time
        converge(kitchen, "cb::wrapper", "cb::sink")
        assert record(kitchen)["state"] == "clean"


def test_a_dish_whose_recipe_is_nowhere_is_washed_in_the_run_that_first_uses_it(site):
    dish_and_sink(site)
    kitchen = site.kitchen()

    report = converge(kitchen, "cb::dish", "cb::sink")

    assert report["recipes"] == ["cb::dish", "cb::sink", "cb::wash"]


def test_names_of_recipes_are_the_same_with_and_without_default(site):
    site.recipe("log('wash')", "washing::default")
    site.recipe("dishes_dish('daemon', wash_recipe='washing')", "cb::short")
    site.recipe("dishes_dish('daemon::default', wash_recipe='washing::default')", "cb::long")
    site.recipe("log('daemon')", "daemon::default")
    site.recipe("dishes_sink('default')", "cb::sink")
    kitchen = site.kitchen()

    assert states(converge(kitchen, "cb::short", "recipe[daemon]"))[0] == "changed"
    assert states(converge(kitchen, "cb::long", "recipe[daemon::default]"))[0] == "unchanged"
    assert [row["name"] for row in kitchen.dishes()] == ["daemon::default"]
    assert converge(kitchen, "cb::sink", "daemon")["recipes"] == ["cb::sink", "daemon::default"]
    assert converge(kitchen, "cb::sink", "washing")["recipes"] == ["cb::sink", "washing::default"]


def test_one_failing_wash_stops_no_other_nor_the_rest_of_the_run_and_is_tried_again(site):
    site.recipe("execute('false')\nexecute('touch {here}/never')", "cb::wash_a")
    site.recipe("file('{here}/c', content='c')", "cb::wash_c")
    site.recipe(
        "".join(
            f"dishes_dish('{name}', recipe='cb::{name}', wash_recipe='cb::wash_{name}')\n"
            for name in "ac"
        ),
        "cb::use",
    )
    site.recipe("dishes_sink('default')\nfile('{here}/after', content='x')")
    kitchen = site.kitchen()
    converge(kitchen, "cb::use")
    site.recipe("file('{here}/c', content='c')\nraise ValueError('late')", "cb::wash_c")

    report = converge(kitchen, "cb")

    assert "execute[false]" in failure(report)
    assert "ValueError: late" in failure(report)
    assert rows(report) == [
        ("dishes_sink[default]", "wash", "changed"),
        ("execute[false]", "run", "failed"),
        ("dishes_dish[a]", "wash", "failed"),
        ("dishes_dish[c]", "wash", "failed"),
        ("file[{here}/after]".replace("{here}", str(site.folder)), "create", "changed"),
    ]
    assert not (site.folder / "never").exists()
    assert [row["state"] for row in kitchen.dishes()] == ["wash failed", "wash failed"]

    site.recipe("file('{here}/c', content='c')", "cb::wash_c")
    report = converge(kitchen, "cb")

    assert report["recipes"] == ["cb::default", "cb::wash_a", "cb::wash_c"]
    assert [row["state"] for row in kitchen.dishes()] == ["wash failed", "washed"]
    assert site.text("c") == "c"


def test_two_dishes_with_one_wash_recipe_are_washed_by_it_once(site):
    dish_and_sink(site)
    site.recipe("dishes_dish('second', recipe='cb::x', wash_recipe='cb::wash')", "cb::second")
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::second", "cb::daemon")

    assert converge(kitchen, "cb::sink")["recipes"] == ["cb::sink", "cb::wash"]

    assert [row["state"] for row in kitchen.dishes()] == ["washed", "washed"]
    assert site.text("washed") == "washed\n"


def test_a_wash_recipe_washes_the_dishes_of_every_sink_that_name_it_in_one_go(site):
    dish_and_sink(site)
    site.recipe(
        "dishes_dish('x', recipe='cb::x', wash_recipe='cb::wash', sink='other')", "cb::second"
    )
    site.recipe("dishes_sink('default')\ndishes_sink('other')", "cb::sinks")
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::second", "cb::daemon")

    report = converge(kitchen, "cb::sinks")

    assert report["recipes"] == ["cb::sinks", "cb::wash"]
    washed = (WASHED[0].replace("{here}", str(site.folder)), *WASHED[1:])
    assert rows(report) == [
        ("dishes_sink[default]", "wash", "changed"),
        washed,
        ("dishes_dish[cb::daemon]", "wash", "changed"),
        ("dishes_sink[other]", "wash", "changed"),
        ("dishes_dish[x]", "wash", "changed"),
    ]
    assert [row["state"] for row in kitchen.dishes()] == ["washed", "washed"]
    assert states(converge(kitchen, "cb::sinks")) == ["unchanged", "unchanged"]


def test_a_recipe_that_a_wash_brought_in_is_in_use(site):
    dish_and_sink(site)
    site.recipe("include_recipe('cb::other')", "cb::wash")
    site.recipe("log('other')", "cb::other")
    site.recipe("execute('echo never >> {here}/never')", "cb::never")
    site.recipe("dishes_dish('other', recipe='cb::other', wash_recipe='cb::never')", "cb::second")
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::second", "cb::daemon", "cb::other")
    site.recipe("dishes_sink('default')\ndishes_sink('again', sink='default')", "cb::sink")

    # Judged when the sink begins: it was not there then.
    report = converge(kitchen, "cb::sink")

    assert report["recipes"] == ["cb::sink", "cb::wash", "cb::other", "cb::never"]


def test_a_recipe_that_a_wash_of_its_own_brought_in_is_in_use(site):
    dish_and_sink(site)
    site.recipe("include_recipe('cb::other')", "cb::wash")
    site.recipe("log('other')", "cb::other")
    site.recipe("execute('echo never >> {here}/never')", "cb::never")
    site.recipe(
        "dishes_dish('other', recipe='cb::other', wash_recipe='cb::never', sink='second')",
        "cb::second",
    )
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::second", "cb::daemon", "cb::other")
    kitchen.set_run_list(["cb::empty"])
    site.recipe("", "cb::empty")

    report = kitchen.order_wash("the test", ["default", "second"]).wait(20)

    assert report["recipes"] == ["cb::wash", "cb::other"]


@pytest.mark.parametrize("place", ["cb::daemon", "wrapper::install_daemon"])
def test_a_dish_may_stand_in_the_recipe_that_it_watches_or_in_a_wrapper(site, place):
    site.recipe("execute('echo washed >> {here}/washed')", "cb::wash")
    site.recipe("log('daemon')", "cb::daemon")
    wraps = "include_recipe('cb::daemon')\n" if place != "cb::daemon" else ""
    site.recipe(f"{wraps}dishes_dish('cb::daemon', wash_recipe='cb::wash')", place)
    site.recipe("dishes_sink('default')")
    kitchen = site.kitchen()
    assert sink_state(converge(kitchen, place, "cb")) == "unchanged"
    assert record(kitchen)["state"] == "clean"

    assert converge(kitchen, "cb")["recipes"] == ["cb::default", "cb::wash"]

    assert record(kitchen)["state"] == "washed"


# --- the record --------------------------------------------------------------------


def test_use_and_toss_are_in_the_journal_before_the_run_goes_on(site):
    dish_and_sink(site)
    seen: list[dict[str, dict[str, str]]] = []

    def look():
        seen.append(read())
        return True

    kitchen = site.kitchen(words={"look": look})

    def read():
        return site._journals[0].recall("normal_attributes", {}).get("dishes", {}).get("dish", {})

    site.recipe("""
        from flock.recipe import look
        dishes_dish('cb::daemon', wash_recipe='cb::wash')
        log('between').only_if(look)
        dishes_dish('toss', recipe='cb::x', action='nothing', wash_recipe='cb::wash')
        dishes_dish('cb::daemon', action='toss')
        log('then').only_if(look)
    """)

    assert converge(kitchen, "cb")["state"] == "ok"

    assert [list(each) for each in seen] == [["cb::daemon"], []]
    assert seen[0]["cb::daemon"]["wash_recipe"] == "cb::wash"


def test_use_is_changed_only_if_the_record_changes(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "changed"
    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "unchanged"
    dish_and_sink(site, sink="other")
    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "changed"
    assert record(kitchen)["sink"] == "other"
    # What washes it is another thing by now, and is kept anew.
    site.recipe("log('other')", "cb::wash")
    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "changed"
    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "unchanged"
    assert len(list((site.folder / "state" / "dishes").iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dishes_dish('cb::daemon')", "wash_recipe is required"),
        ("dishes_dish('cb::daemon', wash_recipe='no recipe')", "does not name a recipe"),
        ("dishes_dish('cb::daemon', wash_recipe='cb::gone')", "has no recipe 'gone'"),
        ("dishes_dish('cb::daemon', wash_recipe='gone')", "no cookbook 'gone'"),
    ],
)
def test_a_dish_that_nothing_could_wash_fails(site, text, said):
    site.recipe(text)

    assert said in failure(site.converge())


# --- cookbooks that are gone ---------------------------------------------------------


def test_a_dish_is_washed_although_its_cookbook_and_those_it_includes_are_gone(site, caplog):
    site.recipe("dishes_dish('app::daemon', wash_recipe='app::wash')\nlog('d')", "app::daemon")
    site.recipe(
        "include_recipe('helper::tidy')\ninclude_recipe(node['name'] + '::x') if 0 else None\n"
        "template('{here}/made', source='t.j2')",
        "app::wash",
    )
    site.write("cookbooks/app/templates/t.j2", "by {{ node.tidy.word }}")
    site.recipe("log('tidy')", "helper::tidy")
    site.write("cookbooks/helper/attributes/default.toml", "[default.tidy]\nword = 'helper'\n")
    site.recipe("dishes_sink('default')")
    kitchen = site.kitchen()
    converge(kitchen, "app::daemon")
    assert "computed name" in caplog.text
    shutil.rmtree(site.cookbooks / "app")
    shutil.rmtree(site.cookbooks / "helper")

    report = converge(kitchen, "cb")

    assert report["state"] == "ok", report["error"]
    assert report["recipes"] == ["cb::default", "app::wash", "helper::tidy"]
    assert site.text("made") == "by helper"
    # What was brought in for the wash is there for nothing else.
    assert "no cookbook 'app'" in failure(converge(kitchen, "app::daemon"))


@pytest.mark.parametrize(
    ("gone", "made"),
    [
        ([], "live"),
        (["helper"], "live"),
        (["app/recipes/wash.py"], "live"),
        (["app/recipes/wash.py", "app/templates/t.j2", "helper"], "kept"),
        (["app"], "kept"),
    ],
)
def test_what_is_still_there_goes_before_what_was_kept_piece_by_piece(site, gone, made):
    site.recipe("dishes_dish('app::daemon', wash_recipe='app::wash')", "app::daemon")
    site.recipe("include_recipe('helper')\ntemplate('{here}/made', source='t.j2')", "app::wash")
    site.recipe("log('help')", "helper::default")
    site.write("cookbooks/app/templates/t.j2", "kept")
    site.recipe("dishes_sink('default')")
    kitchen = site.kitchen()
    converge(kitchen, "app::daemon")
    site.write("cookbooks/app/templates/t.j2", "live")
    for path in gone:
        target = site.cookbooks / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    report = converge(kitchen, "cb")

    assert report["state"] == "ok", report["error"]
    assert report["recipes"] == ["cb::default", "app::wash", "helper::default"]
    assert site.text("made") == made


def test_a_link_to_nowhere_or_a_pipe_in_a_cookbook_hinders_no_dish(site):
    dish_and_sink(site)
    recipes = site.cookbooks / "cb" / "recipes"
    (recipes / ".#wash.py").symlink_to("bender@planet-express.77")  # as an editor leaves it
    os.mkfifo(recipes / "pipe")
    kitchen = site.kitchen()
    report = converge(kitchen, "cb::dish", "cb::daemon")
    assert ("dishes_dish[cb::daemon]", "use", "changed") in rows(report)
    (recipes / "wash.py").unlink()
    assert sink_state(converge(kitchen, "cb::sink")) == "changed"
    assert site.text("washed") == "washed\n"


def test_a_copy_that_is_lost_is_kept_anew_by_the_next_run_that_uses_the_dish(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")
    shutil.rmtree(site.folder / "state" / "dishes")

    assert states(converge(kitchen, "cb::dish", "cb::daemon"))[0] == "unchanged"

    (copy,) = (site.folder / "state" / "dishes").iterdir()
    assert (copy / "cb" / "recipes" / "wash.py").is_file()


# --- runs that judge nothing ----------------------------------------------------------


def test_a_run_with_an_override_run_list_skips_the_sink_and_says_why(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")

    report = kitchen.converge("the test", override_run_list=["cb::sink"])

    assert states(report) == ["skipped"]
    assert "override run list" in report["resources"][0]["error"]
    assert report["recipes"] == ["cb::sink"]
    assert record(kitchen)["state"] == "clean"


def test_what_an_override_run_list_executed_clears_its_mark_and_no_other(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")
    converge(kitchen, "cb::sink")

    site.recipe("raise ValueError('broken')", "cb::broken")

    kitchen.converge("the test", override_run_list=["cb::broken", "cb::daemon"])
    assert record(kitchen)["state"] == "washed"
    kitchen.converge("the test", override_run_list=["cb::daemon", "cb::broken"])
    assert record(kitchen)["state"] == "clean"


def test_a_run_that_cannot_judge_calls_nothing_dirty(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    kitchen.set_run_list(["cb::daemon"])

    kitchen.converge("the test", override_run_list=["cb::dish"])

    assert record(kitchen)["state"] == "clean"


def test_a_run_list_that_does_not_compile_judges_nothing(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")
    site.recipe("raise ValueError('broken')", "cb::broken")
    ends = []
    kitchen.on_event(lambda event: ends.append(event) if event["event"] == "run ended" else None)

    assert "broken" in failure(converge(kitchen, "cb::sink", "cb::broken"))
    report = kitchen.order_wash("the test", ["default"]).wait(20)

    assert "broken" in failure(report)
    assert [end["unwashed"] for end in ends] == [None, None]
    assert not (site.folder / "washed").exists()
    assert record(kitchen)["state"] == "clean"


def test_a_why_run_names_what_would_be_washed_and_writes_nothing(site):
    dish_and_sink(site)
    kitchen = site.kitchen()

    report = converge(kitchen, "cb::dish", "cb::daemon", why_run=True)
    assert states(report)[0] == "changed"
    assert kitchen.dishes() == []
    assert not (site.folder / "state" / "dishes").exists()

    converge(kitchen, "cb::dish", "cb::daemon")
    before = kitchen.dishes()
    report = converge(kitchen, "cb::sink", why_run=True)

    assert rows(report) == [("dishes_sink[default]", "wash", "changed")]
    assert report["resources"][0]["changes"] == ["wash cb::daemon: include cb::wash"]
    assert report["recipes"] == ["cb::sink"]
    assert not (site.folder / "washed").exists()
    kitchen.stop()
    assert site.kitchen().dishes() == before


# --- washing as a run of its own -------------------------------------------------------


def test_a_wash_of_its_own_judges_by_the_run_list_and_converges_nothing_else(site):
    dish_and_sink(site)
    site.recipe("execute('echo other >> {here}/other')", "cb::other")
    kitchen = site.kitchen()
    ends = []
    kitchen.on_event(lambda event: ends.append(event) if event["event"] == "run ended" else None)
    converge(kitchen, "cb::dish", "cb::daemon")
    converge(kitchen, "cb::other")
    assert [end["unwashed"] for end in ends] == [[], ["default"]]

    report = kitchen.order_wash("the test", ["default"]).wait(20)
    again = kitchen.order_wash("the test", ["default"]).wait(20)

    assert report["state"] == "ok", report["error"]
    assert report["recipes"] == ["cb::wash"]
    assert sink_state(report) == "changed"
    assert site.text("other") == "other\n"
    assert (again["recipes"], sink_state(again)) == ([], "unchanged")
    assert ends[-1]["unwashed"] is None
    assert kitchen.recipes == ["cb::other"]


def test_a_sink_that_the_run_washed_is_left_to_it_even_if_a_wash_failed(site):
    dish_and_sink(site)
    kitchen = site.kitchen()
    converge(kitchen, "cb::dish", "cb::daemon")
    ends = []
    kitchen.on_event(lambda event: ends.append(event) if event["event"] == "run ended" else None)

    converge(kitchen, "cb::sink")

    assert ends[0]["unwashed"] == []
