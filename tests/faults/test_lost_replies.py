"""Replies that are lost after the bank has booked: the one moment in which it is hard to know."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bank.models import Order
from clients.customer import OrderResult, OrderState
from clients.storage import StateDirectory
from protocol.banking import Transfer
from tests.faults.cast import plan_for
from tests.faults.customers import ada
from tests.faults.frame_proxy import Direction, frame_proxy
from tests.faults.plan import PlannedOrder, write_plan
from tests.faults.reconciliation import differences
from tests.installation import ADA, Installation, RunningProgram

ORDER = PlannedOrder(0, Transfer("account1", "account2", "100", memo="order 0"), None)


async def submit(installation: Installation) -> OrderResult:
    async with ada(installation) as session:
        result = await session.customer.submit(ORDER.order)
        await session.customer.flush()
        return result


def test_a_bank_killed_between_commit_and_reply_is_asked_again(
    installation: Installation,
) -> None:
    booked_when_killed: list[str] = []

    def kill_instead_of_replying(direction: Direction, frame: dict[str, Any]) -> bool:
        if direction is not Direction.TO_RELAY or frame["type"] != "send":
            return True
        bank.process.kill()
        booked_when_killed.append(frame["re"])
        return False

    installation.start_server()
    with frame_proxy(installation.relay_url, kill_instead_of_replying) as way:
        bank = installation.start_bank("killed", relay=way)

        async def submit_and_replace_the_bank() -> tuple[Order, OrderResult]:
            task = asyncio.create_task(submit(installation))
            await asyncio.to_thread(bank.wait)
            booked = await Order.objects.aget(person__client_id=ADA)
            assert not task.done()
            await asyncio.to_thread(installation.start_bank, "other")
            return booked, await task

        booked, result = asyncio.run(submit_and_replace_the_bank())
    assert booked_when_killed == [result.order_id]
    assert result.state is OrderState.ACCEPTED
    state = StateDirectory(installation.state_of(ADA))
    assert differences(ADA, state, [ORDER]) == []
    # The other process gave the receipt that the killed one had stored.
    record = state.order(result.order_id)
    assert record is not None
    assert record.receipt is not None
    assert record.receipt.raw == bytes(booked.receipt)
    installation.verify_ledger()


class LosesReplies:
    """Loses the first replies to the customer, and lets everything else through."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, direction: Direction, frame: dict[str, Any]) -> bool:
        is_reply = frame["type"] == "deliver" and frame["kind"] == "reply"
        if direction is Direction.FROM_RELAY and is_reply and self.left:
            self.left -= 1
            return False
        return True


@pytest.fixture
def drive(installation: Installation) -> Callable[..., tuple[RunningProgram, list[str]]]:
    """Let the driver of the big test place ten orders while three replies are lost."""
    orders = [
        msgspec.structs.replace(
            ORDER,
            number=number,
            order=msgspec.structs.replace(ORDER.order, amount="1", memo=f"order {number}"),
        )
        for number in range(10)
    ]

    def drive(*, keeps_ids: bool) -> tuple[RunningProgram, list[str]]:
        installation.start_server()
        installation.start_bank()
        state = StateDirectory(installation.state_of(ADA))
        plan_file = installation.folder / "plan.json"
        losing = LosesReplies(3)
        with frame_proxy(installation.relay_url, losing) as way:
            plan = msgspec.structs.replace(
                plan_for(installation, orders), relay_url=way, keeps_ids=keeps_ids, try_ms=700
            )
            write_plan(plan, plan_file)
            driver = installation.start(
                "driver",
                ["-m", "tests.faults.order_driver", str(state.path), str(plan_file)],
                stdin=subprocess.PIPE,
            )
            assert driver.process.stdin is not None
            driver.process.stdin.close()
            assert driver.wait() == 0, driver.text()
        assert losing.left == 0
        return driver, differences(ADA, state, orders)

    return drive


def test_orders_whose_replies_are_lost_are_booked_once(
    installation: Installation, drive: Callable[..., tuple[RunningProgram, list[str]]]
) -> None:
    driver, found = drive(keeps_ids=True)
    assert found == [], driver.text()
    assert Order.objects.filter(person__client_id=ADA).count() == 10
    installation.verify_ledger()


def test_control_a_new_id_for_every_try_books_twice_and_is_found_out(
    installation: Installation, drive: Callable[..., tuple[RunningProgram, list[str]]]
) -> None:
    _, found = drive(keeps_ids=False)
    twice = [line for line in found if line.endswith("is at the bank 2 times")]
    assert twice, found
    assert any(line.startswith("account1 has") for line in found), found
    assert Order.objects.filter(person__client_id=ADA).count() == 13
    # The bank did nothing wrong: as far as it knows these were different orders.
    installation.verify_ledger()
