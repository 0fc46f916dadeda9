"""Amounts: what is read, what is refused and by which name, and that nothing is rounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.errors import AmountFault, BadAmountError
from bank.money import AMOUNT_MAX, format_amount, parse_amount
from protocol.errors import Code

EXPONENTS = st.integers(min_value=0, max_value=6)
AMOUNTS = st.integers(min_value=1, max_value=AMOUNT_MAX)


@pytest.mark.parametrize(
    ("text", "exponent", "minor"),
    [
        ("100", 0, 100),
        ("1", 0, 1),
        ("12.50", 2, 1250),
        ("12.5", 2, 1250),
        ("12", 2, 1200),
        ("0.01", 2, 1),
        ("0.000001", 6, 1),
        ("1000000000000000", 0, AMOUNT_MAX),
        ("10000000000000.00", 2, AMOUNT_MAX),
    ],
)
def test_reads_decimal_text_as_minor_units(text: str, exponent: int, minor: int) -> None:
    assert parse_amount(text, exponent) == minor


@pytest.mark.parametrize(
    ("text", "exponent", "fault"),
    [
        ("", 0, AmountFault.EMPTY),
        (" 100", 0, AmountFault.SPACES),
        ("100 ", 0, AmountFault.SPACES),
        ("1 000", 0, AmountFault.SPACES),
        ("1\u00a0000", 0, AmountFault.SPACES),
        ("100\n", 0, AmountFault.SPACES),
        ("+100", 0, AmountFault.PLUS_SIGN),
        ("-100", 0, AmountFault.NEGATIVE),
        ("-0", 0, AmountFault.NEGATIVE),
        ("\u2212100", 0, AmountFault.NEGATIVE),
        ("\u0661\u0662\u0663", 0, AmountFault.FOREIGN_DIGITS),
        ("\u0967\u0968", 0, AmountFault.FOREIGN_DIGITS),
        ("\uff11\uff10", 0, AmountFault.FOREIGN_DIGITS),
        ("1\u00b2", 0, AmountFault.FOREIGN_DIGITS),
        ("1e3", 0, AmountFault.EXPONENT_NOTATION),
        ("1E+3", 0, AmountFault.EXPONENT_NOTATION),
        ("1.5e3", 2, AmountFault.EXPONENT_NOTATION),
        ("1,000", 0, AmountFault.THOUSANDS_SEPARATOR),
        ("1'000", 0, AmountFault.THOUSANDS_SEPARATOR),
        ("1_000", 0, AmountFault.THOUSANDS_SEPARATOR),
        ("1.000.000", 2, AmountFault.THOUSANDS_SEPARATOR),
        ("12,50", 2, AmountFault.THOUSANDS_SEPARATOR),
        ("abc", 0, AmountFault.NOT_A_NUMBER),
        ("NaN", 0, AmountFault.NOT_A_NUMBER),
        ("Infinity", 0, AmountFault.NOT_A_NUMBER),
        ("0x10", 0, AmountFault.NOT_A_NUMBER),
        (".5", 2, AmountFault.NOT_A_NUMBER),
        ("5.", 2, AmountFault.NOT_A_NUMBER),
        ("007", 0, AmountFault.NOT_A_NUMBER),
        ("100\u0000", 0, AmountFault.NOT_A_NUMBER),
        ("1.5", 0, AmountFault.TOO_PRECISE),
        ("1.00", 0, AmountFault.TOO_PRECISE),
        ("0.001", 2, AmountFault.TOO_PRECISE),
        ("1000000000000001", 0, AmountFault.TOO_LARGE),
        ("10000000000000.01", 2, AmountFault.TOO_LARGE),
        ("9223372036854775808", 0, AmountFault.TOO_LARGE),
        ("9" * 100_000, 0, AmountFault.TOO_LARGE),
        ("0", 0, AmountFault.ZERO),
        ("0.00", 2, AmountFault.ZERO),
    ],
)
def test_refuses_by_name(text: str, exponent: int, fault: AmountFault) -> None:
    with pytest.raises(BadAmountError) as caught:
        parse_amount(text, exponent)
    assert caught.value.code is Code.BAD_AMOUNT
    assert caught.value.fault is fault
    assert caught.value.detail


@pytest.mark.parametrize(
    ("minor", "exponent", "text"),
    [
        (900, 0, "900"),
        (1250, 2, "12.50"),
        (0, 0, "0"),
        (0, 2, "0.00"),
        (5, 2, "0.05"),
        (-5, 2, "-0.05"),
        (-1250, 2, "-12.50"),
        (1_234_567, 0, "1234567"),
    ],
)
def test_formats_without_rounding(minor: int, exponent: int, text: str) -> None:
    assert format_amount(minor, exponent) == text


@given(AMOUNTS, EXPONENTS)
def test_what_is_formatted_reads_back_the_same(minor: int, exponent: int) -> None:
    assert parse_amount(format_amount(minor, exponent), exponent) == minor


@given(st.text(max_size=40), EXPONENTS)
def test_any_text_is_an_amount_within_bounds_or_refused_by_name(text: str, exponent: int) -> None:
    try:
        minor = parse_amount(text, exponent)
    except BadAmountError:
        return
    assert 1 <= minor <= AMOUNT_MAX
    assert text.isascii()


@given(st.from_regex(r"\A[0-9.,eE+' -]{1,24}\Z"), EXPONENTS)
def test_what_is_accepted_means_what_it_says(text: str, exponent: int) -> None:
    try:
        minor = parse_amount(text, exponent)
    except BadAmountError:
        return
    whole, _, fraction = text.partition(".")
    assert minor == int(whole) * 10**exponent + int(fraction.ljust(exponent, "0") or 0)
