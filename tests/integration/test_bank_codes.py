"""Every code of the bank over a real connection: what provokes it, and what lives on.

Each test says what the bank answers, shows that nothing changed (a refusal that is final is
recorded, and that is all), and that the same connection and the same bank go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from bank.models import Person
from bank.services.keys import revoke_key
from protocol import limits
from protocol.banking import (
    AccountsQuery,
    Answer,
    BalanceQuery,
    Deposit,
    Issue,
    Outcome,
    StatementQuery,
    Transfer,
    Withdraw,
)
from protocol.errors import RETRY, Code, Retry
from tests.bank.verifying import verify
from tests.databases import TestDatabases
from tests.integration.chain import Chain, running_chain
from tests.integration.customers import ACTOR, enrol, key_file_of
from tests.integration.database_troubles import database_away, withdrawals_break, writers_wait
from tests.integration.ledger_state import balances, only_recorded
from tests.integration.signer import HOUR_MS, Signer, signer
from tests.relay.peer import new_id, now_ms

UNKNOWN = "no-such-account"
YEAR_10000_MS = 253_402_300_800_000


@pytest.fixture
async def ada(chain: Chain) -> AsyncIterator[Signer]:
    async with signer_of(chain, "ada") as ada:
        yield ada


@pytest.fixture
async def ben(chain: Chain) -> AsyncIterator[Signer]:
    async with signer_of(chain, "ben") as ben:
        yield ben


def signer_of(chain: Chain, client_id: str) -> AbstractAsyncContextManager[Signer]:
    return signer(chain.relay_url, chain.customers[client_id], chain.customers.bank.bundle)


async def refused_for_good(by: Signer, order: msgspec.Struct, code: Code) -> None:
    """Check that the bank records the refusal, moves nothing, and repeats it for ever."""
    message = by.order(order)
    async with only_recorded(1):
        answer = await by.send(message)
        receipt = by.receipt(answer)
        assert isinstance(answer, Answer)
        assert (answer.code, answer.retry) == (code, RETRY[code]) == (code, Retry.FINAL)
        assert (receipt.outcome, receipt.code) == (Outcome.REFUSED, code)
        assert (receipt.transfers, receipt.balances) == ([], [])
        again = await by.send(message)
        assert isinstance(again, Answer)
        assert again.receipt == answer.receipt
    await lives_on(by)


def refused_without_a_record(answer: Answer | Code, code: Code, retry: Retry) -> None:
    assert isinstance(answer, Answer)
    assert (answer.code, answer.retry) == (code, retry)
    assert answer.receipt is None
    assert answer.result is None


async def lives_on(by: Signer) -> None:
    """Check that the next valid order on the same connection is booked."""
    own = "account3" if by.key_file.client_id == "ben" else "account2"
    before = await balances(own, "account4")
    receipt = by.receipt(await by.place(Transfer(own, "account4", "1")))
    assert receipt.outcome is Outcome.ACCEPTED
    assert await balances(own, "account4") == {
        own: before[own] - 1,
        "account4": before["account4"] + 1,
    }


# --- What leaves no record ------------------------------------------------------------------


@pytest.mark.provokes("order_id_conflict")
async def test_order_id_conflict(ada: Signer) -> None:
    order_id = new_id()
    first = await ada.place(Transfer("account2", "account3", "1"), id=order_id)
    assert ada.receipt(first).outcome is Outcome.ACCEPTED
    async with only_recorded(0):
        answer = await ada.place(Transfer("account2", "account3", "2"), id=order_id)
        refused_without_a_record(answer, Code.ORDER_ID_CONFLICT, Retry.NEVER)
    await lives_on(ada)


@pytest.mark.provokes("order_id_conflict")
async def test_the_same_id_of_another_person_is_no_conflict(ada: Signer, ben: Signer) -> None:
    order_id = new_id()
    for by, order in (
        (ada, Transfer("account2", "account4", "1")),
        (ben, Transfer("account3", "account4", "1")),
    ):
        receipt = by.receipt(await by.place(order, id=order_id))
        assert (receipt.outcome, receipt.order_id) == (Outcome.ACCEPTED, order_id)


@pytest.mark.provokes("order_expired")
async def test_order_expired(ada: Signer) -> None:
    message = ada.order(
        Transfer("account2", "account3", "1"), issued_at=now_ms() - HOUR_MS, lifetime_ms=HOUR_MS - 1
    )
    async with only_recorded(0):
        for _ in range(2):
            answer = await ada.send(message)
            refused_without_a_record(answer, Code.ORDER_EXPIRED, Retry.NEVER)
    await lives_on(ada)


@pytest.mark.provokes("order_expired")
async def test_an_order_that_is_recorded_is_answered_after_its_expiry(ada: Signer) -> None:
    message = ada.order(Transfer("account2", "account3", "1"), lifetime_ms=1_500)
    booked = await ada.send(message)
    assert ada.receipt(booked).outcome is Outcome.ACCEPTED
    await asyncio.sleep(1.6)
    async with only_recorded(0):
        assert await ada.send(message) == booked


@pytest.mark.provokes("key_revoked")
async def test_key_revoked(chain: Chain, ada: Signer) -> None:
    dora = key_file_of("dora")
    await sync_to_async(enrol)(dora)
    async with signer(chain.relay_url, dora, chain.customers.bank.bundle) as by:
        refused = by.order(Transfer("account2", "account3", "1"))
        receipt = by.receipt(await by.send(refused))
        assert receipt.code is Code.ACCOUNT_UNAVAILABLE
        await sync_to_async(_revoke)("dora")
        async with only_recorded(0):
            answer = await by.place(Transfer("account2", "account3", "1"))
            refused_without_a_record(answer, Code.KEY_REVOKED, Retry.NEVER)
            answer = await by.ask(AccountsQuery())
            refused_without_a_record(answer, Code.KEY_REVOKED, Retry.NEVER)
            # What was recorded before is still answered: it can't be changed, and does nothing.
            assert by.receipt(await by.send(refused)) == receipt
        await by.peer.still_works()
    await lives_on(ada)


def _revoke(client_id: str) -> None:
    revoke_key(ACTOR, Person.objects.get(client_id=client_id), "a test")


# --- What is recorded as refused, in the order of precedence ----------------------------------


class Steal(msgspec.Struct, tag_field="operation", tag="steal"):
    account: str


class ExtraMember(msgspec.Struct, tag_field="operation", tag="withdraw"):
    account: str = "account2"
    amount: str = "1"
    fee: str = "0"


class NoObject(msgspec.Struct, array_like=True):
    """Is written as ``[]``."""


class WrongType(msgspec.Struct, tag_field="operation", tag="withdraw"):
    account: str = "account2"
    amount: int = 1


@pytest.mark.provokes("bad_order")
@pytest.mark.parametrize(
    "content",
    [
        Steal("account2"),
        ExtraMember(),
        WrongType(),
        NoObject(),
        Withdraw("account 2", "1"),
        Withdraw("", "1"),
        Withdraw("account2", "1", memo="x" * (limits.MEMO_CHARS_MAX + 1)),
        Withdraw("account2", "1" * (limits.AMOUNT_CHARS_MAX + 1)),
        Withdraw("account2", "1", currency="twc"),
        Transfer("account2", "account3", "1", value_date=limits.MILLISECONDS_MAX),
        AccountsQuery(),
    ],
    ids=lambda content: type(content).__name__,
)
async def test_bad_order(ada: Signer, content: msgspec.Struct) -> None:
    await refused_for_good(ada, content, Code.BAD_ORDER)


@pytest.mark.provokes("bad_order")
async def test_bad_order_names_the_operation_only_where_it_was_understood(ada: Signer) -> None:
    beyond = Transfer("account2", "account3", "1", value_date=YEAR_10000_MS)
    cases: list[tuple[msgspec.Struct, str]] = [(NoObject(), ""), (Steal("a"), "")]
    for content, operation in [*cases, (beyond, "transfer")]:
        receipt = ada.receipt(await ada.place(content))
        assert (receipt.code, receipt.operation) == (Code.BAD_ORDER, operation)
    last = Transfer("account2", "account3", "1", value_date=YEAR_10000_MS - 1)
    assert ada.receipt(await ada.place(last)).outcome is Outcome.ACCEPTED


@pytest.mark.provokes("bad_amount")
@pytest.mark.parametrize(
    "amount",
    [
        *("", "0", "0.00", "-1", "+1", "1e3", "1,000", "1,5", " 1", "1.5", "NaN", "0x10"),
        *("\u0661", "\uff11", "9" * 32, str(limits.AMOUNT_MINOR_UNITS_MAX + 1)),
    ],
)
async def test_bad_amount(ada: Signer, amount: str) -> None:
    await refused_for_good(ada, Transfer("account2", "account3", amount), Code.BAD_AMOUNT)


@pytest.mark.provokes("account_unavailable")
@pytest.mark.parametrize(
    "order",
    [
        Transfer(UNKNOWN, "account2", "1"),
        Transfer("account3", "account2", "1"),
        Transfer("cash-TWC", "account2", "1"),
        Withdraw("account3", "1"),
        Withdraw("issuance-TWC", "1"),
        Deposit("account3", "1"),
        Issue("account3", "1"),
    ],
    ids=repr,
)
async def test_account_unavailable(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.ACCOUNT_UNAVAILABLE)


@pytest.mark.provokes("account_unavailable")
@pytest.mark.parametrize("account", [UNKNOWN, "account3", "cash-TWC"])
async def test_account_unavailable_to_questions(ada: Signer, account: str) -> None:
    async with only_recorded(0):
        for query in (BalanceQuery(account), StatementQuery(account)):
            answer = await ada.ask(query)
            refused_without_a_record(answer, Code.ACCOUNT_UNAVAILABLE, Retry.NEVER)
    await lives_on(ada)


@pytest.mark.provokes("permission_denied")
@pytest.mark.parametrize(
    "order",
    [Transfer("account1", "account3", "1"), Deposit("account3", "1"), Issue("account3", "1")],
    ids=repr,
)
async def test_permission_denied(ben: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ben, order, Code.PERMISSION_DENIED)


@pytest.mark.provokes("destination_unknown")
@pytest.mark.parametrize("destination", [UNKNOWN, "cash-TWC", "issuance-TWC"])
async def test_destination_unknown(ada: Signer, destination: str) -> None:
    await refused_for_good(ada, Transfer("account2", destination, "1"), Code.DESTINATION_UNKNOWN)


@pytest.mark.provokes("same_account")
async def test_same_account(ada: Signer) -> None:
    await refused_for_good(ada, Transfer("account2", "account2", "1"), Code.SAME_ACCOUNT)


@pytest.mark.provokes("currency_mismatch")
@pytest.mark.parametrize(
    "order",
    [
        Transfer("account2", "euros", "1"),
        Transfer("euros", "account2", "1"),
        Transfer("account2", "account3", "1", currency="EUX"),
        Withdraw("account2", "1", currency="XXX"),
    ],
    ids=repr,
)
async def test_currency_mismatch(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.CURRENCY_MISMATCH)


@pytest.mark.provokes("account_frozen")
@pytest.mark.parametrize(
    "order",
    [
        Transfer("frozen", "account3", "1"),
        Transfer("account2", "frozen", "1"),
        Transfer("frozen", "closed", "1"),
        Withdraw("frozen", "1"),
    ],
    ids=repr,
)
async def test_account_frozen(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.ACCOUNT_FROZEN)


@pytest.mark.provokes("account_closed")
@pytest.mark.parametrize(
    "order",
    [
        Transfer("closed", "account3", "1"),
        Transfer("account2", "closed", "1"),
        Withdraw("closed", "1"),
    ],
    ids=repr,
)
async def test_account_closed(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.ACCOUNT_CLOSED)


@pytest.mark.provokes("limit_exceeded")
@pytest.mark.parametrize(
    "order", [Transfer("limited", "account3", "11"), Withdraw("limited", "5000")], ids=repr
)
async def test_limit_exceeded(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.LIMIT_EXCEEDED)


@pytest.mark.provokes("insufficient_funds")
@pytest.mark.parametrize(
    "order", [Transfer("account2", "account3", "1001"), Withdraw("euros", "10.01")], ids=repr
)
async def test_insufficient_funds(ada: Signer, order: msgspec.Struct) -> None:
    await refused_for_good(ada, order, Code.INSUFFICIENT_FUNDS)


# --- What passes --------------------------------------------------------------------------------


@pytest.fixture
def crowded(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Chain]:
    """A bank at which one order may wait while others are being booked."""
    bounds = {"QUEUE_ORDERS_MAX": 1, "BATCH_ORDERS_MAX": 3}
    with running_chain(fresh_databases, tmp_path, bank=bounds) as chain:
        yield chain


@pytest.mark.provokes("busy")
async def test_busy(crowded: Chain) -> None:
    async with signer_of(crowded, "ada") as ada:
        booked = [ada.order(Transfer("account2", "account3", "1")) for _ in range(2)]
        turned_away = ada.order(Transfer("account2", "account3", "1"))
        before = await balances("account2", "account3")
        with writers_wait(crowded.databases):
            # The first one is being booked before the second one comes to wait.
            for message in booked:
                await ada.post(message)
                await asyncio.sleep(0.3)
            answer = await ada.send(turned_away)
            refused_without_a_record(answer, Code.BUSY, Retry.SAME)
            assert isinstance(answer, Answer)
            assert answer.retry_after_ms
            assert await balances("account2", "account3") == before
        for message in booked:
            assert ada.receipt(await ada.answer_to(message)).outcome is Outcome.ACCEPTED
        assert ada.receipt(await ada.send(turned_away)).outcome is Outcome.ACCEPTED
        assert (await balances("account2"))["account2"] == before["account2"] - 3
    assert crowded.is_alive


@pytest.fixture
def undisturbed(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Chain]:
    """A bank that nobody has asked anything yet."""
    with running_chain(fresh_databases, tmp_path) as chain:
        yield chain


@pytest.mark.provokes("bank_unavailable")
async def test_bank_unavailable(undisturbed: Chain) -> None:
    """The database is taken away from the running bank, and given back."""
    databases = undisturbed.databases
    async with signer_of(undisturbed, "ada") as ada:
        before = await balances("account2")
        order = ada.order(Transfer("account2", "account3", "1"))
        with database_away(databases):
            # Whose key this is was never read: the bank can't open it, nor seal an answer.
            assert await ada.send(order) is Code.BANK_UNAVAILABLE
        await ada.still_served()
        with database_away(databases):
            # Now it knows the key, and proves that the answer is its own. (Under SQLite the
            # thread that books has not opened its file yet, the one that reads has.)
            answer = await ada.send(order)
            refused_without_a_record(answer, Code.BANK_UNAVAILABLE, Retry.SAME)
        await sync_to_async(connections.close_all)()
        assert await balances("account2") == before
        assert ada.receipt(await ada.send(order)).outcome is Outcome.ACCEPTED
        assert await balances("account2") == {"account2": before["account2"] - 1}
    assert undisturbed.is_alive


@pytest.mark.provokes("internal")
async def test_internal(chain: Chain, ada: Signer) -> None:
    """The database refuses to record one kind of order; the others are not held up by it."""
    message = ada.order(Withdraw("account2", "1"))
    with withdrawals_break(chain.databases):
        async with only_recorded(0):
            answer = await ada.send(message)
            refused_without_a_record(answer, Code.INTERNAL, Retry.UNKNOWN)
        await lives_on(ada)
    before = await balances("account2")
    assert ada.receipt(await ada.send(message)).outcome is Outcome.ACCEPTED
    assert await balances("account2") == {"account2": before["account2"] - 1}
    assert chain.is_alive


async def test_the_ledger_is_in_order_after_all_this(chain: Chain) -> None:
    status, said = await sync_to_async(verify)()
    assert status == 0, said
    assert chain.is_alive
