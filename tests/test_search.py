"""The search language: what a query finds, and what is refused."""

import subprocess
import sys
import time

import pytest

from flock.errors import UsageError
from flock.search import flatten, flatten_head, parse

ATTRIBUTES = {
    "platform": "debian",
    "platform_version": "12",
    "fqdn": "web1.example.org",
    "kernel": {"release": "6.1.0-18-amd64", "modules": {"ext4": {"size": 12}}},
    "memory": {"total": 2048},
    "network": {"interfaces": {"eth0": {"addresses": ["10.0.0.1", "fe80::1"]}}},
    "motd": "be  nice to machines",
    "loaded": True,
    "nothing": None,
    "filesystem": {"/var": {"used": "91.5"}},
}
HEAD = flatten_head(
    name="web1",
    environment="prod",
    run_list=["role[web]", "recipe[ntp]", "apache2::mod_ssl"],
    roles=["web", "base"],
    recipes=["ntp::default", "apache2::mod_ssl", "apache2::default"],
    tags=["blue", "rack 7"],
)
WEB = flatten(ATTRIBUTES) | HEAD

MATCHING = [
    "*:*",
    "name:web1",
    "node:web1",
    "name:web*",
    "name:we?1",
    "name:*",
    "roles:web",
    "roles:base",
    "role:web",
    "NOT role:base",
    "recipes:apache2",
    r"recipes:apache2\:\:default",
    r"recipes:apache2\:\:mod_ssl",
    'recipes:"apache2::mod_ssl"',
    r"recipes:apache2\:\:*",
    "recipe:ntp",
    r"recipe:ntp\:\:default",
    "NOT recipe:apache2",
    r"run_list:recipe\[ntp\]",
    'run_list:"role[web]"',
    "chef_environment:prod",
    "environment:prod",
    "tags:blue",
    "tags:rack",
    'tags:"rack 7"',
    r"tags:rack\ 7",
    "platform:debian",
    "platform:(debian OR ubuntu)",
    "plat*:debian",
    "platform_versio?:12",
    "platform_version:[9 TO 12]",
    "platform_version:{9 TO 13}",
    "platform_version:[12 TO *]",
    "platform_version:>11.5",
    "platform_version:>=12",
    "platform_version:<=12",
    "memory_total:[1000 TO 3000]",
    "memory_total:2048",
    "filesystem_/var_used:[90 TO 100]",
    "used:>90",
    "name:[web0 TO web2]",
    'name:["web0" TO "web2"]',
    "kernel_release:6.1*",
    "release:6.1*",
    "kernel:release",
    "kernel_modules:ext4",
    "kernel_modules_ext4_size:12",
    "network_interfaces:eth0",
    "network_interfaces_eth0_addresses:10.0.0.1",
    "network_interfaces_*_addresses:10.0.0.*",
    r"addresses:fe80\:\:1",
    "motd:nice",
    'motd:"nice to"',
    'motd:"be nice to machines"',
    "loaded:true",
    "name:wib1~",
    "name:wib1~1",
    "platform:debain~2",
    "roles:web AND chef_environment:prod",
    "roles:db OR chef_environment:prod",
    "roles:db chef_environment:prod",
    "roles:web NOT chef_environment:test",
    "roles:web -roles:db",
    "+roles:web roles:db",
    "-roles:db",
    "NOT (roles:db OR roles:cache)",
    "roles:web AND NOT roles:db OR name:nobody",
    "roles:db OR NOT roles:cache",
    "roles:(web AND base)",
    "roles:(web NOT db)",
    "roles:web^2",
    "web",
    "example",
    "10.0.0",
    '"rack 7"',
    "nobody web1",
]

NOT_MATCHING = [
    "NOT *:*",
    "name:web",
    "name:WEB1",
    "name:we?",
    "roles:db",
    "role:base",
    "recipe:apache2",
    "recipes:mod_ssl",
    "tags:green",
    "tags:rac",
    "platform_version:[100 TO 200]",
    "platform_version:{12 TO 13}",
    "platform_version:<12",
    "platform_version:>12",
    "memory_total:[3 TO 30]",
    "no_such_field:*",
    "NOT name:*",
    "kernel:6.1*",
    "memory:2048",
    'motd:"nice machines"',
    "motd:nic",
    "loaded:True",
    "name:wob9~1",
    "roles:web AND chef_environment:test",
    "roles:db chef_environment:test",
    "roles:web NOT chef_environment:prod",
    "roles:web -roles:base",
    "+roles:db roles:web",
    "-roles:web",
    "roles:(web AND db)",
    "roles:(web NOT base)",
    "nobody",
    "debian",
    r"name:web\*",
    r"name:web\?",
    'name:"web*"',
]


def test_these_queries_find_the_node():
    assert [query for query in MATCHING if not parse(query).matches(WEB)] == []


def test_these_queries_do_not_find_the_node():
    assert [query for query in NOT_MATCHING if parse(query).matches(WEB)] == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "every node"),
        ("   ", "every node"),
        ("roles:web AND", "unexpected end"),
        ("(roles:web", "unexpected end"),
        ("roles:", "unexpected end"),
        ("recipes:apache2::mod_ssl", r"\\: "),
        ("run_list:recipe[ntp]", r"\\\["),
        ("*:web", "no field"),
        ("name:/web.*/", "regular expressions"),
        ('motd:"nice machines"~2', "AND"),
        ("roles:web && roles:db", "write AND"),
        ("(" * 3000 + "a:b" + ")" * 3000, "nested|characters"),
        ("a" * 10_001, "characters"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(query, says):
    with pytest.raises(UsageError, match=says) as caught:
        parse(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "head_only"),
    [
        ("*:*", True),
        ("roles:web AND chef_environment:prod", True),
        ("NOT tags:blue recipe:ntp run_list:*", True),
        ("name:web* AND role:(a OR b)", True),
        ("platform:debian", False),
        ("roles:web AND memory_total:>5", False),
        ("rol*:web", False),
        ("web1", False),
    ],
)
def test_a_query_knows_whether_heads_are_enough(query, head_only):
    assert parse(query).head_only is head_only


def test_no_head_of_a_node_that_is_meant_rules_it_out():
    assert [query for query in MATCHING if not parse(query).may_match(HEAD)] == []


@pytest.mark.parametrize(
    "query",
    [
        "roles:db AND platform:debian",
        "platform:debian AND NOT roles:web",
        "NOT (roles:web OR platform:fedora)",
        "+roles:db platform:debian",
        "platform:debian -roles:web",
        "roles:(db AND cache) AND web1",
    ],
)
def test_a_head_that_settles_the_answer_spares_the_body(query):
    assert not parse(query).may_match(HEAD)
    assert not parse(query).matches(WEB)


@pytest.mark.parametrize(
    "query", ["platform:fedora", "NOT platform:debian", "roles:db OR platform:fedora", "plat*:x"]
)
def test_a_head_that_leaves_the_answer_open_does_not_spare_it(query):
    assert parse(query).may_match(HEAD)
    assert not parse(query).matches(WEB)


def test_the_fields_that_a_query_wants_are_enough_for_it():
    asked = [parse(query) for query in (*MATCHING, *NOT_MATCHING)]
    differing = [
        query.text
        for query in asked
        if query.matches(flatten(ATTRIBUTES, query.wanted) | HEAD) != query.matches(WEB)
    ]
    assert differing == []


def test_only_the_wanted_fields_are_given():
    nested = {"a": {"b": {"c": [1, {"d": 2}]}}, "e": 5}
    assert flatten(nested, frozenset({"c", "a_b"})) == {"a_b": ["c"], "c": ["1", "d"]}
    assert parse("a:1 AND b*:2").wanted is None
    assert parse(r"a:1 AND b\*:2").wanted == frozenset({"a", "b*"})


def test_a_key_is_a_value_of_its_table_and_a_value_stands_under_its_last_key_too():
    assert flatten({"a": {"b": {"c": [1, {"d": 2}]}}, "e": 5}) == {
        "a": ["b"],
        "a_b": ["c"],
        "b": ["c"],
        "a_b_c": ["1", "d"],
        "c": ["1", "d"],
        "a_b_c_d": ["2"],
        "d": ["2"],
        "e": ["5"],
    }


def test_a_field_holds_wildcards_literally_when_they_are_escaped():
    flat = {"a*b": ["1"], "axb": ["2"]}
    assert parse(r"a\*b:1").matches(flat)
    assert not parse(r"a\*b:2").matches(flat)
    assert parse("a*b:2").matches(flat)


def test_nothing_is_said_where_the_parser_has_to_make_its_tables_anew():
    # As from Python 3.13 on, where what luqum comes with does not fit.
    search = (
        "import sys; sys.modules['luqum.parsetab'] = None\n"
        "from flock.search import parse\n"
        "print(parse('a:1').matches({'a': ['1']}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", search], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_many_wildcards_cost_no_more_than_a_look_at_the_value():
    query = parse("name:" + "*a" * 40 + "*b")
    began = time.process_time()
    assert not query.matches({"name": ["a" * 5000]})
    assert time.process_time() - began < 1.0


def test_a_query_can_be_asked_by_many_threads_at_once(run_in_threads):
    def ask():
        return [parse(f"name:n{i} OR roles:web").matches(WEB) for i in range(50)]

    assert run_in_threads(ask, 4) == [[True] * 50] * 4


@pytest.fixture
def run_in_threads():
    from concurrent.futures import ThreadPoolExecutor

    def run(function, count):
        with ThreadPoolExecutor(count) as pool:
            return [future.result() for future in [pool.submit(function) for _ in range(count)]]

    return run
