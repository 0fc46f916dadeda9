"""Orders: on disk before they are sent, the same bytes on every try, ended only by proof."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import stat

import msgspec
import pytest

from clients.customer import OrderResult, OrderState
from clients.errors import (
    OutcomeUnknownError,
    PeerKeyChangedError,
    RefusedError,
    StorageError,
    UsageError,
)
from clients.orders import BankPin
from clients.records import OrderRecord
from clients.retry import RetryPolicy
from clients.storage import StateDirectory
from protocol import frames
from protocol.banking import AccountsQuery, BalanceQuery, BalanceResult, Transfer, Withdraw
from protocol.client_exchange import Stage
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from protocol.keyfile import rotate_prekeys
from tests.clients.fake_relay import FakeRelay, Session, now_ms, until
from tests.clients.world import ADA, BANK, World

HUNDRED = Transfer(from_account="account1", to_account="account2", amount="100")
HASTY = RetryPolicy(tries=2, try_ms=60)


async def test_accepted_order_leaves_a_receipt(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        assert result.state is OrderState.ACCEPTED
        assert result.receipt is not None
        assert world.bank.balances == {"account1": 900, "account2": 1100, "account3": 1000}
        assert ada.state.unfinished() == []
        [record] = ada.state.finished()
        assert record.order_id == result.order_id
        assert record.receipt is not None
        assert record.bank_bundle == BANK.signed_bundle
        assert stat.S_IMODE(result.file.stat().st_mode) == 0o600
        assert stat.S_IMODE(ada.state.path.stat().st_mode) == 0o700
        assert json.loads(result.file.read_text())["meaning"] == (
            "transfer 100 from account1 to account2"
        )


async def test_refused_order_is_final_and_leaves_a_receipt(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(Withdraw(account="account1", amount="5000"))
        await ada.session.customer.flush()
        assert (result.state, result.code) == (OrderState.REFUSED, Code.INSUFFICIENT_FUNDS)
        assert result.detail == "account1 has 1000"
        assert ada.state.unfinished() == []
        assert len(ada.state.finished()) == 1
        assert world.bank.booked == 0


async def test_order_is_on_disk_before_it_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.open_bank(), world.person() as ada:
        in_outbox: list[int] = []

        async def look(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
            if frame.kind is frames.Kind.REQUEST:
                in_outbox.append(len(ada.state.unfinished()))
            return False

        world.relay.tamper = look
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        assert in_outbox == [1]

        def full(records: list[OrderRecord]) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(ada.session.customer._outbox, "_write", full)
        with pytest.raises(StorageError, match="disk is full"):
            await ada.session.customer.submit(HUNDRED)
        assert len(in_outbox) == 1


async def test_lost_answers_lead_to_the_same_bytes_and_one_booking(world: World) -> None:
    world.bank.silent_times = 3
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(HUNDRED)
    assert result.state is OrderState.ACCEPTED
    assert len(world.bank.seen) == 4
    assert len(set(world.bank.seen)) == 1
    assert world.bank.booked == 1


async def test_transient_answers_are_tried_again(world: World) -> None:
    world.bank.transient = [Code.BUSY, Code.BANK_UNAVAILABLE, Code.INTERNAL]
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(HUNDRED)
    assert result.state is OrderState.ACCEPTED
    assert len(world.bank.seen) == 4


async def test_bank_that_is_away_leaves_the_order_unknown_and_finish_ends_it(
    world: World,
) -> None:
    async with world.open_bank():
        pass
    async with world.person(policy=HASTY) as ada:
        task = asyncio.create_task(ada.session.customer.submit(HUNDRED))
        await until(lambda: bool(world.relay.mailbox["bank"]))
        ada.session.client.give_up(ada.state.unfinished()[0].order_id)
        result = await task
        assert result.state is OrderState.UNKNOWN
        assert result.file.parent.name == "outbox"
        assert result.file.exists()
    world.relay.mailbox.clear()
    async with world.open_bank(), world.person() as ada:
        [record] = ada.state.unfinished()
        finished = await ada.session.customer.finish(record)
        await ada.session.customer.flush()
        assert finished.state is OrderState.ACCEPTED
        assert ada.state.unfinished() == []
    assert world.bank.booked == 1
    assert len({evidence for _, evidence in world.bank.seen}) == 1


async def test_reply_that_comes_in_a_later_run_ends_the_order(world: World) -> None:
    """The bank answered while the person was away; the answer waits in the mailbox."""
    async with world.open_bank():
        async with world.person(policy=HASTY) as ada:
            world.bank.silent_times = 99
            assert (await ada.session.customer.submit(HUNDRED)).state is OrderState.UNKNOWN
            world.bank.silent_times = 0
        await world.relay.drop("bank")
        await until(lambda: bool(world.relay.mailbox["ada"]))
        async with world.person() as ada:
            await until(lambda: not ada.state.unfinished())
            [late] = ada.late
            assert (late.meaning, late.state) == (
                "transfer 100 from account1 to account2",
                OrderState.ACCEPTED,
            )
            assert [record.has_ended for record in ada.state.finished()] == [True]
    assert world.bank.booked == 1


async def test_late_reply_to_an_order_for_another_key_of_the_bank_changes_nothing(
    world: World,
) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.bank.silent_times = 99
        customer = ada.session.customer
        order_id = (await customer.submit(HUNDRED)).order_id
        ada.session.customer.bank = BankPin("bank", bytes(16))
        relay = world.relay.sessions["ada"][0]
        late = frames.Deliver(
            id=order_id[:-1] + "0",
            sender="bank",
            kind=frames.Kind.REPLY,
            attempt=1,
            accepted_at=now_ms(),
            body=b64u(bytes(64)),
            re=order_id,
        )
        await world.relay.deliver(relay, late)
        await until(lambda: not relay.unacked)
        assert ada.late == []
        assert world.relay.registrations == 2


async def test_order_that_is_given_again_has_an_unfinished_twin(world: World) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        customer = ada.session.customer
        await customer.submit(HUNDRED)
        # It has ended, though its receipt may still be on its way to the disk.
        assert customer.unfinished_like(HUNDRED) == []
        world.bank.silent_times = 99
        first = await customer.submit(HUNDRED)
        assert customer.unfinished_like(HUNDRED) == [first.order_id]
        assert customer.unfinished_like(Withdraw(account="account1", amount="100")) == []


async def test_outbox_is_read_once_for_twins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script asks before each of its orders; reading would take longer with each."""
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        customer = ada.session.customer
        readings: list[int] = []
        read = StateDirectory.unfinished

        def note(state: StateDirectory) -> list[OrderRecord]:
            readings.append(1)
            return read(state)

        monkeypatch.setattr(StateDirectory, "unfinished", note)
        for _ in range(3):
            assert customer.unfinished_like(HUNDRED) == []
            assert (await customer.submit(HUNDRED)).state is OrderState.ACCEPTED
        world.bank.silent_times = 99
        left = await customer.submit(HUNDRED)
        assert customer.unfinished_like(HUNDRED) == [left.order_id]
        assert readings == [1]


async def test_certain_no_ends_an_order_without_a_receipt(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        world.bank.transient = [Code.ORDER_EXPIRED]
        result = await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        assert (result.state, result.code) == (OrderState.NEVER, Code.ORDER_EXPIRED)
        [record] = ada.state.finished()
        assert record.receipt is None
        assert record.ending is not None
        assert record.ending.code is Code.ORDER_EXPIRED
        assert ada.state.unfinished() == []


@pytest.mark.parametrize("code", [Code.CLOCK_SKEW, Code.INSUFFICIENT_FUNDS, Code.BUSY])
async def test_answers_that_prove_nothing_final_never_end_an_order(
    world: World, code: Code
) -> None:
    """Without a receipt, a code that could change with time or place is no end."""
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.bank.transient = [code] * 9
        result = await ada.session.customer.submit(HUNDRED)
        assert (result.state, result.code) == (OrderState.UNKNOWN, code)
        assert len(ada.state.unfinished()) == 1


@pytest.mark.parametrize("code", [Code.ORDER_EXPIRED, Code.KEY_REVOKED, Code.UNKNOWN_SENDER])
async def test_unsealed_refusal_never_ends_an_order(world: World, code: Code) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.bank.refuse_unsealed = [code] * 9
        result = await ada.session.customer.submit(HUNDRED)
        assert (result.state, result.code) == (OrderState.UNKNOWN, code)
        [record] = ada.state.unfinished()
        world.bank.refuse_unsealed = []
        assert (await ada.session.customer.finish(record)).state is OrderState.ACCEPTED


async def test_unknown_bank_at_the_relay_never_ends_an_order(world: World) -> None:
    async with world.person(policy=HASTY) as ada:
        result = await ada.session.customer.submit(HUNDRED)
        assert (result.state, result.code) == (OrderState.UNKNOWN, Code.UNKNOWN_RECIPIENT)
        assert len(ada.state.unfinished()) == 1


async def test_expired_order_is_asked_after_and_ends_for_certain(world: World) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.bank.refuse_unsealed = [Code.BUSY] * 2
        result = await ada.session.customer.submit(HUNDRED, lifetime_ms=1)
        assert result.state is OrderState.UNKNOWN
        [record] = ada.state.unfinished()
        finished = await ada.session.customer.finish(record)
        assert (finished.state, finished.code) == (OrderState.NEVER, Code.ORDER_EXPIRED)
        assert world.bank.booked == 0


async def test_order_is_resealed_when_the_bank_rotated_its_keys(world: World) -> None:
    async with world.open_bank() as service, world.person() as ada:
        await ada.session.bank_bundle()
        rotated = rotate_prekeys(BANK, now=now_ms(), random_bytes=os.urandom, period_ms=0)
        rotated = dataclasses.replace(rotated, prekeys=rotated.prekeys[:2])
        await service.publish(rotated)
        world.bank.keys = rotated
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.ACCEPTED
        requests = world.relay.sent(frames.Kind.REQUEST)
        assert len(requests) == 2
        assert requests[0].body != requests[1].body
        assert requests[0].id == requests[1].id
        assert len(world.bank.seen) == 1


async def test_finished_order_sent_again_gives_the_same_receipt(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        before = result.file.read_bytes()
        record = ada.state.order(result.order_id)
        assert record is not None
        again, same = await ada.session.customer.repeat(record)
        await ada.session.customer.flush()
        assert (again.state, same) == (OrderState.ACCEPTED, True)
        assert result.file.read_bytes() == before
        assert world.bank.booked == 1


async def test_many_orders_at_once(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        one = Transfer(from_account="account1", to_account="account2", amount="1")
        results: list[OrderResult] = await asyncio.gather(
            *(ada.session.customer.submit(one) for _ in range(200))
        )
        await ada.session.customer.flush()
        assert {result.state for result in results} == {OrderState.ACCEPTED}
        assert len(ada.state.finished()) == 200
        assert ada.state.unfinished() == []
    assert world.bank.balances["account1"] == 800


async def test_cancelled_order_stays_in_the_outbox(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        world.bank.silent_times = 99
        task = asyncio.create_task(ada.session.customer.submit(HUNDRED))
        await until(lambda: bool(world.bank.seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ada.state.unfinished()) == 1
        assert ada.session.client.protocol.under_way == 0


async def test_order_of_another_bank_or_key_is_not_sent(world: World) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.bank.silent_times = 99
        await ada.session.customer.submit(HUNDRED)
        [record] = ada.state.unfinished()
        count = len(world.bank.seen)
        for changed in (
            msgspec.structs.replace(record, bank_fingerprint="00" * 16),
            msgspec.structs.replace(record, person_fingerprint="00" * 16),
        ):
            with pytest.raises(RefusedError):
                await ada.session.customer.finish(changed)
        assert len(world.bank.seen) == count


async def test_bank_with_another_key_than_configured_gets_no_order(world: World) -> None:
    world.pin = BankPin("bank", bytes(16))
    async with world.open_bank(), world.person() as ada:
        with pytest.raises(PeerKeyChangedError, match="configured"):
            await ada.session.customer.submit(HUNDRED)
        assert world.bank.seen == []
        assert ada.state.unfinished() == []
    # Nothing is left that could run once the right fingerprint is configured.
    world.pin = BankPin("bank", BANK.fingerprint)
    async with world.open_bank(), world.person() as ada:
        assert (await ada.session.customer.submit(HUNDRED)).state is OrderState.ACCEPTED
    assert world.bank.booked == 1


async def test_bank_without_a_suite_in_common_gets_no_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.open_bank(), world.person() as ada:
        await ada.session.bank_bundle()
        monkeypatch.setattr("clients.orders.best_common_suite", lambda theirs, own: None)
        with pytest.raises(RefusedError, match="downgrade_refused"):
            await ada.session.customer.submit(HUNDRED)
        assert ada.state.unfinished() == []
        monkeypatch.undo()
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        [record] = ada.state.finished()
        monkeypatch.setattr("clients.orders.best_common_suite", lambda theirs, own: None)
        again = await ada.session.customer.finish(record)
        assert (again.state, again.code) == (OrderState.UNKNOWN, Code.DOWNGRADE_REFUSED)
    assert world.bank.booked == 1


async def test_without_a_configured_fingerprint_there_is_no_bank(world: World) -> None:
    world.pin = None
    async with world.open_bank(), world.person() as ada:
        with pytest.raises(UsageError, match="fingerprint is not configured"):
            _ = ada.session.customer


async def test_questions_are_answered_and_refused(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.ask(BalanceQuery("account1"))
        assert isinstance(result, BalanceResult)
        assert result.balance.balance == 1000
        with pytest.raises(RefusedError) as caught:
            await ada.session.customer.ask(BalanceQuery("nobodys"))
        assert (caught.value.code, caught.value.proven) == (Code.ACCOUNT_UNAVAILABLE, True)


async def test_unanswered_question_says_what_is_known(world: World) -> None:
    async with world.open_bank():
        pass
    async with world.person(policy=RetryPolicy(tries=1, try_ms=50)) as ada:
        task = asyncio.create_task(ada.session.customer.ask(AccountsQuery()))
        await until(lambda: bool(world.relay.mailbox["bank"]))
        asked = world.relay.sent()[-1].id
        await until(lambda: ada.session.client.stage_of(asked) is Stage.QUEUED)
        ada.session.client.give_up(asked)
        with pytest.raises(OutcomeUnknownError, match="the bank is not there"):
            await task


async def test_record_never_shows_what_was_ordered_in_a_log(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        [record] = ada.state.finished()
    assert isinstance(record, OrderRecord)
    assert "account1" not in repr(record)
    assert unb64u(record.reply_key).hex() not in repr(record)
    assert ADA.identity.seed.hex() not in repr(record)


async def test_damaged_log_of_an_earlier_session_leaves_an_order_unknown_and_not_failed(
    world: World,
) -> None:
    async with world.open_bank(), world.person() as ada:
        (ada.state.outbox.folder / "0.log").write_bytes(b"damaged\n")
        world.bank.silent_times = 99
        result = await ada.session.customer.submit(HUNDRED, policy=HASTY)
        assert (result.state, world.bank.booked) == (OrderState.UNKNOWN, 1)
        assert result.file == ada.state.outbox.folder


async def test_reply_that_nobody_waits_for_ends_no_connection_where_the_outbox_is_damaged(
    world: World,
) -> None:
    async with world.open_bank(), world.person() as ada:
        (ada.state.outbox.folder / "0.log").write_bytes(b"damaged\n")

        async def send_stray(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
            if frame.kind is frames.Kind.REPLY:
                stray_reply = frames.Deliver(
                    id=frame.id,
                    sender="bank",
                    kind=frame.kind,
                    attempt=1,
                    accepted_at=now_ms(),
                    body=frame.body,
                    re="01a0d0a3-1c00-7000-8000-000000000001",
                )
                await relay.deliver(relay.sessions["ada"][0], stray_reply)
            return False

        world.relay.tamper = send_stray
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.ACCEPTED
        assert ada.session.client.connection.connections_made == 1


async def test_flood_of_replies_that_nobody_waits_for_leaves_the_disk_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.person() as ada:
        looked_for: list[str] = []
        monkeypatch.setattr(ada.state, "order", looked_for.append)
        for _ in range(5_000):
            ada.session.customer.take_late_reply("an order", b"", BANK.bundle)
        assert 1_000 <= len(looked_for) <= 2_000
