"""Production connects to the PostgreSQL server that it means, encrypted, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from sqlalchemy import text

from conf import DatabaseSettings, load_settings
from db import Database
from db.errors import Unreachable
from tests.fixtures.postgres import PostgresCluster, debian_binaries

# The wheel's PostgreSQL is built without TLS.
pytestmark = pytest.mark.debian

Start = Callable[..., PostgresCluster]
IS_ENCRYPTED = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def start(own_postgres_cluster: Callable[..., PostgresCluster], authority: trustme.CA) -> Start:
    """Starts a server with a certificate for a host name."""

    def start(host: str) -> PostgresCluster:
        certificate = authority.issue_cert(host)
        return own_postgres_cluster(
            binaries=debian_binaries(),
            files={
                "server.key": certificate.private_key_pem.bytes(),
                "server.crt": b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
            },
            options={"ssl": "on"},
        )

    return start


def production(cluster: PostgresCluster, authority: trustme.CA, folder: Path) -> DatabaseSettings:
    """What production starts with, given the URL alone; says nothing of sslmode."""
    root = folder / "root.crt"
    authority.cert_pem.write_to_path(root)
    url = cluster.url_for("postgres", sslrootcert=str(root)).replace("127.0.0.1", "localhost")
    return load_settings({}, {"ENVIRONMENT": "production", "DATABASE_URL": url}).database.model_copy(
        update={"commit_witness": False}
    )


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_production_connects_encrypted(
    start: Start, authority: trustme.CA, tmp_path: Path, read_only: bool
) -> None:
    settings = production(start("localhost"), authority, tmp_path)
    database = Database(settings)

    with database.session_scope(read_only=read_only) as session:
        encrypted = session.scalars(IS_ENCRYPTED).one()

    assert settings.query["sslmode"] == "verify-full"
    assert encrypted is True
    database.dispose()


@pytest.mark.parametrize("fault", ["another authority", "another host", "no TLS"])
def test_a_server_that_cannot_be_verified_is_refused(
    start: Start,
    own_postgres_cluster: Callable[..., PostgresCluster],
    authority: trustme.CA,
    tmp_path: Path,
    fault: str,
) -> None:
    """Its certificate proves nothing, or is for another name, or what is sent could be read on the way."""
    host = "other.example" if fault == "another host" else "localhost"
    cluster = own_postgres_cluster() if fault == "no TLS" else start(host)
    trusted = trustme.CA() if fault == "another authority" else authority
    database = Database(production(cluster, trusted, tmp_path))

    with pytest.raises(Unreachable), database.session_scope() as session:
        session.scalars(IS_ENCRYPTED).one()

    database.dispose()
