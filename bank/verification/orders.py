"""Whether behind every transfer stands a signed order, and whether receipts say what was booked."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from django.db.models import F, OuterRef, Subquery

from bank.errors import BadAmountError
from bank.models import (
    AccountKind,
    Entry,
    Order,
    OrderResult,
    PersonKey,
    Transfer,
    TransferKind,
)
from bank.money import parse_amount
from bank.receipts import stored_receipt
from bank.sequence import milliseconds, value_date_of
from bank.verification.problems import Problem, Tally
from protocol import banking
from protocol.encoding import b64u
from protocol.errors import Code, EndToEndError
from protocol.keys import fingerprint, format_fingerprint
from protocol.sealing import Inner, verify_evidence

__all__ = ["check_orders"]

CLOCK_TOLERANCE: Final = timedelta(seconds=60)
"""How far the clocks may differ by which keys were enrolled and orders were booked."""
_KEYS_KEPT: Final = 10_000

_ORDERS: Final = Order._meta.db_table
_TRANSFERS: Final = Transfer._meta.db_table

_KINDS: Final = {
    "transfer": TransferKind.TRANSFER,
    "withdraw": TransferKind.WITHDRAWAL,
    "deposit": TransferKind.DEPOSIT,
    "issue": TransferKind.OPENING,
}


@dataclass(frozen=True, slots=True)
class _Key:
    identity_key: bytes
    fingerprint: bytes
    enrolled_at: datetime
    revoked_at: datetime | None

    def was_in_force(self, moment: datetime) -> bool:
        ended = self.revoked_at
        return self.enrolled_at <= moment + CLOCK_TOLERANCE and (
            ended is None or moment <= ended + CLOCK_TOLERANCE
        )


def check_orders(
    using: str, bank_id: str, bank_fingerprints: Collection[bytes], tally: Tally
) -> Iterator[Problem]:
    """Check every order with its evidence and receipt, side by side with the transfers.

    :param bank_fingerprints: of the keys that may have signed receipts, where they are known from
        elsewhere than this database; where there is none, any key that the bank had enrolled.
    """
    checker = _Checker(using, bank_id, bank_fingerprints)
    transfers = _transfers(using)
    transfer = next(transfers, None)
    orders = Order._base_manager.using(using).order_by("pk").values(*_ORDER_COLUMNS)
    for order in orders.iterator():
        tally.checked(_ORDERS)
        while transfer is not None and transfer["order_id"] < order["id"]:
            yield _orphan(transfer)
            tally.checked(_TRANSFERS)
            transfer = next(transfers, None)
        booked = []
        while transfer is not None and transfer["order_id"] == order["id"]:
            booked.append(transfer)
            tally.checked(_TRANSFERS)
            transfer = next(transfers, None)
        yield from checker.check(order, booked)
    while transfer is not None:
        yield _orphan(transfer)
        tally.checked(_TRANSFERS)
        transfer = next(transfers, None)


_ORDER_COLUMNS: Final = (
    "id",
    "person_id",
    "person__client_id",
    "order_id",
    "evidence_hash",
    "evidence",
    "operation",
    "outcome",
    "code",
    "receipt",
    "receipt_signature",
    "received_at",
)


def _transfers(using: str) -> Iterator[dict[str, Any]]:
    """Return all transfers by order, each with what its entries say."""

    def entry(side: str, column: str) -> Subquery:
        entries = Entry._base_manager.using(using).filter(
            account_id=OuterRef(side), transfer_id=OuterRef("pk")
        )
        return Subquery(entries.order_by().values(column)[:1])

    rows = Transfer._base_manager.using(using).annotate(
        exponent=F("currency__exponent"),
        debit_number=F("debit_account__number"),
        credit_number=F("credit_account__number"),
        debit_kind=F("debit_account__kind"),
        credit_kind=F("credit_account__kind"),
        debit_currency=F("debit_account__currency_id"),
        credit_currency=F("credit_account__currency_id"),
        debited=entry("debit_account_id", "amount"),
        credited=entry("credit_account_id", "amount"),
        debit_after=entry("debit_account_id", "balance_after"),
        credit_after=entry("credit_account_id", "balance_after"),
    )
    found: Iterator[Any] = rows.order_by("order_id", "pk").values().iterator()
    return found


def _orphan(transfer: Mapping[str, Any]) -> Problem:
    return Problem(
        _TRANSFERS,
        str(transfer["id"]),
        f"stands behind order {transfer['order_id']}, which does not exist",
    )


class _Checker:
    """Checks one order after the other."""

    def __init__(self, using: str, bank_id: str, bank_fingerprints: Collection[bytes]) -> None:
        self._using = using
        self._bank_id = bank_id
        self._keys_of = lru_cache(maxsize=_KEYS_KEPT)(self._read_keys)
        self._bank_keys = {key.fingerprint: key.identity_key for key in self._keys_of(bank_id)}
        self._accepted = set(bank_fingerprints) or set(self._bank_keys)

    def _read_keys(self, client_id: str) -> tuple[_Key, ...]:
        rows = PersonKey._base_manager.using(self._using).filter(person__client_id=client_id)
        return tuple(
            _Key(bytes(key), fingerprint(client_id, bytes(key)), enrolled_at, revoked_at)
            for key, enrolled_at, revoked_at in rows.values_list(
                "identity_key", "enrolled_at", "revoked_at"
            )
        )

    def check(self, order: Mapping[str, Any], transfers: list[dict[str, Any]]) -> Iterator[Problem]:
        """Check an order with the transfers that stand behind it."""
        row = str(order["id"])
        content: banking.Order | None = None
        try:
            content = self._check_evidence(order)
        except (_WrongError, EndToEndError) as error:
            yield Problem(_ORDERS, row, f"evidence: {error}")
        else:
            operation = "" if content is None else str(content.__struct_config__.tag)
            if operation != order["operation"]:
                yield Problem(_ORDERS, row, f"operation is not the signed one, {operation!r}")
            for transfer in transfers:
                yield from _check_content(transfer, content)
        yield from _check_outcome(order, transfers)
        for transfer in transfers:
            yield from _check_transfer(transfer, order)
        try:
            self._check_receipt(order, transfers)
        except (_WrongError, EndToEndError) as error:
            yield Problem(_ORDERS, row, f"receipt: {error}")

    def _check_evidence(self, order: Mapping[str, Any]) -> banking.Order | None:
        """Return what was signed; ``None`` where that can't be understood as an order."""
        evidence = bytes(order["evidence"])
        client_id = order["person__client_id"]
        if hashlib.sha256(evidence).digest() != bytes(order["evidence_hash"]):
            raise _WrongError("evidence_hash is not its hash")
        keys = [key for key in self._keys_of(client_id) if key.was_in_force(order["received_at"])]
        inner = _verify_with_any(evidence, keys)
        _must(inner.sender == client_id, f"was signed by {inner.sender}, not by {client_id}")
        _must(inner.id == str(order["order_id"]), "order_id is not the signed one")
        _must(inner.purpose == banking.ORDER_PURPOSE, f"is no order but {inner.purpose}")
        _must(inner.recipient == self._bank_id, f"was given to {inner.recipient}")
        _must(
            inner.expires_at > milliseconds(order["received_at"]), "had expired when it was booked"
        )
        try:
            return banking.decode_order(bytes(inner.content))
        except EndToEndError:
            return None

    def _check_receipt(self, order: Mapping[str, Any], transfers: list[dict[str, Any]]) -> None:
        signed = stored_receipt(bytes(order["receipt"]), bytes(order["receipt_signature"]))
        receipt = self._open_with_any(signed)
        _must(receipt.bank == self._bank_id, f"is of the bank {receipt.bank}")
        _must(receipt.order_id == str(order["order_id"]), "is of another order")
        _must(receipt.person == order["person__client_id"], f"is of {receipt.person}")
        _must(receipt.evidence_hash == b64u(bytes(order["evidence_hash"])), "is of other evidence")
        _must(receipt.operation == order["operation"], f"says operation {receipt.operation!r}")
        _must(receipt.outcome.value == order["outcome"], f"says {receipt.outcome.value}")
        code = "" if receipt.code is None else receipt.code.value
        _must(code == order["code"], f"says code {code!r}")
        _must(receipt.booked_at == milliseconds(order["received_at"]), "says another time")
        last = max([order["id"], *(transfer["id"] for transfer in transfers)])
        _must(receipt.sequence == last, f"says sequence {receipt.sequence} instead of {last}")
        _must(
            receipt.transfers == [_line(transfer) for transfer in transfers], "says other transfers"
        )
        after = {
            (transfer[f"{side}_number"], transfer[f"{side}_after"])
            for transfer in transfers
            for side in ("debit", "credit")
        }
        for balance in receipt.balances:
            _must(
                (balance.account, balance.balance) in after,
                f"says that {balance.account} has {balance.balance}",
            )

    def _open_with_any(self, signed: banking.SignedReceipt) -> banking.Receipt:
        for key_fingerprint, identity_key in self._bank_keys.items():
            try:
                receipt = banking.open_receipt(signed, identity_key)
            except EndToEndError as error:
                if error.code is not Code.NOT_AUTHENTIC:
                    raise
            else:
                _must(receipt.bank_fingerprint == b64u(key_fingerprint), "names another bank key")
                _must(key_fingerprint in self._accepted, _how_to_accept(key_fingerprint))
                return receipt
        raise _WrongError("no key of the bank signed it")


def _how_to_accept(key_fingerprint: bytes) -> str:
    """Return the words for a key that the database alone calls the bank's."""
    shown = format_fingerprint(key_fingerprint)
    return (
        f"is signed by another key that is enrolled for the bank, {shown}; if you know that the "
        f'bank had it, give --fingerprint "{shown}"'
    )


class _WrongError(Exception):
    """Something is not what it has to be."""


def _must(holds: bool, words: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise _WrongError(words)


def _verify_with_any(evidence: bytes, keys: list[_Key]) -> Inner:
    for key in keys:
        try:
            inner = verify_evidence(evidence, key.identity_key)
        except EndToEndError as error:
            if error.code is not Code.NOT_AUTHENTIC:
                raise
        else:
            _must(inner.sender_fingerprint == b64u(key.fingerprint), "names another key")
            return inner
    raise _WrongError("no key that was in force for this person signed it")


def _check_outcome(order: Mapping[str, Any], transfers: list[dict[str, Any]]) -> Iterator[Problem]:
    accepted = order["outcome"] == OrderResult.ACCEPTED
    if accepted and not transfers:
        yield Problem(_ORDERS, str(order["id"]), "was accepted, but there is no transfer")
    if not accepted:
        for transfer in transfers:
            yield Problem(
                _TRANSFERS, str(transfer["id"]), f"stands behind the refused order {order['id']}"
            )


def _check_transfer(transfer: Mapping[str, Any], order: Mapping[str, Any]) -> Iterator[Problem]:
    """Check a transfer against its accounts, its entries, and the time of its order."""
    amount = transfer["amount"]
    wrong = {
        "currency is not that of the debited account": (
            transfer["currency_id"] != transfer["debit_currency"]
        ),
        "currency is not that of the credited account": (
            transfer["currency_id"] != transfer["credit_currency"]
        ),
        f"its debit entry says {transfer['debited']}": transfer["debited"] != -amount,
        f"its credit entry says {transfer['credited']}": transfer["credited"] != amount,
        "its number is lower than its order's": transfer["id"] < order["id"],
        "was booked at another time than its order": transfer["booked_at"] != order["received_at"],
    }
    for words, is_wrong in wrong.items():
        if is_wrong:
            yield Problem(_TRANSFERS, str(transfer["id"]), words)


def _check_content(transfer: Mapping[str, Any], content: banking.Order | None) -> Iterator[Problem]:
    """Check that a transfer is what was signed."""
    row = str(transfer["id"])
    if content is None:
        yield Problem(_TRANSFERS, row, "stands behind an order that says nothing")
        return
    try:
        amount = parse_amount(content.amount, transfer["exponent"])
    except BadAmountError:
        amount = 0
    expected = {
        "kind": _KINDS[str(content.__struct_config__.tag)].value,
        "amount": amount,
        "value_date": None,
        "currency_id": content.currency or transfer["currency_id"],
        **_expected_sides(content),
    }
    if isinstance(content, banking.Transfer) and content.value_date is not None:
        expected["value_date"] = value_date_of(content.value_date)
    for name, value in expected.items():
        if transfer[name] != value:
            yield Problem(_TRANSFERS, row, f"{name} is {transfer[name]}; signed was {value}")


def _expected_sides(content: banking.Order) -> dict[str, object]:
    match content:
        case banking.Transfer():
            return {"debit_number": content.from_account, "credit_number": content.to_account}
        case banking.Withdraw():
            return {"debit_number": content.account, "credit_kind": AccountKind.CASH.value}
        case banking.Deposit():
            return {"debit_kind": AccountKind.CASH.value, "credit_number": content.account}
        case banking.Issue():
            return {"debit_kind": AccountKind.ISSUANCE.value, "credit_number": content.account}


def _line(transfer: Mapping[str, Any]) -> banking.TransferLine:
    """Return the line of a receipt that fits a transfer."""
    return banking.TransferLine(
        id=str(transfer["uuid"]),
        sequence=transfer["id"],
        kind=transfer["kind"],
        debit_account=transfer["debit_number"],
        credit_account=transfer["credit_number"],
        amount=transfer["amount"],
        currency=transfer["currency_id"],
        exponent=transfer["exponent"],
    )
