"""The registry in ZooKeeper over TLS: who has no certificate of our authority does not get in."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from zookeeper_servers import NotInstalled, ZooKeeperEnsemble, free_ports

from registry.contract import LockOwner, RegistrySettings, RegistryUnavailable, WrongRegistry
from registry.zookeeper import ZooKeeperRegistry

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes certificates with openssl"
)


@dataclass(frozen=True)
class Certificates:
    """Files of one authority and of two parties that it vouches for."""

    folder: Path

    @property
    def authority(self) -> str:
        return str(self.folder / "ca.pem")

    def certificate(self, party: str) -> str:
        return str(self.folder / f"{party}.pem")

    def key(self, party: str) -> str:
        return str(self.folder / f"{party}.key")

    def make_authority(self) -> None:
        self._openssl(
            "req -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem "
            "-addext keyUsage=critical,keyCertSign,cRLSign"  # Python 3.13 takes no other
        )

    def make(self, party: str) -> None:
        self._openssl(f"req -subj /CN={party} -keyout {party}.key -out {party}.csr")
        (self.folder / "san").write_text("subjectAltName=IP:127.0.0.1\n", encoding="ascii")
        self._run(
            f"x509 -req -in {party}.csr -CA ca.pem -CAkey ca.key -CAcreateserial "
            f"-days 2 -extfile san -out {party}.pem"
        )

    def _openssl(self, order: str) -> None:
        self._run(f"{order} -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes")

    def _run(self, order: str) -> None:
        subprocess.run(
            ["openssl", *order.split()], cwd=self.folder, capture_output=True, check=True
        )


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    made.make_authority()
    made.make("server")
    made.make("client")
    both = Path(made.certificate("server")).read_text() + Path(made.key("server")).read_text()
    (tmp_path / "server-both.pem").write_text(both, encoding="ascii")
    return made


@pytest.fixture
def secured(certificates: Certificates) -> Iterator[ZooKeeperEnsemble]:
    """Give a server with a port for TLS beside its plain one."""
    configuration = {
        "secureClientPort": str(free_ports(1)[0]),
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": str(certificates.folder / "server-both.pem"),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": certificates.authority,
        "ssl.trustStore.type": "PEM",
        "ssl.clientAuth": "need",
        "authProvider.x509": "org.apache.zookeeper.server.auth.X509AuthenticationProvider",
    }
    try:
        ensemble = ZooKeeperEnsemble(
            certificates.folder / "zookeeper",
            configuration=configuration,
            dies_with_us=True,
        )
    except NotInstalled as error:
        pytest.skip(str(error))
    with ensemble:
        yield ensemble


def tls_url(ensemble: ZooKeeperEnsemble) -> str:
    port = ensemble._configuration["secureClientPort"]
    return f"zookeeper://127.0.0.1:{port}/flock"


def settings(ensemble: ZooKeeperEnsemble, certificates: Certificates) -> RegistrySettings:
    return RegistrySettings(
        tls_url(ensemble),
        session_timeout=4.0,
        zookeeper_ca=certificates.authority,
        zookeeper_cert=certificates.certificate("client"),
        zookeeper_key=certificates.key("client"),
    )


def test_with_a_certificate_everything_works_and_belongs_to_us_alone(secured, certificates, caplog):
    registry = ZooKeeperRegistry(settings(secured, certificates))
    with caplog.at_level(logging.WARNING):
        registry.open(10.0)
    stranger = KazooClient(secured.connection_string)
    stranger.start(10)
    try:
        assert not [record for record in caplog.records if "is open" in record.message]
        value = "x" * 200_000
        registry.create("doc", [value, list(range(50_000))])
        document = registry.read("doc")
        assert document is not None
        assert document.value[0] == value
        lock = registry.acquire("web", LockOwner("bender0", "here"), wait=5)
        assert lock.held
        with pytest.raises(NoAuthError):
            stranger.get("/flock/documents/doc")
        with pytest.raises(NoAuthError):
            stranger.delete("/flock/documents/doc")
    finally:
        stranger.stop()
        stranger.close()
        registry.close()


def test_without_a_certificate_or_with_another_authority_nobody_gets_in(
    secured, certificates, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    others = Certificates(elsewhere)
    others.make_authority()
    others.make("client")
    url = tls_url(secured)
    for unfit in (
        RegistrySettings(url),
        RegistrySettings(url, zookeeper_ca=certificates.authority),
        RegistrySettings(
            url,
            zookeeper_ca=certificates.authority,
            zookeeper_cert=others.certificate("client"),
            zookeeper_key=others.key("client"),
        ),
        # The server is not vouched for by the only authority that we trust.
        RegistrySettings(
            url,
            zookeeper_ca=others.authority,
            zookeeper_cert=certificates.certificate("client"),
            zookeeper_key=certificates.key("client"),
        ),
    ):
        with pytest.raises(RegistryUnavailable):
            ZooKeeperRegistry(unfit).open(1.5)


def test_files_that_are_not_there_are_named_before_anything_is_tried(certificates):
    registry = ZooKeeperRegistry(
        RegistrySettings("zookeeper://127.0.0.1:1/flock", zookeeper_ca="/nowhere/ca.pem")
    )
    with pytest.raises(
        WrongRegistry, match=r"zookeeper_ca /nowhere/ca\.pem cannot be used: No such"
    ):
        registry.open(1.0)
