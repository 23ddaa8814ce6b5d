"""Completion in a real shell: from names that were seen, and never from the network."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flock.ctl.names import known_names, note_names
from flock.settings import load_settings
from tests.debian import CHANGES_WITHIN, need
from tests.flockctl import Flockctl, flockctl_on


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a socket where the registry is said to be; nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def flockctl(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flockctl]:
    url = f"zookeeper://user:secret@127.0.0.1:{listener.getsockname()[1]}/flock"
    with flockctl_on(url, tmp_path) as command:
        monkeypatch.setenv("XDG_CACHE_HOME", command.environment["XDG_CACHE_HOME"])
        note_names(load_settings({"registry": url}), ["web2", "bender0", "bender1", "bender1"])
        yield command


def offered(flockctl: Flockctl, shell: str, *words: str, **variables: str) -> list[str]:
    """Return what completion offers for the last word."""
    line = " ".join(words)
    asked: dict[str, Any] = {
        "_FLOCKCTL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    ended = flockctl(**(asked | variables))
    assert (ended.code, ended.err) == (0, "")
    rows = ended.out.split("\n")
    if shell == "zsh":
        return rows[1:-1:3]
    return [row.partition(",")[2] for row in rows if row]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_nodes_are_completed_without_asking_the_network(flockctl, listener, shell):
    assert offered(flockctl, shell, "flockctl", "actors", "ben") == ["bender0", "bender1"]
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_commands_options_and_further_targets_are_completed(flockctl):
    assert offered(flockctl, "bash", "flockctl", "sea") == ["search"]
    assert "--why-run" in offered(flockctl, "bash", "flockctl", "run", "--why")
    assert offered(flockctl, "bash", "flockctl", "run", "bender0", "b") == ["bender1"]
    assert offered(flockctl, "bash", "flockctl", "run-list", "w") == ["web2"]


def test_another_registry_has_other_names(flockctl, tmp_path):
    other = f"embedded:{tmp_path}/other"
    assert offered(flockctl, "bash", "flockctl", "--registry", other, "actors", "") == []
    note_names(load_settings({"registry": other}), ["elsewhere"])
    line = ("flockctl", "actors", "--registry", other, "e")
    assert offered(flockctl, "bash", *line) == ["elsewhere"]


def test_wrong_settings_and_a_broken_cache_offer_nothing_and_say_nothing(flockctl):
    assert offered(flockctl, "bash", "flockctl", "actors", "b", FLOCK_TIMEOUT="soon") == []
    (cached,) = (flockctl.folder / "cache" / "flock").iterdir()
    cached.write_bytes(b"\xff\xfe bender0\n$(reboot)\n")
    assert offered(flockctl, "bash", "flockctl", "actors", "b") == []
    cached.write_text("bender0\n$(reboot)\n; ls\n")
    assert "$(reboot)" not in offered(flockctl, "bash", "flockctl", "actors", "")


def test_a_broken_cache_is_written_anew(flockctl):
    (cached,) = (flockctl.folder / "cache" / "flock").iterdir()
    cached.write_bytes(b"\xff\xfe bender0\n")
    settings = load_settings({"registry": flockctl.environment["FLOCK_REGISTRY"]})
    note_names(settings, ["bender2"])
    assert known_names(settings) == ["bender2"]


def test_the_cache_is_its_owners_and_holds_no_password(flockctl):
    (cached,) = (flockctl.folder / "cache" / "flock").iterdir()
    assert cached.stat().st_mode & 0o077 == 0
    assert "secret" not in cached.name + cached.read_text()
    assert cached.read_text() == "bender0\nbender1\nweb2\n"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    settings = load_settings({"registry": f"embedded:{tmp_path}/r"})
    note_names(settings, ["bender0"])
    assert known_names(settings) == []


@pytest.fixture
def environment(flockctl: Flockctl) -> dict[str, str]:
    """Give what a shell needs to find `flockctl` as it is installed."""
    folder = flockctl.folder / "bin"
    folder.mkdir()
    program = folder / "flockctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m flock "$@"\n')
    program.chmod(0o755)
    return flockctl.environment | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(flockctl.folder),
        "TERM": "xterm",
    }


def ask_shell(environment: dict[str, str], *words: str) -> str:
    """Run a shell; return what it printed."""
    need(words[0])
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout


def test_the_script_for_bash_completes_in_a_real_bash(environment):
    script = """
        eval "$(flockctl completion bash)"; complete -p flockctl
        compopt() { printf 'compopt %s %s\\n' "$@"; }  # works only where somebody types
        ask() {
            COMP_LINE="$1"; COMP_POINT="${#COMP_LINE}"; COMPREPLY=()
            _flockctl_completion flockctl; echo "${COMPREPLY[@]}"
        }
        ask 'flockctl runs bend'
        # bash itself would take the URL apart at its colons.
        ask "flockctl --registry $FLOCK_REGISTRY runs 'bend"
        ask "flockctl runs --registry=$FLOCK_REGISTRY "
        ask "flockctl node --cookbooks 'my fol"
    """
    printed = ask_shell(environment, "bash", "-norc", "-c", script).splitlines()
    assert "-F _flockctl_completion flockctl" in printed[0]
    assert printed[1:4] == ["bender0 bender1", "bender0 bender1", "bender0 bender1 web2"]
    assert printed[4] == "compopt -o dirnames"


@pytest.mark.timeout(CHANGES_WITHIN)
def test_the_script_for_fish_completes_in_a_real_fish(environment):
    script = "flockctl completion fish | source; complete -C 'flockctl runs bend'"
    assert ask_shell(environment, "fish", "-c", script).split() == ["bender0", "bender1"]


@pytest.mark.timeout(CHANGES_WITHIN)
def test_the_script_for_zsh_completes_in_a_real_zsh(environment):
    # zsh completes only where somebody types: at a terminal of its own.
    need("zsh")
    master, slave = pty.openpty()
    zsh = subprocess.Popen(
        ["setsid", "--ctty", "zsh", "-f", "-i"],
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        os.write(master, b'autoload -Uz compinit; compinit -u -D; echo be""gun\n')
        typed_out(master, "begun")
        os.write(master, b'eval "$(flockctl completion zsh)"; echo re""ady\n')
        typed_out(master, "ready")
        os.write(master, b"flockctl runs be\t")
        typed_out(master, "bender")
        os.write(master, b"\t\t")  # what they have in common is there; these show the rest
        assert "bender0" in typed_out(master, "bender1")
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)


def typed_out(master: int, word: str) -> str:
    """Return what a terminal shows until `word` is there."""
    shown, deadline = "", time.monotonic() + 30
    while word not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        assert select.select([master], [], [], left)[0], shown
        shown += os.read(master, 4096).decode()
    return shown


@pytest.mark.parametrize(
    ("shell", "says"), [("zsh", "#compdef flockctl"), ("fish", "--command flockctl")]
)
def test_the_other_shells_have_scripts_too(flockctl, shell, says):
    ended = flockctl("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert says in ended.out
    assert flockctl("completion", shell, "--json").value["script"].strip() == ended.out.strip()


def test_an_unknown_shell_is_wrong_use(flockctl):
    assert flockctl("completion", "cmd").code == 2
    assert flockctl("completion").code == 2
