"""Orders and questions on their way to the bank, and what their answers are worth."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from clients.errors import RefusedError
from clients.outgoing import Again, Answered, Hopeless, Unbelievable, Verdict
from clients.records import OrderRecord
from protocol.banking import (
    Answer,
    Deposit,
    Issue,
    Order,
    Receipt,
    SignedReceipt,
    Transfer,
    Withdraw,
    decode_answer,
    open_receipt,
)
from protocol.bundles import Bundle
from protocol.client_exchange import Stage
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code, EndToEndError, Retry
from protocol.frames import Kind
from protocol.keyfile import KeyFile
from protocol.keys import EncryptionKey, best_common_suite, fingerprint
from protocol.sealing import (
    Envelope,
    Inner,
    SignedMessage,
    UnsealedRefusalError,
    open_reply,
    seal,
    verify_evidence,
)

__all__ = [
    "CERTAIN_NO",
    "BankPin",
    "OutgoingOrder",
    "OutgoingQuery",
    "SealedToBank",
    "check_evidence",
    "check_receipt",
    "envelope_to",
    "key_for",
    "meaning_of",
    "operation_of",
]

CERTAIN_NO: Final = frozenset(
    {
        Code.ORDER_ID_CONFLICT,
        Code.ORDER_EXPIRED,
        Code.KEY_REVOKED,
        Code.BAD_MESSAGE,
        Code.UNSUPPORTED_PURPOSE,
    }
)
"""Sealed answers after which an order never can run, though there is no receipt. A clock that is
ahead (``clock_skew``) is not among them: the same order could run later."""


@dataclass(frozen=True, slots=True)
class BankPin:
    """The bank as it is configured: nobody on the way can change it."""

    id: str
    fingerprint: bytes


def operation_of(order: Order) -> str:
    """Return the name of an order's operation."""
    return str(type(order).__struct_config__.tag)


def meaning_of(order: Order) -> str:
    """Return what an order asks for, in words."""
    amount = f"{order.amount} {order.currency}" if order.currency else order.amount
    match order:
        case Transfer():
            return f"transfer {amount} from {order.from_account} to {order.to_account}"
        case Withdraw():
            return f"withdraw {amount} from {order.account}"
        case Deposit():
            return f"deposit {amount} to {order.account}"
        case Issue():
            return f"issue {amount} to {order.account}"


def key_for(recipient: Bundle, own: KeyFile) -> EncryptionKey:
    """Return the key to seal to: of the best suite that both sides offer.

    :raises RefusedError: ``downgrade_refused`` where there is no suite in common.
    """
    suite = best_common_suite(recipient.suites, own.bundle.suites)
    if suite is None:
        raise RefusedError(
            Code.DOWNGRADE_REFUSED,
            f"{recipient.id} and this client have no suite in common",
            proven=True,
        )
    return recipient.encryption_key(suite)


def check_receipt(signed: SignedReceipt, record: OrderRecord, bank: Bundle) -> Receipt:
    """Return what the bank's receipt of exactly this order says.

    :raises EndToEndError: ``not_authentic``: it isn't signed by this bank, or is of another order.
    """
    fingerprint = bank.fingerprint
    if fingerprint.hex() != record.bank_fingerprint or bank.id != record.bank:
        raise EndToEndError(Code.NOT_AUTHENTIC, "the bundle is not that of the order's bank")
    receipt = open_receipt(signed, bank.identity_key)
    claims = {
        "bank": (receipt.bank, record.bank),
        "bank_fingerprint": (receipt.bank_fingerprint, b64u(fingerprint)),
        "order_id": (receipt.order_id, record.order_id),
        "person": (receipt.person, record.person),
        "evidence_hash": (receipt.evidence_hash, b64u(record.signed.hash)),
    }
    for name, (said, expected) in claims.items():
        if said != expected:
            raise EndToEndError(Code.NOT_AUTHENTIC, f"{name} of the receipt is of another order")
    return receipt


def check_evidence(record: OrderRecord) -> Inner:
    """Return what the person signed; nothing else in the record is believed.

    :raises EndToEndError: ``not_authentic`` or ``bad_message``: the evidence is not signed by the
        key in the record, or that key is not the one that the order names.
    """
    try:
        key = unb64u(record.person_key)
    except ValueError as error:
        raise EndToEndError(Code.NOT_AUTHENTIC, "the person's key can't be read") from error
    inner = verify_evidence(record.signed.evidence, key)
    own = fingerprint(inner.sender, key)
    claims = {
        "id": (inner.id, record.order_id),
        "from": (inner.sender, record.person),
        "from_fingerprint": (inner.sender_fingerprint, b64u(own)),
        "person_fingerprint": (record.person_fingerprint, own.hex()),
    }
    for name, (said, expected) in claims.items():
        if said != expected:
            raise EndToEndError(Code.NOT_AUTHENTIC, f"{name} is not that of the signed order")
    return inner


class SealedToBank(ABC):
    """What orders and queries have in common: sealed to the bank, answered under a reply key."""

    kind = Kind.REQUEST

    def __init__(
        self,
        own: KeyFile,
        bank: BankPin,
        envelope: Envelope,
        *,
        signed: SignedMessage,
        reply_key: bytes,
        expires_at: int,
    ) -> None:
        self.id = envelope.id
        self.to = bank.id
        self._own = own
        self._envelope = envelope
        self._signed = signed
        self._reply_key = reply_key
        self._expires_at = expires_at
        self.bundle: Bundle | None = None
        self.stage = Stage.WAITING
        self._ahead: tuple[Bundle, bytes] | None = None

    def seal_ahead(self, recipient: Bundle) -> None:
        """Seal for the first send already, while something else has to be waited for."""
        with contextlib.suppress(RefusedError):  # sending will say why
            self._ahead = (recipient, self._seal(recipient))

    def wrap(self, recipient: Bundle) -> bytes:
        """Seal the same signed bytes to the bank's current key."""
        self.bundle = recipient
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is recipient:
            return ahead[1]
        return self._seal(recipient)

    def _seal(self, recipient: Bundle) -> bytes:
        key = key_for(recipient, self._own)
        return seal(self._signed, self._reply_key, self._envelope, key)

    def ttl_ms(self, now: int) -> int:
        """Wait for the bank as long as the message is good."""
        return max(0, self._expires_at - now)

    def progressed(self, stage: Stage, code: Code | None) -> None:
        """Remember what the relay says."""
        self.stage = stage

    def judge(self, body: bytes) -> Verdict:
        """Open a reply; what only the bank can have sealed is judged, the rest is a hint."""
        try:
            answer = decode_answer(open_reply(body, self._reply_key, self._signed.hash))
        except UnsealedRefusalError as refusal:
            return Again(refusal.code, refetch=True)
        except EndToEndError:
            return Unbelievable()
        if answer.re != self.id:
            return Unbelievable()
        return self.judge_answer(answer)

    @abstractmethod
    def judge_answer(self, answer: Answer) -> Verdict:
        """Say what an answer that the bank sealed is worth."""


class OutgoingOrder(SealedToBank):
    """An order on its way; what ended it is kept here."""

    def __init__(
        self, own: KeyFile, bank: BankPin, record: OrderRecord, own_fingerprint: bytes
    ) -> None:
        super().__init__(
            own,
            bank,
            envelope_to(bank, record.order_id, own.client_id, own_fingerprint),
            signed=record.signed,
            reply_key=unb64u(record.reply_key),
            expires_at=record.expires_at,
        )
        self._record = record
        self.receipt: Receipt | None = None
        self.signed_receipt: SignedReceipt | None = None
        self.certain_no: Answer | None = None
        self.detail = ""

    def judge_answer(self, answer: Answer) -> Verdict:
        """A good receipt or a certain no ends the order; nothing else does."""
        if answer.receipt is not None and self.bundle is not None:
            try:
                self.receipt = check_receipt(answer.receipt, self._record, self.bundle)
            except EndToEndError:
                return Unbelievable()
            self.signed_receipt = answer.receipt
            return Answered()
        if answer.code is None:
            return Unbelievable()
        self.detail = answer.detail
        if answer.code in CERTAIN_NO:
            self.certain_no = answer
            return Hopeless(answer.code, answer.detail)
        return Again(answer.code, after_ms=answer.retry_after_ms)


class OutgoingQuery(SealedToBank):
    """A question on its way."""

    answer: Answer | None = None

    def judge_answer(self, answer: Answer) -> Verdict:
        """Anything but a request to come again is the answer."""
        if answer.code is not None and RETRY[answer.code] in (Retry.SAME, Retry.UNKNOWN):
            return Again(answer.code, after_ms=answer.retry_after_ms)
        if answer.code is not None and RETRY[answer.code] is Retry.REFETCH:
            return Again(answer.code, refetch=True)
        self.answer = answer
        return Answered()


def envelope_to(bank: BankPin, message_id: str, sender: str, sender_fingerprint: bytes) -> Envelope:
    """Return what is outside the seal of a message to the bank."""
    return Envelope(
        id=message_id,
        re=None,
        sender=sender,
        sender_fingerprint=sender_fingerprint,
        recipient=bank.id,
        recipient_fingerprint=bank.fingerprint,
    )
