"""Opening, freezing, thawing and closing accounts, and their limits."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from bank.audit import Actor
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Account, AccountKind, AccountStatus, AuditRecord, Organization, Person
from bank.services import accounts
from tests.bank.parties import give, make_account, make_currency, make_organization, make_person
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

ACTOR = Actor("user:operator")


@pytest.fixture
def ada() -> Person:
    return make_person("demo-ada", with_key=False)


@pytest.fixture
def bank() -> Organization:
    return make_organization("bank", is_bank=True)


def test_an_opened_account_is_empty_open_and_recorded(ada: Person) -> None:
    account = accounts.open_account(ACTOR, "account2", ada, make_currency(), order_limit=50)
    account.refresh_from_db()
    assert (account.balance, account.held, account.status) == (0, 0, AccountStatus.OPEN)
    assert account.owner == ada
    record = AuditRecord.objects.get()
    assert (record.actor, record.action, record.label) == ("user:operator", "added", "account2")
    assert record.changes["order_limit"] == [None, 50]


@pytest.mark.parametrize(
    ("fields", "fault", "words"),
    [
        ({"number": "no spaces"}, ChangeFault.BAD_VALUE, "number: Use 1 to 34"),
        ({"number": ""}, ChangeFault.BAD_VALUE, "number: "),
        ({"number": "taken"}, ChangeFault.ALREADY_EXISTS, "already exists"),
        ({"credit_limit": -1}, ChangeFault.BAD_VALUE, "credit limit: "),
        ({"order_limit": -1}, ChangeFault.BAD_VALUE, "order limit: "),
        ({"kind": AccountKind.CASH}, ChangeFault.NOT_ALLOWED, "Only the bank's organization"),
    ],
)
def test_a_wrong_account_is_refused(
    ada: Person, fields: dict[str, object], fault: ChangeFault, words: str
) -> None:
    make_account("taken", ada)
    values: dict[str, Any] = {"number": "account2", **fields}
    with nothing_changed(), pytest.raises(ChangeRefusedError, match=words) as caught:
        accounts.open_account(ACTOR, owner=ada, currency=make_currency(), **values)
    assert caught.value.fault is fault


def test_the_bank_has_one_cash_and_one_issuance_account_for_each_currency(
    bank: Organization,
) -> None:
    cash, issuance = accounts.ensure_bank_accounts(ACTOR, bank, make_currency())
    assert (cash.number, cash.kind, cash.unlimited) == ("cash-TWC", AccountKind.CASH, True)
    assert (issuance.number, issuance.available) == ("issuance-TWC", None)
    assert accounts.ensure_bank_accounts(ACTOR, bank, make_currency()) == (cash, issuance)
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="one cash and one") as caught:
        accounts.open_account(ACTOR, "cash2", bank, make_currency(), kind=AccountKind.CASH)
    assert caught.value.fault is ChangeFault.ALREADY_EXISTS


def test_freeze_thaw_close_and_never_back(ada: Person) -> None:
    account = make_account("account2", ada)
    accounts.freeze_account(ACTOR, account, "asked by the customer")
    assert account.status == AccountStatus.FROZEN
    accounts.thaw_account(ACTOR, account, "asked by the customer")
    assert account.status == AccountStatus.OPEN
    accounts.close_account(ACTOR, account, "moved away")
    assert account.status == AccountStatus.CLOSED
    assert [record.reason for record in AuditRecord.objects.order_by("pk")] == [
        "asked by the customer",
        "asked by the customer",
        "moved away",
    ]
    for verb in (accounts.freeze_account, accounts.thaw_account, accounts.close_account):
        with nothing_changed(), pytest.raises(ChangeRefusedError, match="is closed") as caught:
            verb(ACTOR, account, "")
        assert caught.value.fault is ChangeFault.WRONG_STATE


@pytest.mark.parametrize(
    ("balance", "held", "words"), [(1, 0, "balance of account account2 is not zero"),
                                   (5, 5, "has amounts on hold")]
)  # fmt: skip
def test_only_an_empty_account_is_closed(ada: Person, balance: int, held: int, words: str) -> None:
    account = make_account("account2", ada)
    give(account, balance, held=held)
    with nothing_changed(), pytest.raises(ChangeRefusedError, match=words):
        accounts.close_account(ACTOR, account, "moved away")


def test_the_database_too_refuses_to_close_an_account_with_money(ada: Person) -> None:
    account = make_account("account2", ada)
    give(account, 1)
    with (
        nothing_changed(),
        pytest.raises(IntegrityError, match="bank_account_closed_is_empty"),
        transaction.atomic(),
    ):
        Account.objects.filter(pk=account.pk).update(status=AccountStatus.CLOSED)


def test_limits_are_set_without_touching_what_the_ledger_wrote_meanwhile(ada: Person) -> None:
    account = make_account("account2", ada)
    give(Account.objects.get(pk=account.pk), 700)
    assert account.balance == 0, "as it was read before the ledger booked"
    accounts.set_account_limits(ACTOR, account, credit_limit=300, order_limit=20)
    account.refresh_from_db()
    assert (account.balance, account.credit_limit, account.order_limit) == (700, 300, 20)
    assert account.available == 1000


def test_a_credit_limit_above_the_debt_is_refused(ada: Person) -> None:
    account = make_account("account2", ada, credit_limit=500)
    give(account, -400)
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="overdrawn") as caught:
        accounts.set_account_limits(ACTOR, account, credit_limit=399, order_limit=None)
    assert caught.value.fault is ChangeFault.BAD_VALUE


def test_the_bank_s_own_accounts_have_no_credit_limit(bank: Organization) -> None:
    cash, _ = accounts.ensure_bank_accounts(ACTOR, bank, make_currency())
    with nothing_changed(), pytest.raises(ChangeRefusedError) as caught:
        accounts.set_account_limits(ACTOR, cash, credit_limit=1, order_limit=None)
    assert caught.value.fault is ChangeFault.NOT_ALLOWED


@pytest.mark.parametrize(
    ("code", "exponent"), [("twc", 0), ("TW", 0), ("1WC", 0), ("TWC", 7), ("TWC", -1)]
)
def test_a_wrong_currency_is_refused(code: str, exponent: int) -> None:
    with nothing_changed(), pytest.raises(ChangeRefusedError) as caught:
        accounts.create_currency(ACTOR, code, exponent, "Credits")
    assert caught.value.fault is ChangeFault.BAD_VALUE
