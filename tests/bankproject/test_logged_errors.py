"""What is logged of a database's error: the rule that was broken, and nothing of the row."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator

import psycopg
import pytest
import structlog
from django.db import Error, connection, transaction

from bank.models import Person, PersonKey
from bankproject import log_format, logged_errors
from tests.databases import TestDatabases

SECRET = "ada-7261"
NAME = "tests.logged_errors"


class Log:
    """A logger whose lines are formatted as the settings say."""

    def __init__(self, *, as_json: bool) -> None:
        formatter = log_format.logging_settings(as_json=as_json, level="INFO")["formatters"][
            "lines"
        ]
        make = formatter.pop("()")
        self._lines = io.StringIO()
        self.handler = logging.StreamHandler(self._lines)
        self.handler.setFormatter(make(**formatter))

    @property
    def text(self) -> str:
        return self._lines.getvalue()


@pytest.fixture(params=[True, False], ids=["json", "columns"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    made = Log(as_json=request.param)
    logger = logging.getLogger(NAME)
    logger.addHandler(made.handler)
    logger.propagate = False
    yield made
    logger.removeHandler(made.handler)
    logger.propagate = True


def _twice() -> None:
    for _ in range(2):
        Person.objects.create(client_id=SECRET, first_name=SECRET, last_name=SECRET)


def _without_person() -> None:
    PersonKey(fingerprint=SECRET, identity_key=b"", bundle={}, generation=1).save()


def _against_a_check() -> None:
    Person.objects.create(client_id=SECRET, first_name="", last_name=SECRET)


def _error_of(action: Callable[[], None]) -> Error:
    try:
        with transaction.atomic():
            action()
    except Error as error:
        return error
    raise AssertionError("the database took it")


def _log_in_every_way(error: Error) -> None:
    ours, foreign = structlog.get_logger(NAME), logging.getLogger(NAME)
    ours.error("booking_failed", exc_info=error)
    ours.warning("bank_unavailable", error=str(error), cause=error)
    foreign.error("it failed: %s", error, exc_info=error)
    try:
        raise RuntimeError("the batch failed") from error
    except RuntimeError as outer:
        ours.error("wrapped", exc_info=outer)
        try:
            raise ExceptionGroup("several", [outer, ValueError("of another kind")])
        except ExceptionGroup as group:
            foreign.error("grouped", exc_info=group)


@pytest.mark.parametrize("action", [_twice, _without_person, _against_a_check])
def test_no_log_line_tells_what_stands_in_a_row(
    fresh_databases: TestDatabases, log: Log, action: Callable[[], None]
) -> None:
    error = _error_of(action)
    if fresh_databases.vendor == "postgresql":
        assert SECRET in str(error), "the control: the database has told it"
    _log_in_every_way(error)
    assert SECRET not in log.text
    assert "DETAIL" not in log.text
    assert "django.db.utils.IntegrityError: " in log.text
    assert "tests/bankproject/test_logged_errors.py" in log.text
    assert "RuntimeError: the batch failed" in log.text
    assert "ValueError: of another kind" in log.text


def test_the_broken_rule_is_named(fresh_databases: TestDatabases, log: Log) -> None:
    _log_in_every_way(_error_of(_twice))
    expected = {
        "postgresql": '23505; duplicate key value violates unique constraint "bank_person_client',
        "sqlite": "SQLITE_CONSTRAINT_UNIQUE; UNIQUE constraint failed: ",
    }[fresh_databases.vendor]
    told = [json.loads(line) for line in log.text.splitlines() if line.startswith("{")]
    texts = [line["exception"] for line in told if "exception" in line] or [log.text]
    assert all(expected in text for text in texts)
    if fresh_databases.vendor == "postgresql":
        assert "; table bank_person; constraint bank_person_client_id_" in log.text


@pytest.mark.parametrize("statement", ["SELECT %s::integer", "SELECT %s::uuid", "SELECT %s::date"])
def test_a_message_that_quotes_a_value_is_left_out(
    postgres_databases: TestDatabases, log: Log, statement: str
) -> None:
    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, [SECRET])

    error = _error_of(ask)
    assert SECRET in str(error), "the control: the message quotes it"
    structlog.get_logger(NAME).error("failed", exc_info=error)
    assert SECRET not in log.text
    assert "django.db.utils.DataError: 22" in log.text


def test_text_that_sqlite_cannot_decode_is_left_out(log: Log) -> None:
    database = sqlite3.connect(":memory:")
    undecodable = f"SELECT CAST(x'{SECRET.encode().hex()}ff' AS TEXT)"
    with pytest.raises(sqlite3.OperationalError, match=SECRET) as caught:
        database.execute(undecodable).fetchall()
    database.close()
    structlog.get_logger(NAME).error("failed", exc_info=caught.value)
    assert SECRET not in log.text
    assert "sqlite3.OperationalError" in log.text


def test_what_a_driver_says_of_a_connection_is_kept(log: Log) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("postgresql://nobody@127.0.0.1:1/none", connect_timeout=1)
    structlog.get_logger(NAME).error("failed", exc_info=caught.value)
    assert "psycopg.OperationalError: connection failed: " in log.text


def _chained() -> None:
    try:
        raise KeyError("first")
    except KeyError as first:
        raise ValueError("second\nline") from first


def _in_between() -> None:
    try:
        raise KeyError("first")
    except KeyError:
        int("no number")


def _noted() -> None:
    error = RuntimeError("third")
    error.add_note("a note")
    raise error from None


@pytest.mark.parametrize("action", [_chained, _in_between, _noted])
def test_other_errors_are_written_as_python_writes_them(action: Callable[[], None]) -> None:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        action()
    expected = "".join(traceback.format_exception(caught.value)).rstrip("\n")
    info = (caught.type, caught.value, caught.tb)
    assert logged_errors.format_exception(info) == expected


def test_a_library_that_goes_on_complaining_does_so_in_one_line(log: Log) -> None:
    log.handler.addFilter(logged_errors.InOneLine())
    try:
        raise ConnectionError(f"no connection\nDETAIL: {SECRET}")
    except ConnectionError:
        logging.getLogger(NAME).exception("Unexpected exception while %s:", "waiting")
    logging.getLogger(NAME).error("no exception")
    first, second = log.text.splitlines()
    assert "Unexpected exception while waiting: ConnectionError: no connection" in first
    assert "error" in first
    assert SECRET not in first
    assert "no exception" in second
