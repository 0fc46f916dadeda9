"""Orders, queries, answers and receipts: what travels inside the seal between customer and bank.

An order moves money and leaves a receipt, accepted or refused; a query changes nothing. An order's
amount is the decimal text that the customer typed, because that is what was signed; in everything
that the bank says, amounts are integers in minor units with the currency's exponent beside them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from protocol import limits
from protocol.encoding import b64u, decode_strict, unb64u
from protocol.errors import Code, EndToEndError, MisuseError, Retry
from protocol.identifiers import (
    AccountNumber,
    ClientId,
    CurrencyCode,
    Milliseconds,
    UuidText,
)
from protocol.keys import IdentityKey, verify

__all__ = [
    "ORDER_PURPOSE",
    "QUERY_PURPOSE",
    "TEXT_PURPOSE",
    "AccountLine",
    "AccountsQuery",
    "AccountsResult",
    "Answer",
    "BalanceLine",
    "BalanceQuery",
    "BalanceResult",
    "Deposit",
    "Issue",
    "Order",
    "OrderStatusQuery",
    "Outcome",
    "Query",
    "Receipt",
    "Result",
    "SignedReceipt",
    "StatementLine",
    "StatementQuery",
    "StatementResult",
    "TextMessage",
    "Transfer",
    "TransferLine",
    "Withdraw",
    "decode_answer",
    "decode_order",
    "decode_query",
    "decode_text",
    "encode_answer",
    "open_receipt",
    "sign_receipt",
]

ORDER_PURPOSE: Final = "bank.order"
QUERY_PURPOSE: Final = "bank.query"
TEXT_PURPOSE: Final = "person.message"
_RECEIPT_CONTEXT: Final = b"tw1 receipt\0"

T = TypeVar("T")

# Any text at all is let through to the bank's own check, which names what is wrong with it.
AmountText = Annotated[str, msgspec.Meta(max_length=limits.AMOUNT_CHARS_MAX)]
Memo = Annotated[str, msgspec.Meta(max_length=limits.MEMO_CHARS_MAX)]
Detail = Annotated[str, msgspec.Meta(max_length=limits.DETAIL_CHARS_MAX)]


# --- What a customer sends --------------------------------------------------------------------


class _Confidential(msgspec.Struct, frozen=True):
    """What may end up in a log only by its name: it says who pays whom, and how much."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Order(_Confidential, frozen=True, forbid_unknown_fields=True, tag_field="operation"):
    pass


class Transfer(_Order, frozen=True, tag="transfer"):
    """Move money from one account to another of the same currency."""

    from_account: AccountNumber
    to_account: AccountNumber
    amount: AmountText
    currency: CurrencyCode | None = None
    """If given, it must be the currency of both accounts."""
    value_date: Milliseconds | None = None
    """The customer's date for it; the bank's own booking time is kept beside it."""
    memo: Memo = ""


class Withdraw(_Order, frozen=True, tag="withdraw"):
    """Take money out of the bank: from the account to the bank's cash account."""

    account: AccountNumber
    amount: AmountText
    currency: CurrencyCode | None = None
    memo: Memo = ""


class Deposit(_Order, frozen=True, tag="deposit"):
    """Bring money into the bank, as a teller: from the bank's cash account to the account."""

    account: AccountNumber
    amount: AmountText
    currency: CurrencyCode | None = None
    memo: Memo = ""


class Issue(_Order, frozen=True, tag="issue"):
    """Bring money into being, as the bank itself: from its issuance account to the account."""

    account: AccountNumber
    amount: AmountText
    currency: CurrencyCode | None = None
    memo: Memo = ""


Order = Transfer | Withdraw | Deposit | Issue


class _Query(_Confidential, frozen=True, forbid_unknown_fields=True, tag_field="operation"):
    pass


class AccountsQuery(_Query, frozen=True, tag="accounts"):
    """A page of the accounts that the customer may see, in the order of their numbers."""

    after: AccountNumber | None = None
    """Only accounts whose number comes after this one; None begins with the first."""


class BalanceQuery(_Query, frozen=True, tag="balance"):
    """One account's balance."""

    account: AccountNumber


class StatementQuery(_Query, frozen=True, tag="statement"):
    """A page of an account's entries, newest first."""

    account: AccountNumber
    before: Annotated[int, msgspec.Meta(ge=0, le=limits.MILLISECONDS_MAX)] | None = None
    """Only entries whose sequence is lower; None begins with the newest."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.STATEMENT_ENTRIES_MAX)] = 50


class OrderStatusQuery(_Query, frozen=True, tag="order_status"):
    """The receipt of one of the customer's own orders."""

    order_id: UuidText


Query = AccountsQuery | BalanceQuery | StatementQuery | OrderStatusQuery


class TextMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a message between persons."""

    text: Annotated[str, msgspec.Meta(max_length=limits.TEXT_MESSAGE_CHARS_MAX)]

    def __repr__(self) -> str:
        return f"<TextMessage {len(self.text)} characters>"


# --- What the bank signs ----------------------------------------------------------------------


class Outcome(StrEnum):
    """How an order ended."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class TransferLine(_Confidential, frozen=True, forbid_unknown_fields=True):
    """One booked transfer of a receipt."""

    id: UuidText
    sequence: int
    kind: str
    debit_account: AccountNumber
    credit_account: AccountNumber
    amount: int
    currency: CurrencyCode
    exponent: int


class BalanceLine(_Confidential, frozen=True, forbid_unknown_fields=True):
    """An account's balance at a point of the ledger, in minor units."""

    account: AccountNumber
    balance: int
    available: int
    """What may still be spent: balance less holds, plus the credit limit."""
    currency: CurrencyCode
    exponent: int


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bank's word on an order, given once and repeated byte for byte."""

    version: int
    bank: ClientId
    bank_fingerprint: str
    order_id: UuidText
    person: ClientId
    evidence_hash: str
    """SHA-256 of the signed order (signature and inner), base64url."""
    operation: str
    """The order's operation; empty where the order could not be understood."""
    outcome: Outcome
    code: Code | None
    """Why it was refused."""
    detail: Detail
    transfers: list[TransferLine]
    balances: list[BalanceLine]
    """Balances after it, of those of its accounts that the customer may view."""
    booked_at: Milliseconds
    """The database's clock when it was decided."""
    sequence: int
    """The ledger's sequence after it."""

    def __repr__(self) -> str:
        code = "" if self.code is None else f": {self.code.value}"
        return f"<Receipt {self.outcome.value} {self.order_id}{code}>"


class SignedReceipt(_Confidential, frozen=True, forbid_unknown_fields=True):
    """A receipt as it travels and is stored: exact bytes and signature, as base64url."""

    receipt: str
    signature: str

    @property
    def raw(self) -> bytes:
        """The receipt's exact bytes."""
        return unb64u(self.receipt)


def sign_receipt(identity: IdentityKey, receipt: Receipt) -> SignedReceipt:
    """Write and sign a receipt with the bank's identity key."""
    raw = msgspec.json.encode(receipt)
    return SignedReceipt(b64u(raw), b64u(identity.sign(_RECEIPT_CONTEXT + raw)))


def open_receipt(signed: SignedReceipt, bank_identity: bytes) -> Receipt:
    """Check a receipt's signature and return what it says.

    :raises EndToEndError: ``not_authentic`` for a wrong signature, ``bad_message`` for a signed
        receipt that is not well formed.
    """
    try:
        raw, signature = unb64u(signed.receipt), unb64u(signed.signature)
    except ValueError as error:
        raise EndToEndError(Code.NOT_AUTHENTIC, f"the receipt: {error}") from error
    if not verify(bank_identity, signature, _RECEIPT_CONTEXT + raw):
        raise EndToEndError(Code.NOT_AUTHENTIC, "the receipt is not signed by this bank")
    receipt = _decode(raw, Receipt)
    if receipt.version != limits.PROTOCOL_VERSION:
        raise EndToEndError(Code.BAD_MESSAGE, f"receipt version {receipt.version} is not known")
    if (receipt.code is None) != (receipt.outcome is Outcome.ACCEPTED):
        raise EndToEndError(Code.BAD_MESSAGE, "the receipt's outcome and code contradict")
    return receipt


# --- What the bank answers --------------------------------------------------------------------


class AccountLine(_Confidential, frozen=True, forbid_unknown_fields=True):
    """One account in the answer to `accounts`, with what the customer may do there."""

    account: AccountNumber
    owner: str
    """The owner's name: "Last, First" of a person, or the organization's name."""
    owner_kind: str
    """``person`` or ``organization``."""
    status: str
    """``open``, ``frozen`` or ``closed``."""
    permissions: list[str]
    balance: int
    available: int
    currency: CurrencyCode
    exponent: int


class AccountsResult(_Confidential, frozen=True, forbid_unknown_fields=True, tag="accounts"):
    """The answer to `accounts`: a page, in the order of the account numbers."""

    accounts: list[AccountLine]
    sequence: int
    next_after: AccountNumber | None = None
    """Ask for the next page with this as `after`; None after the last page."""


class BalanceResult(_Confidential, frozen=True, forbid_unknown_fields=True, tag="balance"):
    """The answer to `balance`."""

    balance: BalanceLine
    status: str
    sequence: int


class StatementLine(_Confidential, frozen=True, forbid_unknown_fields=True):
    """One entry of a statement, in minor units."""

    sequence: int
    transfer_id: UuidText
    kind: str
    amount: int
    """What it did to this account: positive raises the balance."""
    balance_after: int
    counterparty: AccountNumber
    memo: str
    booked_at: Milliseconds
    value_date: Milliseconds | None


class StatementResult(_Confidential, frozen=True, forbid_unknown_fields=True, tag="statement"):
    """The answer to `statement`: a page, newest first."""

    account: AccountNumber
    currency: CurrencyCode
    exponent: int
    entries: list[StatementLine]
    next_before: int | None
    """Ask for the next page with this as `before`; None after the last page."""
    sequence: int


Result = AccountsResult | BalanceResult | StatementResult


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the bank answers to an order or a query, inside a keyed reply.

    An order that was decided has a receipt, and its code with it; a query has a result. A code
    without a receipt means that nothing was stored.
    """

    version: int
    re: UuidText
    code: Code | None = None
    retry: Retry | None = None
    retry_after_ms: Milliseconds | None = None
    detail: Detail = ""
    receipt: SignedReceipt | None = None
    result: Result | None = None

    def __repr__(self) -> str:
        return f"<Answer to {self.re}: {self.code or self.receipt or self.result!r}>"


def encode_answer(answer: Answer) -> bytes:
    """Return the JSON of an answer.

    :raises MisuseError: if it is longer than what a reply can hold.
    """
    raw = msgspec.json.encode(answer)
    if len(raw) > limits.INNER_BYTES_MAX:
        raise MisuseError(f"an answer has at most {limits.INNER_BYTES_MAX} bytes")
    return raw


def decode_answer(raw: bytes) -> Answer:
    """Return the answer that the bank gave.

    :raises EndToEndError: ``bad_message``.
    """
    if len(raw) > limits.INNER_BYTES_MAX:
        raise EndToEndError(
            Code.BAD_MESSAGE, f"an answer has at most {limits.INNER_BYTES_MAX} bytes"
        )
    answer = _decode(raw, Answer)
    if answer.version != limits.PROTOCOL_VERSION:
        raise EndToEndError(Code.BAD_MESSAGE, f"answer version {answer.version} is not known")
    return answer


def decode_order(raw: bytes) -> Order:
    """Return the order that is the content of a message with purpose ``bank.order``.

    :raises EndToEndError: ``bad_message``; the bank records it as ``bad_order``.
    """
    order: Order = _decode(raw, Order)  # type: ignore[arg-type]  # a union is no type to mypy
    return order


def decode_query(raw: bytes) -> Query:
    """Return the query that is the content of a message with purpose ``bank.query``.

    :raises EndToEndError: ``bad_message``.
    """
    query: Query = _decode(raw, Query)  # type: ignore[arg-type]  # a union is no type to mypy
    return query


def decode_text(raw: bytes) -> TextMessage:
    """Return the text that is the content of a message with purpose ``person.message``.

    :raises EndToEndError: ``bad_message``.
    """
    return _decode(raw, TextMessage)


def _decode(raw: bytes, kind: type[T]) -> T:
    try:
        return decode_strict(raw, kind)
    except ValueError as error:
        detail = str(error)[: limits.DETAIL_CHARS_MAX]
        raise EndToEndError(Code.BAD_MESSAGE, detail) from error
