"""The kind chef_client, against a stand-in that answers as Chef Infra Client does."""

from __future__ import annotations

import os

import pytest

from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path

RUN = """\
Starting Chef Infra Client, version 17.10.0
Converging 3 resources
Recipe: app::default
  * directory[/etc/app] action create (up to date)
  * file[/etc/app/conf] action create
    - update content in file /etc/app/conf from 2cf24d to 486ea4
    --- /etc/app/conf 2026-01-31 12:00:00.000000000 +0000
    +++ /etc/app/.chef-conf 2026-01-31 12:00:01.000000000 +0000
    @@ -1 +1 @@
    -hello
    +world
  * service[app] action restart
    - restart service service[app]
  * execute[never] action run (skipped due to only_if)

Running handlers:
Running handlers complete
Infra Phase complete, 2/4 resources updated in 04 seconds
"""
NOTHING = "Running handlers complete\nInfra Phase complete, 0/4 resources updated in 02 seconds\n"


@pytest.fixture
def chef(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return put_on_path("chef-client", tmp_path)


def test_it_changed_if_chef_updated_resources_and_names_them(site, chef):
    chef.answers(RUN)
    site.recipe("chef_client('app')")
    assert changes(site.converge()) == [
        ["file[/etc/app/conf] action create", "service[app] action restart"]
    ]

    chef.answers(NOTHING)
    assert states(site.converge()) == ["unchanged"]


@pytest.mark.parametrize(
    "line",
    [
        "Chef Infra Client finished, 0/4 resources updated in 02 seconds",
        "Chef Client finished, 0/4 resources updated in 02 seconds",
    ],
)
def test_older_clients_are_understood(site, chef, line):
    chef.answers(line)
    site.recipe("chef_client('app')")

    assert states(site.converge()) == ["unchanged"]


def test_a_why_run_is_that_of_chef(site, chef):
    chef.answers(RUN.replace("resources updated", "resources would have been updated"))
    site.recipe("chef_client('app')")

    assert len(changes(site.converge(why_run=True))[0]) == 2
    assert ["--why-run" in call for call in chef.calls] == [True]
    chef.answers("Infra Phase complete, 0/4 resources would have been updated\n")
    assert states(site.converge(why_run=True)) == ["unchanged"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (35, "chef-client has scheduled a reboot"),
        (37, "chef-client says that a reboot is needed"),
        (213, "chef-client upgraded itself; its next run does what was left"),
    ],
)
def test_exit_codes_that_are_no_failure_are_told(site, chef, code, text):
    chef.answers(NOTHING, code)
    site.recipe("chef_client('app')")

    assert changes(site.converge()) == [[text]]


@pytest.mark.parametrize("code", [1, 2, 3, 41, 42])
def test_other_exit_codes_are_failures_with_the_last_words(site, chef, code):
    chef.answers(
        "Infra Phase failed. 1 resources updated in 02 seconds\n", code, "FATAL: no server"
    )
    site.recipe("chef_client('app')")

    assert f"chef-client ended with exit code {code}: FATAL: no server" in failure(site.converge())


def test_output_without_a_count_counts_as_changed_and_says_so(site, chef):
    chef.answers("something else\n")
    site.recipe("chef_client('app')")

    assert changes(site.converge()) == [["run chef-client, which does not say what it updated"]]


def test_properties_become_arguments(site, chef):
    chef.answers(NOTHING)
    site.recipe("""
        chef_client('app', config='/etc/x.rb', local_mode=True, override_runlist=['a', 'role[b]'],
                    chef_environment='prod', options=['--fips'])
    """)
    site.converge()

    call = chef.calls[0]
    assert call[call.index("--config") + 1] == "/etc/x.rb"
    assert call[call.index("--override-runlist") + 1] == "a,role[b]"
    assert call[call.index("--environment") + 1] == "prod"
    assert "--local-mode" in call and call[-1] == "--fips"


def test_without_chef_the_error_says_so_and_a_why_run_goes_on(site, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    site.recipe("chef_client('app')")

    assert changes(site.converge(why_run=True)) == [["run chef-client, which is not installed yet"]]
    assert "chef-client is not installed on this machine" in failure(site.converge())
