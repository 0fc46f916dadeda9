"""A sender of sealed messages: every part of one can be made wrong on purpose."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from protocol.banking import (
    ORDER_PURPOSE,
    QUERY_PURPOSE,
    TEXT_PURPOSE,
    AccountsQuery,
    Answer,
    Receipt,
    TextMessage,
    decode_answer,
    open_receipt,
)
from protocol.bundles import Bundle
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from protocol.frames import Kind
from protocol.keyfile import KeyFile
from protocol.keys import EncryptionKey, IdentityKey, Suite
from protocol.sealing import (
    REPLY_KEY_BYTES,
    Envelope,
    SignedMessage,
    UnsealedRefusalError,
    compose,
    open_reply,
    seal,
)
from tests.relay.peer import Identity, Peer, join, new_id, now_ms

HOUR_MS = 3_600_000


def relay_identity(key_file: KeyFile) -> Identity:
    """The same keys as the relay's tests hold them."""
    return Identity(
        key_file.client_id,
        key_file.identity,
        key_file.first_name,
        key_file.last_name,
        key_file.bundle,
    )


@dataclass(frozen=True)
class Message:
    """A signed message, and what is needed to seal it and to read the answer."""

    signed: SignedMessage
    reply_key: bytes
    envelope: Envelope
    expires_at: int = 0

    def sealed(self, key: EncryptionKey) -> str:
        """The body of a frame, sealed to this key."""
        return b64u(seal(self.signed, self.reply_key, self.envelope, key))

    def read(self, body: bytes) -> Answer | Code:
        """The sealed answer, or the code of an unsealed refusal."""
        try:
            return decode_answer(open_reply(body, self.reply_key, self.signed.hash))
        except UnsealedRefusalError as refusal:
            return refusal.code


class Author:
    """Signs messages to one recipient, right ones and wrong ones."""

    def __init__(self, key_file: KeyFile, recipient: Bundle) -> None:
        self.key_file = key_file
        self.recipient = recipient

    def order(self, content: msgspec.Struct, **changes: Any) -> Message:
        return self.message(content, **{"purpose": ORDER_PURPOSE, **changes})

    def query(self, content: msgspec.Struct, **changes: Any) -> Message:
        return self.message(content, **{"purpose": QUERY_PURPOSE, **changes})

    def message(
        self,
        content: msgspec.Struct,
        *,
        purpose: str,
        id: str | None = None,  # noqa: A002 - the name that it has on the wire
        id_inside: str | None = None,
        issued_at: int | None = None,
        lifetime_ms: int = HOUR_MS,
        identity: IdentityKey | None = None,
        **inside: Any,
    ) -> Message:
        """Sign a message.

        :param id_inside: is signed as the id, where that is not the one it travels under.
        :param identity: signs it instead of the key file's own.
        :param inside: members of the envelope that are signed otherwise than they travel.
        """
        issued = now_ms() if issued_at is None else issued_at
        envelope = Envelope(
            id=id or new_id(),
            re=None,
            sender=self.key_file.client_id,
            sender_fingerprint=self.key_file.fingerprint,
            recipient=self.recipient.id,
            recipient_fingerprint=self.recipient.fingerprint,
        )
        reply_key = os.urandom(REPLY_KEY_BYTES)
        signed = compose(
            identity or self.key_file.identity,
            replace(envelope, id=id_inside or envelope.id, **inside),
            purpose=purpose,
            content=content,
            issued_at=issued,
            expires_at=issued + lifetime_ms,
            reply_key=reply_key,
        )
        return Message(signed, reply_key, envelope, issued + lifetime_ms)


class Signer(Author):
    """An author with a connection to the relay."""

    def __init__(self, key_file: KeyFile, recipient: Bundle, peer: Peer) -> None:
        super().__init__(key_file, recipient)
        self.peer = peer
        self.last_body = b""
        """The body of the last answer as it travelled."""

    async def send(self, message: Message, *, suite: Suite = Suite.HYBRID) -> Answer | Code:
        """Send a message and return what the recipient answers."""
        return await self.send_body(message, message.sealed(self.recipient.encryption_key(suite)))

    async def send_body(self, message: Message, body: str) -> Answer | Code:
        """The same with a body that is whatever the test makes of it."""
        await self.post(message, body)
        return await self.answer_to(message)

    async def post(self, message: Message, body: str | None = None) -> None:
        """Send it and don't wait."""
        sealed = body or message.sealed(self.recipient.encryption_key(Suite.HYBRID))
        await self.peer.post(
            self.recipient.id, kind=Kind.REQUEST, body=sealed, id=message.envelope.id
        )

    async def answer_to(self, message: Message) -> Answer | Code:
        """Wait for the answer."""
        while True:
            delivered = await self.peer.take()
            if delivered.re == message.envelope.id:
                assert (delivered.sender, delivered.kind) == (self.recipient.id, Kind.REPLY)
                self.last_body = unb64u(delivered.body)
                return message.read(self.last_body)

    async def place(self, content: msgspec.Struct, **changes: Any) -> Answer | Code:
        """Sign and send an order."""
        return await self.send(self.order(content, **changes))

    async def say(self, text: str) -> Answer | Code:
        """Sign and send a text to a person."""
        return await self.send(self.message(TextMessage(text), purpose=TEXT_PURPOSE))

    async def ask(self, content: msgspec.Struct, **changes: Any) -> Answer | Code:
        """Sign and send a question."""
        return await self.send(self.query(content, **changes))

    def receipt(self, answer: Answer | Code) -> Receipt:
        """The receipt in the bank's answer, its signature checked."""
        assert isinstance(answer, Answer), answer
        assert answer.receipt is not None, answer
        return open_receipt(answer.receipt, self.recipient.identity_key)

    async def still_served(self) -> None:
        """Check that this connection goes on, and that the bank answers on it."""
        await self.peer.still_works()
        answer = await self.ask(AccountsQuery())
        assert isinstance(answer, Answer), answer
        assert answer.code is None
        assert answer.result is not None


@asynccontextmanager
async def signer(url: str, key_file: KeyFile, recipient: Bundle) -> AsyncIterator[Signer]:
    """Register at the relay for as long as the block lasts."""
    async with await join(url, relay_identity(key_file)) as peer:
        yield Signer(key_file, recipient, peer)
