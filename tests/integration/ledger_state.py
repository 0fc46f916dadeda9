"""What the bank's tables hold before and after, for tests that refuse something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asgiref.sync import sync_to_async

from bank.models import Account
from tests.bank.unchanged import all_rows

ORDERS = "bank.Order"


@asynccontextmanager
async def only_recorded(orders: int) -> AsyncIterator[None]:
    """Assert that the block adds that many orders to the records and changes nothing else.

    A refusal that is final is recorded: an order row, and no transfer, entry or balance with it.
    """
    before = await sync_to_async(all_rows)()
    yield
    after = await sync_to_async(all_rows)()
    recorded = after.pop(ORDERS)
    known = before.pop(ORDERS)
    assert after == before
    assert recorded[: len(known)] == known
    assert len(recorded) == len(known) + orders


async def balances(*numbers: str) -> dict[str, int]:
    """The balances of these accounts, or of all, in minor units."""

    def read() -> dict[str, int]:
        accounts = Account.objects.order_by("number")
        if numbers:
            accounts = accounts.filter(number__in=numbers)
        return dict(accounts.values_list("number", "balance"))

    return await sync_to_async(read)()
