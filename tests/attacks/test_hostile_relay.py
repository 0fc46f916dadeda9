"""A relay that substitutes, replays, delays, reorders, alters and forges, before a real bank.

Whatever it does, money moves exactly as it was ordered or not at all, no order is taken for ended
that has not, and once the relay is honest again the same signed bytes end it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import sync_to_async

from clients.customer import OrderResult, OrderState
from clients.errors import PeerKeyChangedError, RefusedError, RegistrationRefusedError
from clients.records import OrderRecord
from protocol import limits
from protocol.banking import Answer, Transfer, encode_answer
from protocol.bundles import SignedBundle
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code
from protocol.frames import (
    ClientFrame,
    Deliver,
    Found,
    Kind,
    Register,
    RelayFrame,
    Send,
    State,
    Status,
)
from protocol.keyfile import KeyFile
from protocol.sealing import refusal_body, seal_reply
from tests.attacks.conftest import Scene
from tests.attacks.middleman import changed
from tests.bank.verifying import verify
from tests.integration.customers import key_file_of
from tests.integration.ledger_state import balances, only_recorded
from tests.integration.persons import HASTY, Person
from tests.relay.peer import new_id, now_ms

ONE = Transfer("account2", "account3", "1")
WAIT_SECONDS = 0.7
"""How long nothing may happen before it counts as nothing; a good answer takes some 20 ms."""
DISK_SECONDS = 30.0
"""How long a busy disk may take until an order is in the outbox, before which nothing is sent."""
POLL_SECONDS = 0.01
TRAVEL_SECONDS = 0.2
"""How long a frame that was sent may take to the other end."""


@asynccontextmanager
async def money_moves(times: int) -> AsyncIterator[None]:
    """Assert that :data:`ONE` is booked this often in the block, and nothing else."""
    before = await balances()
    yield
    after = await balances()
    assert after == {
        **before,
        "account2": before["account2"] - times,
        "account3": before["account3"] + times,
    }


async def all_left_open(by: Person, count: int) -> list[OrderRecord]:
    """Place :data:`ONE` so often; check that nothing is taken for the end of any of them.

    :return: the orders as they are in the outbox.
    """
    orders = [asyncio.create_task(by.customer.submit(ONE)) for _ in range(count)]
    async with asyncio.timeout(DISK_SECONDS):
        while len(by.state.unfinished()) < count:
            await asyncio.sleep(POLL_SECONDS)
    ended, open_still = await asyncio.wait(orders, timeout=WAIT_SECONDS)
    for order in open_still:
        order.cancel()
    await asyncio.wait(orders)
    # A last try may still be on its way, and would be booked if the attack ended before it came.
    await asyncio.sleep(TRAVEL_SECONDS)
    for order in ended:
        assert (order.result().state, order.result().receipt) == (OrderState.UNKNOWN, None)
    records = by.state.unfinished()
    assert len(records) == count
    return records


async def left_open(by: Person) -> OrderRecord:
    """The same with one order."""
    [record] = await all_left_open(by, 1)
    return record


def accepted(result: OrderResult) -> None:
    assert (result.state, result.code) == (OrderState.ACCEPTED, None)


def requests(frame: object) -> bool:
    return isinstance(frame, Deliver) and frame.kind is Kind.REQUEST


def replies(frame: object) -> bool:
    return isinstance(frame, Deliver) and frame.kind is Kind.REPLY


# --- It substitutes keys ---


def finds(*bundles: SignedBundle) -> Callable[[RelayFrame], list[RelayFrame]]:
    """The script of a relay that finds these for whatever is looked up."""

    def script(frame: RelayFrame) -> list[RelayFrame]:
        return [changed(frame, bundles=list(bundles)) if isinstance(frame, Found) else frame]

    return script


async def test_a_substituted_bank_gets_no_order(scene: Scene) -> None:
    impostor = key_file_of("bank")
    async with scene.person("ada") as ada, money_moves(0):
        with (
            scene.before_customers.hostile(downward=finds(impostor.signed_bundle)),
            pytest.raises(PeerKeyChangedError, match="peer_key_changed"),
        ):
            await ada.customer.submit(ONE)
        assert ada.state.unfinished() == []
    async with scene.person("ada") as ada, money_moves(1):
        accepted(await ada.customer.submit(ONE))


def _without_suite_1(bank: KeyFile) -> SignedBundle:
    """The bank's bundle with the better suite cut out, under the old signature."""
    text = unb64u(bank.signed_bundle.bundle).decode()
    start = text.index('{"suite":1')
    end = text.index('{"suite":2')
    return changed(bank.signed_bundle, bundle=b64u((text[:start] + text[end:]).encode()))


async def test_a_bundle_stripped_of_its_better_suite_is_no_bundle(scene: Scene) -> None:
    stripped = _without_suite_1(scene.chain.customers.bank)
    async with scene.person("ada") as ada:
        async with money_moves(0):
            with (
                scene.before_customers.hostile(downward=finds(stripped)),
                pytest.raises(RefusedError, match="bad_bundle"),
            ):
                await ada.customer.submit(ONE)
            assert ada.state.unfinished() == []
        async with money_moves(1):
            accepted(await ada.customer.submit(ONE))


async def test_a_registration_can_not_be_weakened_on_its_way(scene: Scene) -> None:
    def script(frame: ClientFrame) -> list[ClientFrame]:
        if not isinstance(frame, Register):
            return [frame]
        return [changed(frame, bundle=_without_suite_1(scene.chain.customers["carl"]))]

    with (
        scene.before_customers.hostile(upward=script),
        pytest.raises(RegistrationRefusedError, match=r"bad_bundle|proof_refused"),
    ):
        async with scene.person("carl", HASTY):
            raise AssertionError("it registered")


async def test_a_substituted_person_is_not_written_to(scene: Scene) -> None:
    impostor = key_file_of("ben")
    async with scene.person("ben") as ben, scene.person("ada") as ada:
        await ada.session.client.directory.peer("ben")
        directory = ada.session.client.directory
        with (
            scene.before_customers.hostile(downward=finds(impostor.signed_bundle)),
            pytest.raises(PeerKeyChangedError, match="peer_key_changed"),
        ):
            await directory.peer("ben", refetch=True)
        assert ben.messages == []


# --- It replays, delays, duplicates and reorders ---


async def test_what_is_delivered_often_is_booked_once(scene: Scene, ada: Person) -> None:
    captured: list[Deliver] = []

    def script(frame: RelayFrame) -> list[RelayFrame]:
        if not requests(frame):
            return [frame]
        assert isinstance(frame, Deliver)
        captured.append(frame)
        return [frame, *(changed(frame, attempt=attempt) for attempt in (1, 2, 3))]

    async with money_moves(1):
        with scene.before_bank.hostile(downward=script):
            accepted(await ada.customer.submit(ONE))
    # And again when it has long been answered.
    async with only_recorded(0):
        scene.before_bank.give("bank", *captured * 3)
        await settled(scene)


async def settled(scene: Scene) -> None:
    """Wait until the bank has dealt with everything that came before."""
    async with scene.signer("carl") as carl:
        for _ in range(3):
            await carl.still_served()
            await asyncio.sleep(0.05)


async def test_what_is_delayed_is_booked_once(scene: Scene) -> None:
    held: list[Deliver] = []

    def hold(frame: RelayFrame) -> list[RelayFrame]:
        if not requests(frame):
            return [frame]
        assert isinstance(frame, Deliver)
        held.append(frame)
        return []

    async with scene.person("ada") as ada:
        async with money_moves(0):
            with scene.before_bank.hostile(downward=hold):
                record = await left_open(ada)
        async with money_moves(1):
            scene.before_bank.give("bank", *held)
            accepted(await ada.customer.finish(record))
            scene.before_bank.give("bank", *held)
            await settled(scene)


async def test_what_is_reordered_is_booked_once_each(scene: Scene, ada: Person) -> None:
    held: list[Deliver] = []
    count = 5

    def hold(frame: RelayFrame) -> list[RelayFrame]:
        if not requests(frame):
            return [frame]
        assert isinstance(frame, Deliver)
        held.append(frame)
        return list(reversed(held)) if len(held) == count else []

    # Once both know each other's keys, nothing but the relay changes the order.
    accepted(await ada.customer.submit(ONE))
    async with money_moves(count):
        with scene.before_bank.hostile(downward=hold):
            results = await asyncio.gather(*(ada.customer.submit(ONE) for _ in range(count)))
        for result in results:
            accepted(result)
    numbers = [result.receipt.sequence for result in results if result.receipt is not None]
    assert numbers == sorted(numbers, reverse=True), "each has the receipt of its own order"


# --- It alters ---


def _flip(body: str, place: int) -> str:
    raw = bytearray(unb64u(body))
    raw[place] ^= 0x20
    return b64u(bytes(raw))


ALTERATIONS: dict[str, Callable[[Deliver], Deliver]] = {
    "suite": lambda frame: changed(frame, body=_flip(frame.body, 0)),
    "key id": lambda frame: changed(frame, body=_flip(frame.body, 3)),
    "encapsulated key": lambda frame: changed(frame, body=_flip(frame.body, 400)),
    "ciphertext": lambda frame: changed(frame, body=_flip(frame.body, -40)),
    "tag": lambda frame: changed(frame, body=_flip(frame.body, -1)),
    "cut off": lambda frame: changed(frame, body=b64u(unb64u(frame.body)[:-20])),
    "longer": lambda frame: changed(frame, body=b64u(unb64u(frame.body) + bytes(256))),
    "re": lambda frame: changed(frame, re=new_id()),
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)
async def test_an_altered_order_is_not_booked(
    scene: Scene, alter: Callable[[Deliver], Deliver]
) -> None:
    def script(frame: RelayFrame) -> list[RelayFrame]:
        return [alter(frame) if isinstance(frame, Deliver) and requests(frame) else frame]

    async with scene.person("ada") as ada:
        async with only_recorded(0):
            with scene.before_bank.hostile(downward=script):
                record = await left_open(ada)
        async with money_moves(1):
            accepted(await ada.customer.finish(record))


async def test_an_order_under_another_id_or_name_is_not_booked(scene: Scene) -> None:
    members = ({"id": new_id()}, {"sender": "ben"}, {"sender": "stranger"})
    seen: list[str] = []

    def script(frame: RelayFrame) -> list[RelayFrame]:
        if not (isinstance(frame, Deliver) and requests(frame)):
            return [frame]
        if frame.id not in seen:
            seen.append(frame.id)
        return [changed(frame, **members[seen.index(frame.id)])]

    async with scene.person("ada") as ada:
        async with only_recorded(0):
            with scene.before_bank.hostile(downward=script):
                records = await all_left_open(ada, len(members))
            assert len(seen) == len(members)
        async with money_moves(len(members)):
            # The real relay still waits for the bank to acknowledge what the bank never got.
            scene.before_bank.hang_up("bank")
            for record in records:
                accepted(await ada.customer.finish(record))


@pytest.mark.parametrize(
    "alter", [ALTERATIONS[name] for name in ("suite", "key id", "tag", "cut off", "longer", "re")]
)
async def test_an_altered_answer_is_no_answer(
    scene: Scene, alter: Callable[[Deliver], Deliver]
) -> None:
    def script(frame: RelayFrame) -> list[RelayFrame]:
        return [alter(frame) if isinstance(frame, Deliver) and replies(frame) else frame]

    async with scene.person("ada") as ada, money_moves(1):
        with scene.before_customers.hostile(downward=script):
            record = await left_open(ada)
        accepted(await ada.customer.finish(record))


async def test_an_answer_to_another_order_is_no_answer(scene: Scene) -> None:
    """Two orders are under way, and each is answered with what the bank says of the other."""
    answers: dict[str | None, Deliver] = {}

    def swap(frame: RelayFrame) -> list[RelayFrame]:
        if not (isinstance(frame, Deliver) and replies(frame)):
            return [frame]
        answers[frame.re] = frame
        others = [answer for order, answer in answers.items() if order != frame.re]
        return [changed(frame, body=other.body) for other in others]

    async with scene.person("ada") as ada, money_moves(2):
        with scene.before_customers.hostile(downward=swap):
            records = await all_left_open(ada, 2)
        for record in records:
            accepted(await ada.customer.finish(record))


# --- It lies and forges ---


def _unsealed(code: Code) -> Callable[[Send], bytes]:
    return lambda request: refusal_body(code)


def _forged_answer(request: Send) -> bytes:
    """A made-up refusal that looks final, sealed with a key of the relay's own."""
    answer = Answer(
        limits.PROTOCOL_VERSION,
        request.id,
        Code.KEY_REVOKED,
        RETRY[Code.KEY_REVOKED],
        detail="your key was revoked; write to this address",
    )
    return seal_reply(os.urandom(32), os.urandom(32), encode_answer(answer), os.urandom(16))


FORGERIES: dict[str, Callable[[Send], bytes]] = {
    "an answer under another key": _forged_answer,
    "noise": lambda request: b"\x01" + os.urandom(300),
    "nothing": lambda request: b"\x00",
    "its own request": lambda request: unb64u(request.body),
    **{
        f"unsealed {code}": _unsealed(code)
        for code in (
            Code.KEY_REVOKED,
            Code.ORDER_EXPIRED,
            Code.ORDER_ID_CONFLICT,
            Code.INSUFFICIENT_FUNDS,
            Code.UNKNOWN_SENDER,
            Code.NOT_AUTHENTIC,
            Code.BAD_MESSAGE,
        )
    },
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_it_can_not_answer_in_the_banks_name(
    scene: Scene, forge: Callable[[Send], bytes]
) -> None:
    """The bank never sees the order; the relay answers in its place."""
    middleman = scene.before_customers

    def script(frame: ClientFrame) -> list[ClientFrame]:
        if not (isinstance(frame, Send) and frame.kind is Kind.REQUEST):
            return [frame]
        reply = Deliver(new_id(), "bank", Kind.REPLY, 1, now_ms(), b64u(forge(frame)), re=frame.id)
        middleman.give_soon("ada", reply)
        return []

    async with scene.person("ada") as ada:
        async with only_recorded(0):
            with middleman.hostile(upward=script):
                record = await left_open(ada)
        async with money_moves(1):
            accepted(await ada.customer.finish(record))


@pytest.mark.parametrize("state", list(State), ids=str)
async def test_what_it_says_of_delivery_ends_no_order(scene: Scene, state: State) -> None:
    def script(frame: RelayFrame) -> list[RelayFrame]:
        if isinstance(frame, Status):
            code = Code.PEER_GONE if state is State.FAILED else None
            return [changed(frame, state=state, code=code)]
        return [] if replies(frame) else [frame]

    async with scene.person("ada") as ada, money_moves(1):
        with scene.before_customers.hostile(downward=script):
            record = await left_open(ada)
        accepted(await ada.customer.finish(record))


# --- It passes on to somebody else ---


async def test_an_order_that_is_passed_to_a_person_does_nothing(scene: Scene) -> None:
    def script(frame: ClientFrame) -> list[ClientFrame]:
        if isinstance(frame, Send) and frame.kind is Kind.REQUEST:
            return [changed(frame, to="ben")]
        return [frame]

    async with scene.person("ben") as ben, scene.person("ada") as ada:
        async with only_recorded(0):
            with scene.before_customers.hostile(upward=script):
                record = await left_open(ada)
        assert ben.messages == []
        assert {refusal[:2] for refusal in ben.refused} == {("ada", Code.UNKNOWN_KEY_ID)}
        async with money_moves(1):
            accepted(await ada.customer.finish(record))


async def test_a_message_that_is_passed_to_another_person_is_refused(scene: Scene) -> None:
    def script(frame: ClientFrame) -> list[ClientFrame]:
        if isinstance(frame, Send) and frame.kind is Kind.REQUEST:
            return [frame, changed(frame, to="carl", id=new_id())]
        return [frame]

    async with (
        scene.person("ben") as ben,
        scene.person("carl") as carl,
        scene.person("ada") as ada,
    ):
        recipient = await ada.session.client.directory.peer("ben")
        with scene.before_customers.hostile(upward=script):
            _, future = ada.session.messenger.send(recipient, "For Ben alone", HASTY)
            await future
        assert ben.texts == ["For Ben alone"]
        assert carl.messages == []
        assert [refusal[:2] for refusal in carl.refused] == [("ada", Code.UNKNOWN_KEY_ID)]


async def test_the_books_are_in_order_after_all_this(scene: Scene) -> None:
    status, said = await sync_to_async(verify)()
    assert status == 0, said
    assert scene.chain.is_alive
