"""Customers and employees who want more than they may: to look, to take, to destroy, to flood."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async

from bank.models import Account, AccountStatus
from clients.customer import OrderState
from protocol import limits
from protocol.banking import (
    AccountsQuery,
    AccountsResult,
    Answer,
    BalanceQuery,
    Deposit,
    Issue,
    OrderStatusQuery,
    Outcome,
    StatementQuery,
    Transfer,
    Withdraw,
)
from protocol.bundles import SignedBundle
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from tests.attacks.conftest import Scene
from tests.bank.verifying import verify
from tests.integration.customers import key_file_of
from tests.integration.ledger_state import balances, only_recorded
from tests.integration.signer import relay_identity
from tests.relay.peer import dial, new_id

NOT_THERE = "account9"
"""As long as the numbers of the accounts that are there."""
NOT_ADAS = "account3"


# --- Money can't be destroyed ---


@pytest.mark.parametrize("destination", [NOT_THERE, "issuance-TWC"])
async def test_an_unknown_destination_destroys_no_money(scene: Scene, destination: str) -> None:
    """The system that this one grew from debited first and looked for the destination then."""
    before = await balances()
    async with scene.person("ada") as ada, only_recorded(1):
        result = await ada.customer.submit(Transfer("account2", destination, "100"))
        assert (result.state, result.code) == (OrderState.REFUSED, Code.DESTINATION_UNKNOWN)
        assert result.receipt is not None
        assert result.receipt.transfers == []
    after = await balances()
    assert after == before
    assert sum(after.values()) == 0, "the bank's own accounts mirror what the customers have"


# --- Whose accounts there are is not found out by trying ---


def anonymous(answer: Answer | Code, number: str) -> str:
    """An answer without what has to differ: ids, hashes, times, the number asked for."""
    assert isinstance(answer, Answer)
    members = msgspec.to_builtins(answer)
    members["re"] = "id"
    if answer.receipt is not None:
        receipt: dict[str, Any] = msgspec.json.decode(answer.receipt.raw)
        for name in ("order_id", "evidence_hash", "booked_at", "sequence"):
            del receipt[name]
        members["receipt"] = receipt
    text = re.sub(r"\d{4,}", "#", msgspec.json.encode(members).decode())
    return text.replace(number, "ACCOUNT")


PROBES: dict[str, Callable[[str], msgspec.Struct]] = {
    "balance": BalanceQuery,
    "statement": StatementQuery,
    "statement, a page": lambda number: StatementQuery(number, before=5, limit=1),
    "transfer": lambda number: Transfer(number, "account2", "1"),
    "transfer to nowhere": lambda number: Transfer(number, "nowhere", "1"),
    "transfer to itself": lambda number: Transfer(number, number, "1"),
    "transfer, too much": lambda number: Transfer(number, "account2", "1000000"),
    "transfer, too precise": lambda number: Transfer(number, "account2", "1.5"),
    "transfer, in another currency": lambda number: Transfer(number, "account2", "1", "EUX"),
    "withdraw": lambda number: Withdraw(number, "1"),
    "withdraw, too much for a coarse currency": lambda number: Withdraw(number, "9" * 15),
    "deposit": lambda number: Deposit(number, "1"),
    "issue": lambda number: Issue(number, "1"),
}


@pytest.mark.parametrize("status", [AccountStatus.OPEN, AccountStatus.FROZEN], ids=str)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
async def test_an_account_of_others_looks_like_none(
    scene: Scene, probe: Callable[[str], msgspec.Struct], status: AccountStatus
) -> None:
    """Ada is an employee and a customer; Ben's account is as good as none to her."""
    await sync_to_async(set_status)(NOT_ADAS, status)
    async with scene.signer("ada") as ada:
        answers, sizes = {}, {}
        for number in (NOT_ADAS, NOT_THERE):
            content = probe(number)
            is_query = isinstance(content, BalanceQuery | StatementQuery)
            answer = await (ada.ask(content) if is_query else ada.place(content))
            assert isinstance(answer, Answer)
            assert answer.code is Code.ACCOUNT_UNAVAILABLE
            answers[number] = anonymous(answer, number)
            sizes[number] = len(ada.last_body)
        assert answers[NOT_ADAS] == answers[NOT_THERE]
        assert sizes[NOT_ADAS] == sizes[NOT_THERE], (
            "the size of what is sealed tells nothing either"
        )
    await sync_to_async(set_status)(NOT_ADAS, AccountStatus.OPEN)


def set_status(number: str, status: AccountStatus) -> None:
    Account.objects.filter(number=number).update(status=status)


async def test_others_orders_look_like_none(scene: Scene) -> None:
    async with scene.signer("ben") as ben, scene.signer("ada") as ada:
        bens = ben.receipt(await ben.place(Transfer("account3", "account4", "1")))
        told = [await ada.ask(OrderStatusQuery(one)) for one in (bens.order_id, new_id())]
        assert anonymous(told[0], "") == anonymous(told[1], "")
        own = await ben.ask(OrderStatusQuery(bens.order_id))
        assert ben.receipt(own) == bens


# --- Roles end where they end ---


async def test_a_teller_deposits_and_that_is_all(scene: Scene) -> None:
    before = await balances("account3", "cash-TWC")
    async with scene.signer("tess") as tess:
        receipt = tess.receipt(await tess.place(Deposit("account3", "5")))
        assert receipt.outcome is Outcome.ACCEPTED
        assert receipt.balances == [], "who brings money does not see the account"
        after = await balances("account3", "cash-TWC")
        assert after == {
            "account3": before["account3"] + 5,
            "cash-TWC": before["cash-TWC"] - 5,
        }
        for order in (
            Transfer("account3", "account4", "1"),
            Withdraw("account3", "1"),
            Deposit("cash-TWC", "1"),
            Deposit("issuance-TWC", "1"),
            Issue("account3", "1"),
            Transfer("cash-TWC", "account3", "1"),
        ):
            async with only_recorded(1):
                refused = tess.receipt(await tess.place(order))
                assert refused.code is Code.ACCOUNT_UNAVAILABLE, order.__struct_config__.tag
        async with only_recorded(0):
            for query in (BalanceQuery("account3"), StatementQuery("account3")):
                answer = await tess.ask(query)
                assert isinstance(answer, Answer)
                assert answer.code is Code.ACCOUNT_UNAVAILABLE
            listed = await tess.ask(AccountsQuery())
            assert isinstance(listed, Answer)
            assert isinstance(listed.result, AccountsResult)
            assert listed.result.accounts == []


@pytest.mark.parametrize(
    ("who", "order", "code"),
    [
        ("carl", Transfer("account1", "account4", "1"), Code.ACCOUNT_UNAVAILABLE),
        ("carl", Withdraw("account2", "1"), Code.ACCOUNT_UNAVAILABLE),
        ("carl", Deposit("account4", "1"), Code.PERMISSION_DENIED),
        ("ben", Transfer("account1", "account3", "1"), Code.PERMISSION_DENIED),
        ("ada", Issue("account2", "1"), Code.PERMISSION_DENIED),
        ("ada", Transfer("issuance-TWC", "account2", "1"), Code.ACCOUNT_UNAVAILABLE),
    ],
    ids=repr,
)
async def test_nobody_orders_from_what_is_not_theirs(
    scene: Scene, who: str, order: msgspec.Struct, code: Code
) -> None:
    async with scene.signer(who) as by, only_recorded(1):
        assert by.receipt(await by.place(order)).code is code


# --- What was signed stays what was signed ---


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"amount":"1"', b'"amount":"9"'),
        (b'"account3"', b'"account4"'),
        (b'"from":"ada"', b'"from":"ben"'),
        (b'"bank.order"', b'"bank.query"'),
        (b'"expires_at":1', b'"expires_at":2'),
        (b'{"version"', b'{ "version"'),
    ],
    ids=repr,
)
async def test_an_order_that_is_edited_after_it_was_signed_is_nobodys(
    scene: Scene, old: bytes, new: bytes
) -> None:
    """In the customer's own outbox, say, by whoever got at the disk."""
    async with scene.person("ada") as ada:
        first = await ada.customer.submit(Transfer("account2", "account3", "1"))
        await ada.customer.flush()
        record = ada.state.order(first.order_id)
        assert record is not None
        evidence = unb64u(record.evidence)
        assert old in evidence
        edited = msgspec.structs.replace(
            record,
            evidence=b64u(evidence.replace(old, new)),
            receipt=None,
            bank_bundle=None,
        )
        async with only_recorded(0):
            sending = asyncio.create_task(ada.customer.finish(edited))
            await asyncio.wait([sending], timeout=0.5)
            if sending.done():
                assert sending.result().state is OrderState.UNKNOWN
            sending.cancel()
            await asyncio.wait([sending])


# --- Too much of everything ---


async def test_frames_that_are_too_large_end_one_connection_only(scene: Scene) -> None:
    async with scene.signer("ada") as witness:
        async with scene.signer("ben") as ben:
            await ben.peer.wire.send("x" * (limits.FRAME_BYTES_MAX + 1))
            assert (await ben.peer.refusal()).code is Code.FRAME_TOO_LARGE
        async with scene.signer("ben") as ben:
            await ben.peer.wire.send("x" * 2**20)
            code, _ = await ben.peer.wire.closed()
            assert code in (1009, 4000), "message too big, in WebSocket's words or the relay's"
        await witness.still_served()


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "lookup", "query": "x" * (limits.QUERY_CHARS_MAX + 1)},
        {"type": "send", "to": "b" * 65, "kind": "request", "ttl_ms": 1, "body": "AA"},
        {"type": "send", "to": "bank", "kind": "request", "ttl_ms": 2**53, "body": "AA"},
        {
            "type": "send",
            "to": "bank",
            "kind": "request",
            "ttl_ms": 1,
            "body": "A" * (limits.BODY_CHARS_MAX + 1),
        },
    ],
    ids=["query", "recipient", "time to live", "body"],
)
async def test_members_that_are_too_large_are_bad_frames(
    scene: Scene, frame: dict[str, Any]
) -> None:
    async with scene.signer("ada") as ada, only_recorded(0):
        await ada.peer.wire.send(msgspec.json.encode({**frame, "id": new_id()}).decode())
        assert (await ada.peer.refusal()).code is Code.BAD_FRAME
        await ada.still_served()


async def test_bundles_that_are_too_large_are_not_read(scene: Scene) -> None:
    lena = key_file_of("lena")
    large = SignedBundle("A" * (limits.BUNDLE_BYTES_MAX * 4 // 3 + 5), "A" * 86)
    async with await dial(scene.chain.relay_url) as peer:
        await peer.ask_registration(relay_identity(lena), bundle=large)
        assert (await peer.refusal()).code is Code.BAD_FRAME


class Padded(msgspec.Struct, tag_field="operation", tag="withdraw"):
    account: str
    amount: str
    memo: str


@pytest.mark.parametrize(
    "content",
    [
        Padded("account2", "1", "x" * 60_000),
        Padded("account2", "1" * 60_000, ""),
        Padded("a" * 60_000, "1", ""),
        Padded("account2", "1", "\u0000" * (limits.MEMO_CHARS_MAX + 1)),
    ],
    ids=["memo", "amount", "account", "control characters"],
)
async def test_orders_that_are_too_large_are_refused_by_the_bank(
    scene: Scene, content: msgspec.Struct
) -> None:
    async with scene.signer("ada") as ada, only_recorded(1):
        receipt = ada.receipt(await ada.place(content))
        assert receipt.code is Code.BAD_ORDER
        assert len(receipt.detail) <= limits.DETAIL_CHARS_MAX
        await ada.still_served()


@pytest.mark.parametrize(
    "query",
    [
        StatementQuery("account2", limit=limits.STATEMENT_ENTRIES_MAX + 1),
        StatementQuery("account2", before=2**53),
        BalanceQuery("a" * 35),
    ],
    ids=["entries", "sequence", "account"],
)
async def test_questions_that_ask_too_much_are_refused(scene: Scene, query: msgspec.Struct) -> None:
    async with scene.signer("ada") as ada, only_recorded(0):
        answer = await ada.ask(query)
        assert isinstance(answer, Answer)
        assert answer.code is Code.BAD_MESSAGE
        await ada.still_served()


async def test_the_books_are_in_order_after_all_this(scene: Scene) -> None:
    status, said = await sync_to_async(verify)()
    assert status == 0, said
    assert scene.chain.is_alive
