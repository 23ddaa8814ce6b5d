"""The facts that a node finds out by itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from flock.converge.attributes import look_up, plain
from flock.converge.facts import collect


def test_facts_have_chefs_names_and_are_plain_data():
    facts = collect()

    assert plain(facts, "facts") == facts
    assert look_up(facts, "kernel.release") == os.uname().release
    assert look_up(facts, "memory.total").endswith("kB")
    assert look_up(facts, "cpu.total") == os.cpu_count()
    assert facts["platform_version"]
    assert {"hostname", "fqdn", "os", "platform", "platform_family"} <= set(facts)


def test_a_rolling_distribution_has_a_version_too(monkeypatch):
    rolling = {"ID": "arch", "BUILD_ID": "rolling"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: rolling)
    debian = Path("/etc/debian_version")
    version = debian.read_text().strip() if debian.exists() else "rolling"

    assert (collect()["platform"], collect()["platform_version"]) == ("arch", version)


def test_interfaces_carry_their_addresses():
    facts = collect()

    assert facts["network"]["interfaces"]["lo"]["addresses"]["127.0.0.1"] == {"family": "inet"}
    assert facts["ipaddress"] in str(facts["network"]["interfaces"])
