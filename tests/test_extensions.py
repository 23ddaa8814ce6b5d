"""What the settings name, and how it is told that it cannot be loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flock.errors import SettingsError, WrongRegistry
from flock.extensions import load_actors, load_handlers, make_registry
from flock.settings import BACKENDS, STOCK_ACTORS, Settings, load_settings

pytestmark = pytest.mark.usefixtures("here")


def test_the_embedded_registry_needs_no_zookeeper_client(here, monkeypatch):
    monkeypatch.setenv("FLOCK_CONFIG", "")
    script = (
        "import sys; from flock.extensions import make_registry;"
        "from flock.settings import load_settings;"
        "registry = make_registry(load_settings({'registry': 'embedded:reg'}));"
        "print(type(registry).__name__, 'kazoo' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=here
    )
    assert ended.stdout.split() == ["EmbeddedRegistry", "False"]


def test_the_zookeeper_registry_is_made_with_its_settings():
    settings = load_settings({"registry": "zookeeper://fry:s3cret@zk1:2181/flock"})
    registry = make_registry(settings)
    assert type(registry).__name__ == "ZooKeeperRegistry"
    assert registry.url == settings.shown_registry


def test_a_url_that_only_the_backend_understands_is_told_with_its_origin(monkeypatch):
    monkeypatch.setenv("FLOCK_REGISTRY", "zookeeper://zk1:port/flock")
    with pytest.raises(WrongRegistry, match=r"\(registry from: FLOCK_REGISTRY\)$"):
        make_registry(load_settings())


def test_settings_made_by_hand_cannot_name_an_unknown_backend():
    with pytest.raises(WrongRegistry, match="is no registry; wanted is embedded:DIR or"):
        make_registry(Settings(registry="etcd://somewhere"))


@pytest.mark.parametrize("home", [*BACKENDS.values(), *STOCK_ACTORS.values()])
def test_what_is_loaded_by_name_is_there(home):
    module, _, name = home.partition(":")
    loaded = __import__(module, fromlist=[name])
    assert isinstance(getattr(loaded, name), type)


def test_the_sites_actors_come_after_the_stock_ones(here, monkeypatch):
    (here / "cartoons.py").write_text("class Itchy:\n    pass\n")
    monkeypatch.syspath_prepend(here)
    classes = load_actors(load_settings({"actors": {"itchy": "cartoons:Itchy"}}))
    assert [*classes] == [*STOCK_ACTORS, "itchy"]
    assert classes["itchy"].__name__ == "Itchy"


@pytest.mark.parametrize("home", ["no_such_module_here:Itchy", "dataclasses:Itchy"])
def test_an_actor_that_is_not_there_is_told_with_its_origin(monkeypatch, home):
    monkeypatch.setenv("FLOCK_ACTORS", f"itchy={home}")
    with pytest.raises(SettingsError, match=r"^actor 'itchy' \(from: FLOCK_ACTORS\) cannot be"):
        load_actors(load_settings())


def test_handlers_are_callables_or_where_they_stand(here, monkeypatch):
    (here / "site_chat.py").write_text("def tell(report): pass\ndef shout(report): pass\n")
    monkeypatch.syspath_prepend(here)
    (here / "flock.toml").write_text('report_handlers = ["site_chat:tell", "site_chat:shout"]\n')
    settings = load_settings({"start_handlers": [print, "site_chat:tell"]})

    named = {
        moment: [handler.__name__ for handler in load_handlers(settings, moment)]
        for moment in ("start", "report", "exception")
    }

    assert named == {"start": ["print", "tell"], "report": ["tell", "shout"], "exception": []}


@pytest.mark.parametrize(
    ("text", "home", "said"),
    [
        ("", "site_none:tell", "No module named 'site_none'"),
        ("def tell(report):\n  return (\n", "site_wrong:tell", "(site_wrong.py, line 2)"),
        ("1 / 0\n", "site_wrong:tell", "ZeroDivisionError"),
        ("def tell(report): pass\n", "site_wrong:tel", "no 'tel'; did you mean 'tell'?"),
        ("tell = 5\n", "site_wrong:tell", "cannot be called: it is 5"),
    ],
)
def test_a_handler_that_is_wrong_is_told_in_one_line_with_its_origin(
    here, monkeypatch, text, home, said
):
    (here / "site_wrong.py").write_text(text)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "site_wrong", raising=False)
    (here / "flock.toml").write_text(f'# ours\nexception_handlers = ["{home}"]\n')

    with pytest.raises(SettingsError) as raised:
        load_handlers(load_settings(), "exception")

    message = str(raised.value)
    assert message.startswith(f"the exception handler '{home}' (from: {here}/flock.toml:2) cannot ")
    assert said in message
    assert "\n" not in message
