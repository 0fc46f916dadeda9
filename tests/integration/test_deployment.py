"""The deployment of `compose.yaml`, service by service: from empty folders to a bank that books."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest
import redis

from tests.installation import RunningProgram
from tests.integration.composition import ROOT, Composition
from tests.integration.processes import RunningServer, start_server
from tests.servers import LOOPBACK, PostgresServer, RedisServer

SECRETS: Final = (
    "secret_key",
    "bank_owner_database_password",
    "bank_database_password",
    "relay_database_password",
    "redis_password",
    "bank_passphrase",
)
NAMES: Final = {
    "TELLERWIRE_ALLOWED_HOSTS": LOOPBACK,
    "TELLERWIRE_RELAY_NAME": "relay.example",
    "TELLERWIRE_BANK_CURRENCY": "EUR:2:Euro",
    "TELLERWIRE_PROXY_ADDRESS": LOOPBACK,
}
IMAGE: Final = {
    "DJANGO_SETTINGS_MODULE": "bankproject.settings.production",
    "TELLERWIRE_DATA_DIR": "/var/lib/tellerwire/",
    "TELLERWIRE_STATIC_ROOT": "/var/lib/tellerwire/static",
}
INSUFFICIENT_PRIVILEGE: Final = "42501"


class Deployment:
    """An operator's host: secrets, volumes, a PostgreSQL and a Redis, and nothing in them."""

    def __init__(self, folder: Path, postgres: PostgresServer, redis_server: RedisServer) -> None:
        self.folder = folder
        self._postgres = postgres
        for name in ("secrets", "data", "public"):
            (folder / name).mkdir()
        for name in SECRETS:
            (folder / "secrets" / name).write_text(secrets.token_urlsafe(48), encoding="ascii")
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("requirepass", self.secret("redis_password"))
        address = postgres.url().rpartition("@")[2].partition("/")[0]
        self.port = address.partition(":")[2]
        places = {
            "/run/secrets/": f"{folder}/secrets/",
            "/var/lib/tellerwire-public/": f"{folder}/public/",
            "/var/lib/tellerwire/": f"{folder}/data/",
            "/etc/tellerwire/": f"{ROOT}/docs/sql/",
            "@postgres:5432/": f"@{address}/",
            "--host postgres ": f"--host {LOOPBACK} --port {self.port} ",
            "redis://redis:6379/0": redis_server.url,
        }
        programs = (Path(sys.executable).parent, postgres.programs)
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        self.composition = Composition(NAMES, places, {**IMAGE, "PATH": path})

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text(encoding="ascii")

    def make_databases(self) -> None:
        """Do what PostgreSQL's image does with the scripts in /docker-entrypoint-initdb.d."""
        script = (ROOT / "docs" / "sql" / "databases.sql").read_text(encoding="utf-8")
        subprocess.run(
            [self._postgres.programs / "psql", "--no-psqlrc", "--quiet", self._postgres.url()],
            input=self.composition.here(script),
            text=True,
            check=True,
        )

    def connect(self, role: str) -> psycopg.Connection:
        """Connect to the bank's database as one of its roles."""
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            dbname="bank",
            user=role,
            password=self.secret(f"{role}_database_password"),
            autocommit=True,
        )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose one-shot services have run once, with what `init` has said."""
    with PostgresServer() as postgres, RedisServer() as redis_server:
        made = Deployment(tmp_path_factory.mktemp("deployment"), postgres, redis_server)
        made.make_databases()
        for service in made.composition.one_shots():
            made.composition.run(service)
        yield made


@pytest.fixture(scope="module")
def relay(deployment: Deployment) -> Iterator[RunningServer]:
    server = start_server(deployment.composition.environment("relay"), deployment.folder)
    yield server
    server.stop()


def test_the_one_shots_come_in_their_order(deployment: Deployment) -> None:
    assert deployment.composition.one_shots() == ["migrate", "grants", "init"]


def test_the_bank_registers_at_the_relay_of_the_deployment(
    deployment: Deployment, relay: RunningServer
) -> None:
    environment = deployment.composition.environment("bank")
    log = deployment.folder / "bank.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            deployment.composition.command("bank"),
            env={**environment, "TELLERWIRE_BANK_RELAY_URL": relay.relay_url},
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    bank = RunningProgram("bank", process, log)
    try:
        bank.wait_for_text("bank ready: bank, ")
    finally:
        status = bank.stop()
    assert status == 0, bank.text()


def test_the_bank_of_the_deployment_books(deployment: Deployment) -> None:
    file = deployment.folder / "permissions.json"
    persons = {"ada": {"name": "Example, Ada", "account": "ada-1"}}
    file.write_text(json.dumps({"organizations": {}, "persons": persons}))
    manage = ["python", "manage.py"]
    arguments = [str(file), "--without-keys", "--opening-balance", "10"]
    deployment.composition.run("init", *manage, "import_permissions", *arguments)
    deployment.composition.run("bank", *manage, "verify_ledger")
    deployment.composition.run("bank", *manage, "check", "--deploy", "--database", "default")
    with deployment.connect("bank") as connection:
        rows = connection.execute("SELECT balance FROM bank_account WHERE number = 'ada-1'")
        assert rows.fetchall() == [(1000,)]


def test_a_second_start_changes_nothing(deployment: Deployment) -> None:
    pins = deployment.folder / "public" / "pins"
    key = deployment.folder / "data" / "bank.key"
    before = pins.read_bytes(), key.read_bytes()
    said = [deployment.composition.run(name) for name in deployment.composition.one_shots()]
    assert (pins.read_bytes(), key.read_bytes()) == before
    assert "No migrations to apply" in said[0]
    assert said[1] == ""
    assert before[0].decode().strip().removeprefix("bank=") in said[2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bank_entry SET amount = 1",
        "DELETE FROM bank_order",
        "TRUNCATE bank_transfer",
        "TRUNCATE bank_account CASCADE",
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "ALTER TABLE bank_entry DISABLE TRIGGER ALL",
        "ALTER TABLE bank_entry OWNER TO bank",
        "DROP TABLE bank_entry CASCADE",
        "DROP SCHEMA public CASCADE",
        "DROP FUNCTION bank_refuse_update() CASCADE",
        "SET session_replication_role = replica",
        "ALTER ROLE bank SET session_replication_role = replica",
        "SET ROLE bank_owner",
        "CREATE TABLE public.bank_entry_2 (id int)",
        "CREATE TEMPORARY TABLE bank_entry (id int)",
        "DROP DATABASE relay",
    ],
)
def test_the_role_of_the_running_bank_cannot_touch_the_ledger(
    deployment: Deployment, statement: str
) -> None:
    with (
        deployment.connect("bank") as connection,
        pytest.raises(psycopg.Error) as refused,
    ):
        connection.execute(statement.encode())
    assert refused.value.sqlstate == INSUFFICIENT_PRIVILEGE


def test_the_roles_own_what_they_should(deployment: Deployment) -> None:
    with deployment.connect("bank") as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace"
        ).fetchall()
        roles = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname IN ('bank', 'bank_owner', 'relay') "
            "AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication)"
        ).fetchall()
    assert owners == [("bank_owner",)]
    assert roles == []
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(
            host=LOOPBACK,
            port=deployment.port,
            dbname="bank",
            user="relay",
            password=deployment.secret("relay_database_password"),
        )
