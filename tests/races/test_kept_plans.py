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


def kept_plan(beginning: str) -> str:
    """Return the plan that this connection keeps of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements "
            "WHERE statement LIKE %s",
            [beginning],
        )
        ((name, parameters),) = cursor.fetchall()
        values = ", ".join(["NULL"] * parameters)
        cursor.execute(f"EXPLAIN EXECUTE {name}({values})")
        return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.parametrize(
    "beginning",
    ["SELECT %evidence_hash%", "(SELECT %key_in_force%", "SELECT %FOR NO KEY UPDATE%"],
    ids=["orders", "keys and permissions", "accounts"],
)
def test_a_plan_that_was_made_for_a_short_table_reads_by_index(
    bank: SmallBank, beginning: str
) -> None:
    keep_plans(connection)
    book_batches(bank)
    plan = kept_plan(beginning)
    assert "Index Scan" in plan
    assert "Seq Scan" not in plan
    assert "Materialize" not in plan
    # Whatever is read by an index is looked for there, and not read from one end to the other.
    scans = [part for part in plan.split("->") if "Index" in part and "Scan" in part]
    assert [scan for scan in scans if "Index Cond" not in scan] == []


def test_control_left_to_itself_postgresql_reads_all_of_a_short_table(bank: SmallBank) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
    book_batches(bank)
    assert "Materialize" in kept_plan("(SELECT %key_in_force%")


def test_django_may_prepare_nothing_afterwards(bank: SmallBank) -> None:
    """The texts of its own cursor hold the values, and the driver would keep whole messages."""
    book_batches(bank)
    assert connection.connection.prepare_threshold is None
