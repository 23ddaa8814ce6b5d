#!/usr/bin/env python3
"""Measure a converge of files against Puppet, pyinfra and Ansible, in one run.

Each tool sees to N files of 1 KiB with a mode, as a whole process: a first run
that writes them all and second runs that find nothing to do. What is not
installed is left out and named: Puppet is Debian's package, pyinfra and
ansible-core are installed into an environment of their own in the folder for
temporary files. The slow ones are measured with fewer files and scaled: the
start of the process is measured with one file and not multiplied.

`--growth` shows what more resources cost us, in time and memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flock.converge.programs import find_program

PEERS = Path(tempfile.gettempdir()) / "flock-bench-converge-peers"
FLOCKCTL = Path(sys.executable).with_name("flockctl")
GROWTH = (100, 300, 1000, 3000, 10_000)
TARGET_SECOND, TARGET_FIRST, TARGET_NET = 8.0, 5.0, 0.25


@dataclass(frozen=True)
class Usage:
    """What one process took.

    Attributes:
        seconds: from start to end.
        cpu: seconds of processor, its children included.
        memory: bytes at most.
    """

    seconds: float
    cpu: float
    memory: int


@dataclass(frozen=True)
class Tool:
    """One tool that is measured.

    Attributes:
        name: in the table.
        files: how many it is measured with.
        write: makes what the tool reads, for a number of files below a folder,
            and returns its command.
    """

    name: str
    files: int
    write: Callable[[Path, int], list[str]]


def content(number: int) -> str:
    """Return 1 KiB for one file."""
    return (f"{number:05} " * 171)[:1024]


def run(command: Sequence[str], environment: dict[str, str]) -> Usage:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.exit(f"{command[0]} failed: {output.read().decode(errors='replace')[-2000:]}")
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


# --- the tools


def write_ours(folder: Path, files: int) -> list[str]:
    """Write a cookbook."""
    recipes = folder / "cookbooks/files/recipes"
    recipes.mkdir(parents=True)
    (recipes / "default.py").write_text(
        "from flock.recipe import file\n"
        f"for number in range({files}):\n"
        f"    content = (f'{{number:05}} ' * 171)[:1024]\n"
        f"    file(f'{folder}/out/{{number:05}}', content=content, mode=0o644)\n"
    )
    return [
        str(FLOCKCTL),
        "converge",
        "--json",
        "--name=bench",
        f"--registry=embedded:{folder}/registry",
        f"--state-dir={folder}/state",
        f"--cookbooks={folder}/cookbooks",
        "--run-list=files",
    ]


def write_puppet(folder: Path, files: int) -> list[str]:
    """Write a manifest."""
    manifest = folder / "site.pp"
    form = "file {{ '{}/out/{:05}': content => '{}', mode => '0644' }}\n"
    manifest.write_text(
        "".join(form.format(folder, number, content(number)) for number in range(files))
    )
    return [str(find_program("puppet")), "apply", f"--confdir={folder}/puppet", str(manifest)]


def write_pyinfra(folder: Path, files: int) -> list[str]:
    """Write a deploy."""
    deploy = folder / "deploy.py"
    deploy.write_text(
        "from io import StringIO\nfrom pyinfra.operations import files\n"
        f"for number in range({files}):\n"
        f"    content = (f'{{number:05}} ' * 171)[:1024]\n"
        f"    files.put(src=StringIO(content), dest=f'{folder}/out/{{number:05}}', mode='644')\n"
    )
    return [str(PEERS / "bin/pyinfra"), "-y", "@local", str(deploy)]


def write_ansible(folder: Path, files: int) -> list[str]:
    """Write a playbook."""
    playbook = folder / "site.yml"
    playbook.write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy:\n"
        "        content: '{{ (\"%05d \" % item * 171)[:1024] }}'\n"
        f"        dest: '{folder}/out/{{{{ \"%05d\" % item }}}}'\n        mode: '0644'\n"
        f"      loop: '{{{{ range({files}) | list }}}}'\n"
    )
    ansible = find_program("ansible-playbook") or str(PEERS / "bin/ansible-playbook")
    python = Path(ansible).with_name("python")
    interpreter = python if python.exists() else "/usr/bin/python3"
    return [
        ansible,
        "--inventory=localhost,",
        "--connection=local",
        f"--extra-vars=ansible_python_interpreter={interpreter}",
        str(playbook),
    ]


def tools(wanted: Sequence[str], files: int, few: int) -> list[Tool]:
    """Return the tools that are here, ours first; say what is left out."""
    known = {
        "puppet": Tool("puppet apply", files, write_puppet),
        "pyinfra": Tool("pyinfra @local", few, write_pyinfra),
        "ansible": Tool("ansible-playbook", few, write_ansible),
    }
    found = [Tool("flockctl converge", files, write_ours)]
    for name in wanted:
        reason = missing(name)
        if reason is None:
            found.append(known[name])
        else:
            print(f"left out: {name}: {reason}", file=sys.stderr)
    return found


def missing(name: str) -> str | None:
    """Say why a tool is not here, after trying to get it; None if it is."""
    if name == "puppet":
        return None if find_program("puppet") else "apt-get install puppet-agent"
    program, package = {
        "pyinfra": ("pyinfra", "pyinfra"),
        "ansible": ("ansible-playbook", "ansible-core"),
    }[name]
    if (PEERS / "bin" / program).exists() or (name == "ansible" and find_program(program)):
        return None
    print(f"installing {package} in {PEERS}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", str(PEERS)],
        [str(PEERS / "bin/pip"), "install", "--quiet", package],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            return f"cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
    return None


# --- measuring


class Bench:
    """One tool in a folder of its own.

    Args:
        tool: what is measured.
        files: how many files it sees to.
        folder: where; made.
    """

    def __init__(self, tool: Tool, files: int, folder: Path) -> None:
        self.tool = tool
        self._out = folder / "out"
        folder.mkdir(parents=True)
        self._command = tool.write(folder, files)
        self._files = files
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        }

    def first(self) -> Usage:
        """Measure a run that writes every file."""
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir()
        usage = run(self._command, self._environment)
        made = len(list(self._out.iterdir()))
        if made != self._files:
            sys.exit(f"{self.tool.name} made {made} of {self._files} files")
        return usage

    def second(self) -> Usage:
        """Measure a run that finds nothing to do."""
        times = [each.stat().st_mtime_ns for each in sorted(self._out.iterdir())]
        usage = run(self._command, self._environment)
        if times != [each.stat().st_mtime_ns for each in sorted(self._out.iterdir())]:
            sys.exit(f"{self.tool.name} wrote files that were right")
        return usage


def median(usages: Sequence[Usage]) -> Usage:
    """Return the medians."""
    return Usage(
        statistics.median(each.seconds for each in usages),
        statistics.median(each.cpu for each in usages),
        round(statistics.median(each.memory for each in usages)),
    )


def compare(wanted: Sequence[str], files: int, few: int, rounds: int, folder: Path) -> None:
    """Measure all tools and print their table."""
    found = tools(wanted, files, few)
    benches = [Bench(tool, tool.files, folder / f"tool-{n}") for n, tool in enumerate(found)]
    starts = [Bench(tool, 1, folder / f"start-{n}") for n, tool in enumerate(found)]
    firsts: list[list[Usage]] = [[] for _ in found]
    seconds: list[list[Usage]] = [[] for _ in found]
    single: list[list[Usage]] = [[] for _ in found]
    for turn in range(rounds):
        for number, (bench, start) in enumerate(zip(benches, starts, strict=True)):
            print(f"round {turn + 1} of {rounds}: {bench.tool.name}", file=sys.stderr)
            firsts[number].append(bench.first())
            seconds[number].append(bench.second())
            if turn == 0:
                start.first()
            single[number].append(start.second())
    rows = []
    for tool, first, second, one in zip(found, firsts, seconds, single, strict=True):
        start_seconds = median(one).seconds
        rows.append(
            (
                tool,
                start_seconds,
                _scaled(median(first).seconds, start_seconds, tool.files, files),
                _scaled(median(second).seconds, start_seconds, tool.files, files),
                median(second),
            )
        )
    _print_rows(rows, files)


def _scaled(seconds: float, start: float, measured: int, files: int) -> float:
    """Return what `files` would take, of what fewer took."""
    return (
        seconds if measured == files else start + (seconds - start) * (files - 1) / (measured - 1)
    )


def _print_rows(rows: Sequence[tuple[Tool, float, float, float, Usage]], files: int) -> None:
    print(f"\n{files} files of 1 KiB, whole processes, medians, seconds\n")
    print(f"{'':24}{'1 file':>9}{'first':>9}{'ratio':>8}{'second':>9}{'ratio':>8}{'MiB':>7}")
    ours = rows[0]
    for tool, start, first, second, used in rows:
        name = tool.name if tool.files == files else f"{tool.name} ({tool.files}, scaled)"
        print(
            f"{name:24.24}{start:9.2f}{first:9.2f}{first / ours[2]:8.1f}"
            f"{second:9.2f}{second / ours[3]:8.1f}{used.memory / 2**20:7.0f}"
        )
    net = ours[3] - ours[1]
    print(f"\nsecond run, net of the start of the process: {net:.3f} s (wanted: {TARGET_NET})")
    print(f"its processor time: {ours[4].cpu:.3f} s")
    if len(rows) > 1:
        print(
            f"fastest of the others: {min(row[3] for row in rows[1:]) / ours[3]:.1f} times ours in "
            f"the second run (wanted: {TARGET_SECOND:g}), "
            f"{min(row[2] for row in rows[1:]) / ours[2]:.1f} times in the first "
            f"(wanted: {TARGET_FIRST:g})"
        )


def growth(rounds: int, folder: Path) -> None:
    """Measure ourselves with more and more resources."""
    tool = Tool("flockctl converge", 0, write_ours)
    print(f"\n{'resources':>10}{'first s':>10}{'second s':>10}{'us each':>10}{'MiB':>7}")
    start = 0.0
    for count in (1, *GROWTH):
        bench = Bench(tool, count, folder / f"growth-{count}")
        first = bench.first()
        second = median([bench.second() for _ in range(rounds)])
        start = start or second.seconds
        each = (second.seconds - start) / count * 1e6
        print(
            f"{count:10,}{first.seconds:10.2f}{second.seconds:10.2f}{each:10.0f}"
            f"{second.memory / 2**20:7.0f}",
            flush=True,
        )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--few", type=int, default=100, help="files for the slow tools")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="puppet,pyinfra,ansible", help="names, or none")
    parser.add_argument("--no-growth", action="store_true")
    options = parser.parse_args()
    wanted = [each for each in options.peers.split(",") if each not in ("", "none")]
    with tempfile.TemporaryDirectory(prefix="flock-bench-converge-") as name:
        folder = Path(name)
        compare(wanted, options.files, options.few, options.rounds, folder)
        if not options.no_growth:
            growth(options.rounds, folder)


if __name__ == "__main__":
    main()
