"""Attributes: which level wins, how they merge, and what is kept of them."""

from __future__ import annotations

import datetime

import pytest

from flock.converge.attributes import (
    Attributes,
    look_up,
    plain,
    without,
)


def test_levels_win_in_chefs_order():
    attributes = Attributes(automatic={"j": 10}, normal={"f": 6})
    names = "abcdefghij"
    attributes.add_file({"default": dict.fromkeys(names, 1)})
    attributes.set_environment(dict.fromkeys(names[1:], 2), dict.fromkeys(names[8:], 9))
    attributes.add_role(dict.fromkeys(names[2:], 3), dict.fromkeys(names[7:], 8))
    attributes.add_file({"force_default": dict.fromkeys(names[3:], 4)})
    attributes.level("normal").update(dict.fromkeys(names[4:], 5))
    attributes.add_file({"override": dict.fromkeys(names[6:], 7)})

    assert attributes.merged() == {
        "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 5, "g": 7, "h": 8, "i": 9, "j": 10,
    }  # fmt: skip


def test_force_override_is_above_the_environments_override_and_below_facts():
    attributes = Attributes(automatic={"b": "fact"})
    attributes.set_environment({}, {"a": "environment", "b": "environment"})
    attributes.add_file({"force_override": {"a": "forced", "b": "forced"}})

    assert attributes.merged() == {"a": "forced", "b": "fact"}


def test_tables_merge_over_all_levels():
    attributes = Attributes(normal={"web": {"port": 81}})
    attributes.add_file({"default": {"web": {"port": 80, "user": "www"}}})
    attributes.add_role({}, {"web": {"tls": True}})

    assert attributes.merged() == {"web": {"port": 81, "user": "www", "tls": True}}


def test_lists_join_within_a_level_and_are_replaced_by_a_stronger_one():
    attributes = Attributes()
    attributes.add_file({"default": {"packages": ["a", "b"]}})
    attributes.add_role({"packages": ["b", "c"]}, {})
    assert attributes.merged()["packages"] == ["a", "b", "c"]

    attributes.level("normal")["packages"] = ["d"]

    assert attributes.merged()["packages"] == ["d"]


def test_a_later_role_is_stronger():
    attributes = Attributes()
    attributes.add_role({"port": 1}, {})
    attributes.add_role({"port": 2}, {})

    assert attributes.merged() == {"port": 2}


def test_a_level_makes_the_tables_it_is_walked_through():
    attributes = Attributes()

    attributes.level("default")["web"]["tls"]["port"] = 443

    assert attributes.merged() == {"web": {"tls": {"port": 443}}}
    del attributes.level("default")["web"]["tls"]["port"]
    assert attributes.merged() == {"web": {"tls": {}}}
    assert attributes.level("default").get("nothing") is None
    assert "nothing" not in attributes.level("default")


def test_merged_attributes_are_read_only_and_say_where_to_write():
    attributes = Attributes(normal={"web": {"port": 80}})

    for table in (attributes.merged(), attributes.merged()["web"]):
        with pytest.raises(TypeError, match=r"write node\.default"):
            table["port"] = 81
        with pytest.raises(TypeError, match="read only"):
            table.update(port=81)


def test_what_is_read_does_not_change_what_stands():
    attributes = Attributes(normal={"list": [1]})

    attributes.merged()["list"].append(2)
    attributes.level("default")["x"] = 1

    assert attributes.merged() == {"list": [1], "x": 1}


def test_only_plain_data_is_kept_and_the_place_is_named():
    attributes = Attributes()

    with pytest.raises(TypeError, match=r"web\.socket\[1\] is a object"):
        attributes.level("default")["web"] = {"socket": [1, object()]}
    with pytest.raises(TypeError, match="keys are texts, not 1"):
        attributes.level("default")["web"] = {1: 2}
    assert plain({"day": datetime.date(2026, 1, 31), "t": (1,)}, "x") == {
        "day": "2026-01-31",
        "t": [1],
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (None, {"kernel": {"release": "6.1"}, "disks": [{"name": "vda"}]}),
        ("", {"kernel": {"release": "6.1"}, "disks": [{"name": "vda"}]}),
        ("kernel.release", "6.1"),
        ("disks.0.name", "vda"),
        ("disks.-1", {"name": "vda"}),
        (".kernel..release", "6.1"),
    ],
)
def test_a_dotted_path_walks_keys_and_indices(path, value):
    attributes = {"kernel": {"release": "6.1"}, "disks": [{"name": "vda"}]}

    assert look_up(attributes, path) == value


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("kernal.release", "no attribute 'kernal' in the node"),
        ("kernel.relase.x", "no attribute 'relase' in 'kernel'"),
        ("disks.1", "no item '1' in 'disks', a list of 1"),
        ("disks.name", "no item 'name' in 'disks', a list of 1"),
        ("kernel.release.upper", "no attribute 'upper' in 'kernel.release', which is a str"),
        ("kernel.__class__", "no attribute '__class__' in 'kernel'"),
        ("kernel.keys", "no attribute 'keys' in 'kernel'"),
    ],
)
def test_a_missing_path_names_its_first_missing_key_and_calls_nothing(path, message):
    attributes = {"kernel": {"release": "6.1"}, "disks": [{"name": "vda"}]}

    with pytest.raises(LookupError) as caught:
        look_up(attributes, path)

    assert str(caught.value) == message


def test_what_is_sensitive_is_left_out_of_a_copy():
    attributes = Attributes(normal={"db": {"password": "x", "user": "y"}, "top": 1}).merged()

    assert without(attributes, ["db.password", "top", "nothing.here", "db.user.deep"]) == {
        "db": {"user": "y"}
    }
    assert attributes["db"]["password"] == "x"


def test_the_largest_attribute_is_named_with_the_line_that_wrote_it():
    attributes = Attributes({"kernel": {"release": "6.1"}})
    here = "test_attributes.py:"
    attributes.level("normal")["app"]["config"] = {"text": "x" * 100_000, "port": 80}
    path, size, where = attributes.largest()
    assert (path, size) == ("app.config.text", 100_002)
    assert here in where

    small = Attributes()
    for number in range(100):
        small.level("default")["many"][f"key{number}"] = "x" * 100
    path, size, where = small.largest()
    assert (path, here in where) == ("many", True)
    assert Attributes().largest() == ("", 0, "")


def test_the_line_that_wrote_is_found_through_what_tables_bring():
    attributes = Attributes()
    attributes.level("normal").update(blob="x" * 100_000)
    assert "test_attributes.py:" in attributes.largest()[2]
