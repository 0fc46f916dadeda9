"""The group commit: a list of orders in, a list of outcomes out, one transaction.

Every order is decided exactly once, whatever happens on the way:

1. share the lock of all bookings, lock all accounts of the batch, then look the order ids up, then
   read keys and permissions: what was committed before the locks is seen, and whoever takes
   something away later is told so only when this batch has ended;
2. decide in order, in memory; write orders, transfers, entries and balances; commit; only then
   answer;
3. where the database can't say yes to the whole (a deadlock with somebody else, the same order on
   another connection at the same moment), do the whole again, then its halves, so that one
   order can't fail its neighbours;
4. where it doesn't say whether it has committed, do the whole again, too: the ids tell.

READ COMMITTED is enough, because everything that decides is either under the lock or read after
it in a statement of its own.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from django.db import connections
from django.db.models import QuerySet

from bank import locking
from bank.authorization import Grants, start_grants
from bank.compiled import CompiledQuery, Slot
from bank.database_faults import Fault, fault_of, first_words
from bank.deciding import Decider, Posting, accounts_of
from bank.errors import CertainNoError, LedgerUnavailableError, OutcomeUnknownError
from bank.incoming import BankIdentity, IncomingOrder, OrderOutcome
from bank.models import Order, OrderResult
from bank.receipts import balance_line, receipt_of, stored_receipt
from bank.sequence import Numbers, draw_numbers
from bank.statements import Conversation, booking
from bank.writer import EntryRow, LedgerWriter, OrderRow, TransferRow, WriteSet, writer_for
from protocol.banking import SignedReceipt, TransferLine
from protocol.encoding import unb64u
from protocol.errors import BankError, Code
from protocol.identifiers import uuid7

__all__ = ["book"]

ATTEMPTS_MAX: Final = 3
"""How often the same orders are tried together before they are tried in halves."""
_PAUSE_SECONDS_MAX: Final = 0.05

_Key = tuple[int, uuid.UUID]

logger = structlog.get_logger(__name__)


def _recorded() -> QuerySet[Order, Any]:
    return (
        Order.objects.filter(order_id__any_of=Slot("order_ids"))
        .order_by()
        .values_list(
            "person_id", "order_id", "evidence_hash", "code", "receipt", "receipt_signature"
        )
    )


_RECORDED: Final = CompiledQuery(_recorded)


def _key_of(incoming: IncomingOrder) -> _Key:
    return incoming.person_id, uuid.UUID(incoming.order_id)


def _accounts_named(batch: Sequence[IncomingOrder]) -> tuple[set[str], set[str]]:
    """Return the numbers that a batch names, and the kinds of the bank's own that it needs."""
    numbers: set[str] = set()
    kinds: set[str] = set()
    for incoming in batch:
        if incoming.order is not None:
            named, own = accounts_of(incoming.order)
            numbers |= named
            kinds |= own
    return numbers, kinds


@dataclass(slots=True)
class _Recorded:
    """An order that is in the ledger, or will be when this batch commits."""

    evidence_hash: bytes
    outcome: OrderOutcome


def book(
    batch: Sequence[IncomingOrder],
    bank: BankIdentity,
    *,
    using: str = "default",
    writer: LedgerWriter | None = None,
) -> list[OrderOutcome]:
    """Book a batch of orders, each with an outcome of its own, in the order of the batch.

    Everything that is answered is committed when this returns. An order that was recorded before
    gets its stored receipt, whatever it would be answered today.

    :param bank: who signs the receipts.
    :param using: the database alias; no transaction may be open there.
    :raises LedgerUnavailableError: the database can't be reached; nothing of what was not answered
        is recorded, but an earlier half of the batch may be.
    :raises OutcomeUnknownError: the database did not say whether it committed, and did not answer
        when it was asked. Say nothing about these orders: whoever sends one again finds out.
    """
    if not batch:
        return []
    found = _book_together(batch, bank, using, writer)
    if not isinstance(found, Fault):
        return found
    if len(batch) == 1:
        return [_not_booked(found)]
    middle = len(batch) // 2
    return [
        *book(batch[:middle], bank, using=using, writer=writer),
        *book(batch[middle:], bank, using=using, writer=writer),
    ]


def _book_together(
    batch: Sequence[IncomingOrder], bank: BankIdentity, using: str, writer: LedgerWriter | None
) -> list[OrderOutcome] | Fault:
    """Book the whole batch, or return why it can't be done together.

    :raises LedgerError: as :func:`book`.
    """
    fault, unanswered = Fault.POISONED, False
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            # No order of theirs to blame: others held the rows, and a pause lets them finish.
            time.sleep(random.uniform(0, _PAUSE_SECONDS_MAX) * attempt)  # noqa: S311 - a pause
        try:
            with booking(using) as talk:
                return _Batch(bank, talk).run(batch, writer or writer_for(talk.vendor))
        except OutcomeUnknownError:
            # The same batch again finds out: what was committed after all is recorded.
            fault, unanswered = Fault.DISCONNECTED, True
            logger.warning("commit_unanswered", orders=len(batch))
        except Exception as error:  # noqa: BLE001 - one order's bug must not fail its neighbours
            fault = fault_of(error)
            _log_failure(error, fault, len(batch))
        if fault is Fault.DISCONNECTED:
            connections[using].close()
        elif fault is Fault.POISONED:
            break
    if unanswered:
        raise OutcomeUnknownError
    if fault is Fault.DISCONNECTED:
        raise LedgerUnavailableError
    return fault


def _log_failure(error: Exception, fault: Fault, orders: int) -> None:
    """Say where a bug is; of a database that is away, or of others at the same rows, only that."""
    if fault is Fault.POISONED:
        logger.warning("booking_failed", orders=orders, fault=fault, exc_info=error)
    else:
        logger.warning("booking_failed", orders=orders, fault=fault, error=first_words(error))


def _not_booked(fault: Fault) -> OrderOutcome:
    """Return the outcome of one order that the database would not take: it left no trace."""
    if fault is Fault.CONTENDED:
        return OrderOutcome(Code.BUSY, detail="others hold the accounts; try again")
    return OrderOutcome(Code.INTERNAL, detail="the order could not be recorded")


class _Batch:
    """One attempt: what was read, and what will be written."""

    def __init__(self, bank: BankIdentity, talk: Conversation) -> None:
        self._bank = bank
        self._talk = talk
        self._recorded: dict[_Key, _Recorded] = {}
        self._rows = WriteSet()

    def run(self, batch: Sequence[IncomingOrder], writer: LedgerWriter) -> list[OrderOutcome]:
        """Lock, read, decide, write; the caller commits."""
        keys = [_key_of(incoming) for incoming in batch]
        accounts, grants, drawn = self._lock_and_read(batch, keys)
        decider = Decider(self._bank, accounts, grants, drawn.now_ms)
        numbers = iter(drawn.numbers)
        outcomes = []
        for incoming, key in zip(batch, keys, strict=True):
            if key in self._recorded:
                outcomes.append(self._repeat(incoming))
            else:
                outcomes.append(self._decide(decider, incoming, numbers, drawn))
        writer.write(self._rows, self._talk)
        return outcomes

    def _lock_and_read(
        self, batch: Sequence[IncomingOrder], keys: Sequence[_Key]
    ) -> tuple[list[locking.LockedAccount], Grants, Numbers]:
        """Lock the accounts, then look the ids up and read what decides.

        All of it travels together, but each is a statement of its own that begins when the one
        before has ended: what is read after the locks is what the locks waited for.
        """
        numbers, kinds = _accounts_named(batch)
        talk = self._talk
        locking.share_booking(talk)
        own = locking.own_accounts(talk, numbers, kinds)
        persons = {incoming.person_id for incoming in batch}
        locks = locking.start_locking(talk, numbers, own)
        recorded = _RECORDED.start(talk, order_ids={order_id for _, order_id in keys})
        grants = start_grants(talk, persons, numbers)
        drawing = draw_numbers(talk, len(batch))
        accounts = locks.result()
        self._remember_recorded(set(keys), recorded.rows())
        return accounts, grants.result(), drawing.result()

    def _remember_recorded(self, wanted: set[_Key], rows: Sequence[tuple[Any, ...]]) -> None:
        for person_id, order_id, evidence_hash, code, receipt, signature in rows:
            if (person_id, order_id) in wanted:
                self._recorded[person_id, order_id] = _Recorded(
                    bytes(evidence_hash),
                    OrderOutcome(
                        Code(code) if code else None,
                        stored_receipt(bytes(receipt), bytes(signature)),
                    ),
                )

    def _repeat(self, incoming: IncomingOrder) -> OrderOutcome:
        """Answer an order that is recorded: the same bytes get the same receipt."""
        recorded = self._recorded[_key_of(incoming)]
        if recorded.evidence_hash == incoming.evidence_hash:
            return recorded.outcome
        return OrderOutcome(
            Code.ORDER_ID_CONFLICT, detail="another order was recorded under this id"
        )

    def _decide(
        self,
        decider: Decider,
        incoming: IncomingOrder,
        numbers: Iterator[int],
        drawn: Numbers,
    ) -> OrderOutcome:
        posting: Posting | None = None
        refusal: BankError | None = None
        try:
            posting = decider.decide(incoming)
        except CertainNoError as error:
            return OrderOutcome(error.code, detail=error.detail)
        except BankError as error:
            refusal = error
        number = next(numbers)
        transfers = [] if posting is None else [self._post(posting, number, drawn)]
        balances = []
        if posting is not None:
            sides = (
                (posting.debit, posting.debit_balance),
                (posting.credit, posting.credit_balance),
            )
            balances = [
                balance_line(account, balance)
                for account, balance in sides
                if decider.may_view(incoming.person_id, account)
            ]
        receipt = receipt_of(
            self._bank,
            incoming,
            refusal=refusal,
            transfers=transfers,
            balances=balances,
            booked_at=drawn.now_ms,
            sequence=number,
        )
        return self._record(incoming, refusal, receipt, number=number, now=drawn.now)

    def _post(self, posting: Posting, number: int, drawn: Numbers) -> TransferLine:
        """Add a transfer, its two entries and both balances to what is written."""
        transfer_id = uuid7(drawn.now_ms, os.urandom(10))
        debit, credit, amount = posting.debit, posting.credit, posting.amount
        self._rows.transfers.append(
            TransferRow(
                id=number,
                uuid=uuid.UUID(transfer_id),
                order_id=number,
                debit_account_id=debit.id,
                credit_account_id=credit.id,
                currency_id=debit.currency,
                amount=amount,
                kind=posting.kind.value,
                booked_at=drawn.now,
                value_date=posting.value_date,
            )
        )
        self._rows.entries.append(EntryRow(debit.id, number, -amount, posting.debit_balance))
        self._rows.entries.append(EntryRow(credit.id, number, amount, posting.credit_balance))
        self._rows.balances[debit.id] = posting.debit_balance
        self._rows.balances[credit.id] = posting.credit_balance
        return TransferLine(
            id=transfer_id,
            sequence=number,
            kind=posting.kind.value,
            debit_account=debit.number,
            credit_account=credit.number,
            amount=amount,
            currency=debit.currency,
            exponent=debit.exponent,
        )

    def _record(
        self,
        incoming: IncomingOrder,
        refusal: BankError | None,
        receipt: SignedReceipt,
        *,
        number: int,
        now: datetime,
    ) -> OrderOutcome:
        """Add the order to what is written, and remember it for the rest of the batch."""
        key = _key_of(incoming)
        code = None if refusal is None else refusal.code
        self._rows.orders.append(
            OrderRow(
                id=number,
                person_id=incoming.person_id,
                order_id=key[1],
                evidence_hash=incoming.evidence_hash,
                evidence=incoming.evidence,
                operation=incoming.operation,
                outcome=OrderResult.ACCEPTED.value if code is None else OrderResult.REFUSED.value,
                code="" if code is None else code.value,
                receipt=receipt.raw,
                receipt_signature=unb64u(receipt.signature),
                received_at=now,
            )
        )
        outcome = OrderOutcome(code, receipt)
        self._recorded[key] = _Recorded(incoming.evidence_hash, outcome)
        return outcome
