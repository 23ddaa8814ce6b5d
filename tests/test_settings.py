"""Settings: which place wins, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from flock.errors import SettingsError
from flock.settings import (
    SETTINGS,
    Settings,
    default_registry,
    load_settings,
)
from registry.contract import NODE_NAME_RULE

pytestmark = pytest.mark.usefixtures("here")


# --- which place wins ----------------------------------------------------------


def test_every_setting_can_be_given_and_none_is_forgotten():
    known = {field.name for field in dataclasses.fields(Settings)} - {"origins"}
    assert set(SETTINGS) == known


def test_the_page_of_settings_names_each_once():
    page = (Path(__file__).parents[1] / "docs/settings.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert sorted(named) == sorted(SETTINGS)


def test_defaults_are_those_of_a_visitor():
    settings = load_settings()
    assert settings == Settings()
    assert settings.name is None
    assert settings.timeout == 10.0
    assert settings.crypto is True
    assert settings.stop_timeout == 60.0
    assert settings.origin("timeout") == "default"


def test_the_nearer_place_wins_and_is_remembered(here, monkeypatch):
    (here / "flock.toml").write_text("# ours\nsplay = 1\ntimeout = 2\ninterval = 3\n")
    monkeypatch.setenv("FLOCK_TIMEOUT", "20")
    monkeypatch.setenv("FLOCK_INTERVAL", "30")

    settings = load_settings({"interval": 300, "splay": None})

    assert (settings.splay, settings.timeout, settings.interval) == (1.0, 20.0, 300.0)
    assert settings.origin("splay") == f"{here}/flock.toml:2"
    assert settings.origin("timeout") == "FLOCK_TIMEOUT"
    assert settings.origin("interval") == "argument"


def test_nothing_given_on_the_command_line_overrides_nothing(monkeypatch):
    monkeypatch.setenv("FLOCK_RUN_LIST", "recipe[web], role[db]")
    settings = load_settings({"run_list": (), "name": None})
    assert settings.run_list == ("recipe[web]", "role[db]")


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("FLOCK_NAME", "")
    assert load_settings().origin("name") == "default"


def test_a_wrong_value_that_is_overridden_hinders_nobody(monkeypatch):
    monkeypatch.setenv("FLOCK_TIMEOUT", "soon")
    assert load_settings({"timeout": 5}).timeout == 5.0


# --- wrong values --------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("NAME", "a b", NODE_NAME_RULE),
        ("NAME", "planet/express", NODE_NAME_RULE),
        ("NAME", "b" * 300, NODE_NAME_RULE),
        ("REGISTRY", "http://zk1", "embedded:DIR or zookeeper://"),
        ("REGISTRY", "embedded:", "embedded:DIR or zookeeper://"),
        ("REGISTRY", "zookeeper:zk1", "embedded:DIR or zookeeper://"),
        ("REGISTRY", "zookeeper:///flock", "embedded:DIR or zookeeper://"),
        ("REGISTRY", "embedded:/x/\udcff", "it is not valid Unicode"),
        ("LISTEN", "127.0.0.1:80", "tcp://HOST:PORT"),
        ("LISTEN", "tcp://127.0.0.1:70000", "tcp://HOST:PORT"),
        ("ADVERTISE", "tcp://*:80", "tcp://HOST"),
        ("CRYPTO", "perhaps", "true or false"),
        ("ENVIRONMENT", "prod/eu", "letters, digits"),
        ("COOKBOOKS", "~nobody-has-this-name/x", "a folder"),
        ("TIMEOUT", "soon", "a number of seconds above 0"),
        ("TIMEOUT", "0", "a number of seconds above 0"),
        ("TIMEOUT", "nan", "a number of seconds above 0"),
        ("TIMEOUT", "inf", "a number of seconds above 0"),
        ("SPLAY", "-1", "0 or more"),
        ("SESSION_TIMEOUT", "0.5", "1 or more"),
        ("ACTORS", "itchy", "NAME=MODULE:CLASS, which 'itchy' is not"),
        ("ACTORS", "info=cartoons:Info", "already"),
        ("FACTS", "chef", "own, facter or ohai"),
        ("START_HANDLERS", "site_chat", "a list of 'module:function'"),
        ("EXCEPTION_HANDLERS", "site_chat:tell,:no", "':no' is no 'module:function'"),
    ],
)
def test_a_wrong_value_is_told_with_its_name_place_and_what_is_wanted(
    monkeypatch, variable, text, wanted
):
    monkeypatch.setenv(f"FLOCK_{variable}", text)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    message = str(raised.value)
    assert message.startswith(f"{variable.lower()} is {text!r} (from: FLOCK_{variable}); wanted is")
    assert wanted in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("timeout = true", "timeout"),
        ("timeout = [1]", "timeout"),
        ("crypto = 1", "crypto"),
        ("name = 5", "name"),
        ('run_list = ["web", 1]', "run_list"),
        ('actors = ["a:B"]', "actors"),
        ('actors.itchy = "not a class"', "actors"),
    ],
)
def test_a_value_of_another_type_in_the_file_is_told_with_its_line(here, line, name):
    (here / "flock.toml").write_text(f"\n{line}\n")
    with pytest.raises(SettingsError, match=rf"^{name} is .*flock\.toml:2\); wanted is"):
        load_settings()


def test_an_unknown_key_in_the_file_is_told_with_the_nearest_name(here):
    (here / "flock.toml").write_text('timeout = 5\nrun-list = "web"\n')
    with pytest.raises(
        SettingsError, match=r"flock\.toml:2: there is no setting 'run-list'; did you mean 'run_l"
    ):
        load_settings()


def test_an_unknown_argument_is_told_with_the_nearest_name():
    with pytest.raises(SettingsError, match=r"^there is no setting 'timout'; did you mean 'time"):
        load_settings({"timout": 5})


def test_the_origin_of_what_is_no_setting_is_refused():
    with pytest.raises(SettingsError, match="no setting 'origins'"):
        load_settings().origin("origins")


def test_a_key_without_its_certificate_is_refused(monkeypatch):
    monkeypatch.setenv("FLOCK_ZOOKEEPER_KEY", "key.pem")
    with pytest.raises(SettingsError, match=r"zookeeper_key is set \(FLOCK_ZOOKEEPER_KEY\) with"):
        load_settings()


# --- what becomes of values ----------------------------------------------------


def test_relative_paths_begin_in_the_folder_of_the_file_or_where_the_caller_is(here, monkeypatch):
    (here / "etc").mkdir()
    (here / "etc" / "flock.toml").write_text('cookbooks = "books"\nregistry = "embedded:here"\n')
    monkeypatch.setenv("FLOCK_STATE_DIR", "state")
    settings = load_settings({"zookeeper_ca": "ca.pem"})
    assert settings.cookbooks == here / "etc" / "books"
    assert settings.registry == f"embedded:{here}/etc/here"
    assert settings.state_dir == here / "state"
    assert settings.zookeeper_ca == str(here / "ca.pem")


def test_run_list_items_come_with_commas_or_one_by_one(here):
    wanted = ("recipe[a]", "role[b]", "c::d")
    assert load_settings({"run_list": "recipe[a],role[b], c::d"}).run_list == wanted
    assert load_settings({"run_list": ("recipe[a],role[b]", "c::d")}).run_list == wanted
    (here / "flock.toml").write_text('run_list = ["recipe[a]", "role[b]", "c::d"]')
    assert load_settings().run_list == wanted


@pytest.mark.parametrize(("text", "value"), [("No", False), ("0", False), ("on", True)])
def test_yes_and_no_may_be_written_as_people_do(monkeypatch, text, value):
    monkeypatch.setenv("FLOCK_CRYPTO", text)
    assert load_settings().crypto is value


@pytest.mark.parametrize("address", ["tcp://*:*", "tcp://127.0.0.1:7000", "tcp://[::1]:*"])
def test_addresses_to_listen_at(address):
    assert load_settings({"listen": address}).listen == address


@pytest.mark.parametrize("address", ["tcp://bender0.example.com", "tcp://[fe80::1]:7000"])
def test_addresses_to_advertise(address):
    assert load_settings({"advertise": address}).advertise == address


def test_actors_of_the_site_come_from_a_table_or_a_variable(here, monkeypatch):
    wanted = {"itchy": "cartoons:Itchy", "scratchy": "cartoons.cats:Scratchy"}
    (here / "flock.toml").write_text(
        '[actors]\nitchy = "cartoons:Itchy"\nscratchy = "cartoons.cats:Scratchy"\n'
    )
    settings = load_settings()
    assert settings.actors == wanted
    assert settings.origin("actors") == f"{here}/flock.toml:1"
    monkeypatch.setenv("FLOCK_ACTORS", "itchy=cartoons:Itchy, scratchy = cartoons.cats:Scratchy")
    assert load_settings().actors == wanted


def test_the_state_folder_lies_beside_an_embedded_registry(here):
    assert load_settings({"registry": "embedded:reg"}).state_folder("b0") == here / "reg/state/b0"


def test_without_an_embedded_registry_the_state_folder_is_the_users(here, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(here))
    settings = load_settings({"registry": "zookeeper://zk1/flock"})
    home = Path("/var/lib/flock") if os.geteuid() == 0 else here / "flock"
    assert settings.state_folder("b0") == home / "b0"
    assert default_registry() == f"embedded:{home}/registry"


def test_a_set_state_folder_is_taken_as_it_is(here):
    assert load_settings({"state_dir": "mine"}).state_folder("bender0") == here / "mine"


def test_an_ordinary_user_keeps_state_as_xdg_says(here, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/fry")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/counts/for/nothing")
    assert default_registry() == "embedded:/home/fry/.local/state/flock/registry"
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_registry() == "embedded:/srv/state/flock/registry"


# --- passwords -----------------------------------------------------------------


def test_the_password_is_shown_nowhere():
    settings = load_settings({"registry": "zookeeper://fry:s3cret@zk1:2181,zk2:2181/flock"})
    assert settings.shown_registry == "zookeeper://fry@zk1:2181,zk2:2181/flock"
    assert "s3cret" not in repr(settings)
    assert "s3cret" in settings.registry


@pytest.mark.parametrize(
    "url",
    [
        "zookeper://fry:s3cret@zk1:2181/flock",
        "zookeeper:fry:s3cret@zk1",
        "zookeeper://fry:s3cret@ /flock",
        "s3cret@zk1",
        "zookeeper://fry:s3cr@s3cret@zk 1",
    ],
)
def test_a_wrong_url_does_not_give_the_password_away(url):
    with pytest.raises(SettingsError) as raised:
        load_settings({"registry": url})
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
