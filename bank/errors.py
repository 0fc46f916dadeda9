"""Errors of the bank's own code.

::

    protocol.errors.TellerwireError
    ├── ProtocolError
    │   └── BankError               a customer is refused; carries a wire code
    │       ├── BadAmountError      the amount is refused; carries which rule it breaks
    │       └── CertainNoError      the order can never run, so no record of it is needed
    └── LocalError
        ├── BankSetupError          the bank is not set up so that it could run
        ├── ChangeRefusedError      an operator is refused: admin, command or service
        └── LedgerError             the ledger's database fails, never an order's fault
            ├── LedgerUnavailableError  nothing was recorded
            └── OutcomeUnknownError     it was recorded, or not

A ``BankError`` travels to a customer. A ``ChangeRefusedError`` is shown to whoever runs the bank;
whenever one is raised, nothing was changed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from protocol.errors import BankError, Code, LocalError

__all__ = [
    "AmountFault",
    "BadAmountError",
    "BankError",
    "BankSetupError",
    "CertainNoError",
    "ChangeFault",
    "ChangeRefusedError",
    "LedgerError",
    "LedgerUnavailableError",
    "OutcomeUnknownError",
]


class AmountFault(StrEnum):
    """Which rule a refused amount breaks; the reason behind the code ``bad_amount``."""

    EMPTY = "empty"
    SPACES = "spaces"
    PLUS_SIGN = "plus_sign"
    NEGATIVE = "negative"
    FOREIGN_DIGITS = "foreign_digits"
    EXPONENT_NOTATION = "exponent_notation"
    THOUSANDS_SEPARATOR = "thousands_separator"
    NOT_A_NUMBER = "not_a_number"
    TOO_PRECISE = "too_precise"
    TOO_LARGE = "too_large"
    ZERO = "zero"


_AMOUNT_WORDS: Final = {
    AmountFault.EMPTY: "the amount is empty",
    AmountFault.SPACES: "the amount has a space in it",
    AmountFault.PLUS_SIGN: "the amount has a plus sign; leave it out",
    AmountFault.NEGATIVE: "the amount is negative",
    AmountFault.FOREIGN_DIGITS: "the amount has digits other than 0 to 9",
    AmountFault.EXPONENT_NOTATION: "the amount is in exponent notation; write it out",
    AmountFault.THOUSANDS_SEPARATOR: "the amount has a separator between thousands, or a decimal "
    "comma; write 1234.50",
    AmountFault.NOT_A_NUMBER: "the amount is not a decimal number such as 12.50",
    AmountFault.TOO_PRECISE: "the amount has more decimal places than its currency",
    AmountFault.TOO_LARGE: "the amount is larger than one order may move",
    AmountFault.ZERO: "the amount is zero",
}


class BadAmountError(BankError):
    """An amount is refused under the code ``bad_amount``.

    :param fault: the rule that it breaks.
    """

    def __init__(self, fault: AmountFault) -> None:
        super().__init__(Code.BAD_AMOUNT, _AMOUNT_WORDS[fault])
        self.fault: Final = fault


class CertainNoError(BankError):
    """An order is refused for what never changes again: its expiry, or the end of its key.

    It leaves no record. Every other refusal of an order is recorded, because the same bytes might
    be accepted later.
    """


class ChangeFault(StrEnum):
    """Why a change that an operator asked for was not made."""

    BAD_VALUE = "bad_value"
    """A value is not of the form that it must have."""
    NOT_FOUND = "not_found"
    """What shall be changed, or is referred to, does not exist."""
    ALREADY_EXISTS = "already_exists"
    """Something of that name exists and is different."""
    NOT_ALLOWED = "not_allowed"
    """A rule of the bank forbids it, whoever asks."""
    WRONG_STATE = "wrong_state"
    """It can't be done in the state in which the row is."""
    NEEDS_CONFIRMATION = "needs_confirmation"
    """The operator must confirm it explicitly."""


class ChangeRefusedError(LocalError):
    """A change was not made, and nothing else was changed either.

    :param fault: the kind of reason, for programs.
    :param words: a sentence for the operator.
    """

    def __init__(self, fault: ChangeFault, words: str) -> None:
        super().__init__(words)
        self.fault: Final = fault
        self.words: Final = words


class BankSetupError(LocalError):
    """The bank can't run as it is set up; the words say what to do about it."""


class LedgerError(LocalError):
    """The ledger's database failed while orders were booked."""


class LedgerUnavailableError(LedgerError):
    """The database can't be reached. What was not answered is not recorded."""


class OutcomeUnknownError(LedgerError):
    """The connection was lost in the commit: the orders are all recorded, or none of them is.

    Nothing may be said about them. Whoever sends one again gets the stored receipt, or has it
    decided then.
    """
