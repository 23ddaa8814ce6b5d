"""Node objects in a registry: saved, searched, and written by several at once."""

import contextlib
import threading

import pytest

from flock.errors import BusyError, DocumentTooLarge, NodeNotFound, RegistryUnavailable, UsageError
from flock.extensions import make_registry
from flock.fleet import Flock
from flock.journal import Journal
from flock.node_objects import MAX_HEAD_BYTES, Home, NodeObject, NodeObjects
from flock.object_keeper import ObjectKeeper
from flock.settings import load_settings
from registry.contract import MAX_DOCUMENT_BYTES
from tests.support import eventually

HOME = Home("f" * 32, "m", "host", "/state")


@pytest.fixture
def registry(registry_url):
    opened = make_registry(load_settings({"registry": registry_url}))
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def objects(registry):
    return NodeObjects(registry)


def data(name="bender0", **changed):
    return {
        "name": name,
        "run_list": ["role[web]", "recipe[ntp]"],
        "roles": ["web"],
        "recipes": ["ntp::default", "apache2::default"],
        "environment": "prod",
        "tags": ["blue"],
        "normal": {"port": 80},
        "attributes": {"platform": "debian", "kernel": {"release": "6.1"}, "port": 80},
    } | changed


def read(objects: NodeObjects) -> NodeObject:
    found = objects.read("bender0")
    assert found is not None
    return found


def save(objects, node_object, **more):
    return objects.save(node_object, HOME, base=more.pop("base", {}), **more)


# --- documents -----------------------------------------------------------------


def test_many_documents_are_read_in_the_order_asked_for_with_none_for_those_absent(registry):
    paths = [f"things/{number} of {'ü' * (number % 3)}" for number in range(1200)]
    for number in (3, 700, 1199):
        registry.write(paths[number], {"number": number})
    found = registry.read_many(paths)
    assert [at for at, each in enumerate(found) if each is not None] == [3, 700, 1199]
    assert [each.value["number"] for each in found if each] == [3, 700, 1199]
    assert [(each.path, each.version) for each in found if each] == [
        (paths[3], 1),
        (paths[700], 1),
        (paths[1199], 1),
    ]
    assert registry.read_many([]) == []


# --- node objects --------------------------------------------------------------


def test_a_node_object_is_found_as_it_was_saved(objects):
    assert objects.read("bender0") is None
    save(objects, data())
    found = objects.read("bender0")
    assert found.head_as_data() == {
        "name": "bender0",
        "environment": "prod",
        "run_list": ["role[web]", "recipe[ntp]"],
        "roles": ["web"],
        "recipes": ["ntp::default", "apache2::default"],
        "tags": ["blue"],
    }
    assert found.attributes == data()["attributes"]
    assert found["kernel"]["release"] == "6.1"
    assert found.normal == {"port": 80}
    assert objects.names() == ["bender0"]


def test_search_answers_from_heads_or_with_bodies_and_sorts_by_name(objects):
    for number in range(230):
        save(
            objects,
            data(
                f"n{number:03}",
                roles=["web"] if number % 2 else ["db"],
                attributes={"platform": "debian" if number % 10 == 5 else "fedora"},
            ),
        )
    assert [found.name for found in objects.search("name:n00?")] == [f"n00{i}" for i in range(10)]
    both = [found.name for found in objects.search("roles:web AND platform:debian")]
    assert both == [f"n{number:03}" for number in range(5, 230, 10)]
    assert len(objects.search("*:*")) == 230
    assert objects.search("roles:cache") == []
    with pytest.raises(UsageError):
        objects.search("roles:")


def test_a_run_list_written_meanwhile_survives_the_save_of_a_run(objects):
    save(objects, data())
    assert objects.change_run_list("bender0", lambda old: [*old, "recipe[new]"]) == (
        ["role[web]", "recipe[ntp]"],
        ["role[web]", "recipe[ntp]", "recipe[new]"],
    )
    saved = save(objects, data(roles=["other"]))
    assert saved["run_list"] == ["role[web]", "recipe[ntp]", "recipe[new]"]
    assert objects.read("bender0").roles == ["other"]
    assert save(objects, data(run_list=["a"]), own={"run_list"})["run_list"] == ["a"]


def test_an_environment_written_meanwhile_survives_the_save_of_a_run(objects):
    save(objects, data(environment="prod"))
    assert objects.claim("bender0", HOME, environment="test").environment == "test"
    assert save(objects, data(environment="prod"))["environment"] == "test"
    assert read(objects).environment == "test"
    assert save(objects, data(environment="prod"), own={"environment"})["environment"] == "prod"


def test_changing_the_run_list_of_nobody_says_so(objects):
    with pytest.raises(NodeNotFound, match="bender9"):
        objects.change_run_list("bender9", list)


def test_run_lists_changed_by_many_at_once_lose_nothing(objects):
    save(objects, data(run_list=[]))
    threads = [
        threading.Thread(
            target=objects.change_run_list,
            args=("bender0", lambda old, number=number: [*old, f"recipe[r{number}]"]),
        )
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(objects.read("bender0").run_list) == [f"recipe[r{i}]" for i in range(5)]


def test_normal_attributes_written_by_two_sides_are_merged(objects):
    save(objects, data(normal={"a": 1, "b": {"x": 1, "y": 1}, "gone": 1}))
    base = objects.read("bender0").normal
    save(objects, data(normal={"a": 1, "b": {"x": 1, "y": 2}, "gone": 1, "new": 1}), base=base)
    ours = {"a": 5, "b": {"x": 9, "y": 1}}
    assert save(objects, data(normal=ours), base=base)["normal"] == {
        "a": 5,
        "b": {"x": 9, "y": 2},
        "new": 1,
    }


def test_a_node_object_belongs_to_one_state_folder(objects):
    save(objects, data())
    other = Home("0" * 32, "m", "elsewhere", "/other")
    for attempt in (
        lambda: objects.claim("bender0", other),
        lambda: objects.save(data(tags=["stolen"]), other, base={}),
    ):
        with pytest.raises(BusyError, match=r"/state on host.*/other on elsewhere.*forget bender0"):
            attempt()
    copied = Home(HOME.folder_id, "another machine", "clone", "/state")
    with pytest.raises(BusyError, match="clone"):
        objects.claim("bender0", copied)
    assert objects.read("bender0").tags == ["blue"]
    assert objects.forget("bender0")
    assert not objects.forget("bender0")
    assert objects.claim("bender0", other, ["recipe[x]"]).run_list == ["recipe[x]"]


def test_what_is_too_large_is_refused_whole(objects):
    save(objects, data())
    with pytest.raises(DocumentTooLarge, match="bender0") as caught:
        save(objects, data(tags=["new"], attributes={"blob": "x" * 5_000_000}))
    assert caught.value.size > 5_000_000
    noise = [f"recipe[{number * 7919 % 100_003:x}-{number}]" for number in range(2000)]
    with pytest.raises(DocumentTooLarge, match="head") as caught:
        save(objects, data(tags=["new"], recipes=noise))
    assert caught.value.limit == MAX_HEAD_BYTES
    with pytest.raises(DocumentTooLarge, match="head"):
        objects.change_run_list("bender0", lambda _: noise)
    assert objects.read("bender0").tags == ["blue"]
    assert objects.read("bender0").attributes == data()["attributes"]


def test_an_unreadable_node_object_hides_no_other(objects, registry):
    save(objects, data("good"))
    registry.write("node-objects/heads/bad", {"name": 5})
    registry.write("node-objects/heads/worse", ["what"])
    assert [found.name for found in objects.search("*:*")] == ["good"]
    assert [found.name for found in objects.search("platform:debian")] == ["good"]


# --- a node and its object -----------------------------------------------------


@pytest.fixture
def kitchen_folder(short_path):
    recipes = short_path / "cookbooks" / "cb" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "default.py").write_text(
        "from flock.recipe import node, log\n"
        "node.normal['runs'] = node.read('runs', 0) + 1\n"
        "node.normal['db'] = {'password': 'secret', 'user': 'fry'}\n"
        "node.default['tags'] = ['blue']\n"
    )
    (recipes / "more.py").write_text("from flock.recipe import log\nlog('more')\n")
    (recipes / "fails.py").write_text(
        "from flock.recipe import node\nnode.normal['seen'] = True\nraise ValueError('no')\n"
    )
    (recipes / "huge.py").write_text(
        "from flock.recipe import node\nnode.default['blob'] = 'x' * 5_000_000\n"
    )
    return short_path


@pytest.fixture
def node_of(registry_url, kitchen_folder):
    with contextlib.ExitStack() as stack:

        def start(name="bender0", **settings):
            fleet = Flock(
                name,
                settings.pop("registry", registry_url),
                cookbooks=kitchen_folder / "cookbooks",
                state_dir=settings.pop("state_dir", kitchen_folder / "state" / name),
                sensitive_attributes=["db.password"],
                **settings,
            )
            return stack.enter_context(fleet)

        yield start


def converge(fleet, name="bender0"):
    return fleet[name]["flock_api"].run_chef(wait=True)


def test_a_node_is_found_from_its_start_and_knows_more_after_each_run(node_of):
    fleet = node_of(run_list=["cb"], environment="prod")
    (found,) = fleet.search("recipes:cb AND chef_environment:prod")
    assert found.node.name == "bender0"
    assert found.node["flock_api"].active() is False
    assert found.normal == {}
    assert converge(fleet)["state"] == "ok"
    assert fleet.search("tags:blue")[0].normal["runs"] == 1
    assert converge(fleet)["state"] == "ok"
    assert fleet.search("runs:2")[0].name == "bender0"
    assert fleet.search("kernel_name:Linux AND NOT tags:red")[0].name == "bender0"


def test_sensitive_attributes_stay_at_home_and_last(node_of, objects):
    fleet = node_of(run_list=["cb"])
    converge(fleet)
    found = objects.read("bender0")
    assert found.normal["db"] == {"user": "fry"}
    assert found.attributes["db"] == {"user": "fry"}
    assert fleet.search("password:secret") == []
    assert fleet["bender0"]["flock_api"].node("db") == {"user": "fry"}


def test_what_a_failed_run_wrote_is_saved_too(node_of, objects):
    fleet = node_of(run_list=["cb::fails"])
    assert converge(fleet)["state"] == "failed"
    assert objects.read("bender0").normal == {"seen": True}


def test_a_run_takes_up_the_run_list_as_it_stands(node_of, objects):
    fleet = node_of(run_list=["cb"])
    objects.change_run_list("bender0", lambda old: [*old, "recipe[cb::more]"])
    report = converge(fleet)
    assert report["run_list"] == ["cb", "recipe[cb::more]"]
    assert report["recipes"] == ["cb::default", "cb::more"]
    assert [found.name for found in fleet.search(r"recipe:cb\:\:more")] == ["bender0"]


def test_a_node_started_without_a_run_list_has_the_one_that_was_left(node_of, registry_url):
    node_of(run_list=["cb"]).close()
    fleet = node_of()
    assert converge(fleet)["run_list"] == ["cb"]
    fleet.close()
    fleet = node_of(run_list=["cb::more"])
    assert converge(fleet)["run_list"] == ["cb::more"]


def test_a_node_is_found_by_its_attributes_although_its_recipe_is_wrong(node_of, kitchen_folder):
    attributes = kitchen_folder / "cookbooks" / "cb" / "attributes"
    attributes.mkdir()
    (attributes / "default.toml").write_text("[default.web]\nport = 80\n")
    fleet = node_of(run_list=["cb"])
    assert converge(fleet)["state"] == "ok"
    (attributes / "default.toml").write_text("[web]\nport = 80\n")

    assert converge(fleet)["state"] == "failed"
    assert [found.name for found in fleet.search("web_port:80")] == ["bender0"]
    fleet.close()
    fleet = node_of()
    assert [found.name for found in fleet.search("web_port:80")] == ["bender0"]
    api = fleet["bender0"]["flock_api"]
    report = api.run_chef(wait=True, override_run_list=["cb::more"])
    assert report["state"] == "failed"
    assert [found.name for found in fleet.search("web_port:80")] == ["bender0"]


def test_a_second_state_folder_cannot_have_the_name(node_of, kitchen_folder):
    node_of(run_list=["cb"]).close()
    with pytest.raises(BusyError, match=r"forget bender0"):
        node_of(state_dir=kitchen_folder / "other")


def test_a_node_object_of_five_megabytes_is_one_clear_error(node_of, objects):
    fleet = node_of(run_list=["cb"])
    api = fleet["bender0"]["flock_api"]
    assert converge(fleet)["state"] == "ok"
    objects.change_run_list("bender0", lambda _: ["cb::huge"])
    report = converge(fleet)
    assert report["state"] == "failed"
    assert "node object 'bender0'" in report["error"]
    assert str(MAX_DOCUMENT_BYTES) in report["error"] or "4194304" in report["error"]
    assert "\n" not in report["error"]
    assert eventually(api.active, within=20.0, becomes=False) is False
    assert objects.read("bender0").normal["runs"] == 1
    objects.change_run_list("bender0", lambda _: ["cb"])
    assert converge(fleet)["state"] == "ok"


def test_a_search_that_cannot_be_asked_raises(own_zookeeper):
    with Flock(registry=f"zookeeper://{own_zookeeper.connection_string}/t") as fleet:
        assert fleet.search("*:*") == []
        own_zookeeper.servers[0].kill()
        with pytest.raises(RegistryUnavailable):
            fleet.search("*:*")
        with pytest.raises(RegistryUnavailable):
            fleet.search("platform:debian")


def test_what_a_run_learned_in_an_outage_is_saved_later(own_zookeeper, node_of):
    fleet = node_of(registry=f"zookeeper://{own_zookeeper.connection_string}/t", run_list=["cb"])
    assert converge(fleet)["state"] == "ok"
    own_zookeeper.servers[0].kill()
    assert converge(fleet)["state"] == "ok"
    own_zookeeper.servers[0].start()
    objects = NodeObjects(fleet.registry)
    found = eventually(
        lambda: read(objects).normal,
        within=40.0,
        until=lambda normal: normal["runs"] == 2,
        ignoring=RegistryUnavailable,
    )
    assert found["runs"] == 2
    assert converge(fleet)["state"] == "ok"
    assert read(objects).normal["runs"] == 3


# --- without a registry --------------------------------------------------------


def test_a_journal_alone_keeps_what_it_is_given_until_there_is_a_registry(registry, short_path):
    with contextlib.closing(Journal(short_path / "journal.sqlite3")) as journal:
        alone = ObjectKeeper("bender0", short_path, journal, None)
        assert alone.claim(["cb"], "prod") == (["cb"], "prod")
        assert alone.claim() == alone.assigned() == (["cb"], "prod")
        alone.save(data(normal={"seen": 1}, run_list=["cb"]))
        assert alone.normal_attributes() == {"seen": 1}
        alone.close()

        joined = ObjectKeeper("bender0", short_path, journal, registry)
        assert joined.claim() == (["cb"], "prod")
        assert joined.normal_attributes() == {"seen": 1}
        joined.close()
    found = read(NodeObjects(registry))
    assert (found.run_list, found.environment) == (["cb"], "prod")
    assert found.normal == {"seen": 1}


def test_what_the_registry_refuses_of_an_assignment_is_not_kept(registry, objects, short_path):
    objects.claim("taken", Home("0" * 32, "m", "elsewhere", "/other"))
    too_long = [f"cb::r{number * 7919 % 100_003:x}-{number}" for number in range(2000)]
    with contextlib.closing(Journal(short_path / "journal.sqlite3")) as journal:

        def claim(where, *given, name="bender0", **more):
            with contextlib.closing(ObjectKeeper(name, short_path, journal, where)) as keeper:
                return keeper.claim(*given, **more)

        assert claim(registry, ["cb"]) == (["cb"], "_default")
        with pytest.raises(DocumentTooLarge, match="head"):
            claim(registry, too_long, "prod")
        assert claim(registry) == (["cb"], "_default")
        with pytest.raises(DocumentTooLarge, match="head"):
            claim(None, too_long)
        assert claim(registry) == (["cb"], "_default")
        with pytest.raises(BusyError):
            claim(registry, ["other"], "prod", name="taken")
        assert claim(registry) == (["cb"], "_default")
        assert claim(registry, ["x"], "prod", lasts=False) == (["x"], "prod")
        assert claim(registry) == (["cb"], "_default")
