"""Acting as somebody else: with another key, with a good key of one's own, with a revoked one.

In the system that this one grew from it was enough to claim somebody's id and let that person's
client answer the bank's challenge. Here each order is signed, so there is nothing to let somebody
else answer.
"""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from asgiref.sync import sync_to_async

from bank.errors import ChangeRefusedError
from bank.models import Person as BankPerson
from bank.services.keys import enrol_key, revoke_key
from clients.customer import OrderState
from clients.errors import RegistrationRefusedError
from protocol.banking import AccountsQuery, Answer, Transfer
from protocol.bundles import SignedBundle
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from protocol.frames import Deliver, RelayFrame, Status
from relay.models import Client
from tests.attacks.conftest import Scene
from tests.attacks.middleman import changed
from tests.bank.verifying import verify
from tests.integration.customers import ACTOR, enrol, key_file_of
from tests.integration.ledger_state import only_recorded
from tests.integration.persons import person
from tests.integration.signer import Signer, relay_identity, signer
from tests.relay.peer import dial
from tests.vectors.cases_keys import ED25519_SMALL_ORDER

FROM_ADA = Transfer("account2", "account3", "100")


def known_at_the_relay(client_id: str) -> bool:
    return Client.objects.filter(id_key=client_id).exists()


# --- Claiming an id ---


async def test_a_victim_who_is_online_keeps_the_id(scene: Scene) -> None:
    async with scene.person("ada") as ada, only_recorded(0):
        await refused_at_registration(scene, "ada")
        assert ada.session.client.connection.connections_made == 1
        assert ada.refused == []


async def test_a_victim_who_is_offline_keeps_the_id(scene: Scene) -> None:
    async with scene.person("ada"):
        pass
    async with only_recorded(0):
        await refused_at_registration(scene, "ada")
    async with scene.signer("ada") as ada:
        await ada.still_served()


async def refused_at_registration(scene: Scene, victim: str) -> None:
    with pytest.raises(RegistrationRefusedError, match="id_taken"):
        async with person(scene.chain.relay_url, key_file_of(victim), scene.folder / "impostor"):
            raise AssertionError("it registered")


async def test_a_victim_who_never_came_loses_the_name_at_the_relay_and_no_money(
    scene: Scene,
) -> None:
    """With open registration the first to come has the id; at the bank it is worth nothing."""
    victim = key_file_of("hugo")
    await sync_to_async(enrol)(victim)
    usurper = key_file_of("hugo")
    bank = scene.chain.customers.bank.bundle
    async with signer(scene.chain.relay_url, usurper, bank) as by, only_recorded(0):
        assert await by.place(FROM_ADA) is Code.NOT_AUTHENTIC
        assert await by.ask(AccountsQuery()) is Code.NOT_AUTHENTIC
        # With the victim's fingerprint, which is no secret, it is not better.
        message = by.order(FROM_ADA, sender_fingerprint=victim.fingerprint)
        assert await by.send(message) is Code.NOT_AUTHENTIC
    row = await sync_to_async(Client.objects.get)(id_key="hugo")
    await sync_to_async(row.delete)()
    async with signer(scene.chain.relay_url, victim, bank) as by:
        await by.still_served()


# --- A good key of one's own, and somebody else's id ---


async def test_a_customers_own_key_does_not_sign_for_another(scene: Scene) -> None:
    """Ben, with his own good key and connection, orders in Ada's name; Ada is online."""
    customers = scene.chain.customers
    ada_file = customers["ada"]
    async with scene.person("ada") as ada, scene.signer("ben") as ben:
        as_ada = {"sender": "ada", "sender_fingerprint": ada_file.fingerprint}
        async with only_recorded(0):
            assert await ben.send(ben.order(FROM_ADA, **as_ada)) is Code.BAD_MESSAGE
            assert await ben.send(ben.order(FROM_ADA, sender="ada")) is Code.BAD_MESSAGE
        # Nothing was asked of Ada, so there was nothing that her program could have answered.
        assert (ada.messages, ada.refused) == ([], [])
        async with only_recorded(1):
            answer = await ben.place(FROM_ADA)
            assert ben.receipt(answer).code is Code.ACCOUNT_UNAVAILABLE


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
async def test_not_even_with_the_relays_help(scene: Scene, *, online: bool) -> None:
    """The relay delivers Ben's order, whole in itself, as if it came from Ada."""
    customers = scene.chain.customers

    def as_ada(frame: RelayFrame) -> list[RelayFrame]:
        if isinstance(frame, Deliver) and frame.sender == "ben":
            return [changed(frame, sender="ada")]
        return [frame]

    async with scene.signer("ben") as ben:
        forger = Signer(customers["ada"], customers.bank.bundle, ben.peer)
        forged = forger.order(FROM_ADA, identity=customers["ben"].identity)
        honest = ben.order(FROM_ADA)
        async with only_recorded(0):
            with scene.before_bank.hostile(downward=as_ada):
                for message in (forged, honest):
                    await ben.post(message)
                if online:
                    async with scene.person("ada") as ada:
                        assert await ada.customer.ask(AccountsQuery())
                        assert ada.messages == []
                while not await ben.peer.silent():
                    assert isinstance(ben.peer.waiting.pop(), Status), "no answer reached Ben"
        # Honest again, the relay delivers both as they are; they are as little worth.
        scene.before_bank.hang_up("bank")
        replies = {reply.re: reply for reply in [await ben.peer.take() for _ in range(2)]}
        answer = honest.read(unb64u(replies[honest.envelope.id].body))
        assert ben.receipt(answer).code is Code.ACCOUNT_UNAVAILABLE
        assert forged.read(unb64u(replies[forged.envelope.id].body)) is Code.NOT_AUTHENTIC


# --- Weak keys ---


def _weak_bundle(client_id: str, key: bytes) -> SignedBundle:
    """A bundle with a key of small order, under a signature that lax libraries find good."""
    members = json.loads(
        base64.urlsafe_b64decode(key_file_of(client_id).signed_bundle.bundle + "==")
    )
    members["identity_key"] = b64u(key)
    return SignedBundle(b64u(json.dumps(members).encode()), b64u(bytes([1]) + bytes(63)))


@pytest.mark.parametrize("key", ED25519_SMALL_ORDER, ids=bytes.hex)
async def test_a_key_that_could_have_signed_anything_comes_in_nowhere(
    scene: Scene, key: bytes
) -> None:
    bundle = _weak_bundle("ivan", key)
    async with await dial(scene.chain.relay_url) as peer:
        await peer.ask_registration(relay_identity(key_file_of("ivan")), bundle=bundle)
        assert (await peer.refusal()).code is Code.WEAK_KEY
    assert not await sync_to_async(known_at_the_relay)("ivan")
    async with only_recorded(0):
        with pytest.raises(ChangeRefusedError, match="weak_key"):
            await sync_to_async(enrol_key)(ACTOR, await sync_to_async(carl)(), bundle)


def carl() -> BankPerson:
    return BankPerson.objects.get(client_id="carl")


# --- Revoked keys ---


async def test_a_key_is_worth_nothing_after_its_revocation(scene: Scene) -> None:
    key_file = key_file_of("jona")
    await sync_to_async(enrol)(key_file)
    bank = scene.chain.customers.bank.bundle
    order = Transfer("account4", "account3", "1")
    async with signer(scene.chain.relay_url, key_file, bank) as by:
        first = by.receipt(await by.place(order))
        assert first.code is Code.ACCOUNT_UNAVAILABLE
        signed_before = by.order(order)
        row = await sync_to_async(BankPerson.objects.get)(client_id="jona")
        await sync_to_async(revoke_key)(ACTOR, row, "the telephone was stolen")
        async with only_recorded(0):
            for message in (signed_before, by.order(order), by.query(AccountsQuery())):
                answer = await by.send(message)
                assert isinstance(answer, Answer)
                assert (answer.code, answer.receipt) == (Code.KEY_REVOKED, None)
    async with only_recorded(0):
        with pytest.raises(ChangeRefusedError, match="can't come back"):
            await sync_to_async(enrol_key)(ACTOR, row, key_file.signed_bundle)


async def test_an_order_that_is_under_way_at_the_revocation_never_runs(scene: Scene) -> None:
    """Signed and sent before, delivered after: the transaction that books decides."""
    key_file = key_file_of("kira")
    await sync_to_async(enrol)(key_file)
    held: list[Deliver] = []
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(frame: RelayFrame) -> list[RelayFrame]:
        if not (isinstance(frame, Deliver) and frame.sender == "kira"):
            return [frame]
        held.append(frame)
        loop.call_soon_threadsafe(arrived.set)
        return []

    url = scene.before_customers.url
    async with person(url, key_file, scene.folder, scene.pin) as kira:
        with scene.before_bank.hostile(downward=hold):
            order = asyncio.create_task(kira.customer.submit(Transfer("account2", "account3", "1")))
            await arrived.wait()
            row = await sync_to_async(BankPerson.objects.get)(client_id="kira")
            await sync_to_async(revoke_key)(ACTOR, row, "lost")
        async with only_recorded(0):
            scene.before_bank.give("bank", *held)
            result = await order
        assert (result.state, result.code) == (OrderState.NEVER, Code.KEY_REVOKED)
        assert result.receipt is None
        await kira.customer.flush()
        assert kira.state.unfinished() == []


async def test_the_books_are_in_order_after_all_this(scene: Scene) -> None:
    status, said = await sync_to_async(verify)()
    assert status == 0, said
    assert scene.chain.is_alive
