"""A connection that ends for good while an order is under way says nothing about the order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.customer import OrderState
from clients.errors import RegistrationRefusedError
from clients.orders import OutgoingOrder
from protocol import frames
from protocol.banking import Withdraw
from protocol.errors import Code, Retry
from tests.clients.fake_relay import FakeRelay, Session, until
from tests.clients.typist import BackgroundWorld, Run, write_config
from tests.clients.world import ADA, BEN, World

ONE = Withdraw(account="account1", amount="1")
REVOKED = frames.Error(Code.REVOKED, Retry.NEVER, detail="blocked")


def shut_the_door(world: World, how: str) -> None:
    """Let orders reach the bank; before it answers the relay has gone, and takes nobody back."""

    async def shut(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is frames.Kind.REPLY:
            if how == "refused":
                relay.refuse_registration = REVOKED
            else:
                relay.name = "another"
            await relay.drop("ada")
            return True
        return False

    world.relay.tamper = shut


@pytest.mark.parametrize("how", ["refused", "renamed"])
def test_order_under_way_is_unknown(
    run: Run, background: BackgroundWorld, config: Path, how: str
) -> None:
    shut_the_door(background.world, how)
    words = ("withdraw", "account1", "1", "--yes", "--config", config)
    stopped = run(*words)
    assert stopped.status == 3, stopped
    assert stopped.out.startswith("unknown: withdraw 1 from account1; ")
    assert ("not proven: revoked" if how == "refused" else "calls itself") in stopped.out
    assert background.world.bank.booked == 1
    [order] = run("orders", "--config", config, "--json").json
    assert order["outcome"] == "unknown"


@pytest.mark.parametrize("how", ["refused", "renamed"])
def test_script_keeps_no_order_that_it_says_was_not_sent(
    run: Run, background: BackgroundWorld, tmp_path: Path, how: str
) -> None:
    world = background.world
    shut_the_door(world, how)
    actions = ("SEND [bank] SUB [account1] [1]", "SEND [bank] SUB [account1] [2]")
    config = write_config(tmp_path, world, ADA, actions)
    ended = run("run", config, "--once", "--json-lines")
    assert ended.status == 1
    events = [json.loads(line) for line in ended.out.splitlines()]
    first, second = [event["result"] for event in events if event["event"] == "action"]
    assert first.startswith("unknown: withdraw 1 from account1; ")
    assert second.startswith("failed: the relay ")
    [order] = run("orders", "--config", config, "--json").json
    assert order["meaning"] == "withdraw 1 from account1"


def test_message_under_way_is_unknown(run: Run, background: BackgroundWorld, config: Path) -> None:
    world = background.world

    async def shut(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        relay.refuse_registration = REVOKED
        await relay.drop("ada")
        return True

    world.relay.bundles["ben"] = BEN.signed_bundle
    world.relay.tamper = shut
    sent = run("send", "ben", "Hello", "--config", config)
    assert sent.status == 3
    assert sent.out.startswith("unknown: it may or may not have reached ben: the relay refused")


async def test_order_is_not_kept_where_no_connection_will_come(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        world.relay.refuse_registration = REVOKED
        await world.relay.drop("ada")
        await until(lambda: ada.session.client.failure is not None)
        with pytest.raises(RegistrationRefusedError):
            await ada.session.customer.submit(ONE)
        assert ada.state.unfinished() == []


async def test_order_that_something_unforeseen_interrupts_is_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.open_bank(), world.person() as ada:

        def fail(*_: object) -> None:
            raise RuntimeError("a mistake in this program")

        monkeypatch.setattr(OutgoingOrder, "judge", fail)
        result = await ada.session.customer.submit(ONE)
        assert (result.state, result.detail) == (OrderState.UNKNOWN, "a mistake in this program")
        assert [record.order_id for record in ada.state.unfinished()] == [result.order_id]
        assert world.bank.booked == 1
