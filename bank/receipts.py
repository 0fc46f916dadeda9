"""Receipts: written and signed once, stored, and repeated byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

from bank.incoming import BankIdentity, IncomingOrder
from bank.locking import LockedAccount
from protocol import limits
from protocol.banking import (
    BalanceLine,
    Outcome,
    Receipt,
    SignedReceipt,
    TransferLine,
    sign_receipt,
)
from protocol.encoding import b64u
from protocol.errors import BankError

__all__ = ["balance_line", "receipt_of", "stored_receipt"]


def balance_line(account: LockedAccount, balance: int) -> BalanceLine:
    """Return an account's balance at a point of the ledger as receipts show it."""
    return BalanceLine(
        account=account.number,
        balance=balance,
        available=balance - account.held + account.credit_limit,
        currency=account.currency,
        exponent=account.exponent,
    )


def receipt_of(
    bank: BankIdentity,
    incoming: IncomingOrder,
    *,
    refusal: BankError | None,
    transfers: Sequence[TransferLine],
    balances: Sequence[BalanceLine],
    booked_at: int,
    sequence: int,
) -> SignedReceipt:
    """Write and sign the receipt of an order that was decided.

    :param booked_at: the database's clock, milliseconds since the epoch.
    :param sequence: the highest number of the ledger that the order took.
    """
    receipt = Receipt(
        version=limits.PROTOCOL_VERSION,
        bank=bank.bank_id,
        bank_fingerprint=b64u(bank.fingerprint),
        order_id=incoming.order_id,
        person=incoming.client_id,
        evidence_hash=b64u(incoming.evidence_hash),
        operation=incoming.operation,
        outcome=Outcome.ACCEPTED if refusal is None else Outcome.REFUSED,
        code=None if refusal is None else refusal.code,
        detail="" if refusal is None else refusal.detail[: limits.DETAIL_CHARS_MAX],
        transfers=list(transfers),
        balances=list(balances),
        booked_at=booked_at,
        sequence=sequence,
    )
    return sign_receipt(bank.key, receipt)


def stored_receipt(raw: bytes, signature: bytes) -> SignedReceipt:
    """Return a stored receipt as it travels."""
    return SignedReceipt(b64u(raw), b64u(signature))
