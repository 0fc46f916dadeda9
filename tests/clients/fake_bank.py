"""A bank of ten lines of ledger behind the real seals, for tests of clients.

It is honest: every order once, refusals stored, receipts signed. Tests that want another bank
change what ``decide`` or ``answer`` gives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from clients.service import IncomingRequest
from protocol import limits
from protocol.banking import (
    ORDER_PURPOSE,
    AccountsQuery,
    AccountsResult,
    Answer,
    BalanceLine,
    BalanceQuery,
    BalanceResult,
    OrderStatusQuery,
    Outcome,
    Receipt,
    Result,
    SignedReceipt,
    StatementLine,
    StatementQuery,
    StatementResult,
    Transfer,
    TransferLine,
    decode_order,
    decode_query,
    encode_answer,
    sign_receipt,
)
from protocol.bundles import Bundle
from protocol.encoding import b64u
from protocol.errors import RETRY, Code, EndToEndError
from protocol.identifiers import uuid7
from protocol.keyfile import KeyFile
from protocol.sealing import Envelope, Opened, open_sealed, refusal_body, seal_reply
from tests.clients.fake_relay import now_ms


@dataclass
class FakeBank:
    """Its ``handle`` is a service's handler."""

    keys: KeyFile
    customers: dict[str, Bundle]
    balances: dict[str, int] = field(
        default_factory=lambda: {"account1": 1000, "account2": 1000, "account3": 1000}
    )
    receipts: dict[tuple[str, str], tuple[bytes, SignedReceipt]] = field(default_factory=dict)
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    silent_times: int = 0
    booked: int = 0
    entries: int = 3
    memo: str = "=1+1"
    transient: list[Code] = field(default_factory=list)
    refuse_unsealed: list[Code] = field(default_factory=list)

    async def handle(self, request: IncomingRequest) -> bytes | None:
        if self.refuse_unsealed:
            return refusal_body(self.refuse_unsealed.pop(0))
        try:
            opened = self.open(request)
        except EndToEndError as error:
            return refusal_body(error.code)
        self.seen.append((request.id, opened.signed.evidence))
        answer = self.answer(opened)
        if self.silent_times > 0:
            self.silent_times -= 1
            return None
        return self.seal(opened, answer)

    def open(self, request: IncomingRequest) -> Opened:
        sender = self.customers.get(request.sender)
        if sender is None:
            raise EndToEndError(Code.UNKNOWN_SENDER)
        envelope = Envelope(
            request.id,
            request.re,
            sender.id,
            sender.fingerprint,
            self.keys.client_id,
            self.keys.fingerprint,
        )
        return open_sealed(
            request.body,
            envelope,
            prekeys=self.keys.prekeys,
            sender_identity=sender.identity_key,
            sender_suites=sender.suites,
            now=None,
        )

    @staticmethod
    def seal(opened: Opened, answer: Answer) -> bytes:
        raw = encode_answer(answer)
        return seal_reply(opened.reply_key, opened.signed.hash, raw, os.urandom(16))

    def answer(self, opened: Opened) -> Answer:
        message_id = opened.inner.id
        if self.transient:
            return refusal(message_id, self.transient.pop(0))
        if opened.inner.purpose != ORDER_PURPOSE:
            return self.answer_query(opened)
        key = (opened.inner.sender, message_id)
        if key not in self.receipts:
            if opened.inner.expires_at <= now_ms():
                return refusal(message_id, Code.ORDER_EXPIRED)
            self.receipts[key] = (opened.signed.hash, self.decide(opened))
        stored_hash, receipt = self.receipts[key]
        if stored_hash != opened.signed.hash:
            return refusal(message_id, Code.ORDER_ID_CONFLICT)
        return Answer(limits.PROTOCOL_VERSION, message_id, receipt=receipt)

    def decide(self, opened: Opened) -> SignedReceipt:
        order = decode_order(bytes(opened.inner.content))
        source = order.from_account if isinstance(order, Transfer) else order.account
        target = order.to_account if isinstance(order, Transfer) else "cash"
        amount, code = int(order.amount), None
        if source not in self.balances:
            code = Code.ACCOUNT_UNAVAILABLE
        elif self.balances[source] < amount:
            code = Code.INSUFFICIENT_FUNDS
        else:
            self.balances[source] -= amount
            self.balances[target] = self.balances.get(target, 0) + amount
            self.booked += 1
        return sign_receipt(self.keys.identity, self.receipt(opened, source, target, amount, code))

    def receipt(
        self, opened: Opened, source: str, target: str, amount: int, code: Code | None
    ) -> Receipt:
        booked = TransferLine(
            uuid7(now_ms(), os.urandom(10)),
            self.booked,
            "transfer",
            source,
            target,
            amount,
            "TWC",
            0,
        )
        return Receipt(
            version=limits.PROTOCOL_VERSION,
            bank=self.keys.client_id,
            bank_fingerprint=b64u(self.keys.fingerprint),
            order_id=opened.inner.id,
            person=opened.inner.sender,
            evidence_hash=b64u(opened.signed.hash),
            operation="transfer",
            outcome=Outcome.ACCEPTED if code is None else Outcome.REFUSED,
            code=code,
            detail="" if code is None else f"{source} has {self.balances.get(source, 0)}",
            transfers=[booked] if code is None else [],
            balances=[self.balance(source)] if code is None else [],
            booked_at=now_ms(),
            sequence=self.booked,
        )

    def balance(self, account: str) -> BalanceLine:
        held = self.balances[account]
        return BalanceLine(account, held, held, "TWC", 0)

    def answer_query(self, opened: Opened) -> Answer:
        query = decode_query(bytes(opened.inner.content))
        result: Result
        match query:
            case AccountsQuery():
                result = AccountsResult([], 1)
            case BalanceQuery() if query.account in self.balances:
                result = BalanceResult(self.balance(query.account), "open", 1)
            case StatementQuery() if query.account in self.balances:
                result = self.statement(query)
            case OrderStatusQuery():
                return refusal(opened.inner.id, Code.UNSUPPORTED_PURPOSE)
            case _:
                return refusal(opened.inner.id, Code.ACCOUNT_UNAVAILABLE)
        return Answer(limits.PROTOCOL_VERSION, opened.inner.id, result=result)

    def statement(self, query: StatementQuery) -> StatementResult:
        first = min(self.entries, (query.before or self.entries + 1) - 1)
        last = max(first - query.limit, 0)
        lines = [
            StatementLine(
                number,
                uuid7(now_ms(), os.urandom(10)),
                "transfer",
                number,
                number,
                "other",
                self.memo,
                now_ms(),
                None,
            )
            for number in range(first, last, -1)
        ]
        return StatementResult(query.account, "TWC", 0, lines, last + 1 if last else None, 1)


def refusal(message_id: str, code: Code) -> Answer:
    return Answer(limits.PROTOCOL_VERSION, message_id, code, RETRY[code], detail="told by the bank")
