"""Vectors of what travels inside the seal between a customer and the bank."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.vectors.cases_sealing import CLASSIC_ORDER, ORDER_CONTENT
from tests.vectors.cast import BANK, MALLORY, NOW
from tests.vectors.primitives import b64u, compact, sign

CONTEXT = b"tw1 receipt\0"
ORDER_ID = CLASSIC_ORDER.id

WITHDRAW = {"operation": "withdraw", "account": "account2", "amount": "12.50"}
STATEMENT = {"operation": "statement", "account": "account2", "before": None, "limit": 50}


def order() -> dict[str, Any]:
    deposit = WITHDRAW | {"operation": "deposit", "currency": "EUR", "memo": "cash"}
    return {
        "orders_accepted": [ORDER_CONTENT, WITHDRAW, deposit, deposit | {"operation": "issue"}],
        "orders_refused": [
            _refused_order("an unknown operation", WITHDRAW | {"operation": "burn"}),
            _refused_order("no operation", {"account": "account2", "amount": "1"}),
            _refused_order("no amount", {"operation": "withdraw", "account": "account2"}),
            _refused_order("an amount that is a number", WITHDRAW | {"amount": 12.5}),
            _refused_order("an amount of 257 characters", WITHDRAW | {"amount": "1" * 257}),
            _refused_order("an account that is none", WITHDRAW | {"account": "-1"}),
            _refused_order("a currency in small letters", WITHDRAW | {"currency": "eur"}),
            _refused_order("a memo of 141 characters", WITHDRAW | {"memo": "m" * 141}),
            _refused_order("an unknown member", WITHDRAW | {"to_account": "account1"}),
            _refused_order("a query", STATEMENT),
            _refused_order("a list", []),
            _refused_order("null", None),
            _refused_order("text", "transfer"),
        ],
        "queries_accepted": [
            {"operation": "accounts"},
            {"operation": "accounts", "after": "account2"},
            {"operation": "balance", "account": "account2"},
            STATEMENT,
            {"operation": "statement", "account": "account2"},
            {"operation": "order_status", "order_id": ORDER_ID},
        ],
        "queries_refused": [
            _refused("an unknown operation", {"operation": "owners"}),
            _refused("a page of none", STATEMENT | {"limit": 0}),
            _refused("a page too long", STATEMENT | {"limit": 51}),
            _refused("before the beginning", STATEMENT | {"before": -1}),
            _refused("an id that is no UUID", {"operation": "order_status", "order_id": "1"}),
            _refused("an order", WITHDRAW),
            _refused("a list", []),
            _refused("null", None),
        ],
        "texts_accepted": [
            {"text": "Grüße, Ben!"},
            {"text": ""},
            # A character is a code point: one outside the basic plane is one, not two.
            {"text": "\N{GRINNING FACE}" * 16_000},
        ],
        "texts_refused": [
            _refused("too long", {"text": "x" * 16_001}),
            _refused("an unknown member", {"text": "x", "html": "<b>x</b>"}),
            _refused("a list", []),
            _refused("null", None),
        ],
    }


def _refused_order(name: str, content: Any) -> dict[str, Any]:
    return {"name": name, "content": content, "code": "bad_order"}


def _refused(name: str, content: Any) -> dict[str, Any]:
    return {"name": name, "content": content, "code": "bad_message"}


def _evidence_hash() -> bytes:
    inner = CLASSIC_ORDER.inner()
    return hashlib.sha256(CLASSIC_ORDER.signature(inner) + inner).digest()


def _receipt(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "bank": BANK.id,
        "bank_fingerprint": b64u(BANK.fingerprint),
        "order_id": ORDER_ID,
        "person": CLASSIC_ORDER.sender.id,
        "evidence_hash": b64u(_evidence_hash()),
        "operation": "transfer",
        "outcome": "accepted",
        "code": None,
        "detail": "",
        "transfers": [
            {
                "id": "01a0d0a3-1fe8-7000-8000-0000000000aa",
                "sequence": 7,
                "kind": "transfer",
                "debit_account": "account1",
                "credit_account": "account2",
                "amount": 100,
                "currency": "TWC",
                "exponent": 0,
            }
        ],
        "balances": [
            {
                "account": "account1",
                "balance": 900,
                "available": 900,
                "currency": "TWC",
                "exponent": 0,
            }
        ],
        "booked_at": NOW + 1_000,
        "sequence": 7,
    } | changes


def _signed(raw: bytes, identity_seed: bytes = BANK.identity_seed) -> dict[str, str]:
    return {"receipt": b64u(raw), "signature": b64u(sign(identity_seed, CONTEXT + raw))}


def receipt() -> dict[str, Any]:
    accepted = compact(_receipt())
    refusal = compact(
        _receipt(
            outcome="refused",
            code="insufficient_funds",
            detail="available are 40 TWC",
            transfers=[],
            balances=[],
        )
    )
    good = _signed(accepted)
    return {
        "bank": BANK.id,
        "bank_identity_seed": BANK.identity_seed.hex(),
        "bank_identity": BANK.identity.hex(),
        "accepted": [
            {"name": "an accepted order", "json": accepted.decode(), "signed_receipt": good},
            {"name": "a refused one", "json": refusal.decode(), "signed_receipt": _signed(refusal)},
        ],
        "refused": [
            {"name": name, "signed_receipt": signed, "code": code}
            for name, signed, code in _refused_receipts(accepted, good)
        ],
    }


def _refused_receipts(accepted: bytes, good: dict[str, str]) -> list[tuple[str, Any, str]]:
    edited = accepted.replace(b'"amount":100', b'"amount":900')
    bare = b64u(sign(BANK.identity_seed, accepted))
    unauthentic: list[tuple[str, Any]] = [
        ("edited after it was signed", good | {"receipt": b64u(edited)}),
        ("signed by another", _signed(accepted, MALLORY.identity_seed)),
        ("signed without the context", good | {"signature": bare}),
        ("a signature that is cut off", good | {"signature": good["signature"][:-2]}),
        ("a signature that is not base64url", good | {"signature": "+" * 86}),
    ]
    malformed: list[tuple[str, Any]] = [
        ("an unknown version", _receipt(version=2)),
        ("an unknown outcome", _receipt(outcome="pending")),
        ("accepted with a code", _receipt(code="busy")),
        ("refused without a code", _receipt(outcome="refused")),
        ("an amount that is no integer", _receipt(sequence=1.5)),
        ("an unknown member", _receipt(extra=1)),
    ]
    return [(name, signed, "not_authentic") for name, signed in unauthentic] + [
        (name, _signed(compact(members)), "bad_message") for name, members in malformed
    ]
