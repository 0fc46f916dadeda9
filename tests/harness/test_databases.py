"""The tests' own databases: copies are fresh, threads and processes see them, nothing leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psycopg
import pytest
import redis
from django.contrib.auth.models import Group
from django.db import connection, connections
from django.test import Client

from tests.databases import TestDatabases


def _count_groups_in_a_thread() -> int:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(Group.objects.count()))
    thread.start()
    thread.join()
    return counts[0]


@pytest.mark.parametrize("turn", [1, 2])
def test_a_committed_row_is_seen_by_threads_and_gone_in_the_next_copy(
    fresh_databases: TestDatabases, turn: int
) -> None:
    assert Group.objects.count() == 0
    Group.objects.create(name="committed")

    assert _count_groups_in_a_thread() == 1
    assert connection.vendor == fresh_databases.vendor


def test_a_process_works_on_the_same_databases(fresh_databases: TestDatabases) -> None:
    Group.objects.create(name="committed")
    script = "from django.contrib.auth.models import Group; print(Group.objects.count())"

    completed = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", script],
        env={**os.environ, **fresh_databases.environment},
        capture_output=True,
        text=True,
        check=True,
    )

    assert completed.stdout.strip() == "1"


def test_a_connection_left_open_in_a_transaction_does_not_reach_the_next_test(
    fresh_databases: TestDatabases,
) -> None:
    def abandon() -> None:
        connections["default"].set_autocommit(False)
        Group.objects.count()

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()


def test_postgresql_is_there_whatever_the_session_runs_on(
    postgres_databases: TestDatabases, postgres_url: str
) -> None:
    assert connection.vendor == "postgresql"
    Group.objects.create(name="committed")
    assert _count_groups_in_a_thread() == 1
    with psycopg.connect(postgres_url) as maintenance:
        assert maintenance.execute("SHOW fsync").fetchone() == ("off",)


@pytest.mark.django_db(databases=["default", "relay"])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_rolled_back_test_leaves_nothing(turn: int, database_vendor: str) -> None:
    assert connection.vendor == database_vendor
    assert Group.objects.count() == 0
    Group.objects.create(name="rolled back")


def test_connections_are_as_durable_as_the_settings_say(fresh_databases: TestDatabases) -> None:
    expected: dict[str, list[tuple[str, str | int]]] = {
        "sqlite": [("PRAGMA journal_mode", "wal"), ("PRAGMA synchronous", 2)],
        "postgresql": [("SHOW transaction_isolation", "read committed")],
    }
    with connection.cursor() as cursor:
        for statement, value in expected[fresh_databases.vendor]:
            cursor.execute(statement)
            assert cursor.fetchone() == (value,)


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


@pytest.mark.django_db(databases=["default", "relay"])
def test_the_databases_that_readiness_asks_are_the_tests_own(client: Client) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}
