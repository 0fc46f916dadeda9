"""Messages between persons: sealed, signed, answered by a reply that only the recipient can make.

What arrives is checked in the published order and then kept: a message is acknowledged when it is
in the inbox on disk and in the memory of what was seen, and shown after that. What can't be opened
is refused by name, unsealed, so that the sender fetches keys and sends the same message again. What
was opened is answered under its reply key, also where it is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from clients.client import Client
from clients.errors import ClientError, PeerKeyChangedError, RefusedError
from clients.memory import SeenMessages
from clients.orders import key_for
from clients.outgoing import Again, Answered, Hopeless, Unbelievable, Verdict
from clients.retry import RetryPolicy
from clients.storage import StateDirectory, StoredMessage
from protocol import limits
from protocol.banking import (
    TEXT_PURPOSE,
    Answer,
    TextMessage,
    decode_answer,
    decode_text,
    encode_answer,
)
from protocol.bundles import Bundle
from protocol.client_events import Ended
from protocol.client_exchange import Stage
from protocol.encoding import unb64u
from protocol.errors import RETRY, Code, EndToEndError, ProtocolError, Retry
from protocol.frames import Deliver, Kind
from protocol.sealing import (
    REPLY_KEY_BYTES,
    REPLY_NONCE_BYTES,
    Envelope,
    Opened,
    UnsealedRefusalError,
    check_times,
    compose,
    held_key,
    open_reply,
    open_sealed,
    refusal_body,
    seal,
    seal_reply,
)

__all__ = ["DeliveryState", "Messenger", "OutgoingText", "TextResult"]

TEXT_LIFETIME_MS: Final = 7 * 86_400_000
"""How long a message may wait for its recipient."""
REPLY_TTL_MS: Final = 3_600_000
INCOMING_MAX: Final = 1_024
REFETCH_PAUSE_MS: Final = 5_000
"""A sender's keys are not looked up more often than this because of messages that don't open."""

_log = logging.getLogger("tellerwire.messages")


class DeliveryState(StrEnum):
    """What is known of a message to a person."""

    ANSWERED = "answered"
    """The recipient's program has it, and only that program can have said so."""
    DELIVERED = "delivered"
    """The relay says that the recipient has it."""
    QUEUED = "queued"
    """The relay says that it waits in the recipient's mailbox."""
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TextResult:
    """What became of a message.

    :param proven: whether the recipient itself said so.
    """

    id: str
    to: str
    state: DeliveryState
    code: Code | None
    detail: str
    proven: bool


class OutgoingText:
    """A message to a person on its way."""

    kind = Kind.REQUEST

    def __init__(self, client: Client, recipient: Bundle, text: str, lifetime_ms: int) -> None:
        """Sign the message.

        :raises ValueError: the text is empty or too long.
        """
        if not 1 <= len(text) <= limits.TEXT_MESSAGE_CHARS_MAX:
            raise ValueError(f"a message has 1 to {limits.TEXT_MESSAGE_CHARS_MAX} characters")
        now = client.clock()
        self.id = client.new_id()
        self.to = recipient.id
        self._own = client.key_file
        self._fingerprint = recipient.fingerprint
        self._reply_key = client.random_bytes(REPLY_KEY_BYTES)
        self._expires_at = now + lifetime_ms
        self._signed = compose(
            self._own.identity,
            self._envelope(),
            purpose=TEXT_PURPOSE,
            content=TextMessage(text),
            issued_at=now,
            expires_at=self._expires_at,
            reply_key=self._reply_key,
        )
        self.stage = Stage.WAITING
        self.queued = asyncio.Event()
        """Set when the relay has put it into the recipient's mailbox."""
        self.refusal: tuple[Code, str, bool] | None = None
        self._refetched = False

    def _envelope(self) -> Envelope:
        return Envelope(
            id=self.id,
            re=None,
            sender=self._own.client_id,
            sender_fingerprint=self._own.fingerprint,
            recipient=self.to,
            recipient_fingerprint=self._fingerprint,
        )

    def wrap(self, recipient: Bundle) -> bytes:
        """Seal the same signed bytes to the recipient's current key."""
        key = key_for(recipient, self._own)
        return seal(self._signed, self._reply_key, self._envelope(), key)

    def ttl_ms(self, now: int) -> int:
        """Wait for the recipient as long as the message is good."""
        return max(0, self._expires_at - now)

    def progressed(self, stage: Stage, code: Code | None) -> None:
        """Remember what the relay says."""
        self.stage = stage
        if stage is Stage.QUEUED:
            self.queued.set()

    def judge(self, body: bytes) -> Verdict:
        """The recipient's sealed answer counts; an unsealed refusal is believed the second time."""
        try:
            answer = decode_answer(open_reply(body, self._reply_key, self._signed.hash))
        except UnsealedRefusalError as refusal:
            retry = RETRY[refusal.code]
            if retry in (Retry.SAME, Retry.UNKNOWN) or not self._refetched:
                self._refetched = True
                return Again(refusal.code, refetch=True)
            self.refusal = (refusal.code, "", False)
            return Hopeless(refusal.code)
        except EndToEndError:
            return Unbelievable()
        if answer.re != self.id:
            return Unbelievable()
        if answer.code is None:
            return Answered()
        retry = RETRY[answer.code]
        if retry in (Retry.SAME, Retry.UNKNOWN, Retry.REFETCH):
            refetch = retry is Retry.REFETCH
            return Again(answer.code, after_ms=answer.retry_after_ms, refetch=refetch)
        self.refusal = (answer.code, answer.detail, True)
        return Hopeless(answer.code, answer.detail)

    def result(self, ended: Ended | None) -> TextResult:
        """Return what became of it; None where it has not ended."""
        if ended is None or ended.stage is Stage.LAPSED:
            states = {Stage.QUEUED: DeliveryState.QUEUED, Stage.DELIVERED: DeliveryState.DELIVERED}
            state = states.get(self.stage, DeliveryState.UNKNOWN)
            code = ended.code if ended is not None else None
            return TextResult(self.id, self.to, state, code, "", proven=False)
        if ended.stage is Stage.ANSWERED:
            return TextResult(self.id, self.to, DeliveryState.ANSWERED, None, "", proven=True)
        code, detail, proven = self.refusal or (ended.code, ended.detail, False)
        return TextResult(self.id, self.to, DeliveryState.REFUSED, code, detail, proven=proven)


class Messenger:
    """Sends messages to persons, and takes those that come.

    :param client: its ``on_incoming`` must be this messenger's :meth:`receive`.
    :param on_message: called when there is something new in the inbox.
    :param on_refused: called with the sender's id and why, for each message that was refused.
    """

    def __init__(
        self,
        state: StateDirectory,
        *,
        on_message: Callable[[StoredMessage], None],
        on_refused: Callable[[str, Code, str], None],
    ) -> None:
        self._state = state
        self._seen = SeenMessages(state)
        self._on_message = on_message
        self._on_refused = on_refused
        self._incoming: asyncio.Queue[Deliver] = asyncio.Queue(INCOMING_MAX)
        self._refetched_at: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.client: Client | None = None

    # --- Sending ---

    def send(
        self, recipient: Bundle, text: str, policy: RetryPolicy, lifetime_ms: int = TEXT_LIFETIME_MS
    ) -> tuple[OutgoingText, asyncio.Future[Ended]]:
        """Send a message; the future is done when it was answered, refused, or patience ended.

        :raises ValueError: the text is empty or too long.
        """
        assert self.client is not None
        outgoing = OutgoingText(self.client, recipient, text, lifetime_ms)
        return outgoing, self.client.send(outgoing, policy)

    # --- Receiving ---

    def start(self, client: Client) -> None:
        """Begin to work on what comes."""
        self.client = client
        self._task = asyncio.create_task(self._work(client))
        self._task.add_done_callback(self._note_end)

    @staticmethod
    def _note_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("no more messages are taken", exc_info=error)

    async def stop(self) -> None:
        """Stop; what was not acknowledged comes again another time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def receive(self, deliver: Deliver) -> None:
        """Take a delivered message; beyond the bound it is left for the next connection."""
        if not self._incoming.full():
            self._incoming.put_nowait(deliver)

    async def _work(self, client: Client) -> None:
        while True:
            # Whatever there is to do, whoever sends without end leaves time for everything else.
            await asyncio.sleep(0)
            deliver = await self._incoming.get()
            try:
                body = await self._process(client, deliver)
            except (ProtocolError, RefusedError) as error:
                self._on_refused(deliver.sender, error.code, error.detail)
                body = refusal_body(error.code)
            except ClientError as error:
                # Not the message's fault (no relay, no disk): unacknowledged, it comes again.
                _log.warning("a message from %s has to wait: %s", deliver.sender, error)
                continue
            if deliver.kind is Kind.REQUEST and not client.reply(deliver, body, REPLY_TTL_MS):
                continue
            client.ack(deliver)
            client.connection.write_acks()  # a person may look at whether it was delivered

    async def _process(self, client: Client, deliver: Deliver) -> bytes:
        """Check and keep one message; return the body of the answer to it."""
        # What is cheap comes first: whoever the sender is, the relay isn't asked who that is.
        held_key(_body_of(deliver), client.key_file.prekeys)
        if client.peers.is_blocked(deliver.sender):
            raise EndToEndError(Code.UNKNOWN_SENDER, "this sender is blocked here")
        sender, opened = await self._open(client, deliver)
        try:
            self._take(client, sender, opened)
        except EndToEndError as error:
            self._on_refused(deliver.sender, error.code, error.detail)
            return _answer(client, opened, error)
        return _answer(client, opened, None)

    def _take(self, client: Client, sender: Bundle, opened: Opened) -> None:
        """Check what was opened, and keep it unless it is here already.

        :raises EndToEndError: ``clock_skew``, ``message_expired``, ``replayed``,
            ``unsupported_purpose``, ``bad_message`` or ``replay_window_full``; it was not kept.
        """
        check_times(opened.inner, client.clock())
        known = self._seen.is_known(sender.id, opened.inner.id, opened.signed.hash)
        if opened.inner.purpose != TEXT_PURPOSE:
            raise EndToEndError(Code.UNSUPPORTED_PURPOSE, "only messages to a person are taken")
        text = decode_text(bytes(opened.inner.content)).text
        if not known:
            self._keep(client, sender, opened, text)

    def _keep(self, client: Client, sender: Bundle, opened: Opened, text: str) -> None:
        inner, now = opened.inner, client.clock()
        message = StoredMessage(
            id=inner.id,
            sender=sender.id,
            name=sender.name,
            fingerprint=sender.fingerprint.hex(),
            text=text,
            issued_at=inner.issued_at,
            received_at=now,
        )
        # Kept before it is remembered: after a crash in between it comes again and is kept again.
        self._state.keep_message(message)
        try:
            self._seen.remember(sender.id, inner.id, opened.signed.hash, inner.expires_at, now)
        except EndToEndError:
            self._state.take_message(message)
            raise
        self._on_message(message)

    async def _open(self, client: Client, deliver: Deliver) -> tuple[Bundle, Opened]:
        try:
            sender = await client.directory.peer(deliver.sender, pin_new=False)
        except PeerKeyChangedError:
            raise
        except RefusedError as error:
            raise EndToEndError(Code.UNKNOWN_SENDER, error.detail) from error
        try:
            opened = _open_from(client, deliver, sender)
        except EndToEndError as error:
            if error.code not in (Code.NOT_AUTHENTIC, Code.DOWNGRADE_REFUSED):
                raise
            if not self._may_refetch(client, deliver.sender):
                raise
            # Perhaps the sender has a new key: one that the old one signed is taken, another isn't.
            sender = await client.directory.peer(deliver.sender, refetch=True, pin_new=False)
            opened = _open_from(client, deliver, sender)
        # Who wasn't known is remembered now, by what he signed: before, nothing told of him but
        # the relay, which could name anybody.
        return client.peers.admit(sender), opened

    def _may_refetch(self, client: Client, sender: str) -> bool:
        if client.peers.pinned(sender) is None:
            return False  # the relay was asked just now
        now = client.clock()
        if now - self._refetched_at.get(sender, 0) < REFETCH_PAUSE_MS:
            return False
        if len(self._refetched_at) >= INCOMING_MAX:
            self._refetched_at.clear()
        self._refetched_at[sender] = now
        return True


def _body_of(deliver: Deliver) -> bytes:
    try:
        return unb64u(deliver.body)
    except ValueError as error:
        raise EndToEndError(Code.NOT_AUTHENTIC, "the body is no base64url") from error


def _open_from(client: Client, deliver: Deliver, sender: Bundle) -> Opened:
    own = client.key_file
    envelope = Envelope(
        id=deliver.id,
        re=deliver.re,
        sender=sender.id,
        sender_fingerprint=sender.fingerprint,
        recipient=own.client_id,
        recipient_fingerprint=own.fingerprint,
    )
    return open_sealed(
        _body_of(deliver),
        envelope,
        prekeys=own.prekeys,
        sender_identity=sender.identity_key,
        sender_suites=sender.suites,
        now=None,  # what is wrong with its times is answered under the reply key
    )


def _answer(client: Client, opened: Opened, refusal: EndToEndError | None) -> bytes:
    version, message_id = limits.PROTOCOL_VERSION, opened.inner.id
    if refusal is None:
        answer = Answer(version, message_id)
    else:
        detail = refusal.detail[: limits.DETAIL_CHARS_MAX]
        answer = Answer(version, message_id, refusal.code, refusal.retry, detail=detail)
    nonce = client.random_bytes(REPLY_NONCE_BYTES)
    return seal_reply(opened.reply_key, opened.signed.hash, encode_answer(answer), nonce)
