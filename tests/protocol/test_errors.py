from __future__ import annotations

import pytest

from protocol import errors
from protocol.errors import (
    BANK_CODES,
    END_TO_END_CODES,
    RELAY_CODES,
    RETRY,
    BankError,
    Code,
    EndToEndError,
    LocalError,
    ProtocolError,
    RelayError,
    Retry,
    TellerwireError,
    error_for,
)


def test_every_code_has_a_retry_class() -> None:
    assert set(RETRY) == set(Code)
    assert set(RETRY.values()) == set(Retry)


def test_every_code_belongs_to_exactly_one_layer() -> None:
    layers = [*RELAY_CODES, *END_TO_END_CODES, *BANK_CODES]
    assert layers == list(Code)


@pytest.mark.parametrize("code", list(Code))
def test_a_code_becomes_the_error_of_its_layer(code: Code) -> None:
    expected = (
        RelayError
        if code in RELAY_CODES
        else EndToEndError
        if code in END_TO_END_CODES
        else BankError
    )
    error = error_for(code, "words", 250)
    assert type(error) is expected
    assert (error.code, error.detail, error.retry_after_ms) == (code, "words", 250)
    assert error.retry is RETRY[code]
    assert str(error) == f"{code.value}: words"


def test_an_error_without_words_is_its_code() -> None:
    assert str(error_for(Code.BUSY)) == "busy"


def test_a_peers_fault_and_ones_own_are_kept_apart() -> None:
    public = {name: getattr(errors, name) for name in errors.__all__}
    classes = [kind for kind in public.values() if isinstance(kind, type)]
    raised = [kind for kind in classes if issubclass(kind, Exception)]
    assert all(issubclass(kind, TellerwireError) for kind in raised)
    assert not [
        kind for kind in raised if issubclass(kind, ProtocolError) and issubclass(kind, LocalError)
    ]


def test_what_the_bank_decides_for_good_is_final() -> None:
    decided = BANK_CODES[BANK_CODES.index(Code.BAD_ORDER) : BANK_CODES.index(Code.BUSY)]
    assert {RETRY[code] for code in decided} == {Retry.FINAL}


@pytest.mark.parametrize("code", [Code.BUSY, Code.BANK_UNAVAILABLE, Code.INTERNAL, Code.PEER_GONE])
def test_what_leaves_no_trace_is_never_final(code: Code) -> None:
    assert RETRY[code] in {Retry.SAME, Retry.UNKNOWN}
