"""Every code between two clients over a real connection, given by the bank and by a person.

Whoever could not open a message says so unsealed; whoever opened it answers under its reply key.
Either way nothing changes, and the next good message on the same connection is taken.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _pytest.mark import ParameterSet
from asgiref.sync import sync_to_async

from clients.customer import BankPin
from clients.errors import PeerKeyChangedError
from clients.memory import SeenMessages
from protocol import limits
from protocol.banking import (
    ORDER_PURPOSE,
    QUERY_PURPOSE,
    TEXT_PURPOSE,
    AccountsQuery,
    Answer,
    Outcome,
    TextMessage,
    Transfer,
    Withdraw,
)
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code, Retry
from protocol.keys import Prekey, Suite
from protocol.sealing import SignedMessage
from relay import directory
from relay.models import Client
from tests.integration.chain import Chain
from tests.integration.customers import key_file_of
from tests.integration.ledger_state import only_recorded
from tests.integration.persons import HASTY, Person, person
from tests.integration.signer import HOUR_MS, Message, Signer, signer
from tests.relay.peer import new_id, now_ms

ONE = Transfer("account2", "account3", "1")
GREETING = TextMessage("Hello")


@pytest.fixture
async def ada(chain: Chain) -> AsyncIterator[Signer]:
    """Ada, who writes to the bank."""
    async with to_the_bank(chain, "ada") as ada:
        yield ada


@pytest.fixture
async def ben(chain: Chain, tmp_path: Path) -> AsyncIterator[Person]:
    """Ben, who is written to."""
    async with person(chain.relay_url, chain.customers["ben"], tmp_path) as ben:
        yield ben


@pytest.fixture
async def writer(chain: Chain, ben: Person) -> AsyncIterator[Signer]:
    """Ada, who writes to Ben."""
    async with signer(
        chain.relay_url, chain.customers["ada"], chain.customers["ben"].bundle
    ) as ada:
        yield ada


def to_the_bank(chain: Chain, client_id: str) -> AbstractAsyncContextManager[Signer]:
    return signer(chain.relay_url, chain.customers[client_id], chain.customers.bank.bundle)


async def bank_refuses(by: Signer, message: Message, body: str, code: Code) -> None:
    """Check that the bank says this, does nothing, and goes on."""
    async with only_recorded(0):
        assert await by.send_body(message, body) is code
    await by.still_served()
    assert by.receipt(await by.place(ONE)).outcome is Outcome.ACCEPTED


async def person_refuses(by: Signer, to: Person, message: Message, body: str, code: Code) -> None:
    """Check that a person's program says this, shows nothing, and goes on."""
    assert await by.send_body(message, body) is code
    assert to.messages == []
    assert [refusal[:2] for refusal in to.refused] == [(by.key_file.client_id, code)]
    assert to.state.waiting_messages() == []
    await takes_the_next(by, to)


async def person_refuses_sealed(by: Signer, to: Person, message: Message, code: Code) -> None:
    """The same of what a person's program could open: it answers under the reply key."""
    sealed_refusal(await by.send(message), code, RETRY[code])
    assert to.messages == []
    assert [refusal[:2] for refusal in to.refused] == [(by.key_file.client_id, code)]
    assert to.state.waiting_messages() == []
    await takes_the_next(by, to)


async def takes_the_next(by: Signer, to: Person) -> None:
    shown = len(to.messages)
    answer = await by.say("And this is a good one.")
    assert isinstance(answer, Answer)
    assert answer.code is None
    assert len(to.messages) == shown + 1


def good(by: Signer, message: Message) -> str:
    return message.sealed(by.recipient.encryption_key(Suite.HYBRID))


# --- What both refuse, the bank and a person ------------------------------------------------

Make = Callable[[Signer, str, msgspec.Struct], tuple[Message, str]]
"""Makes a message and the body that is sent, for a purpose and a content."""


def _unknown_key(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose)
    return message, message.sealed(Prekey(Suite.HYBRID, bytes(range(32)), 0).public)


def _flipped(place: int) -> Make:
    def make(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
        message = by.message(content, purpose=purpose)
        body = bytearray(unb64u(good(by, message)))
        body[place] ^= 1
        return message, b64u(bytes(body))

    return make


def _body(body: bytes) -> Make:
    def make(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
        return by.message(content, purpose=purpose), b64u(body)

    return make


def _cut_short(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose)
    return message, b64u(unb64u(good(by, message))[:-1])


def _signed_by_another(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose, identity=key_file_of("ada").identity)
    return message, good(by, message)


def _edited(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose)
    inner = message.signed.inner.replace(b'"version":1', b'"version":1 ')
    assert inner != message.signed.inner
    edited = Message(
        SignedMessage(message.signed.signature, inner), message.reply_key, message.envelope
    )
    return message, good(by, edited)


def _suite_nobody_has(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose)
    return message, b64u(b"\x03" + unb64u(good(by, message))[1:])


def _worse_suite(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
    message = by.message(content, purpose=purpose)
    return message, message.sealed(by.recipient.encryption_key(Suite.CLASSIC))


def _inside(**members: Any) -> Make:
    def make(by: Signer, purpose: str, content: msgspec.Struct) -> tuple[Message, str]:
        message = by.message(content, purpose=purpose, **members)
        return message, good(by, message)

    return make


UNSEALED: list[tuple[Code, str, Make]] = [
    (Code.UNKNOWN_KEY_ID, "a key never held", _unknown_key),
    (Code.NOT_AUTHENTIC, "the last bit of the ciphertext", _flipped(-1)),
    (Code.NOT_AUTHENTIC, "a bit of the encapsulated key", _flipped(20)),
    (Code.NOT_AUTHENTIC, "a byte missing", _cut_short),
    (Code.NOT_AUTHENTIC, "one byte", _body(b"\x01")),
    (Code.NOT_AUTHENTIC, "as large as can be", _body(b"\x03" * limits.BODY_BYTES_MAX)),
    (Code.NOT_AUTHENTIC, "a suite that nobody has", _suite_nobody_has),
    (Code.NOT_AUTHENTIC, "signed by another key", _signed_by_another),
    (Code.NOT_AUTHENTIC, "edited after it was signed", _edited),
    (Code.DOWNGRADE_REFUSED, "the worse suite", _worse_suite),
    (Code.BAD_MESSAGE, "another id inside", _inside(id_inside=new_id())),
    (Code.BAD_MESSAGE, "another sender inside", _inside(sender="ben")),
    (Code.BAD_MESSAGE, "another recipient inside", _inside(recipient="carl")),
    (Code.BAD_MESSAGE, "another recipient's key inside", _inside(recipient_fingerprint=bytes(16))),
    (Code.BAD_MESSAGE, "a request of its own inside", _inside(re=new_id())),
    (Code.BAD_MESSAGE, "no lifetime", _inside(lifetime_ms=0)),
    (Code.BAD_MESSAGE, "too long a lifetime", _inside(lifetime_ms=31 * 24 * HOUR_MS)),
]


def _cases(*purposes: str) -> list[ParameterSet]:
    return [
        pytest.param(
            code, make, purpose, id=f"{name}-{purpose}", marks=pytest.mark.provokes(code.value)
        )
        for code, name, make in UNSEALED
        for purpose in purposes
    ]


@pytest.mark.parametrize(("code", "make", "purpose"), _cases(ORDER_PURPOSE, QUERY_PURPOSE))
async def test_the_bank_refuses_what_it_cant_open(
    ada: Signer, code: Code, make: Make, purpose: str
) -> None:
    content = ONE if purpose == ORDER_PURPOSE else AccountsQuery()
    message, body = make(ada, purpose, content)
    await bank_refuses(ada, message, body, code)


@pytest.mark.parametrize(("code", "make", "purpose"), _cases(TEXT_PURPOSE))
async def test_a_person_refuses_what_cant_be_opened(
    writer: Signer, ben: Person, code: Code, make: Make, purpose: str
) -> None:
    message, body = make(writer, purpose, GREETING)
    await person_refuses(writer, ben, message, body, code)


# --- Times ----------------------------------------------------------------------------------


@pytest.mark.provokes("message_expired")
async def test_message_expired(ada: Signer, writer: Signer, ben: Person) -> None:
    times: dict[str, Any] = {"issued_at": now_ms() - HOUR_MS, "lifetime_ms": HOUR_MS - 1}
    async with only_recorded(0):
        answer = await ada.ask(AccountsQuery(), **times)
        sealed_refusal(answer, Code.MESSAGE_EXPIRED, Retry.NEVER)
    await ada.still_served()
    message = writer.message(GREETING, purpose=TEXT_PURPOSE, **times)
    await person_refuses_sealed(writer, ben, message, Code.MESSAGE_EXPIRED)


@pytest.mark.provokes("clock_skew")
async def test_clock_skew(ada: Signer, writer: Signer, ben: Person) -> None:
    ahead = now_ms() + limits.CLOCK_TOLERANCE_MS
    async with only_recorded(0):
        for order in (ONE, Withdraw("account2", "1")):
            answer = await ada.place(order, issued_at=ahead + 5_000)
            sealed_refusal(answer, Code.CLOCK_SKEW, Retry.SAME)
        answer = await ada.ask(AccountsQuery(), issued_at=ahead + 5_000)
        sealed_refusal(answer, Code.CLOCK_SKEW, Retry.SAME)
    # A minute is tolerated: clocks differ.
    answer = await ada.place(ONE, issued_at=ahead - 5_000)
    assert ada.receipt(answer).outcome is Outcome.ACCEPTED
    message = writer.message(GREETING, purpose=TEXT_PURPOSE, issued_at=ahead + 5_000)
    await person_refuses_sealed(writer, ben, message, Code.CLOCK_SKEW)


def sealed_refusal(answer: Answer | Code, code: Code, retry: Retry) -> None:
    """Check an answer that only the recipient can have made."""
    assert isinstance(answer, Answer)
    assert (answer.code, answer.retry) == (code, retry)
    assert answer.receipt is None
    assert answer.result is None


# --- Purposes and contents --------------------------------------------------------------------


@pytest.mark.provokes("unsupported_purpose")
@pytest.mark.parametrize("purpose", [TEXT_PURPOSE, "session.open", "bank.order2"])
async def test_unsupported_purpose(ada: Signer, purpose: str) -> None:
    async with only_recorded(0):
        answer = await ada.send(ada.message(ONE, purpose=purpose))
        sealed_refusal(answer, Code.UNSUPPORTED_PURPOSE, Retry.NEVER)
    await ada.still_served()


@pytest.mark.provokes("unsupported_purpose")
async def test_a_person_takes_no_orders(writer: Signer, ben: Person) -> None:
    answer = await writer.place(ONE)
    sealed_refusal(answer, Code.UNSUPPORTED_PURPOSE, RETRY[Code.UNSUPPORTED_PURPOSE])
    assert ben.messages == []
    await takes_the_next(writer, ben)


class Nonsense(msgspec.Struct, tag_field="operation", tag="nonsense"):
    pass


class AList(msgspec.Struct, array_like=True):
    """Is written as ``[]``."""


@pytest.mark.provokes("bad_message")
@pytest.mark.parametrize("content", [Nonsense(), ONE, GREETING, AList()], ids=repr)
async def test_bad_message_as_a_question(ada: Signer, content: msgspec.Struct) -> None:
    async with only_recorded(0):
        answer = await ada.ask(content)
        sealed_refusal(answer, Code.BAD_MESSAGE, Retry.NEVER)
    await ada.still_served()


@pytest.mark.provokes("bad_message")
async def test_bad_message_as_a_text(writer: Signer, ben: Person) -> None:
    too_long = TextMessage("x" * (limits.TEXT_MESSAGE_CHARS_MAX + 1))
    for content in (ONE, Nonsense(), AList(), too_long):
        answer = await writer.send(writer.message(content, purpose=TEXT_PURPOSE))
        sealed_refusal(answer, Code.BAD_MESSAGE, RETRY[Code.BAD_MESSAGE])
    assert ben.messages == []
    await takes_the_next(writer, ben)


# --- Senders ------------------------------------------------------------------------------------


@pytest.mark.provokes("unknown_sender")
async def test_unknown_sender(chain: Chain, ada: Signer) -> None:
    stranger = key_file_of("stranger")
    async with signer(chain.relay_url, stranger, chain.customers.bank.bundle) as by:
        async with only_recorded(0):
            for message in (by.order(ONE), by.query(AccountsQuery())):
                assert await by.send(message) is Code.UNKNOWN_SENDER
        await by.peer.still_works()
    await ada.still_served()


@pytest.mark.provokes("unknown_sender")
async def test_a_blocked_sender_is_unknown(writer: Signer, ben: Person) -> None:
    await takes_the_next(writer, ben)
    ben.session.peers.block("ada", blocked=True)
    assert await writer.say("Are you there?") is Code.UNKNOWN_SENDER
    ben.session.peers.block("ada", blocked=False)
    await takes_the_next(writer, ben)
    assert "Are you there?" not in ben.texts


@pytest.mark.provokes("peer_key_changed")
async def test_peer_key_changed(chain: Chain, ben: Person) -> None:
    """The operator releases an id, somebody else takes it: whoever knew it is not fooled."""
    first, second = key_file_of("gina"), key_file_of("gina")
    recipient = chain.customers["ben"].bundle
    async with signer(chain.relay_url, first, recipient) as gina:
        await takes_the_next(gina, ben)
    row = await sync_to_async(Client.objects.get)(id_key="gina")
    await sync_to_async(directory.release)(row)
    async with signer(chain.relay_url, second, recipient) as usurper:
        message = usurper.message(TextMessage("It's me."), purpose=TEXT_PURPOSE)
        assert await usurper.send(message) is Code.PEER_KEY_CHANGED
        outgoing = ben.session.client.directory.peer("gina", refetch=True)
        with pytest.raises(PeerKeyChangedError, match="peer_key_changed"):
            await outgoing
        await usurper.peer.still_works()
    assert len(ben.messages) == 1
    async with signer(chain.relay_url, chain.customers["ada"], recipient) as ada:
        await takes_the_next(ada, ben)


@pytest.mark.provokes("peer_key_changed")
async def test_a_bank_with_another_key_than_the_configured_one_gets_nothing(
    chain: Chain, tmp_path: Path
) -> None:
    ada, bank = chain.customers["ada"], chain.customers.bank
    wrong = BankPin(bank.client_id, bytes(16))
    async with only_recorded(0), person(chain.relay_url, ada, tmp_path, wrong, HASTY) as customer:
        with pytest.raises(PeerKeyChangedError, match="peer_key_changed"):
            await customer.customer.submit(ONE)
        assert customer.state.unfinished() == []
    right = BankPin(bank.client_id, bank.fingerprint)
    async with person(chain.relay_url, ada, tmp_path, right) as customer:
        result = await customer.customer.submit(ONE)
        assert result.receipt is not None
        assert result.receipt.outcome is Outcome.ACCEPTED


# --- Replays between persons --------------------------------------------------------------------


@pytest.mark.provokes("replayed")
async def test_replayed(writer: Signer, ben: Person) -> None:
    first = writer.message(GREETING, purpose=TEXT_PURPOSE)
    for _ in range(2):
        answer = await writer.send(first)
        assert isinstance(answer, Answer)
        assert answer.code is None
    other = writer.message(TextMessage("Bye"), purpose=TEXT_PURPOSE, id=first.envelope.id)
    sealed_refusal(await writer.send(other), Code.REPLAYED, Retry.NEVER)
    assert ben.texts == ["Hello"]
    await takes_the_next(writer, ben)


@pytest.mark.provokes("replay_window_full")
async def test_replay_window_full(
    writer: Signer, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ben.session.messenger, "_seen", SeenMessages(ben.state, capacity=1))
    short = writer.message(GREETING, purpose=TEXT_PURPOSE, lifetime_ms=1_000)
    assert isinstance(await writer.send(short), Answer)
    full = writer.message(TextMessage("No room"), purpose=TEXT_PURPOSE)
    sealed_refusal(await writer.send(full), Code.REPLAY_WINDOW_FULL, Retry.SAME)
    assert ben.texts == ["Hello"]
    assert [message.text for message in ben.state.waiting_messages()] == ["Hello"]
    while now_ms() < short.expires_at:
        await writer.peer.still_works()
    answer = await writer.send(full)
    assert isinstance(answer, Answer)
    assert answer.code is None
    assert ben.texts == ["Hello", "No room"]
