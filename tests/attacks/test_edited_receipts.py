"""A receipt that is edited after the bank signed it: nobody takes it for one.

Whoever owns the bank's database edits the stored receipt; the bank repeats what is stored. The
customer's program doesn't believe it, neither when it comes nor offline, and `verify_ledger` names
the order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from bank.models import Order
from clients.customer import BankPin, OrderState
from clients.records import OrderRecord
from protocol.banking import SignedReceipt, Transfer
from protocol.encoding import b64u, unb64u
from protocol.keyfile import encrypt_key_file
from protocol.keys import format_fingerprint
from tests.bank.guards import drop_guards
from tests.bank.verifying import verify
from tests.clients.conftest import run
from tests.clients.typist import Run
from tests.databases import TestDatabases
from tests.integration.chain import Chain, running_chain
from tests.integration.customers import CHEAPEST, PASSPHRASE
from tests.integration.persons import person

__all__ = ["run"]

EDITS = {
    "a larger amount": (b'"amount":100', b'"amount":900'),
    "another account": (b'"credit_account":"account3"', b'"credit_account":"account4"'),
    "refused": (b'"outcome":"accepted","code":null', b'"outcome":"refused","code":"busy"'),
    "a space": (b'{"version"', b'{ "version"'),
}


@pytest.fixture
def chain(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Chain]:
    """A relay and a bank whose database is going to be edited."""
    with running_chain(fresh_databases, tmp_path) as chain:
        yield chain


async def test_a_receipt_that_was_edited_is_believed_by_nobody(
    chain: Chain, tmp_path: Path, run: Run
) -> None:
    ada, bank = chain.customers["ada"], chain.customers.bank
    pin = BankPin(bank.client_id, bank.fingerprint)
    async with person(chain.relay_url, ada, tmp_path, pin) as customer:
        result = await customer.customer.submit(Transfer("account2", "account3", "100"))
        assert result.state is OrderState.ACCEPTED
        await customer.customer.flush()
        record = customer.state.order(result.order_id)
        assert record is not None
        assert await asyncio.to_thread(verify_offline, run, chain, tmp_path, record) == (
            0,
            "genuine",
        )
        for old, new in EDITS.values():
            edited = edited_receipt(record, old, new)
            status, said = await asyncio.to_thread(verify_offline, run, chain, tmp_path, edited)
            assert (status, said) != (0, "genuine")
            assert "not_authentic" in said
        old, new = EDITS["a larger amount"]
        await sync_to_async(edit_in_the_database)(record.order_id, old, new)
        sent_again = asyncio.create_task(customer.customer.finish(record))
        ended, _ = await asyncio.wait([sent_again], timeout=0.7)
        assert not ended or sent_again.result().state is OrderState.UNKNOWN
        sent_again.cancel()
        await asyncio.wait([sent_again])
        assert customer.state.order(record.order_id) == record, "the true one is kept"
    status, said = await sync_to_async(verify)()
    assert status == 1
    number = await sync_to_async(number_of)(record.order_id)
    assert f"bank_order {number}: receipt: " in said


def number_of(order_id: str) -> int:
    return Order.objects.get(order_id=order_id).pk


def edit_in_the_database(order_id: str, old: bytes, new: bytes) -> None:
    """Edit the stored receipt, as whoever owns the tables can."""
    order = Order.objects.get(order_id=order_id)
    receipt = bytes(order.receipt)
    assert old in receipt
    drop_guards()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE bank_order SET receipt = %s WHERE id = %s",
            [receipt.replace(old, new), order.pk],
        )


def edited_receipt(record: OrderRecord, old: bytes, new: bytes) -> OrderRecord:
    assert record.receipt is not None
    raw = unb64u(record.receipt.receipt)
    assert old in raw
    receipt = SignedReceipt(b64u(raw.replace(old, new)), record.receipt.signature)
    return msgspec.structs.replace(record, receipt=receipt)


def verify_offline(run: Run, chain: Chain, folder: Path, record: OrderRecord) -> tuple[int, str]:
    """Give the person's program a receipt file; return its status and what it says."""
    key = folder / "ada.key"
    if not key.exists():
        key.write_bytes(encrypt_key_file(chain.customers["ada"], PASSPHRASE, os.urandom, CHEAPEST))
    file = folder / "receipt.json"
    file.write_bytes(msgspec.json.encode(record))
    fingerprint = format_fingerprint(chain.customers.bank.fingerprint)
    typed = run("verify", file, "--bank-fingerprint", fingerprint, "--key", key)
    return typed.status, typed.out.partition(":")[0] if typed.status == 0 else typed.out + typed.err
