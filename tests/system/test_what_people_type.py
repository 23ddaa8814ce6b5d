"""What people type, line by line, on both registries: Python, commands, and a recipe."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flockctl import Ended, Flockctl, flockctl_on
from tests.support import eventually

LINES = r"""
import asyncio, json, sys
import pykka
from flock import FlockOfChefs
from flock.errors import NodeNotFound

def error_of(deed):
    try:
        deed()
    except Exception as error:
        return type(error).__name__

async def awaited():
    return await FlockOfChefs['bender0']['flock_api'].active.future()

said = {}
said['run_chef'] = FlockOfChefs['bender0']['flock_api'].run_chef()['state']
said['active'] = FlockOfChefs['bender0']['flock_api'].active()
said['node'] = FlockOfChefs['bender0']['flock_api'].node('kernel.name')

api = FlockOfChefs['bender0']['flock_api']
future = api.run_chef.future(wait=True)
said['future'] = isinstance(future, pykka.Future), future.get(timeout=60)['state']
said['awaited'] = asyncio.run(awaited())
said['defer'] = api.run_chef.defer()
said['options'] = api.options(timeout=5).active()

said['in'] = ['bender0' in FlockOfChefs, 'nobody' in FlockOfChefs]
said['list'] = list(FlockOfChefs)
said['get'] = FlockOfChefs.get('nobody')
said['[]'] = error_of(lambda: FlockOfChefs['nobody'])
said['no actor yet'] = str(FlockOfChefs['bender0']['nobody'])
said['actors'] = FlockOfChefs['bender0'].actors()
said['ping'] = FlockOfChefs['bender0'].ping()
said['state'] = str(FlockOfChefs['bender0'].state)
said['me'] = FlockOfChefs.me
said['find'] = [itchy.about()['os'] for itchy in FlockOfChefs.find('info')]
said['search'] = [
    [found.name, str(found.node.name)]
    for found in FlockOfChefs.search('roles:web AND chef_environment:prod')
]
FlockOfChefs.globals['release'] = '1.4'
said['globals'] = FlockOfChefs.globals['release']
tokens = []
for _ in range(2):
    with FlockOfChefs.lock('web-restart', wait=30) as lock:
        tokens.append(lock.token)
said['tokens grow'] = 0 < tokens[0] < tokens[1]
said['heavy'] = [name for name in ('kazoo',) if name in sys.modules]
print(json.dumps(said))
"""

RECIPE = """
from flock.recipe import FlockOfChefs, clocker, dishes_dish, dishes_sink, execute, file, held
from flock.recipe import include_recipe, node, template

file('{here}/fubar', content='foobar').remote_notifies('run', 'execute[kill all humans]',
                                                       node='bender1')
execute('kill all humans', command='echo done >> {here}/humans', action='nothing')
file('{here}/fubar2', content='foobar', action='nothing').remote_subscribes(
    'create', 'execute[kill all humans]', node='bender1')
file('{here}/later', content='x').wait_while(
    lambda: FlockOfChefs['bender1']['flock_api'].active(), timeout=300)
clocker('lock-test1', lockid='lock-test1', lockwait=10)
template('{here}/app.conf', source='app.conf.j2').only_if(held('lock-test1')).notifies(
    'run', 'execute[restart app]', 'delayed')
execute('restart app', command='echo restarted >> {here}/app', action='nothing')
clocker('release lock-test1', lockid='lock-test1', action='clockoff')
dishes_dish('planet_express::daemon', wash_recipe='planet_express::disable_daemon', sink='default')
dishes_sink('default')
include_recipe('::more')
file('{here}/name', content=node.name)
"""


@pytest.fixture
def flockctl(registry_url: str, tmp_path: Path) -> Iterator[Flockctl]:
    """Give the command on each kind of registry, with two nodes; `bender0` is a web in prod."""
    with flockctl_on(registry_url, tmp_path) as command:
        home = command.cookbooks / "planet_express"
        for path, text in {
            "recipes/default.py": RECIPE,
            "recipes/more.py": "",
            "recipes/daemon.py": "",
            "recipes/disable_daemon.py": "",
            "recipes/killer.py": (
                "from flock.recipe import execute\n"
                "execute('kill all humans', command='echo there >> {here}/humans', "
                "action='nothing')\n"
            ),
            "templates/app.conf.j2": "release {{ node.name }}",
        }.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(text.replace("{here}", str(tmp_path)))
        (tmp_path / "roles").mkdir()
        web = "name = 'web'\nrun_list = ['recipe[planet_express]']\n"
        (tmp_path / "roles" / "web.toml").write_text(web)
        (tmp_path / "environments").mkdir()
        (tmp_path / "environments" / "prod.toml").write_text("name = 'prod'\n")
        nodes = [
            command.start_node("bender0", "--run-list", "role[web]", "--environment", "prod"),
            command.start_node("bender1", "--run-list", "recipe[planet_express::killer]"),
        ]
        for node in nodes:
            assert node.says("READY bender"), node.err
        yield command


def test_every_line_of_python_does_what_it_says(flockctl):
    subscriptions = ("call", "bender1", "resource_manager", "subscriptions", "--json")
    assert eventually(lambda: flockctl(*subscriptions).value, within=30.0)
    done = subprocess.run(
        [sys.executable, "-c", LINES],
        env=flockctl.environment,
        cwd=flockctl.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("run_chef") in ("queued", "running")
    assert said.pop("active") in (True, False)
    assert said.pop("options") in (True, False)
    assert said.pop("awaited") in (True, False)
    assert 0 < said.pop("ping") < 5
    actors = said.pop("actors")
    assert {"flock_api", "info", "locker", "resource_manager", "sink"} <= set(actors)
    # On a single machine nothing of ZooKeeper's is even loaded.
    assert said.pop("heavy") == ([] if flockctl.url.startswith("embedded:") else ["kazoo"])
    assert said == {
        "node": "Linux",
        "future": [True, "ok"],
        "defer": None,
        "in": [True, False],
        "list": ["bender0", "bender1"],
        "get": None,
        "[]": "NodeNotFound",
        "no actor yet": "<actor bender0/nobody>",
        "state": "connected",
        "me": None,
        "find": ["Linux", "Linux"],
        "search": [["bender0", "bender0"]],
        "globals": "1.4",
        "tokens grow": True,
    }
    here = flockctl.folder
    assert {name: (here / name).read_text() for name in ("fubar", "later", "app.conf", "app")} == {
        "fubar": "foobar",
        "later": "x",
        "app.conf": "release bender0",
        "app": "restarted\n",
    }
    assert eventually((here / "humans").exists, within=30.0)
    # Its own action is nothing: bender1's command, which bender0 subscribed to, set it off.
    assert eventually((here / "fubar2").exists, within=30.0)
    assert (here / "humans").read_text() == "there\n"


def test_every_command_does_what_it_says(flockctl):
    def value(*words: str) -> object:
        ended = flockctl(*words, "--json")
        assert ended.code == 0, (words, ended.err)
        return ended.value

    def fields(*words: str) -> str:
        rows = value(*words)
        assert isinstance(rows, list) and rows, words
        return " ".join(rows[0])

    def out(*words: str) -> str:
        ended: Ended = flockctl(*words)
        assert ended.code == 0, (words, ended.err)
        return ended.out

    assert fields("nodes") == (
        "name state address environment roles recipes actors started version generation"
    )
    assert "flock_api" in out("actors", "bender0")
    assert out("call", "bender0", "flock_api", "active") == "false\n"
    assert fields("run", "bender0", "bender1") == "node state run_id report"
    assert "bender0  ok" in out("run", "--on", "roles:web")
    own = ("--name", "fry", "--state-dir", str(flockctl.folder / "fry"))
    books = ("--cookbooks", str(flockctl.cookbooks), "--run-list", "recipe[planet_express::more]")
    report = value("converge", *own, *books)
    assert isinstance(report, dict)
    assert report["recipes"] == ["planet_express::more"]
    assert value("locks") == []
    inside = f"{sys.executable} -m flock locks --json"
    (row,) = json.loads(out("lock", "web-restart", "--", "sh", "-c", inside))
    assert " ".join(row) == "lockid slots holders holder waiting"
    assert " ".join(row["holders"][0]) == "owner host run_id since slot token reason kept"
    assert row["holder"] == row["holders"][0]
    assert eventually(lambda: value("notices", "bender1"), within=30.0, becomes=[]) == []
    assert fields("dishes", "bender0") == "name recipe wash_recipe sink state washed_at"
    assert "ok   registry reachable" in out("doctor")
    assert value("run-list", "bender1", "add", "recipe[planet_express::more]") == [
        "recipe[planet_express::killer]",
        "recipe[planet_express::more]",
    ]
    runs = value("runs", "bender1")
    assert isinstance(runs, list)
    assert (
        runs[0]["run_id"]
        in out("runs", "bender1", runs[0]["run_id"])
        + flockctl("runs", "bender1", runs[0]["run_id"]).err
    )
    assert flockctl("cancel", "bender1").code == 0
    assert flockctl("wash", "bender0", "default").code == 0
    assert flockctl("unlock", "web-restart", "--reason", "gone").code == 3
    assert flockctl("forget", "bender1").code == 6, "it is up"
    assert flockctl("forget", "fry").code == 0
    notice = ("notify", "bender1", "execute[kill all humans]", "run")
    assert flockctl(*notice).code == 0


@pytest.mark.parametrize("command", ["flockctl", "python -m flock"])
def test_the_command_has_two_names(command):
    here = Path(sys.executable).parent
    words = [str(here / word) if word != "-m" else word for word in command.split()]
    words = [sys.executable, "-m", "flock"] if "-m" in words else words
    done = subprocess.run(
        [*words, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "flockctl")


def test_own_actors_serve_as_the_manual_shows(registry_url, tmp_path):
    program = """
        import flock, threading

        class Itchy(flock.Actor):
            def fight(self, whom):
                return f'{whom} lost'

        with flock.Flock(name='itchy') as fleet:
            fleet.supervise(Itchy, name='itchy')
            print('ready', flush=True)
            fleet.serve_forever()
    """
    with flockctl_on(registry_url, tmp_path) as command:
        itchy = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=command.environment | {"FLOCK_STATE_DIR": str(tmp_path / "itchy")},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert itchy.stdout is not None
        try:
            assert itchy.stdout.readline() == "ready\n"
            assert command("call", "itchy", "itchy", "fight", "scratchy").out == "scratchy lost\n"
        finally:
            # As a shell ends a job that was stopped: any thread may take the signal then.
            itchy.send_signal(signal.SIGSTOP)
            itchy.terminate()
            itchy.send_signal(signal.SIGCONT)
            assert itchy.wait(40) == 0
            itchy.stdout.close()
