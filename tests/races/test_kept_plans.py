"""What PostgreSQL keeps of the ledger's statements, and that it keeps nothing of Django's."""

from __future__ import annotations

import pytest
from django.db import connection

from bank.ledger import book
from bank.statements import keep_plans
from tests.bank.orders import BANK, SmallBank, order_of, small_bank, transfer
from tests.databases import TestDatabases

BATCHES = 8


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    return small_bank()


def prepared() -> dict[str, tuple[int, int]]:
    """The statements that this connection has prepared: planned for any values, and for these."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements")
        return {statement: (generic, custom) for statement, generic, custom in cursor.fetchall()}


def book_batches(bank: SmallBank) -> None:
    for _ in range(BATCHES):
        assert book([order_of(bank.ada, transfer("account1", "account2", 1))], BANK)[0].code is None


def plans_made(bank: SmallBank) -> set[tuple[int, int]]:
    """How often each statement was planned for any values, and for these, while batches ran."""
    before = prepared()
    book_batches(bank)
    return {
        (generic - before.get(statement, (0, 0))[0], custom - before.get(statement, (0, 0))[1])
        for statement, (generic, custom) in prepared().items()
    }


def test_each_statement_is_planned_once_for_any_values(bank: SmallBank) -> None:
    keep_plans(connection)
    # The statement about the bank's own accounts was prepared for the opening balances, and BEGIN
    # and COMMIT need no plan.
    assert plans_made(bank) == {(BATCHES, 0), (0, 0)}
    statements = prepared().keys()
    assert any(statement.startswith("WITH orders AS (INSERT") for statement in statements)
    assert any("FOR NO KEY UPDATE" in statement for statement in statements)


def test_control_left_to_itself_postgresql_plans_for_the_values_at_hand(bank: SmallBank) -> None:
    assert any(custom for _, custom in plans_made(bank))


def test_a_plan_that_was_made_for_a_short_table_reads_by_index(bank: SmallBank) -> None:
    keep_plans(connection)
    book_batches(bank)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE %s",
            ["SELECT %evidence_hash%"],
        )
        ((name,),) = cursor.fetchall()
        cursor.execute(f"EXPLAIN EXECUTE {name}('{{}}')")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Scan" in plan
    assert "Seq Scan" not in plan


def test_django_may_prepare_nothing_afterwards(bank: SmallBank) -> None:
    """The texts of its own cursor hold the values, and the driver would keep whole messages."""
    book_batches(bank)
    assert connection.connection.prepare_threshold is None
