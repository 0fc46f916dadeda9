"""What settings make of the environment, and how they refuse what they can't use."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from bankproject import environment


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_a_missing_required_variable_is_named(variable: pytest.MonkeyPatch) -> None:
    variable.delenv("TELLERWIRE_THING", raising=False)

    with pytest.raises(ImproperlyConfigured, match=r"^Set TELLERWIRE_THING: what it is for\.$"):
        environment.required("THING", "what it is for")


def test_a_secret_is_read_from_its_file(variable: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n", encoding="utf-8")
    variable.setenv("TELLERWIRE_THING", "from the variable")
    variable.setenv("TELLERWIRE_THING_FILE", str(tmp_path / "secret"))

    assert environment.secret("THING", "") == "from the file"


@pytest.mark.parametrize(("content", "message"), [(None, "can't be read"), (" \n", "empty file")])
def test_a_secret_file_without_a_secret_is_refused(
    variable: pytest.MonkeyPatch, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    variable.setenv("TELLERWIRE_THING_FILE", str(path))

    with pytest.raises(ImproperlyConfigured, match=f"TELLERWIRE_THING_FILE.*{message}"):
        environment.secret("THING", "")


@pytest.mark.parametrize(
    ("value", "roles"),
    [("", {"relay", "bank", "web"}), ("relay", {"relay"}), (" bank , web ", {"bank", "web"})],
)
def test_roles(variable: pytest.MonkeyPatch, value: str, roles: set[str]) -> None:
    variable.setenv("TELLERWIRE_ROLES", value)

    assert environment.roles() == roles


@pytest.mark.parametrize(
    ("value", "message"), [("relay,teller", "names teller"), ("web", "needs relay or bank")]
)
def test_wrong_roles_are_refused(variable: pytest.MonkeyPatch, value: str, message: str) -> None:
    variable.setenv("TELLERWIRE_ROLES", value)

    with pytest.raises(ImproperlyConfigured, match=message):
        environment.roles()


def test_a_flag_is_true_or_false_and_nothing_else(variable: pytest.MonkeyPatch) -> None:
    variable.setenv("TELLERWIRE_METRICS", "True")
    assert environment.flag("METRICS", default=False) is True
    variable.setenv("TELLERWIRE_METRICS", "yes please")
    with pytest.raises(ImproperlyConfigured, match="must be true or false"):
        environment.flag("METRICS", default=False)


def test_a_log_level_is_one_that_there_is(variable: pytest.MonkeyPatch) -> None:
    variable.delenv("TELLERWIRE_LOG_LEVEL", raising=False)
    assert environment.log_level("INFO") == "INFO"
    variable.setenv("TELLERWIRE_LOG_LEVEL", "debug")
    assert environment.log_level("INFO") == "DEBUG"
    variable.setenv("TELLERWIRE_LOG_LEVEL", "verbose")
    with pytest.raises(ImproperlyConfigured, match=r"TELLERWIRE_LOG_LEVEL must be one of .*INFO"):
        environment.log_level("INFO")


def test_pairs(variable: pytest.MonkeyPatch) -> None:
    variable.setenv("TELLERWIRE_PAIRS", "bank=00ff, till = 11ee")
    assert environment.mapping("PAIRS") == {"bank": "00ff", "till": "11ee"}
    variable.setenv("TELLERWIRE_PAIRS", "bank=00ff,till")
    with pytest.raises(ImproperlyConfigured, match=r"TELLERWIRE_PAIRS .*not 'till'"):
        environment.mapping("PAIRS")


def test_pairs_come_from_a_file_with_a_line_for_each(
    variable: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pairs").write_text("bank=00ff 11ee\ntill = 11ee\n", encoding="utf-8")
    variable.setenv("TELLERWIRE_PAIRS", "other=value")
    variable.setenv("TELLERWIRE_PAIRS_FILE", str(tmp_path / "pairs"))
    assert environment.mapping("PAIRS") == {"bank": "00ff 11ee", "till": "11ee"}
    (tmp_path / "pairs").write_text("bank\n", encoding="utf-8")
    with pytest.raises(ImproperlyConfigured, match=r"TELLERWIRE_PAIRS .*not 'bank'"):
        environment.mapping("PAIRS")
    variable.setenv("TELLERWIRE_PAIRS_FILE", str(tmp_path / "missing"))
    with pytest.raises(ImproperlyConfigured, match="TELLERWIRE_PAIRS_FILE can't be read"):
        environment.mapping("PAIRS")


def test_sqlite_waits_for_its_lock_and_writes_through() -> None:
    database = environment.database_from_url("DATABASE_URL", "sqlite:////folder/bank.sqlite3")

    assert database["NAME"] == "/folder/bank.sqlite3"
    assert database["OPTIONS"] == {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
    }


@pytest.mark.parametrize(
    "url", ["", "bank", "mysql://host/bank", "https://host/bank", "postgresql://host:port/bank"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="TELLERWIRE_DATABASE_URL"):
        environment.database_from_url("DATABASE_URL", url)


def test_passwords_come_from_files(variable: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/word", encoding="utf-8")
    variable.setenv("TELLERWIRE_DATABASE_URL", "postgresql://bank@host:5432/bank")
    variable.setenv("TELLERWIRE_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    variable.setenv("TELLERWIRE_REDIS_URL", "redis://host:6379/0")
    variable.setenv("TELLERWIRE_REDIS_PASSWORD_FILE", str(tmp_path / "password"))

    database = environment.required_database("DATABASE", "")

    assert (database["USER"], database["PASSWORD"]) == ("bank", "p@ss/word")
    assert environment.required_redis_url() == "redis://:p%40ss%2Fword@host:6379/0"
