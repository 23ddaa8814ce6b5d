"""The facts that a node finds out by itself."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

import pytest

from flock.converge.attributes import look_up, plain
from flock.converge.facts import _fully_qualified_name, collect


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


def test_a_distribution_has_its_code_name_where_chef_has_it(monkeypatch):
    release = {"ID": "debian", "NAME": "Debian GNU/Linux", "VERSION_ID": "12"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert collect()["lsb"] == {"id": "Debian GNU/Linux", "release": "12"}

    release["VERSION_CODENAME"] = "bookworm"
    assert look_up(collect(), "lsb.codename") == "bookworm"


@pytest.mark.parametrize(
    ("full", "fqdn", "domain"),
    [
        ("web1.example.org", "web1.example.org", "example.org"),
        ("localhost", "web1", None),
        ("localhost.localdomain", "web1", None),
        ("web1", "web1", None),
    ],
)
def test_no_machine_takes_localhost_for_its_name(monkeypatch, full, fqdn, domain):
    monkeypatch.setattr(socket, "gethostname", lambda: "web1")
    monkeypatch.setattr(socket, "getfqdn", lambda: full)
    _fully_qualified_name.cache_clear()
    facts = collect()
    _fully_qualified_name.cache_clear()

    assert (facts["fqdn"], facts.get("domain")) == (fqdn, domain)


def test_interfaces_carry_their_addresses():
    facts = collect()

    assert facts["network"]["interfaces"]["lo"]["addresses"]["127.0.0.1"] == {"family": "inet"}
    assert facts["ipaddress"] in str(facts["network"]["interfaces"])
