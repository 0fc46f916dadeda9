"""The grammar of scripted actions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.actions import BankAction, SendAction, check_currency, parse_action
from clients.errors import ActionError
from protocol.banking import Transfer, Withdraw


@pytest.mark.parametrize(
    ("source", "recipient", "text"),
    [
        ("SEND [ben] Hello", "ben", "Hello"),
        ("SEND [ben] [Hello]", "ben", "[Hello]"),
        ("SEND [ben]   two  spaces ", "ben", "two  spaces "),
        ("SEND [ben] one\nand another line", "ben", "one\nand another line"),
        ("SEND [ben] ADD [a] [b] [1]", "ben", "ADD [a] [b] [1]"),
        ("SEND [Ärlig, Ada] Hallo", "Ärlig, Ada", "Hallo"),
        ("SEND [ Ada, Ärlig ] Hallo", "Ada, Ärlig", "Hallo"),
    ],
)
def test_texts_to_persons_are_kept_as_they_are(source: str, recipient: str, text: str) -> None:
    assert parse_action(source, "bank") == SendAction(source, recipient, text)


def test_orders_to_the_bank() -> None:
    add = "SEND [bank] ADD [account1]  [account2] [ 12.50 ]"
    assert parse_action(add, "bank") == BankAction(add, Transfer("account1", "account2", "12.50"))
    other_case = "SEND [Bank] ADD [account1] [account2] [100]"
    transfer = Transfer("account1", "account2", "100")
    assert parse_action(other_case, "bank") == BankAction(other_case, transfer)
    sub = "SEND [bank] SUB [account1] [-1]"
    assert parse_action(sub, "bank") == BankAction(sub, Withdraw("account1", "-1"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "no action"),
        ("send [ben] hi", "no action"),
        ("SEND ben hi", "no action"),
        ("SEND [ben]hi", "no action"),
        ("SEND [ben] ", "no action"),
        (" SEND [ben] hi", "no action"),
        ("SEND [] hi", "no client id"),
        ("SEND [a b] hi", "no client id"),
        ("SEND [a, b, c] hi", "no name"),
        ("SEND [,] hi", "1 to 100 characters"),
        ("SEND [ben] " + "x" * 16_001, "at most 16000"),
        ("SEND [bank] Hello", "nothing that the bank understands"),
        ("SEND [bank] ADD [a] [b]", "nothing that the bank understands"),
        ("SEND [bank] ADD [a] [b] [1] [2]", "nothing that the bank understands"),
        ("SEND [bank] ADD [a] [b] [1] now", "nothing that the bank understands"),
        ("SEND [bank] add [a] [b] [1]", "nothing that the bank understands"),
        ("SEND [bank] SUB [a] [[1]]", "nothing that the bank understands"),
        ("SEND [bank] ADD [a b] [c] [1]", "no account number"),
        ("SEND [bank] ADD [a] [] [1]", "no account number"),
        ("SEND [bank] SUB [a] []", "an amount has"),
        ("SEND [bank] SUB [a] [" + "1" * 257 + "]", "an amount has"),
    ],
)
def test_everything_else_is_refused_in_words(source: str, words: str) -> None:
    with pytest.raises(ActionError, match=words):
        parse_action(source, "bank")


@pytest.mark.parametrize("text", ["", "eur", "EU", "1EUR", "E" * 13, "EUR\n", "ÄUR"])
def test_a_currency_looks_like_one(text: str) -> None:
    with pytest.raises(ActionError, match="is no currency: 3 to 12 capital letters"):
        check_currency(text)
    assert check_currency("EUR") == "EUR"
    assert check_currency(None) is None


@given(st.text(alphabet="SENDABU[] ,a1.\n", max_size=60))
def test_any_text_is_an_action_or_a_named_error(source: str) -> None:
    try:
        action = parse_action(source, "bank")
    except ActionError:
        return
    assert action.source == source
