"""Do the customer and the bank agree? Every order of a plan, compared on every side.

The customer's side is the records on his disk, the bank's its orders, its journal and its
balances. Nothing here knows what happened in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from bank.models import Account, Entry, Order, Transfer
from clients.records import OrderRecord
from clients.storage import StateDirectory
from protocol.banking import Transfer as TransferOrder
from protocol.banking import Withdraw
from protocol.sealing import SignedMessage
from tests.faults.plan import PlannedOrder, number_in

__all__ = ["differences", "total_of_customers"]

OPENING = 1_000
CUSTOMER_ACCOUNTS = ("account1", "account2", "account3")
CASH = "cash-TWC"


def differences(person: str, state: StateDirectory, orders: list[PlannedOrder]) -> list[str]:
    """Return everything in which the sides differ, in words; nothing where all is well.

    :param orders: what was planned; each has to be at the bank exactly once.
    """
    rows = list(Order.objects.filter(person__client_id=person).order_by("pk"))
    planned = {order.number: order for order in orders}
    return [
        *_each_once(rows, planned),
        *_outcomes(rows, planned),
        *_records(rows, state),
        *_journal(rows, planned),
        *_balances(rows, planned),
    ]


def total_of_customers() -> int:
    """Return what the customers have, together with what they have withdrawn."""
    numbers = [*CUSTOMER_ACCOUNTS, CASH]
    balances = dict(Account.objects.filter(number__in=numbers).values_list("number", "balance"))
    return sum(balances[number] for number in numbers)


def _number(row: Order) -> int:
    return number_in(SignedMessage.from_evidence(bytes(row.evidence)).inner)


def _each_once(rows: list[Order], planned: dict[int, PlannedOrder]) -> Iterator[str]:
    times = Counter(_number(row) for row in rows)
    for number in sorted(planned.keys() | times.keys()):
        if times[number] != 1:
            yield f"order {number} is at the bank {times[number]} times"


def _outcomes(rows: list[Order], planned: dict[int, PlannedOrder]) -> Iterator[str]:
    for row in rows:
        number = _number(row)
        if number not in planned:
            yield f"order {number} was never planned"
        elif row.code != (planned[number].refusal or ""):
            yield f"order {number} ended with {row.code!r}, not {planned[number].refusal!r}"


def _records(rows: list[Order], state: StateDirectory) -> Iterator[str]:
    for record in state.unfinished():
        yield f"{record.order_id} is unfinished in the customer's outbox"
    records = {UUID(record.order_id): record for record in state.finished()}
    for row in rows:
        if row.order_id in records:
            yield from _record(row, records.pop(row.order_id))
        else:
            yield f"the customer has no receipt of {row.order_id}"
    for order_id in records:
        yield f"the bank doesn't know {order_id}, of which the customer has a receipt"


def _record(row: Order, record: OrderRecord) -> Iterator[str]:
    if record.receipt is None:
        yield f"{record.order_id} ended at the customer's without a receipt: {record.ending}"
    elif record.receipt.raw != bytes(row.receipt):
        yield f"the receipts of {record.order_id} differ"
    if record.signed.evidence != bytes(row.evidence):
        yield f"the bank's evidence of {record.order_id} is not what the customer signed"


def _journal(rows: list[Order], planned: dict[int, PlannedOrder]) -> Iterator[str]:
    by_order: dict[int, list[tuple[str, str, int]]] = {row.pk: [] for row in rows}
    found = Transfer.objects.filter(order__in=rows).values_list(
        "order_id", "debit_account__number", "credit_account__number", "amount"
    )
    for order, debit, credit, amount in found:
        by_order[order].append((debit, credit, amount))
    for row in rows:
        number = _number(row)
        wanted = [_movement(planned[number])] if not row.code and number in planned else []
        if by_order[row.pk] != wanted:
            yield f"order {number} moved {by_order[row.pk]}, and should have moved {wanted}"


def _movement(planned: PlannedOrder) -> tuple[str, str, int]:
    match planned.order:
        case TransferOrder() as order:
            return order.from_account, order.to_account, int(order.amount)
        case Withdraw() as order:
            return order.account, CASH, int(order.amount)
    raise AssertionError(f"no such order in a plan: {planned.order}")


def _balances(rows: list[Order], planned: dict[int, PlannedOrder]) -> Iterator[str]:
    """Compare with the plan, so that an order booked twice shows in the balances as well."""
    expected = Counter(dict.fromkeys(CUSTOMER_ACCOUNTS, OPENING))
    for order in planned.values():
        if order.refusal is None:
            debit, credit, amount = _movement(order)
            expected[debit] -= amount
            expected[credit] += amount
    for number, balance in expected.items():
        account = Account.objects.get(number=number)
        if account.balance != balance:
            yield f"{number} has {account.balance}, and should have {balance}"
        entries = sum(Entry.objects.filter(account=account).values_list("amount", flat=True))
        if entries != account.balance:
            yield f"{number} has {account.balance}, and its entries add up to {entries}"
    if sum(Account.objects.values_list("balance", flat=True)) != 0:
        yield "money came from nothing, or went there"
