"""Queries: who may ask what, pages, snapshots, and that nothing is written."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bank.errors import BankError
from bank.ledger import book
from bank.models import Account, EmployeePermission, Person
from bank.queries import answer_query
from protocol import limits
from protocol.banking import (
    AccountsQuery,
    AccountsResult,
    Answer,
    BalanceQuery,
    BalanceResult,
    OrderStatusQuery,
    Query,
    Result,
    SignedReceipt,
    StatementQuery,
    StatementResult,
    decode_answer,
    encode_answer,
)
from protocol.errors import Code
from tests.bank.orders import (
    BANK,
    SmallBank,
    book_one,
    make_own_accounts,
    new_order_id,
    order_of,
    receipt_in,
    small_bank,
    transfer,
    withdraw,
)
from tests.bank.parties import identity_of, make_account, make_currency, make_employee, make_person
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

NOON = 1_767_268_800_000
MIDNIGHT = 1_767_225_600_000


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def ask(person: Person, query: Query) -> Result | SignedReceipt | None:
    with nothing_changed():
        return answer_query(person.pk, identity_of(person.client_id).public, query)


def refused(person: Person, query: Query) -> Code:
    with pytest.raises(BankError) as caught:
        ask(person, query)
    return caught.value.code


def statement(person: Person, account: str, **fields: int) -> StatementResult:
    result = ask(person, StatementQuery(account, **fields))
    assert isinstance(result, StatementResult)
    return result


def accounts(person: Person, after: str | None = None) -> AccountsResult:
    result = ask(person, AccountsQuery(after))
    assert isinstance(result, AccountsResult)
    return result


# --- Accounts and balances ----------------------------------------------------------------------


def test_accounts_lists_what_may_be_seen_with_what_may_be_done(bank: SmallBank) -> None:
    found = accounts(bank.ben)
    assert [(line.account, line.permissions) for line in found.accounts] == [
        ("account1", ["view", "withdraw"]),
        ("account3", ["view", "transfer", "withdraw"]),
    ]
    club, own = found.accounts
    assert (club.owner, club.owner_kind) == ("Club", "organization")
    assert (own.owner, own.owner_kind) == ("Test, Ben", "person")
    assert (own.balance, own.available, own.currency, own.exponent) == (1000, 1000, "TWC", 0)
    assert found.next_after is None


def test_accounts_come_in_pages(bank: SmallBank) -> None:
    for number in range(limits.ACCOUNTS_MAX + 5):
        make_account(f"more{number:03}", bank.ben)
    first = accounts(bank.ben)
    assert len(first.accounts) == limits.ACCOUNTS_MAX
    assert first.next_after == first.accounts[-1].account
    second = accounts(bank.ben, first.next_after)
    numbers = [line.account for line in [*first.accounts, *second.accounts]]
    assert len(numbers) == limits.ACCOUNTS_MAX + 7
    assert numbers == sorted(set(numbers))
    assert second.next_after is None


def test_accounts_of_an_employer_that_may_not_be_seen_fill_no_page(bank: SmallBank) -> None:
    EmployeePermission.objects.filter(employee__person=bank.ben, permission="view").delete()
    for number in range(limits.ACCOUNTS_MAX * 2):
        make_account(f"a{number:03}", bank.club)
    assert [line.account for line in accounts(bank.ben).accounts] == ["account3"]


def test_somebody_without_accounts_gets_an_empty_list(bank: SmallBank) -> None:
    found = accounts(make_person("nobody"))
    assert (found.accounts, found.sequence, found.next_after) == ([], 0, None)


def test_a_balance_with_what_is_held_and_the_credit_limit(bank: SmallBank) -> None:
    make_own_accounts(bank, "EUR", 2)
    make_account("euro", bank.ada, currency=make_currency("EUR", 2), credit_limit=500)
    Account.objects.filter(number="account2").update(held=100)
    result = ask(bank.ada, BalanceQuery("account2"))
    assert isinstance(result, BalanceResult)
    assert (result.balance.balance, result.balance.available) == (1000, 900)
    result = ask(bank.ada, BalanceQuery("euro"))
    assert isinstance(result, BalanceResult)
    assert (result.balance.available, result.balance.currency, result.balance.exponent) == (
        500,
        "EUR",
        2,
    )
    assert (result.status, result.sequence) == ("open", 0)


def test_what_is_available_may_be_more_than_a_balance_can_be(bank: SmallBank) -> None:
    Account.objects.filter(number="account2").update(credit_limit=2**63 - 1)
    result = ask(bank.ada, BalanceQuery("account2"))
    assert isinstance(result, BalanceResult)
    assert result.balance.available == 2**63 + 999
    answer = Answer(version=1, re=new_order_id(), result=result)
    assert decode_answer(encode_answer(answer)) == answer


def test_answers_about_an_account_can_be_put_in_order(bank: SmallBank) -> None:
    before = ask(bank.ada, BalanceQuery("account2"))
    receipt = receipt_in(book_one(bank.ada, transfer("account2", "account3", 1)))
    after = ask(bank.ada, BalanceQuery("account2"))
    assert isinstance(before, BalanceResult)
    assert isinstance(after, BalanceResult)
    assert before.sequence < receipt.sequence == after.sequence
    assert statement(bank.ada, "account2").sequence == receipt.sequence
    assert accounts(bank.ada).sequence == receipt.sequence


@pytest.mark.parametrize("number", ["account3", "nowhere", "cash-TWC"])
def test_what_may_not_be_seen_does_not_exist(bank: SmallBank, number: str) -> None:
    assert refused(bank.ada, BalanceQuery(number)) is Code.ACCOUNT_UNAVAILABLE
    assert refused(bank.ada, StatementQuery(number)) is Code.ACCOUNT_UNAVAILABLE


def test_a_teller_sees_no_accounts(bank: SmallBank) -> None:
    teller = make_person("teller")
    make_employee(bank.bank_organization, teller, "deposit")
    assert accounts(teller).accounts == []
    assert refused(teller, BalanceQuery("account2")) is Code.ACCOUNT_UNAVAILABLE


@pytest.mark.parametrize(
    "query",
    [
        AccountsQuery(),
        BalanceQuery("account2"),
        StatementQuery("account2"),
        OrderStatusQuery(new_order_id()),
    ],
)
def test_a_revoked_key_is_told_nothing(bank: SmallBank, query: Query) -> None:
    bank.ada.keys.update(revoked_at=timezone.now())
    assert refused(bank.ada, query) is Code.KEY_REVOKED


def test_another_key_than_the_one_in_force_is_told_nothing(bank: SmallBank) -> None:
    with nothing_changed(), pytest.raises(BankError) as caught:
        answer_query(bank.ada.pk, identity_of("ada", 2).public, AccountsQuery())
    assert caught.value.code is Code.KEY_REVOKED


# --- Statements ---------------------------------------------------------------------------------


def test_a_statement_shows_both_directions_with_memo_and_value_date(bank: SmallBank) -> None:
    book_one(bank.ada, transfer("account2", "account3", 7, memo="für März", value_date=NOON))
    book_one(bank.ben, transfer("account3", "account2", 5))
    book_one(bank.ada, withdraw("account2", 1))
    found = statement(bank.ada, "account2")
    assert [
        (line.kind, line.amount, line.balance_after, line.counterparty, line.memo)
        for line in found.entries
    ] == [
        ("withdrawal", -1, 997, "cash-TWC", ""),
        ("transfer", 5, 998, "account3", ""),
        ("transfer", -7, 993, "account3", "für März"),
        ("opening", 1000, 1000, "issuance-TWC", ""),
    ]
    assert [line.value_date for line in found.entries] == [None, None, MIDNIGHT, None]
    assert (found.account, found.currency, found.exponent) == ("account2", "TWC", 0)


def test_a_statement_in_pages_is_the_whole_statement(bank: SmallBank) -> None:
    orders = [order_of(bank.ada, transfer("account2", "account3", 1)) for _ in range(25)]
    book(orders, BANK)
    whole = statement(bank.ada, "account2", limit=50)
    assert (len(whole.entries), whole.next_before) == (26, None)
    pages = []
    before: int | None = None
    while True:
        fields = {} if before is None else {"before": before}
        page = statement(bank.ada, "account2", limit=10, **fields)
        pages.append(page)
        before = page.next_before
        if before is None:
            break
    assert [len(page.entries) for page in pages] == [10, 10, 6]
    assert [line for page in pages for line in page.entries] == whole.entries


def test_a_page_takes_the_same_number_of_queries_whatever_its_length(bank: SmallBank) -> None:
    def queries_for(limit: int) -> int:
        key = identity_of("ada").public
        with CaptureQueriesContext(connection) as captured:
            answer_query(bank.ada.pk, key, StatementQuery("account2", limit=limit))
        return len(captured)

    book([order_of(bank.ada, transfer("account2", "account3", 1)) for _ in range(20)], BANK)
    assert queries_for(1) == queries_for(20)


# --- Orders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1, 5000])
def test_the_status_of_an_order_is_its_stored_receipt(bank: SmallBank, amount: int) -> None:
    order = order_of(bank.ada, transfer("account2", "account3", amount))
    (outcome,) = book([order], BANK)
    assert ask(bank.ada, OrderStatusQuery(order.order_id)) == outcome.receipt


def test_there_is_no_status_of_what_is_not_recorded_or_another_persons(bank: SmallBank) -> None:
    order = order_of(bank.ada, transfer("account2", "account3", 1))
    assert ask(bank.ada, OrderStatusQuery(order.order_id)) is None
    book([order], BANK)
    assert ask(bank.ben, OrderStatusQuery(order.order_id)) is None
