"""Nobody edits the ledger: not by the ORM, not by the admin, not by raw SQL, on either database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models import ProtectedError
from django.test import Client as Browser
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from bank.models import Account, Currency, Entry, Order, PersonKey, Transfer
from tests.bank.orders import SmallBank, balances, small_bank
from tests.bank.parties import make_account, make_currency, make_organization, make_person
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

JOURNAL = [Order, Transfer, Entry]
KEPT = [*JOURNAL, Account, Currency, PersonKey]


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def refused(action: Callable[[], object], error: type[Exception] = IntegrityError) -> str:
    """Assert that an action is refused and changes nothing; return the words."""
    with nothing_changed(), pytest.raises(error) as caught, transaction.atomic():
        action()
    return str(caught.value)


def sql(statement: str) -> Callable[[], object]:
    def run() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


def some_column(model: type[models.Model]) -> str:
    return {
        Order: "code",
        Transfer: "amount",
        Entry: "amount",
    }[model]


# --- The journal --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", JOURNAL)
def test_a_query_set_changes_no_row_of_the_journal(
    bank: SmallBank, model: type[models.Model]
) -> None:
    column = some_column(model)
    value = "x" if model is Order else 7
    words = refused(lambda: model._base_manager.update(**{column: value}))
    assert "never changed" in words


@pytest.mark.parametrize("model", JOURNAL)
def test_raw_sql_changes_no_row_of_the_journal(bank: SmallBank, model: type[models.Model]) -> None:
    table, column = model._meta.db_table, some_column(model)
    for field in model._meta.concrete_fields:
        words = refused(sql(f"UPDATE {table} SET {field.column} = {field.column}"))
        assert f"{table}: rows are never changed" in words
    assert "never changed" in refused(sql(f"UPDATE {table} SET {column} = {column}"))


@pytest.mark.parametrize("model", JOURNAL)
def test_saving_an_instance_changes_no_row_of_the_journal(
    bank: SmallBank, model: type[models.Model]
) -> None:
    instance = model._base_manager.order_by("pk")[0]
    setattr(instance, some_column(model), "x" if model is Order else 7)
    assert "never changed" in refused(instance.save)


@pytest.mark.parametrize("model", KEPT)
def test_rows_are_never_deleted(bank: SmallBank, model: type[models.Model]) -> None:
    table = model._meta.db_table
    refused(sql(f"DELETE FROM {table}"))
    rows = model._base_manager.all()
    refused(lambda: rows._raw_delete(rows.db))
    with nothing_changed(), pytest.raises((IntegrityError, ProtectedError)), transaction.atomic():
        rows.delete()
    with nothing_changed(), pytest.raises((IntegrityError, ProtectedError)), transaction.atomic():
        model._base_manager.order_by("pk")[0].delete()


@pytest.mark.parametrize("model", KEPT)
def test_tables_are_never_emptied(bank: SmallBank, model: type[models.Model]) -> None:
    table = model._meta.db_table
    if connection.vendor == "postgresql":
        # Earlier statements of the test's own transaction may still have events pending.
        sql("SET CONSTRAINTS ALL IMMEDIATE")()
        assert "never deleted" in refused(sql(f"TRUNCATE {table} CASCADE"), DatabaseError)
    else:
        refused(sql(f"DELETE FROM {table}"))


@pytest.mark.parametrize("model", [*JOURNAL, Account, PersonKey])
def test_rows_are_never_replaced(bank: SmallBank, model: type[models.Model]) -> None:
    """SQLite's REPLACE deletes without asking the triggers; PostgreSQL's upsert is an update."""
    table = model._meta.db_table
    columns = [str(field.column) for field in model._meta.concrete_fields]
    listed = ", ".join(columns)
    if connection.vendor == "sqlite":
        refused(sql(f"INSERT OR REPLACE INTO {table} ({listed}) SELECT {listed} FROM {table}"))
        if model in JOURNAL:
            refused(sql(f"UPDATE OR REPLACE {table} SET {columns[0]} = {columns[0]}"))
    elif model in JOURNAL:
        key = "account_id, transfer_id" if model is Entry else "id"
        refused(
            sql(
                f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {table} "
                f"ON CONFLICT ({key}) DO UPDATE SET {columns[-1]} = EXCLUDED.{columns[-1]}"
            )
        )


def test_replication_mode_does_not_silence_the_guards(bank: SmallBank) -> None:
    if connection.vendor == "postgresql":
        sql("SET LOCAL session_replication_role = replica")()
    assert "never changed" in refused(sql("UPDATE bank_entry SET amount = amount"))


# --- Accounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda: Account.objects.filter(number="account2").update(balance=10**6),
        lambda: Account.objects.update(balance=0),
        sql("UPDATE bank_account SET balance = balance + 1 WHERE number = 'account2'"),
        sql("UPDATE bank_account SET balance = balance + 1, credit_limit = 5"),
        sql("UPDATE bank_account SET balance = 1 WHERE number = 'cash-TWC'"),
    ],
)
def test_a_balance_changes_only_with_the_journal(
    bank: SmallBank, change: Callable[[], object]
) -> None:
    assert "only the ledger changes it" in refused(change)


def test_an_account_saved_with_another_balance_is_refused(bank: SmallBank) -> None:
    account = Account.objects.get(number="account2")
    account.balance += 1
    assert "only the ledger changes it" in refused(account.save)


def test_an_account_is_born_empty(bank: SmallBank) -> None:
    assert "born empty" in refused(lambda: make_account("rich", bank.ada, balance=10**6))


@pytest.mark.parametrize(
    "change",
    [
        {"number": "other"},
        {"kind": "cash"},
        {"currency_id": "EUR"},
        {"owner_organization_id": "other"},
        {"owner_person_id": "ada", "owner_organization_id": None},
    ],
)
def test_what_an_account_is_stays_fixed_once_it_has_entries(
    bank: SmallBank, change: dict[str, object]
) -> None:
    make_currency("EUR", 2)
    values = dict(change)
    if values.get("owner_organization_id") == "other":
        values["owner_organization_id"] = make_organization("other").pk
    if "owner_person_id" in values:
        values["owner_person_id"] = bank.ada.pk
    rows = Account.objects.filter(number="account1")
    assert "are fixed" in refused(lambda: rows.update(**values))


def test_what_an_account_is_may_be_corrected_before_its_first_entry(bank: SmallBank) -> None:
    make_account("typo", bank.ada)
    assert Account.objects.filter(number="typo").update(number="correct") == 1


def test_limits_and_status_of_an_account_may_change(bank: SmallBank) -> None:
    rows = Account.objects.filter(number="account2")
    assert rows.update(credit_limit=5, order_limit=7, status="frozen") == 1
    assert balances(["account2"]) == {"account2": 1000}


def test_the_exponent_of_a_currency_with_accounts_is_fixed(bank: SmallBank) -> None:
    assert "are fixed" in refused(lambda: Currency.objects.update(exponent=2))
    assert Currency.objects.update(name="Credits") == 1
    make_currency("EUR", 2)
    assert Currency.objects.filter(code="EUR").update(exponent=3) == 1


# --- Keys ---------------------------------------------------------------------------------------


def test_key_material_behind_orders_is_fixed(bank: SmallBank) -> None:
    keys = PersonKey.objects.filter(person=bank.bank_person)
    for change in ({"identity_key": bytes(32)}, {"fingerprint": "0" * 32}, {"generation": 9}):
        assert "fixed" in refused(lambda change=change: keys.update(**change))  # type: ignore[misc]  # bound now
    assert "fixed" in refused(lambda: keys.update(person=bank.ada))


def test_a_key_without_orders_may_be_removed(bank: SmallBank) -> None:
    mistaken = make_person("mistaken")
    assert PersonKey.objects.filter(person=mistaken).delete()[0] == 1


@pytest.fixture
def revoked() -> PersonKey:
    """A key of somebody who has given no orders: nothing but the revocation keeps it."""
    key = make_person("thief").keys.get()
    key.revoked_at, key.revocation_reason = timezone.now(), "stolen"
    key.save(update_fields=["revoked_at", "revocation_reason"])
    return key


@pytest.mark.parametrize(
    "change",
    [
        {"revoked_at": None, "revocation_reason": ""},
        {"revoked_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"fingerprint": "0" * 32},
        {"identity_key": bytes(32)},
        {"enrolled_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"bundle": {}},
        {"generation": 9},
    ],
)
def test_a_revocation_is_never_taken_back(revoked: PersonKey, change: dict[str, object]) -> None:
    rows = PersonKey.objects.filter(pk=revoked.pk)
    assert "stays revoked" in refused(lambda: rows.update(**change))


def test_a_revoked_key_is_never_removed_so_that_it_could_come_back(revoked: PersonKey) -> None:
    rows = PersonKey.objects.filter(pk=revoked.pk)
    assert "stays revoked" in refused(rows.delete)
    columns = "person_id, identity_key, fingerprint, bundle, generation, enrolled_at"
    again = f"({columns}, revocation_reason) SELECT {columns}, '' FROM bank_personkey"
    how = " OR REPLACE" if connection.vendor == "sqlite" else ""
    refused(sql(f"INSERT{how} INTO bank_personkey {again}"))
    revoked.revocation_reason = "stolen from the car"
    revoked.save()


# --- The admin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", JOURNAL)
def test_a_superuser_can_not_edit_the_ledger_in_the_admin(
    bank: SmallBank, model: type[models.Model]
) -> None:
    User.objects.create_superuser("root", "", "root")
    browser = Browser()
    browser.force_login(User.objects.get(username="root"))
    name = f"admin:bank_{model._meta.model_name}"
    instance = model._base_manager.order_by("pk")[0]
    pages = []
    for page in ("change", "delete"):
        try:
            pages.append(reverse(f"{name}_{page}", args=[instance.pk]))
        except NoReverseMatch:
            continue
    with nothing_changed():
        for page in pages:
            answer = browser.post(page, {"amount": "7", "code": "x", "post": "yes"})
            assert answer.status_code in {403, 404, 405}, page
