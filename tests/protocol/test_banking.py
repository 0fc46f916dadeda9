from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import banking, limits
from protocol.banking import (
    AccountLine,
    AccountsQuery,
    AccountsResult,
    Answer,
    BalanceLine,
    BalanceResult,
    Outcome,
    Receipt,
    SignedReceipt,
    StatementQuery,
    TransferLine,
    decode_answer,
    decode_order,
    decode_query,
    decode_text,
    encode_answer,
    open_receipt,
    sign_receipt,
)
from protocol.encoding import b64u, unb64u
from protocol.errors import Code, Retry
from tests.protocol.cast import MESSAGE_ID, NOW, ORDER, OTHER_ID, bank, mallory, refusal
from tests.vectors.files import vectors

RECEIPT = Receipt(
    version=1,
    bank="bank",
    bank_fingerprint=b64u(bank().fingerprint),
    order_id=MESSAGE_ID,
    person="ada",
    evidence_hash=b64u(bytes(32)),
    operation="transfer",
    outcome=Outcome.ACCEPTED,
    code=None,
    detail="",
    transfers=[
        TransferLine(OTHER_ID, 7, "transfer", "account1", "account2", 100, "TWC", 0),
    ],
    balances=[BalanceLine("account1", 900, 900, "TWC", 0)],
    booked_at=NOW,
    sequence=7,
)
RECEIPT_FLIPS: dict[str, Any] = {
    "version": 2,
    "bank": "other-bank",
    "bank_fingerprint": b64u(mallory().fingerprint),
    "order_id": OTHER_ID,
    "person": "mallory",
    "evidence_hash": b64u(b"\1" + bytes(31)),
    "operation": "withdraw",
    "outcome": "refused",
    "code": "insufficient_funds",
    "detail": "words",
    "transfers": [],
    "balances": [],
    "booked_at": NOW + 1,
    "sequence": 8,
}
PARSERS: list[Callable[[bytes], object]] = [decode_order, decode_query, decode_text, decode_answer]
CONTENTS = [
    *vectors("order")["orders_accepted"],
    *vectors("order")["queries_accepted"],
    *vectors("order")["texts_accepted"],
    {"version": 1, "re": MESSAGE_ID, "code": "busy", "retry": "same"},
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


# --- Receipts -------------------------------------------------------------------------------------


def test_a_signed_receipt_is_opened() -> None:
    signed = sign_receipt(bank().identity, RECEIPT)
    assert open_receipt(signed, bank().identity.public) == RECEIPT
    assert msgspec.json.decode(signed.raw, type=Receipt) == RECEIPT


def test_every_field_of_a_receipt_has_a_flip() -> None:
    assert set(RECEIPT_FLIPS) == {field.encode_name for field in msgspec.structs.fields(Receipt)}


@pytest.mark.parametrize("member", RECEIPT_FLIPS)
def test_every_flipped_field_of_a_receipt_is_refused(member: str) -> None:
    signed = sign_receipt(bank().identity, RECEIPT)
    members = msgspec.json.decode(signed.raw)
    assert members[member] != RECEIPT_FLIPS[member]
    edited = msgspec.json.encode(members | {member: RECEIPT_FLIPS[member]})
    forged = SignedReceipt(b64u(edited), signed.signature)
    assert refusal(lambda: open_receipt(forged, bank().identity.public)) == "not_authentic"


def test_a_receipt_of_another_is_refused() -> None:
    signed = sign_receipt(mallory().identity, RECEIPT)
    assert refusal(lambda: open_receipt(signed, bank().identity.public)) == "not_authentic"


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"code": Code.BUSY}, {"outcome": Outcome.REFUSED}, {"order_id": "1"}],
)
def test_a_signed_receipt_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    signed = sign_receipt(bank().identity, msgspec.structs.replace(RECEIPT, **changes))
    assert refusal(lambda: open_receipt(signed, bank().identity.public)) == "bad_message"


@given(st.text(max_size=100), st.text(max_size=86))
def test_only_named_errors_come_out_of_a_damaged_receipt(receipt: str, signature: str) -> None:
    signed = SignedReceipt(receipt, signature)
    assert refusal(lambda: open_receipt(signed, bank().identity.public)) == "not_authentic"


@given(st.sampled_from(sorted(RECEIPT_FLIPS)), _json)
def test_only_named_errors_come_out_of_a_signed_receipt(member: str, value: Any) -> None:
    members = msgspec.json.decode(msgspec.json.encode(RECEIPT)) | {member: value}
    raw = msgspec.json.encode(members)
    signature = b64u(bank().identity.sign(b"tw1 receipt\0" + raw))
    signed = SignedReceipt(b64u(raw), signature)
    assert refusal(lambda: open_receipt(signed, bank().identity.public)) in {"bad_message", None}


# --- Orders, queries, answers ---------------------------------------------------------------------


def test_what_may_be_left_out_has_its_documented_value() -> None:
    page = decode_query(b'{"operation":"statement","account":"a"}')
    assert page == StatementQuery("a", None, 50)
    assert decode_query(b'{"operation":"accounts"}') == AccountsQuery(None)


@pytest.mark.parametrize(
    "amount", ["", "0", "-1", "1e3", "\u0661", "1,5", " 1", "NaN", "1" * 32, "0.000"]
)
def test_odd_amounts_reach_the_bank_that_names_what_is_wrong(amount: str) -> None:
    order = msgspec.structs.replace(ORDER, amount=amount)
    assert decode_order(msgspec.json.encode(order)) == order


@pytest.mark.parametrize("parser", PARSERS)
@given(raw=st.binary(max_size=200))
def test_only_named_errors_come_out_of_a_parser(
    parser: Callable[[bytes], object], raw: bytes
) -> None:
    assert refusal(lambda: parser(raw)) == "bad_message"


@pytest.mark.parametrize("parser", PARSERS)
@given(content=st.sampled_from(CONTENTS), data=st.data())
def test_only_named_errors_come_out_of_a_damaged_content(
    parser: Callable[[bytes], object], content: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(content)) | st.text(max_size=6))
    raw = msgspec.json.encode(content | {name: data.draw(_json)})
    assert refusal(lambda: parser(raw)) in {"bad_message", None}


def test_answers_come_back() -> None:
    line = AccountLine("a", "Ärlig, Ada", "person", "open", ["view"], 1, 1, "TWC", 0)
    answers = [
        Answer(1, MESSAGE_ID, receipt=sign_receipt(bank().identity, RECEIPT)),
        Answer(1, MESSAGE_ID, Code.BUSY, Retry.SAME, 250, "later"),
        Answer(1, MESSAGE_ID, result=AccountsResult([line], 7, "a")),
        Answer(1, MESSAGE_ID, result=BalanceResult(BalanceLine("a", 1, 1, "TWC", 0), "open", 7)),
    ]
    for answer in answers:
        assert decode_answer(encode_answer(answer)) == answer


def test_an_answer_of_another_version_is_refused() -> None:
    assert refusal(lambda: decode_answer(encode_answer(Answer(2, MESSAGE_ID)))) == "bad_message"


def test_an_answer_that_is_too_long_is_refused() -> None:
    text = f'{{"version": 1, "re": "{MESSAGE_ID}"}}'
    assert decode_answer(text.ljust(limits.INNER_BYTES_MAX).encode()).re == MESSAGE_ID
    too_long = text.ljust(limits.INNER_BYTES_MAX + 1).encode()
    assert refusal(lambda: decode_answer(too_long)) == "bad_message"


def test_no_repr_says_who_pays_whom_how_much() -> None:
    signed = sign_receipt(bank().identity, RECEIPT)
    line = AccountLine("account1", "Ärlig, Ada", "person", "open", ["view"], 1, 1, "TWC", 0)
    answer = Answer(1, MESSAGE_ID, result=AccountsResult([line], 7))
    text = banking.TextMessage("secret words")
    shown = repr([ORDER, RECEIPT, *RECEIPT.transfers, signed, answer, text, RECEIPT.balances])
    for secret in ("account1", "secret", "100", "900", "Ada", signed.receipt):
        assert secret not in shown
    assert unb64u(signed.receipt) == signed.raw
    assert repr(RECEIPT) == f"<Receipt accepted {MESSAGE_ID}>"
