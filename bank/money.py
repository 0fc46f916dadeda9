"""Amounts: integers in minor units of a currency, and the decimal text that people read and type.

One unit of a currency with exponent *e* is 10 to the power of *e* minor units. Nothing here
rounds: an amount that can't be represented is refused.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from bank.errors import AmountFault, BadAmountError
from protocol import limits

__all__ = ["AMOUNT_MAX", "format_amount", "parse_amount"]

AMOUNT_MAX: Final = limits.AMOUNT_MINOR_UNITS_MAX
"""The largest amount of one order, in minor units.

Far below 2**63 - 1, so that no sum of a few thousand of them leaves a 64-bit column, and below
2**53, so that a reader that keeps numbers as doubles (JavaScript) sees the exact value.
"""

_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")
_EXPONENT_NOTATION: Final = re.compile(r"[0-9.]+[eE][+-]?[0-9]+")
_SEPARATED: Final = re.compile(r"[0-9]+(?:[,'_.\u2019][0-9]+)+")
_MINUS_SIGNS: Final = "-\u2212"


def parse_amount(text: str, exponent: int) -> int:
    """Return the minor units of an amount as a person typed it.

    :param text: digits 0 to 9, optionally a point and at most ``exponent`` more digits: "100",
        "12.50". No sign, space, separator, exponent or superfluous leading zero.
    :param exponent: how many decimal places the currency has.
    :returns: an integer from 1 to :data:`AMOUNT_MAX`.
    :raises BadAmountError: with the rule that the text breaks.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise BadAmountError(_fault_of(text))
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > exponent:
        raise BadAmountError(AmountFault.TOO_PRECISE)
    digits = whole + fraction.ljust(exponent, "0")
    # The length is looked at first: converting digits by the million takes quadratic time.
    if len(digits.lstrip("0")) > len(str(AMOUNT_MAX)) or int(digits) > AMOUNT_MAX:
        raise BadAmountError(AmountFault.TOO_LARGE)
    if int(digits) == 0:
        raise BadAmountError(AmountFault.ZERO)
    return int(digits)


def format_amount(minor: int, exponent: int) -> str:
    """Return minor units as decimal text: "900", "12.50", "-0.05"; the inverse of parsing."""
    sign = "-" if minor < 0 else ""
    digits = str(abs(minor)).rjust(exponent + 1, "0")
    if exponent == 0:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def _fault_of(text: str) -> AmountFault:
    """Return the most helpful reason why ``text`` is no amount."""
    if not text:
        return AmountFault.EMPTY
    if any(character.isspace() for character in text):
        return AmountFault.SPACES
    if text.startswith("+"):
        return AmountFault.PLUS_SIGN
    if text[0] in _MINUS_SIGNS:
        return AmountFault.NEGATIVE
    if any(unicodedata.category(character)[0] == "N" for character in text if character > "9"):
        return AmountFault.FOREIGN_DIGITS
    if _EXPONENT_NOTATION.fullmatch(text):
        return AmountFault.EXPONENT_NOTATION
    if _SEPARATED.fullmatch(text):
        return AmountFault.THOUSANDS_SEPARATOR
    return AmountFault.NOT_A_NUMBER
