"""Orders as they are kept: in the outbox while they are under way, then with their receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from clients.errors import StorageError
from protocol.banking import SignedReceipt
from protocol.bundles import SignedBundle
from protocol.encoding import unb64u
from protocol.errors import Code
from protocol.identifiers import ClientId, Milliseconds, UuidText
from protocol.sealing import SignedMessage

__all__ = ["Ending", "OrderRecord", "decode_record", "encode_record"]

RECORD_VERSION: Final = 1


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an order ended without a receipt: the bank's sealed word that it never will run."""

    code: Code
    detail: str
    at: Milliseconds


class OrderRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about one order: enough to send it again, and to prove what became of it."""

    version: int = RECORD_VERSION
    order_id: UuidText
    person: ClientId
    person_fingerprint: str
    person_key: str
    """The person's public identity key, base64url: whoever has the file can check the evidence."""
    bank: ClientId
    bank_fingerprint: str
    """Hexadecimal, as it was configured when the order was signed."""
    operation: str
    meaning: str
    """What was asked for, in words."""
    evidence: str
    """Signature and inner bytes of the signed order, base64url."""
    reply_key: str
    """What opens the answers, base64url; not part of the evidence."""
    issued_at: Milliseconds
    expires_at: Milliseconds
    receipt: SignedReceipt | None = None
    bank_bundle: SignedBundle | None = None
    ending: Ending | None = None

    @property
    def signed(self) -> SignedMessage:
        """The signed order, byte for byte."""
        return SignedMessage.from_evidence(unb64u(self.evidence))

    @property
    def has_ended(self) -> bool:
        """Whether it is certain what became of it."""
        return self.receipt is not None or self.ending is not None

    def __repr__(self) -> str:
        return f"<OrderRecord {self.order_id}>"


def encode_record(record: OrderRecord) -> bytes:
    """Return a record as JSON, on one line."""
    return msgspec.json.encode(record)


def decode_record(data: bytes, path: Path, line: int | None = None) -> OrderRecord:
    """Return the record in a file, a receipt for example, or in a line of a file.

    :param path: where it is, for the error; and ``line``, counted from 1.
    :raises StorageError: it is no record, or of a later version.
    """
    where = str(path) if line is None else f"line {line} of {path}"
    try:
        record = msgspec.json.decode(data, type=OrderRecord)
        unb64u(record.evidence)
        unb64u(record.reply_key)
        bytes.fromhex(record.bank_fingerprint)
    except (msgspec.DecodeError, ValueError) as error:
        raise StorageError(f"{where} is no order or receipt, or is damaged: {error}") from error
    if record.version != RECORD_VERSION:
        raise StorageError(f"{where} is of version {record.version}, which is not known")
    return record
