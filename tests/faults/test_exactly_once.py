"""Two hundred orders while client, server and bank are killed: each is booked or refused once.

The seed is printed; ``TELLERWIRE_TEST_SEED`` plays a run again (the moments of the kills are
drawn from it; what the processes are doing at such a moment is not).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Final

import msgspec

from clients.records import OrderRecord
from tests.faults.cast import NAMES, Cast, plan_for
from tests.faults.customers import ada
from tests.faults.plan import random_orders
from tests.faults.reconciliation import differences, total_of_customers
from tests.installation import ADA, Installation

ORDERS: Final = 200
KILLS_OF_EACH: Final = 3
KILL_DELAY_SECONDS_MAX: Final = 0.08
SECOND_VICTIM_CHANCE: Final = 0.3


def seed_of_this_run() -> int:
    given = os.environ.get("TELLERWIRE_TEST_SEED")
    seed = int(given) if given else int.from_bytes(os.urandom(4), "big")
    sys.stdout.write(f"TELLERWIRE_TEST_SEED={seed}\n")
    return seed


def rounds_of(source: random.Random) -> list[list[str]]:
    """Return who is killed in which round: everybody several times, sometimes two at once."""
    rounds = [[name] for name in NAMES for _ in range(KILLS_OF_EACH)]
    source.shuffle(rounds)
    for victims in rounds:
        if source.random() < SECOND_VICTIM_CHANCE:
            victims.append(source.choice([name for name in NAMES if name not in victims]))
    return rounds


async def receipts_again(installation: Installation, records: list[OrderRecord]) -> None:
    """Send orders that have ended once more, the same bytes, as if their receipts were lost."""
    async with ada(installation) as session:
        without = [
            msgspec.structs.replace(record, receipt=None, bank_bundle=None) for record in records
        ]
        await asyncio.gather(*(session.customer.finish(record) for record in without))
        await session.customer.flush()


def test_every_order_is_booked_once_or_refused_once(installation: Installation) -> None:
    source = random.Random(seed_of_this_run())
    orders = random_orders(ORDERS, source)
    total = total_of_customers()
    cast = Cast(installation, plan_for(installation, orders))
    rounds = rounds_of(source)
    in_flight = 0
    for victims in rounds:
        for name in {*victims, "driver"}:
            cast.wait_ready(name)
        cast.begin(ORDERS // len(rounds))
        time.sleep(source.uniform(0, KILL_DELAY_SECONDS_MAX))
        cast.kill(*victims)
        in_flight += len(cast.state.unfinished())
    cast.finish()

    # Otherwise nothing was interrupted, and nothing shown.
    assert in_flight > 0
    assert differences(ADA, cast.state, orders) == []
    assert total_of_customers() == total
    records = cast.state.finished()
    assert len(records) == ORDERS
    for file in cast.state.receipts.folder.iterdir():
        file.unlink()
    asyncio.run(receipts_again(installation, records))
    again = cast.state.finished()
    assert [record.receipt for record in again] == [record.receipt for record in records]
    assert differences(ADA, cast.state, orders) == []
    installation.verify_ledger()
