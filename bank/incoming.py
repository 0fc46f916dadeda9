"""An order on its way into the ledger, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.banking import Order, SignedReceipt, decode_order
from protocol.errors import Code, EndToEndError
from protocol.keys import IdentityKey, fingerprint
from protocol.sealing import Inner, SignedMessage

__all__ = ["BankIdentity", "IncomingOrder", "OrderOutcome"]


@dataclass(frozen=True, slots=True)
class BankIdentity:
    """In whose name receipts are signed."""

    bank_id: str
    key: IdentityKey

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint that customers have in their configuration."""
        return fingerprint(self.bank_id, self.key.public)


@dataclass(frozen=True, slots=True)
class IncomingOrder:
    """An order whose signature was verified; nothing else about it is decided yet.

    :param person_id: primary key of the person who signed it.
    :param identity_key: the 32 bytes of the key under which the signature is good. Whether that
        key is still in force is decided in the transaction that books.
    :param expires_at: milliseconds since the epoch.
    :param order: what it asks for, or ``None`` where that can't be understood.
    :param problem: why it can't be understood.
    """

    person_id: int
    client_id: str
    identity_key: bytes
    order_id: str
    evidence: bytes
    evidence_hash: bytes
    expires_at: int
    order: Order | None
    problem: str = ""

    @classmethod
    def from_message(
        cls, person_id: int, identity_key: bytes, signed: SignedMessage, inner: Inner
    ) -> IncomingOrder:
        """Return the order that a verified message with purpose ``bank.order`` holds."""
        order: Order | None = None
        problem = ""
        try:
            order = decode_order(bytes(inner.content))
        except EndToEndError as error:
            problem = error.detail
        return cls(
            person_id=person_id,
            client_id=inner.sender,
            identity_key=identity_key,
            order_id=inner.id,
            evidence=signed.evidence,
            evidence_hash=signed.hash,
            expires_at=inner.expires_at,
            order=order,
            problem=problem,
        )

    @property
    def operation(self) -> str:
        """The operation's name on the wire; empty where the order can't be understood."""
        return "" if self.order is None else str(type(self.order).__struct_config__.tag)


@dataclass(frozen=True, slots=True)
class OrderOutcome:
    """How an order ended.

    :param code: ``None`` where it was accepted, else why not.
    :param receipt: the signed receipt of an order that is recorded, accepted or refused; ``None``
        where nothing was stored.
    :param detail: words for a person where there is no receipt, which has its own.
    """

    code: Code | None
    receipt: SignedReceipt | None = None
    detail: str = ""
