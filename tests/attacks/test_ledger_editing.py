"""A superuser who edits the ledger: by the admin, by the ORM and by raw SQL; and its owner.

As long as the triggers are there, everything is refused. Whoever owns the tables can drop them;
then `verify_ledger`, which believes nothing that the database says of itself, names the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, models, transaction
from django.test import Client
from pytest_django.plugin import DjangoDbBlocker

from bank.incoming import BankIdentity, IncomingOrder
from bank.ledger import book
from bank.models import Account, Entry, Order, Person, Transfer
from protocol import banking
from protocol.sealing import verify_evidence
from tests.bank.admin.conftest import LOGIN_BACKEND
from tests.bank.admin.pages import address
from tests.bank.guards import drop_guards
from tests.bank.unchanged import nothing_changed
from tests.bank.verifying import verify
from tests.databases import DatabaseFactory
from tests.integration.customers import Customers, fill_bank
from tests.integration.signer import Author

LEDGER: list[type[models.Model]] = [Order, Transfer, Entry, Account]


def fill_ledger() -> Customers:
    """Make a ledger with opening balances, a transfer, a withdrawal and a refusal."""
    customers = fill_bank()
    ada = Person.objects.get(client_id="ada")
    identity = customers["ada"].identity.public
    author = Author(customers["ada"], customers.bank.bundle)
    batch = []
    for content in (
        banking.Transfer("account2", "account3", "100"),
        banking.Withdraw("account2", "50"),
        banking.Transfer("account2", "account3", "100000"),
    ):
        signed = author.order(content).signed
        inner = verify_evidence(signed.evidence, identity)
        batch.append(IncomingOrder.from_message(ada.pk, identity, signed, inner))
    bank = BankIdentity(customers.bank.client_id, customers.bank.identity)
    assert [outcome.code is None for outcome in book(batch, bank)] == [True, True, False]
    return customers


@pytest.fixture(scope="module")
def filled(
    database_factory: DatabaseFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[tuple[str, Customers]]:
    """That ledger in a pair of databases that is there to be copied."""
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            ledger = stack.enter_context(database_factory.filled(fill_ledger))
        yield ledger


@pytest.fixture
def customers(
    filled: tuple[str, Customers],
    database_factory: DatabaseFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Customers]:
    """A copy of that ledger for this test alone: what it commits, no other one sees."""
    name, customers = filled
    with django_db_blocker.unblock(), database_factory.fresh(name):
        yield customers


@dataclass(frozen=True)
class Edit:
    """A change to one row: which, and to what."""

    model: type[models.Model]
    pick: Callable[[], models.Model]
    changes: dict[str, Any]
    named: type[models.Model] | None = None
    """Of which table verification names the row, if not of its own."""


def _transfer() -> Transfer:
    return Transfer.objects.get(amount=100)


def _order() -> Order:
    return _transfer().order


def _entry() -> Entry:
    return Entry.objects.get(transfer=_transfer(), amount=100)


def _account() -> Account:
    return Account.objects.get(number="account2")


EDITS = {
    "order: evidence": Edit(Order, _order, {"evidence": b"\x01" * 200}),
    "order: hash": Edit(Order, _order, {"evidence_hash": b"\x01" * 32}),
    "order: receipt": Edit(Order, _order, {"receipt": b"{}"}),
    "order: signature": Edit(Order, _order, {"receipt_signature": b"\x01" * 64}),
    "order: outcome": Edit(Order, _order, {"outcome": "refused", "code": "same_account"}),
    "transfer: amount": Edit(Transfer, _transfer, {"amount": 101}),
    "transfer: kind": Edit(Transfer, _transfer, {"kind": "deposit"}),
    # Only the receipt knows which uuid it was, so it is the order of the same number that is named.
    "transfer: uuid": Edit(
        Transfer, _transfer, {"uuid": "01890000-0000-7000-8000-000000000001"}, named=Order
    ),
    "entry: amount": Edit(Entry, _entry, {"amount": 1_000}),
    "entry: balance after": Edit(Entry, _entry, {"balance_after": 5}),
    "account: balance": Edit(Account, _account, {"balance": 1_000_000}),
}


# --- With the triggers in place ---


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_the_database_refuses_every_edit(customers: Customers, edit: Edit) -> None:
    row = edit.pick()
    rows = type(row)._base_manager.filter(pk=row.pk)
    with nothing_changed():
        with pytest.raises(DatabaseError), transaction.atomic():
            rows.update(**edit.changes)
        for name, value in edit.changes.items():
            setattr(row, name, value)
        with pytest.raises(DatabaseError), transaction.atomic():
            row.save()
        with pytest.raises(DatabaseError), transaction.atomic():
            raw_update(row, edit.changes)


@pytest.mark.parametrize("model", LEDGER)
def test_the_database_refuses_every_deletion(
    customers: Customers, model: type[models.Model]
) -> None:
    table = model._meta.db_table
    with nothing_changed():
        # The raw way of a query set: without asking who refers to the rows.
        rows = model._base_manager.all()
        with pytest.raises(DatabaseError), transaction.atomic():
            rows._raw_delete(rows.db)
        with pytest.raises((DatabaseError, models.ProtectedError)), transaction.atomic():
            model._base_manager.all().delete()
        for statement in (f"DELETE FROM {table}", truncation(table)):
            with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)


def truncation(table: str) -> str:
    if connection.vendor == "postgresql":
        return f"TRUNCATE {table} CASCADE"
    # SQLite has no word for it: this deletion it would carry out as one.
    return f"DELETE FROM {table} WHERE 1"


def raw_update(row: models.Model, changes: dict[str, Any]) -> None:
    """Update the row in the database's own language."""
    table = row._meta.db_table
    key = ("account_id", "transfer_id") if isinstance(row, Entry) else ("id",)
    settings = ", ".join(f"{name} = %s" for name in changes)
    where = " AND ".join(f"{name} = %s" for name in key)
    columns = {field.attname: field for field in row._meta.concrete_fields}
    values = [columns[name].get_db_prep_value(value, connection) for name, value in changes.items()]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {settings} WHERE {where}",
            [*values, *(getattr(row, name) for name in key)],
        )


@pytest.fixture
def superuser(customers: Customers) -> Client:
    """A browser in which a superuser is logged in, on the same databases."""
    browser = Client()
    user = User.objects.create_superuser("demo-root", password="unused")
    browser.force_login(user, backend=LOGIN_BACKEND)
    return browser


def test_the_admin_edits_no_order_and_no_transfer(superuser: Client) -> None:
    with nothing_changed():
        for row in (_order(), _transfer()):
            model = type(row)
            edits = {"amount": "1", "code": "busy", "outcome": "refused", "kind": "deposit"}
            for page, key in (("change", [row.pk]), ("add", [])):
                assert superuser.post(address(model, page, *key), edits).status_code == 403
            gone = superuser.post(address(model, "delete", row.pk), {"post": "yes"})
            assert gone.status_code == 403
            superuser.post(
                address(model, "changelist"),
                {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"},
            )


def test_the_admin_moves_no_money(superuser: Client) -> None:
    account = _account()
    before = Account.objects.values_list("balance", "held").get(pk=account.pk)
    url = address(Account, "change", account.pk)
    for edits in ({"balance": "1000000"}, {"balance": "0", "held": "-5", "credit_limit": "0"}):
        superuser.post(url, {"number": "account2", "status": "open", **edits})
    assert (
        superuser.post(address(Account, "delete", account.pk), {"post": "yes"}).status_code == 403
    )
    assert Account.objects.values_list("balance", "held").get(pk=account.pk) == before
    assert verify()[0] == 0


# --- With the triggers dropped ---


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_verification_names_an_edited_row(customers: Customers, edit: Edit) -> None:
    row = edit.pick()
    drop_guards()
    raw_update(row, edit.changes)
    status, said = verify()
    assert status == 1
    assert f"{(edit.named or edit.model)._meta.db_table} {row.pk}: " in said, said


@pytest.mark.parametrize("model", LEDGER)
def test_verification_names_what_a_deleted_row_leaves(
    customers: Customers, model: type[models.Model]
) -> None:
    picked = {Order: _order, Transfer: _transfer, Entry: _entry, Account: _account}
    row = picked[model]()
    transfer = _transfer()
    drop_guards()
    rows = model._base_manager.filter(pk=row.pk)
    rows._raw_delete(rows.db)
    status, said = verify()
    assert status == 1
    wanted = {
        Order: f"bank_transfer {transfer.pk}",
        Transfer: f"bank_order {transfer.order_id}",
        Entry: f"bank_transfer {transfer.pk}",
        Account: "bank_entry",
    }
    assert wanted[model] in said, said


def test_verification_names_missing_triggers(customers: Customers) -> None:
    with connection.cursor() as cursor:
        where = " ON bank_entry" if connection.vendor == "postgresql" else ""
        cursor.execute(f"DROP TRIGGER bank_entry_no_update{where}")
    status, said = verify()
    assert status == 1
    assert "bank_entry_no_update" in said
