"""The URL of a registry in ZooKeeper: its hosts, its root, its password."""

from __future__ import annotations

import pytest

from registry.contract import WrongRegistry
from registry.zookeeper_address import parse_address


def test_hosts_ports_and_root_are_found():
    address = parse_address("zookeeper://zk1:2181,zk2:2182/flock/prod")
    assert address.hosts == (("zk1", 2181), ("zk2", 2182))
    assert address.root == "/flock/prod"
    assert address.connection_string == "zk1:2181,zk2:2182"
    assert address.url == "zookeeper://zk1:2181,zk2:2182/flock/prod"


def test_port_and_root_have_defaults():
    address = parse_address("zookeeper://zk1,zk2:99/")
    assert address.hosts == (("zk1", 2181), ("zk2", 99))
    assert address.root == "/flock"


def test_an_ipv6_address_stands_in_brackets():
    address = parse_address("zookeeper://[::1]:2182,[fe80::2],10.0.0.1/r")
    assert address.hosts == (("::1", 2182), ("fe80::2", 2181), ("10.0.0.1", 2181))
    assert address.connection_string == "[::1]:2182,[fe80::2]:2181,10.0.0.1:2181"


@pytest.mark.parametrize(
    ("written", "password"),
    [("s3cret", "s3cret"), ("p@ss:w/rd", "p@ss:w/rd"), ("%40%2F%25", "@/%"), ("", "")],
)
def test_a_password_may_hold_anything_and_is_not_shown(written, password):
    address = parse_address(f"zookeeper://flock:{written}@zk1:2181/r")
    assert (address.user, address.password) == ("flock", password)
    assert address.url == "zookeeper://flock@zk1:2181/r"
    assert not written or written not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "embedded:/tmp/x",
        "zk://zk1:2181/r",
        "zookeeper://",
        "zookeeper:///r",
        "zookeeper://zk1:0/r",
        "zookeeper://zk1:70000/r",
        "zookeeper://zk1:port/r",
        "zookeeper://zk1:2181,/r",
        "zookeeper://::1:2181/r",
        "zookeeper://user@zk1:2181/r",
        "zookeeper://:password@zk1:2181/r",
        "zookeeper://a%3Ab:password@zk1:2181/r",
        "zookeeper://zk1:2181/a/../b",
        "zookeeper://zk1:2181/.",
        "zookeeper://zk1:2181/a%00b",
        "zookeeper://zk1:2181/zookeeper/mine",
    ],
)
def test_what_names_no_registry_is_refused_without_its_password(url):
    with pytest.raises(WrongRegistry) as caught:
        parse_address(url)
    assert "password" not in str(caught.value).replace("USER:PASSWORD", "")


def test_slashes_too_many_do_not_make_another_root():
    assert parse_address("zookeeper://zk1/a//b/").root == parse_address("zookeeper://zk1/a/b").root
