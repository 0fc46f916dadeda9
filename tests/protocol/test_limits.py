from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol import limits
from protocol.banking import (
    AccountLine,
    AccountsResult,
    Answer,
    StatementLine,
    StatementResult,
    encode_answer,
)
from protocol.bundles import SignedBundle
from protocol.encoding import b64u
from protocol.errors import MisuseError
from protocol.frames import Found, Kind, Send, decode_client_frame, decode_relay_frame, encode
from protocol.identifiers import uuid7
from protocol.keys import Suite
from protocol.sealing import SignedMessage, open_reply, seal, seal_reply
from tests.protocol.cast import MESSAGE_ID, REPLY_KEY, bank, envelope

LARGEST = limits.MILLISECONDS_MAX
ID = uuid7(2**48 - 1, b"\xff" * 10)


def test_the_fullest_sealed_message_fits_a_frame() -> None:
    signed = SignedMessage(bytes(64), b"x" * limits.INNER_BYTES_MAX)
    for suite in Suite:
        body = seal(signed, REPLY_KEY, envelope(), bank().bundle.encryption_key(suite))
        assert len(body) <= limits.INNER_BYTES_MAX + limits.SEAL_OVERHEAD_BYTES_MAX
        assert len(body) <= limits.BODY_BYTES_MAX
        frame = Send(
            id=MESSAGE_ID, to="b" * 64, kind=Kind.REQUEST, ttl_ms=limits.TTL_MS_MAX, body=b64u(body)
        )
        assert decode_client_frame(encode(frame)) == frame


def test_sealing_adds_as_much_as_the_limit_says_and_no_more() -> None:
    key = bank().bundle.encryption_key(Suite.HYBRID)
    added = [
        len(seal(SignedMessage(bytes(64), b"x" * size), REPLY_KEY, envelope(), key)) - size
        for size in range(1_000, 1_000 + limits.SEAL_PADDING_BYTES)
    ]
    assert max(added) == limits.SEAL_OVERHEAD_BYTES_MAX


def test_the_longest_body_is_exactly_as_long_as_the_schema_says() -> None:
    assert len(b64u(bytes(limits.BODY_BYTES_MAX))) == limits.BODY_CHARS_MAX


def test_the_fullest_list_of_candidates_fits_a_frame() -> None:
    signed = SignedBundle(b64u(bytes(limits.BUNDLE_BYTES_MAX)), "x" * 86, "x" * 86)
    frame = Found(id=ID, query="\N{GRINNING FACE}" * 208, bundles=[signed] * limits.CANDIDATES_MAX)
    assert decode_relay_frame(encode(frame)) == frame


@pytest.mark.parametrize("char", ["\x01", '"', "\N{GRINNING FACE}"])
def test_the_fullest_statement_fits_an_answer(char: str) -> None:
    line = StatementLine(
        sequence=LARGEST,
        transfer_id=ID,
        kind="withdrawal",
        amount=-(2**63),
        balance_after=-(2**63),
        counterparty="x" * limits.ACCOUNT_NUMBER_CHARS_MAX,
        memo=char * limits.MEMO_CHARS_MAX,
        booked_at=LARGEST,
        value_date=LARGEST,
    )
    page = StatementResult(
        account="x" * limits.ACCOUNT_NUMBER_CHARS_MAX,
        currency="X" * limits.CURRENCY_CODE_CHARS_MAX,
        exponent=6,
        entries=[line] * limits.STATEMENT_ENTRIES_MAX,
        next_before=LARGEST,
        sequence=LARGEST,
    )
    raw = encode_answer(Answer(1, ID, result=page))
    body = seal_reply(REPLY_KEY, bytes(32), raw, bytes(16))
    assert len(body) <= limits.BODY_BYTES_MAX
    assert open_reply(body, REPLY_KEY, bytes(32)) == raw


def test_the_fullest_page_of_accounts_fits_an_answer() -> None:
    line = AccountLine(
        account="x" * limits.ACCOUNT_NUMBER_CHARS_MAX,
        owner="\N{GRINNING FACE}" * (2 * limits.NAME_CHARS_MAX) + ", ",
        owner_kind="organization",
        status="frozen",
        permissions=["view", "transfer", "withdraw", "deposit"],
        balance=-(2**63),
        available=-(2**63),
        currency="X" * limits.CURRENCY_CODE_CHARS_MAX,
        exponent=6,
    )
    page = AccountsResult([line] * limits.ACCOUNTS_MAX, LARGEST, "x" * 34)
    assert len(encode_answer(Answer(1, ID, result=page))) <= limits.INNER_BYTES_MAX


def test_an_answer_that_no_reply_could_hold_is_a_mistake_of_its_writer() -> None:
    line = StatementLine(1, ID, "transfer", 1, 1, "a", "\x01" * 140, 1, None)
    page = StatementResult("a", "TWC", 0, [line] * 100, None, 1)
    with pytest.raises(MisuseError, match="65536 bytes"):
        encode_answer(Answer(1, ID, result=page))
    with pytest.raises(MisuseError, match="65536 bytes"):
        seal_reply(REPLY_KEY, bytes(32), bytes(limits.INNER_BYTES_MAX + 1), bytes(16))


def test_the_largest_time_survives_a_reader_that_counts_in_doubles() -> None:
    assert int(float(limits.MILLISECONDS_MAX)) == limits.MILLISECONDS_MAX
    assert msgspec.json.decode(str(limits.AMOUNT_MINOR_UNITS_MAX), type=int) < 2**53


@pytest.mark.parametrize(
    ("line", "edited", "relation"),
    [
        ("BODY_BYTES_MAX: Final = 81_920", "BODY_BYTES_MAX: Final = 65_536", "sealed message"),
        ("FRAME_BYTES_MAX: Final = 131_072", "FRAME_BYTES_MAX: Final = 100_000", "full body"),
        ("BUNDLE_BYTES_MAX: Final = 8_192", "BUNDLE_BYTES_MAX: Final = 16_384", "candidates"),
        ("STATEMENT_ENTRIES_MAX: Final = 50", "STATEMENT_ENTRIES_MAX: Final = 100", "statement"),
        ("ACCOUNTS_MAX: Final = 50", "ACCOUNTS_MAX: Final = 200", "page of accounts"),
        (
            "TEXT_MESSAGE_CHARS_MAX: Final = 16_000",
            "TEXT_MESSAGE_CHARS_MAX: Final = 20_000",
            "text",
        ),
    ],
)
def test_limits_that_contradict_each_other_cannot_be_imported(
    line: str, edited: str, relation: str
) -> None:
    source = Path(str(limits.__file__)).read_text(encoding="utf-8")
    assert line in source
    with pytest.raises(AssertionError, match=f"contradict each other: .*{relation}"):
        exec(compile(source.replace(line, edited), "limits", "exec"), {})
