"""The group commit against an oracle that books one order at a time: the same outcomes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import msgspec
import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bank.incoming import IncomingOrder
from bank.ledger import book
from bank.models import AccountStatus, Person
from bank.money import format_amount
from bank.verification import verify_ledger
from protocol.banking import Deposit, Issue, Transfer, Withdraw
from protocol.errors import Code
from tests.bank.oracle import Oracle, OracleAccount
from tests.bank.orders import (
    BANK,
    BANK_ID,
    balances,
    make_own_accounts,
    new_order_id,
    now_ms,
    order_of,
    small_bank,
    transfer,
)
from tests.bank.parties import make_account, make_currency, make_employee, make_person

pytestmark = pytest.mark.django_db

FULL = {"view", "transfer", "withdraw"}
AMOUNTS = ["1", "7", "40", "300", "1.5", "0.25", "0", "x", "2000", "01", str(10**15), str(10**16)]


@dataclass
class World:
    """The same bank twice: in the database, and in the oracle."""

    persons: dict[str, Person]
    oracle: Oracle
    numbers: list[str]


def make_world() -> World:
    bank = small_bank(opening=0)
    make_own_accounts(bank, "EUR", 2)
    euro = make_currency("EUR", 2)
    teller, gone = make_person("teller"), make_person("gone")
    make_employee(bank.bank_organization, teller, "deposit")
    make_account("euro2", bank.ada, currency=euro)
    make_account("euro3", bank.ben, currency=euro)
    make_account("credit", bank.ada, credit_limit=500)
    make_account("limited", bank.ada, order_limit=50)
    make_account("frozen", bank.ada, status=AccountStatus.FROZEN)
    make_account("closed", bank.ada, status=AccountStatus.CLOSED)
    make_account("gone", gone)
    funded = {"account1": 1000, "account2": 600, "account3": 50, "euro2": 3000, "limited": 400}
    issues = [
        order_of(bank.bank_person, Issue(number, format_amount(minor, 2 * ("euro" in number))))
        for number, minor in funded.items()
    ]
    assert {outcome.code for outcome in book(issues, BANK)} == {None}
    gone.keys.update(revoked_at=timezone.now())
    oracle = Oracle(tellers={"teller"}, revoked={"gone"})
    for code, places in (("TWC", 0), ("EUR", 2)):
        for kind in ("cash", "issuance"):
            oracle.accounts[f"{kind}-{code}"] = OracleAccount(
                floor=None, currency=code, places=places, kind=kind
            )
    for number in ("account1", "account2", "account3", "credit", "limited", "frozen", "closed"):
        oracle.accounts[number] = OracleAccount()
    oracle.accounts["gone"] = OracleAccount()
    for number in ("euro2", "euro3"):
        oracle.accounts[number] = OracleAccount(currency="EUR", places=2)
    oracle.accounts["credit"].floor = -500
    oracle.accounts["limited"].order_limit = 50
    oracle.accounts["frozen"].status = "frozen"
    oracle.accounts["closed"].status = "closed"
    for number, minor in funded.items():
        account = oracle.accounts[number]
        account.balance = minor
        oracle.accounts[f"issuance-{account.currency}"].balance -= minor
    for number in ("account2", "euro2", "credit", "limited", "frozen", "closed"):
        oracle.rights["ada", number] = FULL
    oracle.rights["ada", "account1"] = FULL
    oracle.rights["ben", "account1"] = {"view", "withdraw"}
    for number in ("account3", "euro3"):
        oracle.rights["ben", number] = FULL
    oracle.rights["gone", "gone"] = FULL
    persons = {"ada": bank.ada, "ben": bank.ben, "teller": teller, "gone": gone}
    return World(persons, oracle, [*oracle.accounts, "nowhere"])


class Workload:
    """Random orders, with repeats and ids used twice."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._given: list[tuple[IncomingOrder, str]] = []

    def next(self) -> tuple[IncomingOrder, str]:
        """A signed order, and what the oracle makes of it."""
        pick = self._random
        if self._given and pick.random() < 0.15:
            given, _ = pick.choice(self._given)
            return given, self._expected(given)
        person = pick.choices(["ada", "ben", "teller", "gone"], [8, 4, 2, 1])[0]
        order_id = None
        if self._given and pick.random() < 0.1:
            order_id = pick.choice(self._given)[0].order_id
        expired = pick.random() < 0.03
        given = order_of(
            self._world.persons[person],
            self._order(),
            order_id=order_id or new_order_id(),
            issued_at=now_ms() - 60_000 if expired else None,
            lifetime_ms=1 if expired else 86_400_000,
        )
        self._given.append((given, person))
        return given, self._expected(given)

    def _order(self) -> msgspec.Struct:
        pick = self._random
        # Accounts that are there and usable come up more often than the others.
        weights = [
            1 if "-" in number or number == "nowhere" else 4 for number in self._world.numbers
        ]
        one, other = pick.choices(self._world.numbers, weights, k=2)
        amount = pick.choices(AMOUNTS, [6, 6, 6, 4, 1, 1, 1, 1, 1, 1, 1, 1])[0]
        kind = pick.choices(["transfer", "withdraw", "deposit"], [6, 2, 2])[0]
        if kind == "transfer":
            return transfer(one, other, amount)
        return Withdraw(one, amount) if kind == "withdraw" else Deposit(one, amount)

    def _expected(self, given: IncomingOrder) -> str:
        order = given.order
        assert isinstance(order, Transfer | Withdraw | Deposit)
        return self._world.oracle.order(
            given.client_id,
            given.order_id,
            given.evidence_hash,
            expired=given.expires_at <= now_ms(),
            operation=given.operation,
            account=order.from_account if isinstance(order, Transfer) else order.account,
            other=order.to_account if isinstance(order, Transfer) else "",
            amount=order.amount,
        )


def run(seed: int, sizes: list[int]) -> Counter[str]:
    """Book batches of these sizes; every outcome and every balance must be the oracle's."""
    world = make_world()
    workload = Workload(world, seed)
    seen: Counter[str] = Counter()
    for size in sizes:
        batch, expected = [], []
        for _ in range(size):
            given, code = workload.next()
            batch.append(given)
            expected.append(code)
        outcomes = book(batch, BANK)
        assert [outcome.code or "" for outcome in outcomes] == expected
        seen.update(expected)
    assert balances() == {
        number: account.balance for number, account in world.oracle.accounts.items()
    }
    assert list(verify_ledger(BANK_ID)) == []
    return seen


def test_batches_give_the_outcomes_of_one_order_at_a_time() -> None:
    seen = run(20_261_123, [1] * 30 + [5] * 30 + [50] * 20 + [400] * 5)
    # A workload that provokes little would prove little.
    expected = {
        "",
        *(
            code.value
            for code in (
                Code.ORDER_ID_CONFLICT,
                Code.ORDER_EXPIRED,
                Code.KEY_REVOKED,
                Code.BAD_AMOUNT,
                Code.ACCOUNT_UNAVAILABLE,
                Code.PERMISSION_DENIED,
                Code.DESTINATION_UNKNOWN,
                Code.SAME_ACCOUNT,
                Code.CURRENCY_MISMATCH,
                Code.ACCOUNT_FROZEN,
                Code.ACCOUNT_CLOSED,
                Code.LIMIT_EXCEEDED,
                Code.INSUFFICIENT_FUNDS,
            )
        ),
    }
    assert set(seen) == expected
    assert seen[""] > 150


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_any_workload_in_any_batches(seed: int, sizes: list[int], db: None) -> None:
    before = transaction.savepoint()
    try:
        run(seed, sizes)
    finally:
        transaction.savepoint_rollback(before)
