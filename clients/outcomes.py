"""Outcomes of orders and messages as a person reads them, and as an exit status."""

from __future__ import annotations

from enum import IntEnum

from clients.customer import UNFIT_BANK, Customer, OrderResult, OrderState
from clients.display import amount_text
from clients.errors import RefusedError, StorageError
from clients.messages import DeliveryState, TextResult
from clients.words import in_words
from protocol.banking import BalanceLine, Order, Receipt

__all__ = [
    "FINISH_HINT",
    "ExitStatus",
    "balance_text",
    "late_end_text",
    "order_text",
    "refusal_text",
    "status_of",
    "text_text",
    "twin_texts",
]

FINISH_HINT = "find out with: orders --finish"


class ExitStatus(IntEnum):
    """What the program tells the shell."""

    OK = 0
    FAILED = 1
    """Refused, or impossible."""
    USAGE = 2
    """What was typed, or a configuration file, is wrong."""
    UNKNOWN = 3
    """Whether it happened is not known; nothing is lost, and it can be found out."""


def balance_text(line: BalanceLine) -> str:
    """Return an account's balance in one phrase."""
    balance = amount_text(line.balance, line.exponent)
    text = f"{line.account}: {balance} {line.currency}"
    if line.available != line.balance:
        text += f" ({amount_text(line.available, line.exponent)} available)"
    return text


def _receipt_text(receipt: Receipt) -> str:
    balances = ", ".join(balance_text(line) for line in receipt.balances)
    return f" — now {balances}" if balances else ""


def order_text(result: OrderResult) -> str:
    """Return how an order ended, in one line."""
    match result.state:
        case OrderState.ACCEPTED:
            after = _receipt_text(result.receipt) if result.receipt is not None else ""
            return f"ok: {result.meaning}{after}"
        case OrderState.REFUSED:
            return f"refused: {in_words(result.code, result.detail)} ({result.meaning})"
        case OrderState.NEVER:
            return f"refused: {in_words(result.code, result.detail)} ({result.meaning})"
        case OrderState.UNKNOWN:
            return f"unknown: {result.meaning}{_heard(result)}; {FINISH_HINT}"


def _heard(result: OrderResult) -> str:
    """What was heard last of an order whose outcome is not known."""
    if result.code is None:
        return f"; {result.detail}" if result.detail else ""
    # Whatever the relay's words are, those about keys are mostly this program's own.
    detail = result.detail if result.code in UNFIT_BANK else ""
    return f"; heard last, not proven: {in_words(result.code, detail)}"


def late_end_text(result: OrderResult) -> str:
    """Return in one line how an order of an earlier command ended."""
    accepted = result.state is OrderState.ACCEPTED
    how = "accepted" if accepted else f"refused: {in_words(result.code, result.detail)}"
    return f"order {result.order_id} ({result.meaning}) ended meanwhile: {how}"


def twin_texts(customer: Customer, order: Order) -> list[str]:
    """Return a warning for each unfinished order that asks for the same: it may be the one meant.

    Where the outbox can't be read, that is the warning: it keeps nobody from ordering.
    """
    try:
        twins = customer.unfinished_like(order)
    except StorageError as error:
        return [f"whether the same was ordered before is not known: {error}"]
    return [
        f"an order with the same content is unfinished: {order_id}; `orders --finish` finishes it, "
        "and this is another one"
        for order_id in twins
    ]


def refusal_text(error: RefusedError) -> str:
    """Return a refusal in one line."""
    claimed = "" if error.proven else " (not proven)"
    return f"refused: {in_words(error.code, error.detail)}{claimed}"


def text_text(result: TextResult) -> str:
    """Return what became of a message to a person, in one line."""
    match result.state:
        case DeliveryState.ANSWERED:
            return f"ok: answered by {result.to}"
        case DeliveryState.DELIVERED:
            return f"ok: delivered to {result.to}, says the relay"
        case DeliveryState.QUEUED:
            return f"queued: it waits in the mailbox of {result.to}"
        case DeliveryState.REFUSED:
            claimed = "" if result.proven else " (not proven)"
            return f"refused: {in_words(result.code, result.detail)}{claimed}"
        case DeliveryState.UNKNOWN:
            heard = f"; heard last: {in_words(result.code)}" if result.code else ""
            return f"unknown: it may or may not have reached {result.to}{heard}"


_ORDER_STATUS = {
    OrderState.ACCEPTED: ExitStatus.OK,
    OrderState.REFUSED: ExitStatus.FAILED,
    OrderState.NEVER: ExitStatus.FAILED,
    OrderState.UNKNOWN: ExitStatus.UNKNOWN,
}
_TEXT_STATUS = {
    DeliveryState.ANSWERED: ExitStatus.OK,
    DeliveryState.DELIVERED: ExitStatus.OK,
    DeliveryState.QUEUED: ExitStatus.OK,
    DeliveryState.REFUSED: ExitStatus.FAILED,
    DeliveryState.UNKNOWN: ExitStatus.UNKNOWN,
}


def status_of(result: OrderResult | TextResult) -> ExitStatus:
    """Return the exit status that tells of a result."""
    if isinstance(result, OrderResult):
        return _ORDER_STATUS[result.state]
    return _TEXT_STATUS[result.state]
