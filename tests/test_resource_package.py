"""The kind package: real apt with packages built here, and stand-ins for dnf and rpm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian import CHANGES_WITHIN, changing_the_machine
from tests.kitchens import changes, failure, states
from tests.stand_ins import put_on_path

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")


# --- apt


NAME = f"flock-test-{os.getpid()}"


def build(folder, version, name=NAME):
    """Build a package with one configuration file."""
    tree = folder / f"build-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "etc" / f"{name}.conf").write_text(f"version {version}\n")
    (tree / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: a package of the tests\n"
    )
    path = folder / f"{name}_{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, path],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def cleanup():
    with changing_the_machine():
        yield
        subprocess.run(["dpkg", "--purge", NAME], check=False, capture_output=True)


def said_by(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def status():
    return subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", NAME],
        check=False,
        capture_output=True,
        text=True,
    ).stdout


@needs_apt
@pytest.mark.system_changes
def test_a_package_file_is_installed_upgraded_downgraded_removed_and_purged_once(site, cleanup):
    first, second = build(site.folder, "1.0"), build(site.folder, "2.0")

    for path, version in ((first, "1.0"), (second, "2.0"), (first, "1.0")):
        site.recipe(f"package('{NAME}', source='{path}')")
        assert changes(site.converge()) == [[f"install {NAME} {version} from {path}"]]
        assert status() == f"installed {version}"
        assert states(site.converge()) == ["unchanged"]

    site.recipe(f"package('{NAME}')")
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"package('{NAME}', action='remove')")
    assert changes(site.converge()) == [[f"remove {NAME}"]]
    assert status() == "config-files 1.0"
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"package('{NAME}', action='purge')")
    assert changes(site.converge()) == [[f"purge {NAME}"]]
    assert not Path(f"/etc/{NAME}.conf").exists()
    assert states(site.converge()) == ["unchanged"]


@needs_apt
@pytest.mark.system_changes
def test_versions_from_a_repository_are_installed_and_upgraded(site, cleanup, monkeypatch):
    """A repository in a folder, and an apt that knows only this one."""
    repository = site.folder / "repository"
    repository.mkdir()
    for version in ("1.0", "2.0"):
        shutil.copy(build(site.folder, version), repository)
    stanzas = []
    for path in sorted(repository.iterdir()):
        fields = said_by("dpkg-deb", "--field", str(path))
        stanzas.append(
            f"{fields}Filename: ./{path.name}\nSize: {path.stat().st_size}\n"
            f"SHA256: {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        )
    (repository / "Packages").write_text("\n".join(stanzas))
    lists = site.folder / "lists"
    (lists / "partial").mkdir(parents=True)
    site.write("sources.list", f"deb [trusted=yes] file:{repository} ./\n")
    site.write(
        "apt.conf",
        f'Dir::Etc::SourceList "{site.folder}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{lists}";\nDir::Cache "{site.folder}/cache";\n'
        'APT::Sandbox::User "root";\nAcquire::AllowWeakRepositories "true";\n',
    )
    (site.folder / "cache/archives/partial").mkdir(parents=True)
    monkeypatch.setenv("APT_CONFIG", str(site.folder / "apt.conf"))
    subprocess.run(["apt-get", "update"], check=True, capture_output=True, timeout=120)

    site.recipe(f"package('{NAME}', version='1.*')")
    assert changes(site.converge()) == [[f"install {NAME} 1.*"]]
    assert status() == "installed 1.0"
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"package('{NAME}', action='upgrade')")
    assert changes(site.converge(why_run=True)) == [[f"upgrade {NAME}"]]
    assert changes(site.converge()) == [[f"upgrade {NAME}"]]
    assert status() == "installed 2.0"
    assert states(site.converge()) == ["unchanged"]

    site.recipe(f"package('{NAME}', version='1.0')")
    assert states(site.converge()) == ["changed"]
    assert status() == "installed 1.0"

    site.recipe("package('nobody-has-this')")
    assert "apt knows no package nobody-has-this" in failure(site.converge())


@needs_apt
def test_a_package_that_is_there_is_not_touched(site):
    site.recipe("package('base-files')\npackage('both', package_name=['dpkg', 'apt'])")

    assert states(site.converge()) == ["unchanged", "unchanged"]


@needs_apt
@pytest.mark.timeout(CHANGES_WITHIN)
def test_a_name_that_an_installed_package_provides_is_there(site):
    fields = said_by("dpkg-query", "--show", "--showformat", "${Provides}", "perl-base")
    name = next(each for each in fields.split(", ") if each.startswith("perlapi-"))
    site.recipe(f"""
        package('{name}', action=['install', 'upgrade'])
        package('{name}', version='1.0')
    """)
    with changing_the_machine():  # nobody reads other lists of packages meanwhile
        plan = said_by("apt-get", "install", "--dry-run", "--only-upgrade", "perl-base")
        report = site.converge(why_run=True)

    # A version is that of a package of this name, which nobody has.
    upgrade = [f"upgrade {name}"] if "Inst perl-base " in plan else []
    assert changes(report) == [[], upgrade, [f"install {name} 1.0"]]


@needs_apt
def test_a_why_run_installs_nothing(site):
    site.recipe("""
        package('flock-nobody-has-this', version='1.0')
        package('new', package_name='flock-x', source='{here}/not-there-yet.deb')
        package('base-files', action='remove')
        package('flock-nobody-has-this', action='purge')
    """)

    assert changes(site.converge(why_run=True)) == [
        ["install flock-nobody-has-this 1.0"],
        [f"install {site.folder}/not-there-yet.deb"],
        ["remove base-files"],
        [],
    ]


@needs_apt
def test_a_file_of_another_package_is_refused(site):
    path = build(site.folder, "1.0")
    site.recipe(f"package('flock-other', source='{path}')")

    assert f"{path} holds the package {NAME}, not flock-other" in failure(site.converge())


@needs_apt
def test_a_file_that_is_no_package_is_an_error(site):
    site.write("x.deb", "no package")
    site.recipe("package('flock-x', source='{here}/x.deb')")

    assert "dpkg-deb" in failure(site.converge())


# --- dnf


class Rpms:
    """The stand-ins with the packages that they know."""

    def __init__(self, folder):
        self.dnf = put_on_path("dnf", folder, "stand_in_dnf.py")
        put_on_path("rpm", folder, "stand_in_dnf.py")
        self.path = folder / "rpms.json"
        self.path.write_text(
            json.dumps({"installed": {"bash": "5.1-1"}, "offered": {"bash": "5.2-1", "vim": "9-1"}})
        )

    @property
    def installed(self):
        return json.loads(self.path.read_text())["installed"]

    @property
    def orders(self):
        return [call for call in self.dnf.calls if "-y" in call]


@pytest.fixture
def rpms(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return Rpms(tmp_path)


def test_dnf_installs_what_is_missing_and_upgrades_if_told(site, rpms):
    site.recipe("package('some', package_name=['bash', 'vim'], manager='dnf')")
    assert changes(site.converge()) == [["install vim"]]
    assert rpms.installed == {"bash": "5.1-1", "vim": "9-1"}
    assert states(site.converge()) == ["unchanged"]

    site.recipe("package('bash', manager='dnf', action='upgrade')")
    assert changes(site.converge()) == [["upgrade bash"]]
    assert rpms.installed["bash"] == "5.2-1"
    assert states(site.converge()) == ["unchanged"]


def test_dnf_takes_versions_files_and_removals(site, rpms):
    site.recipe("package('bash', manager='dnf', version='5.0-1', options=['--nogpgcheck'])")
    assert states(site.converge()) == ["changed"]
    assert rpms.installed["bash"] == "5.0-1"
    assert rpms.orders[-1] == ["-y", "--nogpgcheck", "install", "bash-5.0-1"]

    path = site.write("app.rpm", "app 1-1")
    site.recipe(f"package('app', manager='dnf', source='{path}')")
    assert changes(site.converge()) == [[f"install app 1-1 from {path}"]]
    assert states(site.converge()) == ["unchanged"]

    site.recipe("package('app', manager='dnf', action=['remove', 'purge'])")
    assert states(site.converge()) == ["changed", "unchanged"]
    assert "app" not in rpms.installed


def test_several_packages_may_be_the_name(site, rpms):
    site.recipe("package(['bash', 'vim'], manager='dnf').notifies('run', 'execute[x]')\n"
                "execute('x', command='true', action='nothing')")  # fmt: skip
    report = site.converge()
    assert report["resources"][0]["resource"] == "package[bash, vim]"
    assert changes(report)[0] == ["install vim"]
    place = site.recipe("package(['bash', 5], manager='dnf')")
    assert failure(site.converge()) == f"{place}:2: package needs a name, a text, not ['bash', 5]"


def test_a_name_that_an_installed_package_provides_is_there_for_dnf_too(site, rpms):
    known = json.loads(rpms.path.read_text())
    known["installed"] |= {"vim-minimal": "9-1", "other": "1-1"}
    known["provides"] = {"vim-minimal": ["vi", "editor"], "other": ["vim"]}
    rpms.path.write_text(json.dumps(known))

    site.recipe("package('both', package_name=['vi', 'editor'], manager='dnf')")
    assert states(site.converge()) == ["unchanged"]
    assert rpms.orders == []

    site.recipe("package('vi', manager='dnf', action='upgrade')")
    assert states(site.converge()) == ["unchanged"]
    known["offered"]["vim-minimal"] = "9-2"
    rpms.path.write_text(json.dumps(known))
    assert changes(site.converge()) == [["upgrade vi"]]
    assert rpms.orders[-1] == ["-y", "upgrade", "vim-minimal"]
    assert rpms.installed["vim-minimal"] == "9-2"
    assert states(site.converge()) == ["unchanged"]

    # A name that some package has for its own is that package's, as for dnf.
    site.recipe("package('vim', manager='dnf')")
    assert changes(site.converge()) == [["install vim"]]
    assert states(site.converge()) == ["unchanged"]
    # A version is that of a package of this name.
    site.recipe("package('vi', version='9-2', manager='dnf')")
    assert changes(site.converge(why_run=True)) == [["install vi 9-2"]]


def test_dnf_itself_refuses_what_it_does_not_know(site, rpms):
    site.recipe("package('nobody', manager='dnf')")

    assert "Unable to find a match: nobody" in failure(site.converge())


def test_a_machine_with_neither_says_so(site, monkeypatch):
    monkeypatch.setattr("flock.converge.resources.package.find_program", lambda name: None)
    site.recipe("package('x')")

    assert "neither apt-get nor dnf is installed" in failure(site.converge())


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("'-x'", "package_name must be the name of a package"),
        ("'x', package_name=['a', 'b;c']", "package_name must be the name of a package"),
        ("'x', version=['1', '2']", "version must name one version for each package"),
        ("'x', version='-1'", "version cannot be '-1'"),
        ("'x', source='x.deb'", "source must be absolute"),
        ("'x', source='/x.deb', version='1'", "source is one package"),
        ("'x', manager='yum'", "manager must be 'apt' or 'dnf' or None"),
    ],
)
def test_wrong_properties_are_named_with_their_place(site, properties, problem):
    place = site.recipe(f"package({properties})")

    error = failure(site.converge())
    assert error.startswith(f"{place}:2: ") and problem in error
