"""The grammar of scripted actions, in front of typed orders.

::

    action    = "SEND" space "[" recipient "]" space text
    recipient = a client id | "Last, First" | "First, Last"

To the bank's id, ``text`` is a command and nothing else::

    command = "ADD" space "[" account "]" space "[" account "]" space "[" amount "]"
            | "SUB" space "[" account "]" space "[" amount "]"

ADD transfers from the first account to the second, SUB withdraws; the names are the original's. To
a person ``text`` is sent exactly as it is written, brackets included. All actions are read before
the first one is carried out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clients.errors import ActionError
from protocol import limits
from protocol.banking import Order, Transfer, Withdraw
from protocol.identifiers import (
    ACCOUNT_NUMBER_PATTERN,
    CURRENCY_PATTERN,
    check_client_id,
    is_name_query,
    split_name,
)

__all__ = [
    "Action",
    "BankAction",
    "SendAction",
    "check_account",
    "check_amount",
    "check_currency",
    "looks_like_order",
    "parse_action",
]

_ACTION: Final = re.compile(r"SEND +\[([^\[\]]*)\] +(\S.*)", re.DOTALL)
_ADD: Final = re.compile(r"ADD +\[([^\[\]]*)\] +\[([^\[\]]*)\] +\[([^\[\]]*)\] *")
_SUB: Final = re.compile(r"SUB +\[([^\[\]]*)\] +\[([^\[\]]*)\] *")
_ORDER_LIKE: Final = re.compile(r"(ADD|SUB) *\[")
_EXAMPLE: Final = "SEND [recipient] text"


@dataclass(frozen=True, slots=True)
class SendAction:
    """Send a text to a person."""

    source: str
    recipient: str
    text: str


@dataclass(frozen=True, slots=True)
class BankAction:
    """Send an order to the bank."""

    source: str
    order: Order


Action = SendAction | BankAction


def parse_action(source: str, bank_id: str) -> Action:
    """Return the action that a line of a script asks for.

    :raises ActionError: with words that say what is wrong with it.
    """
    match = _ACTION.fullmatch(source)
    if match is None:
        raise ActionError(f"{source!r} is no action; actions look like: {_EXAMPLE}")
    recipient, text = match[1].strip(), match[2]
    # Ids that differ in case alone are one id to the relay, and so they are here.
    if recipient.casefold() == bank_id.casefold():
        return BankAction(source, _parse_order(text, bank_id))
    _check_recipient(recipient)
    if len(text) > limits.TEXT_MESSAGE_CHARS_MAX:
        raise ActionError(f"a message has at most {limits.TEXT_MESSAGE_CHARS_MAX} characters")
    return SendAction(source, recipient, text)


def looks_like_order(text: str) -> bool:
    """Return whether a text that is for a person begins as the bank's commands do."""
    return _ORDER_LIKE.match(text) is not None


def _check_recipient(recipient: str) -> None:
    try:
        if is_name_query(recipient):
            split_name(recipient)
        else:
            check_client_id(recipient)
    except ValueError as error:
        raise ActionError(f"the recipient: {error}") from error


def _parse_order(text: str, bank_id: str) -> Order:
    transfer = _ADD.fullmatch(text)
    if transfer is not None:
        source, destination, amount = (part.strip() for part in transfer.groups())
        check_account(source)
        check_account(destination)
        return Transfer(from_account=source, to_account=destination, amount=check_amount(amount))
    withdrawal = _SUB.fullmatch(text)
    if withdrawal is not None:
        account, amount = (part.strip() for part in withdrawal.groups())
        return Withdraw(account=check_account(account), amount=check_amount(amount))
    raise ActionError(
        f"{text!r} is nothing that the bank understands; it takes "
        f"`SEND [{bank_id}] ADD [from account] [to account] [amount]` and "
        f"`SEND [{bank_id}] SUB [account] [amount]`"
    )


def check_account(text: str) -> str:
    """Return ``text`` if it can be an account's number.

    :raises ActionError: with words that say what a number looks like.
    """
    if not re.match(ACCOUNT_NUMBER_PATTERN, text):
        raise ActionError(
            f"{text!r} is no account number: 1 to {limits.ACCOUNT_NUMBER_CHARS_MAX} letters a-z, "
            "digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return text


def check_amount(text: str) -> str:
    """Return ``text`` if it can be looked at as an amount; the bank decides what it is worth.

    :raises ActionError: if it is empty or longer than any amount.
    """
    if not 1 <= len(text) <= limits.AMOUNT_CHARS_MAX:
        raise ActionError(f"an amount has 1 to {limits.AMOUNT_CHARS_MAX} characters")
    return text


def check_currency(text: str | None) -> str | None:
    """Return ``text`` if it can be a currency's code, or is None.

    :raises ActionError: with words that say what a code looks like.
    """
    if text is not None and not re.match(CURRENCY_PATTERN, text):
        raise ActionError(
            f"{text!r} is no currency: 3 to {limits.CURRENCY_CODE_CHARS_MAX} capital letters A-Z "
            "or digits, beginning with a letter, as EUR"
        )
    return text
