"""Orders, transfers and the audit trail in the admin: read by everybody, edited by nobody."""

from __future__ import annotations

import hashlib
import uuid

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Permission as ModelPermission
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from bank.audit import Actor
from bank.models import (
    Account,
    AccountKind,
    AuditRecord,
    Entry,
    Order,
    Person,
    Transfer,
)
from bank.services.persons import rename_person
from tests.bank.admin.conftest import LOGIN_BACKEND
from tests.bank.admin.pages import address, search, text_of
from tests.bank.parties import make_account, make_organization, make_person
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

READ_ONLY: list[type[Model]] = [Order, Transfer, AuditRecord]
SIGNED = '{"purpose":"bank.order","memo":"<b>Grüße</b>"}'.encode()


@pytest.fixture
def transfer() -> Transfer:
    """A booked deposit, with rows as the ledger writes them and signatures that are not real."""
    ada = make_person("demo-ada")
    account = make_account("account2", ada)
    bank = make_organization("bank", is_bank=True)
    cash = make_account("cash", bank, kind=AccountKind.CASH, unlimited=True)
    evidence = b"\x11" * 64 + SIGNED
    order = Order.objects.create(
        person=ada,
        order_id=uuid.UUID("01890000-0000-7000-8000-000000000001"),
        evidence_hash=hashlib.sha256(evidence).digest(),
        evidence=evidence,
        operation="deposit",
        outcome="accepted",
        receipt=b'{"outcome":"accepted"}',
        receipt_signature=b"\x22" * 64,
        received_at=timezone.now(),
    )
    booked = Transfer.objects.create(
        id=order.pk,
        uuid=uuid.UUID("01890000-0000-7000-8000-000000000002"),
        order=order,
        debit_account=cash,
        credit_account=account,
        currency=account.currency,
        amount=900,
        kind="deposit",
        booked_at=timezone.now(),
    )
    for one, amount in ((cash, -900), (account, 900)):
        Entry.objects.create(account=one, transfer=booked, amount=amount, balance_after=amount)
        Account.objects.filter(pk=one.pk).update(balance=amount)
    rename_person(Actor("user:demo-root"), ada, "Ada", "Other")
    return booked


def test_transfers_are_listed_found_and_shown_with_their_entries(
    operator: Client, transfer: Transfer
) -> None:
    assert "900 TWC" in text_of(operator.get(address(Transfer, "changelist")))
    assert search(operator, Transfer, str(transfer.uuid)) == [transfer]
    assert search(operator, Transfer, "account2") == [transfer]
    assert search(operator, Transfer, "account") == []
    page = text_of(operator.get(address(Transfer, "change", transfer.pk)))
    assert "<td>account2</td><td>900</td><td>900</td>" in page
    assert "<td>cash</td><td>-900</td><td>-900</td>" in page


def test_orders_are_found_and_shown_with_evidence_and_receipt(
    operator: Client, transfer: Transfer
) -> None:
    order = transfer.order
    assert search(operator, Order, str(order.order_id)) == [order]
    assert search(operator, Order, "demo-ada") == [order]
    assert search(operator, Order, "not a uuid") == []
    page = text_of(operator.get(address(Order, "change", order.pk)))
    assert str(transfer.uuid) in page
    assert "11" * 64 in page
    assert "22" * 64 in page
    assert "Grüße" in page
    assert "<b>Grüße</b>" not in page, "what a customer wrote is text, never markup"


def test_entries_are_shown_with_the_account(operator: Client, transfer: Transfer) -> None:
    page = text_of(operator.get(address(Account, "change", transfer.credit_account_id)))
    assert "<td>Deposit</td><td>900 TWC</td><td>900 TWC</td>" in page


def test_the_audit_trail_shows_old_and_new_values(operator: Client, transfer: Transfer) -> None:
    record = AuditRecord.objects.get()
    assert search(operator, AuditRecord, "demo-root") == [record]
    page = text_of(operator.get(address(AuditRecord, "change", record.pk)))
    assert "<td>last name</td><td>Test</td><td>Other</td>" in page


@pytest.mark.parametrize("model", READ_ONLY)
def test_a_superuser_changes_nothing_in_the_ledger(
    operator: Client, transfer: Transfer, model: type[Model]
) -> None:
    row = model._base_manager.get()
    with nothing_changed():
        assert operator.get(address(model, "add")).status_code == 403
        assert operator.post(address(model, "add"), {"amount": "1"}).status_code == 403
        change = address(model, "change", row.pk)
        assert operator.post(change, {"amount": "1", "code": "x"}).status_code == 403
        assert operator.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
        operator.post(address(model, "changelist"), data)
        page = text_of(operator.get(change))
    for control in ('name="_save"', 'name="_continue"', "deletelink", 'name="amount"'):
        assert control not in page
    listing = text_of(operator.get(address(model, "changelist")))
    assert 'name="action"' not in listing
    assert address(model, "add") not in listing


def test_an_operator_who_was_given_every_permission_changes_nothing_either(
    transfer: Transfer,
) -> None:
    user = User.objects.create_user("demo-clerk", is_staff=True)
    user.user_permissions.set(ModelPermission.objects.all())
    client = Client()
    client.force_login(user, backend=LOGIN_BACKEND)
    change = address(Transfer, "change", transfer.pk)
    with nothing_changed():
        assert client.get(change).status_code == 200
        assert client.post(change, {"amount": "1"}).status_code == 403


def test_an_operator_who_may_only_look_at_persons_edits_none(transfer: Transfer) -> None:
    user = User.objects.create_user("demo-clerk", is_staff=True)
    user.user_permissions.add(ModelPermission.objects.get(codename="view_person"))
    client = Client()
    client.force_login(user, backend=LOGIN_BACKEND)
    ada = Person.objects.get()
    url = address(Person, "change", ada.pk)
    with nothing_changed():
        assert client.get(url).status_code == 200
        assert client.post(url, {"first_name": "Eve", "last_name": "Eve"}).status_code == 403
        assert client.get(address(Transfer, "changelist")).status_code == 403
        data = {"action": "revoke", "_selected_action": [ada.pk], "reason": "no"}
        client.post(address(Person, "changelist"), data)


def test_every_table_that_people_edit_or_read_has_a_page() -> None:
    registered = {
        model._meta.model_name for model in site._registry if model.__module__[:4] == "bank"
    }
    assert registered == {
        "account",
        "auditrecord",
        "currency",
        "employee",
        "order",
        "organization",
        "person",
        "role",
        "transfer",
    }
