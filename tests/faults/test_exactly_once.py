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

from clients.client import Client
from clients.orders import OutgoingOrder
from clients.peers import Peers
from clients.retry import RetryPolicy
from clients.storage import OrderRecord, StateDirectory
from protocol.banking import SignedReceipt
from tests.faults.cast import NAMES, Cast, plan_for
from tests.faults.plan import random_orders
from tests.faults.reconciliation import differences, total_of_customers
from tests.installation import ADA, Installation

ORDERS: Final = 200
KILLS_OF_EACH: Final = 4
KILL_DELAY_SECONDS_MAX: Final = 0.08
SECOND_VICTIM_CHANCE: Final = 0.3
PATIENT: Final = RetryPolicy(tries=5, try_ms=20_000)


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


async def receipts_again(
    installation: Installation, records: list[OrderRecord]
) -> dict[str, SignedReceipt | None]:
    """Send orders that have ended once more, the same bytes, and return the receipts."""
    keys, bank = installation.keys_of(ADA), installation.bank
    peers = Peers(configured={bank.id: bank.fingerprint})
    sent = [OutgoingOrder(keys, bank, record) for record in records]
    async with Client(keys, installation.relay_url, peers=peers) as client:
        await client.wait_ready(30)
        await asyncio.gather(*(client.send(outgoing, PATIENT) for outgoing in sent))
    return {outgoing.id: outgoing.signed_receipt for outgoing in sent}


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
    records = StateDirectory(cast.state.path).finished()
    assert len(records) == ORDERS
    again = asyncio.run(receipts_again(installation, records))
    assert again == {record.order_id: record.receipt for record in records}
    assert differences(ADA, cast.state, orders) == []
    installation.verify_ledger()
