"""Accounts and currencies in the admin: nobody moves money there."""

from __future__ import annotations

import pytest
from django.test import Client

from bank.authorization import decide
from bank.models import (
    Account,
    AccountKind,
    AccountStatus,
    AuditRecord,
    Currency,
    Organization,
    Person,
)
from tests.bank.admin.pages import act, address, post_edited, saved, search, text_of
from tests.bank.parties import (
    give,
    make_account,
    make_currency,
    make_employee,
    make_organization,
    make_person,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> Person:
    return make_person("demo-ada")


@pytest.fixture
def bank() -> Organization:
    return make_organization("bank", is_bank=True)


def test_accounts_are_listed_with_balances_in_units_and_found(
    operator: Client, ada: Person
) -> None:
    account = make_account("account2", ada, currency=make_currency("EUR", 2))
    other = make_account("account1", make_organization("demo-club"))
    give(account, 1250)
    page = text_of(operator.get(address(Account, "changelist")))
    assert "12.50 EUR" in page
    assert search(operator, Account, "account2") == [account]
    assert search(operator, Account, "demo-ada") == [account]
    assert search(operator, Account, "demo-club") == [other]
    response = operator.get(address(Account, "changelist"), {"status__exact": "closed"})
    assert list(response.context["cl"].result_list) == []


def test_an_account_is_opened_empty(operator: Client, ada: Person) -> None:
    values = {
        "number": "account2",
        "owner_person": ada.pk,
        "kind": "customer",
        "currency": make_currency().pk,
        "credit_limit": "0",
        "balance": "1000",
        "held": "5",
        "unlimited": "on",
    }
    saved(operator.post(address(Account, "add"), values))
    account = Account.objects.get()
    assert (account.balance, account.held, account.unlimited) == (0, 0, False)
    assert AuditRecord.objects.get().action == "added"


@pytest.mark.parametrize("both", [True, False])
def test_an_account_has_exactly_one_owner(operator: Client, ada: Person, both: bool) -> None:
    values: dict[str, object] = {
        "number": "account2",
        "kind": "customer",
        "currency": make_currency().pk,
        "credit_limit": "0",
    }
    if both:
        values |= {"owner_person": ada.pk, "owner_organization": make_organization("club").pk}
    with nothing_changed():
        page = text_of(operator.post(address(Account, "add"), values))
    assert "either to one person or to one organization" in page


def test_only_the_bank_has_cash_and_it_is_unlimited(operator: Client, bank: Organization) -> None:
    values = {
        "number": "cash-TWC",
        "kind": "cash",
        "currency": make_currency().pk,
        "credit_limit": "0",
    }
    club = make_organization("demo-club")
    with nothing_changed():
        page = text_of(
            operator.post(address(Account, "add"), {**values, "owner_organization": club.pk})
        )
    assert "Only the bank&#x27;s organization has cash" in page
    saved(operator.post(address(Account, "add"), {**values, "owner_organization": bank.pk}))
    assert Account.objects.get().unlimited


def test_limits_are_edited_and_what_the_ledger_wrote_stays(operator: Client, ada: Person) -> None:
    account = make_account("account2", ada)
    give(account, 700)
    url = address(Account, "change", account.pk)
    edits = {
        "credit_limit": "300",
        "order_limit": "20",
        "balance": "9999",
        "held": "1",
        "status": "closed",
        "unlimited": "on",
        "currency": make_currency("EUR", 2).pk,
        "number": "account9",
        "owner_person": make_person("demo-ben").pk,
    }
    saved(post_edited(operator, url, **edits))
    account.refresh_from_db()
    assert (account.credit_limit, account.order_limit) == (300, 20)
    assert (account.balance, account.held, account.unlimited) == (700, 0, False)
    assert (account.number, account.currency_id, account.owner_person) == ("account2", "TWC", ada)
    assert account.status == AccountStatus.OPEN
    assert decide(ada, account, "transfer").order_limit == 20
    assert AuditRecord.objects.get().changes == {
        "credit_limit": [0, 300],
        "order_limit": [None, 20],
    }


def test_a_credit_limit_above_the_debt_is_refused_with_words(operator: Client, ada: Person) -> None:
    account = make_account("account2", ada, credit_limit=500)
    give(account, -400)
    url = address(Account, "change", account.pk)
    with nothing_changed():
        saved(post_edited(operator, url, credit_limit="399"))
        assert "The account would be overdrawn." in text_of(operator.get(url))
        page = text_of(post_edited(operator, url, credit_limit="-1"))
        assert "greater than or equal to 0" in page


def test_credit_of_the_bank_s_own_accounts_is_not_edited(
    operator: Client, bank: Organization
) -> None:
    cash = make_account("cash", bank, kind=AccountKind.CASH, unlimited=True)
    with nothing_changed():
        saved(
            post_edited(
                operator,
                address(Account, "change", cash.pk),
                credit_limit="5",
                kind="customer",
                unlimited="",
            )
        )


def test_freeze_thaw_and_close_go_through_the_service(operator: Client, ada: Person) -> None:
    empty, full = make_account("account2", ada), make_account("account3", ada)
    give(full, 10)
    page = act(operator, Account, "freeze", empty, full, reason="court order")
    assert "Account account2 is now frozen" in page
    assert "Account account3 is now frozen" in page
    assert "Account account2 is now open" in act(operator, Account, "thaw", empty)
    page = act(operator, Account, "close", empty, full, reason="moved away")
    assert "Account account2 is now closed" in page
    assert "The balance of account account3 is not zero." in page
    statuses = dict(Account.objects.values_list("number", "status"))
    assert statuses == {"account2": "closed", "account3": "frozen"}
    assert set(AuditRecord.objects.values_list("reason", flat=True)) == {
        "court order",
        "",
        "moved away",
    }


def test_entries_are_shown_with_the_account_and_accounts_are_never_deleted(
    operator: Client, ada: Person
) -> None:
    account = make_account("account2", ada)
    page = text_of(operator.get(address(Account, "change", account.pk)))
    assert "newest entries" in page.lower()
    with nothing_changed():
        assert operator.post(address(Account, "delete", account.pk)).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [account.pk], "post": "yes"}
        operator.post(address(Account, "changelist"), data)


def test_decimal_places_are_fixed_once_there_is_an_account(operator: Client, ada: Person) -> None:
    saved(operator.post(address(Currency, "add"), {"code": "EUR", "name": "Euro", "exponent": 2}))
    euro = Currency.objects.get(code="EUR")
    url = address(Currency, "change", "EUR")
    saved(post_edited(operator, url, exponent="3"))
    make_account("account2", ada, currency=euro)
    saved(post_edited(operator, url, exponent="4", code="USD", name="Euros"))
    euro.refresh_from_db()
    assert (euro.exponent, euro.name) == (3, "Euros")
    assert not Currency.objects.filter(code="USD").exists()


def test_an_operator_without_the_permission_sees_and_changes_nothing(ada: Person) -> None:
    account = make_account("account2", ada)
    client = Client()
    with nothing_changed():
        for url in (
            address(Account, "changelist"),
            address(Account, "change", account.pk),
            address(Person, "change", ada.pk),
        ):
            response = client.get(url)
            assert response.status_code == 302
            assert "/login/" in response.headers["Location"]


def test_an_employee_s_order_limit_is_not_the_account_s(operator: Client, ada: Person) -> None:
    club = make_organization("demo-club")
    account = make_account("account1", club)
    make_employee(club, ada, "transfer", order_limit=70)
    saved(post_edited(operator, address(Account, "change", account.pk), order_limit="50"))
    account.refresh_from_db()
    assert decide(ada, account, "transfer").order_limit == 50
