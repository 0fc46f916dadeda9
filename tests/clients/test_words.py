"""Words for people: every code has them, and no text can take over a terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.commands.options import PrintableLines
from clients.customer import OrderResult, OrderState
from clients.display import amount_text, printable
from clients.errors import RefusedError
from clients.messages import DeliveryState, TextResult
from clients.outcomes import ExitStatus, order_text, refusal_text, status_of, text_text
from clients.words import WORDS, in_words
from protocol.errors import Code


def test_every_code_has_words_of_its_own() -> None:
    assert set(WORDS) == set(Code)
    assert len(set(WORDS.values())) == len(WORDS)
    assert all(words and words == words.strip() and words[-1] != "." for words in WORDS.values())


def test_words_that_came_with_a_code_go_first() -> None:
    assert in_words(Code.BUSY) == f"busy — {WORDS[Code.BUSY]}"
    assert in_words(Code.BUSY, "come at noon") == "busy — come at noon"
    assert in_words(None) == "no reason was given"


def test_what_isnt_proven_is_said_to_be_so() -> None:
    assert refusal_text(RefusedError(Code.BUSY, proven=True)).startswith("refused: busy — ")
    assert refusal_text(RefusedError(Code.BUSY, proven=False)).endswith("(not proven)")


@pytest.mark.parametrize("state", list(OrderState))
def test_every_outcome_of_an_order_has_words_and_a_status(state: OrderState) -> None:
    code = None if state is OrderState.ACCEPTED else Code.ORDER_EXPIRED
    result = OrderResult("id", "transfer 1 from a to b", state, None, code, "", Path("x"))
    expected = {
        OrderState.ACCEPTED: ("ok: ", ExitStatus.OK),
        OrderState.REFUSED: ("refused: order_expired", ExitStatus.FAILED),
        OrderState.NEVER: ("refused: order_expired", ExitStatus.FAILED),
        OrderState.UNKNOWN: ("unknown: ", ExitStatus.UNKNOWN),
    }[state]
    assert order_text(result).startswith(expected[0])
    assert "transfer 1 from a to b" in order_text(result)
    assert status_of(result) is expected[1]


@pytest.mark.parametrize("state", list(DeliveryState))
def test_every_outcome_of_a_message_has_words_and_a_status(state: DeliveryState) -> None:
    code = Code.UNKNOWN_SENDER if state is DeliveryState.REFUSED else None
    result = TextResult("id", "ben", state, code, "", proven=False)
    expected = {
        DeliveryState.ANSWERED: ("ok: answered by ben", ExitStatus.OK),
        DeliveryState.DELIVERED: ("ok: delivered to ben", ExitStatus.OK),
        DeliveryState.QUEUED: ("queued: ", ExitStatus.OK),
        DeliveryState.REFUSED: ("refused: unknown_sender", ExitStatus.FAILED),
        DeliveryState.UNKNOWN: ("unknown: ", ExitStatus.UNKNOWN),
    }[state]
    assert text_text(result).startswith(expected[0])
    assert status_of(result) is expected[1]


@pytest.mark.parametrize(
    ("minor_units", "exponent", "text"),
    [
        (0, 0, "0"),
        (1000, 0, "1000"),
        (-5, 0, "-5"),
        (5, 2, "0.05"),
        (-5, 2, "-0.05"),
        (1250, 2, "12.50"),
        (10**15, 6, "1000000000.000000"),
    ],
)
def test_amounts_are_shown_as_decimals(minor_units: int, exponent: int, text: str) -> None:
    assert amount_text(minor_units, exponent) == text


@given(st.text())
def test_nothing_reaches_the_terminal_that_could_steer_it(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() or char.isspace() for char in shown)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert printable("Ärlig, Ada: 你好 👋 ok") == "Ärlig, Ada: 你好 👋 ok"


def test_what_a_relay_said_can_not_move_the_cursor_of_who_reads_the_log() -> None:
    lines = PrintableLines("%(name)s %(message)s")
    try:
        raise ValueError("a\x1b[2Jreason")
    except ValueError:
        told = logging.LogRecord(
            name="tellerwire.client",
            level=logging.WARNING,
            pathname="",
            lineno=1,
            msg="the relay reports %s",
            args=("b\x1b[31m\nc",),
            exc_info=sys.exc_info(),
        )
    shown = lines.format(told)
    first, *traceback = shown.split("\n")
    assert first == r"tellerwire.client the relay reports b\x1b[31m\nc"
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == r"ValueError: a\x1b[2Jreason"
