"""A customer's program that a fault test kills: ``python -m tests.faults.order_driver STATE PLAN``.

It first finishes what its outbox holds and says ``ready``. For each line on its standard input, a
number, it places so many more orders of the plan at the same time and says ``placed``. When its
input ends it places the rest, one handful after the other, and says ``done``. Which orders were
placed already it learns from its outbox and its receipts alone.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from clients.customer import BankPin, Customer, OrderResult, OrderState
from clients.retry import RetryPolicy
from clients.session import Session, Setup, connect
from clients.storage import StateDirectory
from protocol.keyfile import decrypt_key_file
from tests.faults.plan import Plan, PlannedOrder, numbers_of, read_plan

CONNECT_SECONDS: Final = 60.0
HANDFUL: Final = 16


class Driver:
    """Places the orders of one plan."""

    def __init__(self, plan: Plan, session: Session) -> None:
        self._plan = plan
        self._state: StateDirectory = session.state
        self._customer: Customer = session.customer

    async def finish_outbox(self) -> None:
        """Finish every order whose outcome is not known."""
        if self._plan.keeps_ids:
            await asyncio.gather(
                *(self._finish(record.order_id) for record in self._state.unfinished())
            )
        await self._customer.flush()

    async def place(self, count: int) -> int:
        """Place some more orders at the same time and return how many there still were."""
        known = self._state.finished()
        if self._plan.keeps_ids:
            known += self._state.unfinished()
        placed = numbers_of(known)
        following = [order for order in self._plan.orders if order.number not in placed][:count]
        await asyncio.gather(*(self._place(order) for order in following))
        await self._customer.flush()
        return len(following)

    async def _place(self, planned: PlannedOrder) -> None:
        result = await self._customer.submit(planned.order)
        while result.state is OrderState.UNKNOWN:
            if self._plan.keeps_ids:
                result = await self._finish(result.order_id)
            else:
                result = await self._customer.submit(planned.order)

    async def _finish(self, order_id: str) -> OrderResult:
        while True:
            record = self._state.order(order_id)
            assert record is not None
            result = await self._customer.finish(record)
            if result.state is not OrderState.UNKNOWN:
                return result


def setup_for(plan: Plan, state: Path) -> Setup:
    """Return who the driver is and whom it deals with."""
    key_file = decrypt_key_file(Path(plan.key_file).read_bytes(), plan.passphrase)
    bank = BankPin(plan.bank_id, bytes.fromhex(plan.bank_fingerprint))
    policy = RetryPolicy(tries=5 if plan.keeps_ids else 1, try_ms=plan.try_ms)
    return Setup(key_file, plan.relay_url, bank, state, policy)


async def drive(plan: Plan, setup: Setup) -> None:
    """Follow the standard input until every order of the plan has ended."""
    async with connect(
        setup,
        on_message=lambda _: None,
        on_refused=lambda *_: None,
        wait_seconds=CONNECT_SECONDS,
    ) as session:
        driver = Driver(plan, session)
        await driver.finish_outbox()
        _say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            await driver.place(int(line))
            _say("placed")
        while await driver.place(HANDFUL):
            pass
    _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _plan = read_plan(Path(sys.argv[2]))
    asyncio.run(drive(_plan, setup_for(_plan, Path(sys.argv[1]))))
