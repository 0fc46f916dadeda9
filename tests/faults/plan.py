"""The orders that a fault test places: each has a number, which travels inside it as its memo."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from clients.records import OrderRecord
from protocol.banking import Order, Transfer, Withdraw, decode_order
from protocol.sealing import Inner

AMOUNT_MAX: Final = 3
TOO_MUCH: Final = 1_000_000
_MEMO: Final = "order "


class PlannedOrder(msgspec.Struct, frozen=True):
    """One order of a plan, and the code with which it has to be refused, if any."""

    number: int
    order: Order
    refusal: str | None


class Plan(msgspec.Struct, frozen=True):
    """What a driver is told: who it is, whom it deals with, and what to order.

    :param keeps_ids: whether an order keeps its id over every try; a driver that doesn't is the
        control, with the fault that the original system had.
    """

    key_file: str
    passphrase: str
    relay_url: str
    bank_id: str
    bank_fingerprint: str
    orders: list[PlannedOrder]
    keeps_ids: bool = True
    try_ms: int = 2_000


def random_orders(count: int, source: random.Random) -> list[PlannedOrder]:
    """Return orders whose outcomes don't depend on the sequence in which they arrive.

    What they take from an account altogether is less than its opening balance; about every eighth
    one has to be refused.
    """
    orders = []
    for number in range(count):
        amount = str(source.randint(1, AMOUNT_MAX))
        choices: list[tuple[Transfer | Withdraw, str | None]] = [
            (Transfer("account1", "account2", amount), None),
            (Transfer("account2", "account1", amount), None),
            (Transfer("account2", "account3", amount), None),
            (Withdraw("account2", amount), None),
            (Transfer("account2", "account3", str(TOO_MUCH)), "insufficient_funds"),
            (Transfer("account1", "no-such-account", amount), "destination_unknown"),
            (Transfer("account3", "account2", amount), "account_unavailable"),
            (Withdraw("account2", "0"), "bad_amount"),
        ]
        order, refusal = source.choices(choices, weights=[7, 7, 7, 7, 1, 1, 1, 1])[0]
        numbered = msgspec.structs.replace(order, memo=f"{_MEMO}{number}")
        orders.append(PlannedOrder(number, numbered, refusal))
    return orders


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan for a driver."""
    path.write_bytes(msgspec.json.encode(plan))


def read_plan(path: Path) -> Plan:
    """Read a plan."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)


def number_in(inner: bytes) -> int:
    """Return the number of the planned order in the inner bytes of a signed one."""
    content = decode_order(bytes(msgspec.json.decode(inner, type=Inner).content))
    return int(content.memo.removeprefix(_MEMO))


def numbers_of(records: Iterable[OrderRecord]) -> set[int]:
    """Return the numbers of the planned orders that a client has signed."""
    return {number_in(record.signed.inner) for record in records}
