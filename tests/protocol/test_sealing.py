from __future__ import annotations

import dataclasses
import functools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.banking import decode_order
from protocol.encoding import b64u
from protocol.errors import Code, MisuseError
from protocol.frames import Deliver
from protocol.keys import Suite
from protocol.sealing import (
    Envelope,
    Inner,
    SignedMessage,
    UnsealedRefusalError,
    check_times,
    compose,
    open_reply,
    open_sealed,
    refusal_body,
    seal,
    seal_reply,
    sealed_to,
    verify_evidence,
)
from tests.protocol.cast import (
    DAY,
    MESSAGE_ID,
    NOW,
    ORDER,
    OTHER_ID,
    REPLY_KEY,
    ada,
    bank,
    client,
    envelope,
    mallory,
    open_at_bank,
    refusal,
    seal_to_bank,
    signed_order,
)

SUITE_AND_KEY_ID = 9


@pytest.fixture(scope="module")
def body() -> bytes:
    return seal_to_bank(signed_order())


def _inner_members() -> dict[str, Any]:
    members: dict[str, Any] = msgspec.json.decode(signed_order().inner)
    return members


def _signed_by_ada(inner: bytes) -> SignedMessage:
    return SignedMessage(ada().identity.sign(b"tw1 message\0" + inner), inner)


# --- The whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", list(Suite))
def test_what_was_sealed_is_opened(suite: Suite) -> None:
    signed = signed_order()
    body = seal_to_bank(signed, suite)
    assert sealed_to(body) == (suite, bank().bundle.encryption_key(suite).key_id)
    sender = ada() if suite is Suite.HYBRID else client("ada-classic", Suite.CLASSIC)
    opened = open_sealed(
        body,
        envelope(),
        prekeys=bank().prekeys,
        sender_identity=ada().identity.public,
        sender_suites=sender.bundle.suites,
        now=NOW,
    )
    assert opened.signed == signed
    assert opened.reply_key == REPLY_KEY
    assert decode_order(bytes(opened.inner.content)) == ORDER


def test_a_retry_is_the_same_message_in_another_body(body: bytes) -> None:
    again = seal_to_bank(signed_order())
    assert again != body
    assert open_at_bank(again).signed == open_at_bank(body).signed


def test_lengths_tell_nothing_finer_than_256_bytes() -> None:
    def length(memo: str) -> int:
        order = msgspec.structs.replace(ORDER, memo=memo)
        signed = compose(
            ada().identity,
            envelope(),
            purpose="bank.order",
            content=order,
            issued_at=NOW,
            expires_at=NOW + DAY,
            reply_key=REPLY_KEY,
        )
        return len(seal_to_bank(signed))

    lengths = {length("m" * size) for size in range(0, 141, 4)}
    assert len(lengths) <= 2
    assert {size % 256 for size in lengths} == {(SUITE_AND_KEY_ID + 1_120 + 16) % 256}


# --- Every outer and inner field flipped ----------------------------------------------------------

ENVELOPE_FLIPS: dict[str, Any] = {
    "id": OTHER_ID,
    "re": OTHER_ID,
    "sender": "mallory",
    "sender_fingerprint": mallory().fingerprint,
    "recipient": "mallory",
    "recipient_fingerprint": mallory().fingerprint,
}
DELIVER_TO_ENVELOPE = {"id": "id", "re": "re", "from": "sender"}
DELIVER_HINTS = {"kind", "attempt", "accepted_at"}
"""What the relay says of a delivery that is neither signed nor sealed, and decides nothing."""

INNER_FLIPS: dict[str, Any] = {
    "version": 2,
    "purpose": "bank.query",
    "id": OTHER_ID,
    "re": OTHER_ID,
    "from": "mallory",
    "from_fingerprint": b64u(mallory().fingerprint),
    "to": "mallory",
    "to_fingerprint": b64u(mallory().fingerprint),
    "issued_at": NOW - 1,
    "expires_at": NOW + DAY + 1,
    "reply_key_hash": b64u(bytes(32)),
    "content": {"operation": "withdraw", "account": "account1", "amount": "100"},
}
SENDERS_OWN_CHOICE = {"purpose", "issued_at", "expires_at", "content"}
"""What only the signature holds: whoever may sign may say it otherwise, in another message."""


def test_every_outer_field_has_a_flip() -> None:
    assert set(ENVELOPE_FLIPS) == {field.name for field in dataclasses.fields(Envelope)}
    delivered = {field.encode_name for field in msgspec.structs.fields(Deliver)}
    assert delivered == {*DELIVER_TO_ENVELOPE, *DELIVER_HINTS, "body"}
    assert set(DELIVER_TO_ENVELOPE.values()) <= set(ENVELOPE_FLIPS)


@pytest.mark.parametrize("field", ENVELOPE_FLIPS)
def test_every_flipped_outer_field_is_refused(field: str, body: bytes) -> None:
    assert getattr(envelope(), field) != ENVELOPE_FLIPS[field]
    flipped = dataclasses.replace(envelope(), **{field: ENVELOPE_FLIPS[field]})
    assert refusal(lambda: open_at_bank(body, flipped)) == "not_authentic"


def test_every_inner_field_has_a_flip() -> None:
    assert set(INNER_FLIPS) == {field.encode_name for field in msgspec.structs.fields(Inner)}
    assert set(INNER_FLIPS) == set(_inner_members())


@pytest.mark.parametrize("member", INNER_FLIPS)
def test_every_inner_field_flipped_after_signing_is_refused(member: str) -> None:
    members = _inner_members()
    assert members[member] != INNER_FLIPS[member]
    edited = msgspec.json.encode(members | {member: INNER_FLIPS[member]})
    resealed = seal_to_bank(SignedMessage(signed_order().signature, edited))
    assert refusal(lambda: open_at_bank(resealed)) == "not_authentic"
    evidence = signed_order().signature + edited
    assert refusal(lambda: verify_evidence(evidence, ada().identity.public)) == "not_authentic"


@pytest.mark.parametrize("member", sorted(set(INNER_FLIPS) - SENDERS_OWN_CHOICE))
def test_every_inner_field_that_contradicts_the_outside_is_refused(member: str) -> None:
    edited = msgspec.json.encode(_inner_members() | {member: INNER_FLIPS[member]})
    resealed = seal_to_bank(_signed_by_ada(edited))
    assert refusal(lambda: open_at_bank(resealed)) == "bad_message"


@pytest.mark.parametrize("member", INNER_FLIPS)
def test_an_inner_field_that_is_missing_is_refused(member: str) -> None:
    members = {name: value for name, value in _inner_members().items() if name != member}
    sealed = seal_to_bank(_signed_by_ada(msgspec.json.encode(members)))
    assert refusal(lambda: open_at_bank(sealed)) == "bad_message"


def test_an_inner_field_more_is_refused() -> None:
    members = _inner_members() | {"extra": None}
    sealed = seal_to_bank(_signed_by_ada(msgspec.json.encode(members)))
    assert refusal(lambda: open_at_bank(sealed)) == "bad_message"


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def _positions(length: int) -> list[int]:
    """Return every byte of what is in front, and every 37th of the rest, with the last."""
    return sorted({*range(SUITE_AND_KEY_ID + 1), *range(0, length, 37), length - 1})


@pytest.mark.parametrize("suite", list(Suite))
def test_every_flipped_byte_of_the_body_is_refused(suite: Suite) -> None:
    body = seal_to_bank(signed_order(), suite)
    for position in _positions(len(body)):
        code = refusal(functools.partial(open_at_bank, _flipped(body, position)))
        expected = {"unknown_key_id"} if 0 < position < SUITE_AND_KEY_ID else {"not_authentic"}
        if position == 0:
            expected = {"unknown_key_id", "not_authentic"}
        assert code in expected, position


# --- Who may not, and when ------------------------------------------------------------------------


def test_a_message_for_another_recipient_is_refused(body: bytes) -> None:
    refused = refusal(
        lambda: open_sealed(
            body,
            envelope(),
            prekeys=mallory().prekeys,
            sender_identity=ada().identity.public,
            sender_suites=list(Suite),
            now=NOW,
        )
    )
    assert refused == "unknown_key_id"


def test_a_message_signed_by_another_is_refused() -> None:
    inner = signed_order().inner
    forged = SignedMessage(mallory().identity.sign(b"tw1 message\0" + inner), inner)
    assert refusal(lambda: open_at_bank(seal_to_bank(forged))) == "not_authentic"


def test_a_recipient_cannot_pass_a_message_on_in_the_senders_name() -> None:
    # Mallory opened a message of Ada to him, and seals the same signed bytes to the bank.
    to_mallory = dataclasses.replace(
        envelope(), recipient="mallory", recipient_fingerprint=mallory().fingerprint
    )
    signed = compose(
        ada().identity,
        to_mallory,
        purpose="bank.order",
        content=ORDER,
        issued_at=NOW,
        expires_at=NOW + DAY,
        reply_key=REPLY_KEY,
    )
    assert refusal(lambda: open_at_bank(seal_to_bank(signed))) == "bad_message"


def test_a_downgrade_is_refused_where_both_sides_offer_better() -> None:
    classic = seal_to_bank(signed_order(), Suite.CLASSIC)
    assert refusal(lambda: open_at_bank(classic)) == "downgrade_refused"


def test_a_stranger_does_not_learn_of_the_downgrade_rule() -> None:
    unsigned = SignedMessage(bytes(64), signed_order().inner)
    classic = seal_to_bank(unsigned, Suite.CLASSIC)
    assert refusal(lambda: open_at_bank(classic)) == "not_authentic"


def test_times_are_checked(body: bytes) -> None:
    early, late = NOW - limits.CLOCK_TOLERANCE_MS, NOW + DAY
    assert refusal(lambda: open_at_bank(body, now=early)) is None
    assert refusal(lambda: open_at_bank(body, now=early - 1)) == "clock_skew"
    assert refusal(lambda: open_at_bank(body, now=late - 1)) is None
    assert refusal(lambda: open_at_bank(body, now=late)) == "message_expired"


def test_the_caller_may_check_the_times_itself(body: bytes) -> None:
    opened = open_sealed(
        body,
        envelope(),
        prekeys=bank().prekeys,
        sender_identity=ada().identity.public,
        sender_suites=list(Suite),
        now=None,
    )
    assert refusal(lambda: check_times(opened.inner, NOW + 2 * DAY)) == "message_expired"


@pytest.mark.parametrize("lifetime", [0, -1, limits.MESSAGE_LIFETIME_MS_MAX + 1])
def test_a_lifetime_that_is_none_or_too_long_is_refused(lifetime: int) -> None:
    members = _inner_members() | {"expires_at": NOW + lifetime}
    sealed = seal_to_bank(_signed_by_ada(msgspec.json.encode(members)))
    assert refusal(lambda: open_at_bank(sealed)) == "bad_message"


def test_misuse_is_told_apart_from_what_peers_do() -> None:
    with pytest.raises(MisuseError, match="32 bytes"):
        _compose(reply_key=bytes(31))
    with pytest.raises(MisuseError, match="65536 bytes"):
        _compose(content=msgspec.structs.replace(ORDER, memo="m" * 65_536))
    with pytest.raises(MisuseError, match="16 bytes"):
        seal_reply(REPLY_KEY, bytes(32), b"", bytes(15))


def _compose(**changes: Any) -> SignedMessage:
    arguments: dict[str, Any] = {
        "purpose": "bank.order",
        "content": ORDER,
        "issued_at": NOW,
        "expires_at": NOW + DAY,
        "reply_key": REPLY_KEY,
    }
    return compose(ada().identity, envelope(), **(arguments | changes))


# --- Evidence -------------------------------------------------------------------------------------


def test_evidence_is_checked_offline() -> None:
    signed = signed_order()
    inner = verify_evidence(signed.evidence, ada().identity.public)
    assert (inner.id, inner.sender) == (MESSAGE_ID, "ada")
    assert SignedMessage.from_evidence(signed.evidence) == signed
    wrong = mallory().identity.public
    assert refusal(lambda: verify_evidence(signed.evidence, wrong)) == "not_authentic"


@given(st.binary(max_size=200))
def test_only_named_errors_come_out_of_damaged_evidence(evidence: bytes) -> None:
    code = refusal(lambda: verify_evidence(evidence, ada().identity.public))
    assert code == "not_authentic"


# --- Fuzz -----------------------------------------------------------------------------------------


@given(st.binary(max_size=1_500))
def test_only_named_errors_come_out_of_a_body(body: bytes) -> None:
    assert refusal(lambda: open_at_bank(body)) in {"not_authentic", "unknown_key_id"}


@settings(max_examples=60)
@given(st.sampled_from(list(Suite)), st.binary(max_size=1_500))
def test_only_named_errors_come_out_of_a_ciphertext(suite: Suite, rest: bytes) -> None:
    body = bytes((suite.value,)) + bank().bundle.encryption_key(suite).key_id + rest
    assert refusal(lambda: open_at_bank(body)) == "not_authentic"


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_only_named_errors_come_out_of_a_signed_inner(inner: bytes) -> None:
    sealed = seal_to_bank(_signed_by_ada(inner))
    assert refusal(lambda: open_at_bank(sealed)) == "bad_message"


@settings(max_examples=60)
@given(st.sampled_from(sorted(INNER_FLIPS)), st.none() | st.integers() | st.text(max_size=70))
def test_only_named_errors_come_out_of_a_damaged_member(member: str, value: Any) -> None:
    inner = msgspec.json.encode(_inner_members() | {member: value})
    sealed = seal_to_bank(_signed_by_ada(inner))
    codes = {"bad_message", "message_expired", "clock_skew", None}
    assert refusal(lambda: open_at_bank(sealed)) in codes


def test_a_body_longer_than_any_can_be_is_refused_unopened() -> None:
    too_long = seal_to_bank(signed_order()) + bytes(limits.BODY_BYTES_MAX)
    assert refusal(lambda: open_at_bank(too_long)) == "not_authentic"


# --- Replies --------------------------------------------------------------------------------------


def test_a_reply_is_opened_with_the_key_of_its_request() -> None:
    request = signed_order().hash
    reply = seal_reply(REPLY_KEY, request, b'{"version":1}', bytes(16))
    assert open_reply(reply, REPLY_KEY, request) == b'{"version":1}'


def test_two_workers_answer_differently_and_both_are_understood() -> None:
    request = signed_order().hash
    one, other = (seal_reply(REPLY_KEY, request, b"yes", bytes(15) + bytes((n,))) for n in range(2))
    assert one != other
    assert open_reply(one, REPLY_KEY, request) == open_reply(other, REPLY_KEY, request)


def test_every_flipped_byte_of_a_reply_is_refused() -> None:
    request = signed_order().hash
    reply = seal_reply(REPLY_KEY, request, b"yes", bytes(16))
    for position in range(1, len(reply)):
        flipped = _flipped(reply, position)
        code = refusal(functools.partial(open_reply, flipped, REPLY_KEY, request))
        assert code == "not_authentic"


@given(st.binary(max_size=400).filter(lambda data: data[:1] != b"\0"))
def test_only_named_errors_come_out_of_a_reply(reply: bytes) -> None:
    assert refusal(lambda: open_reply(reply, REPLY_KEY, bytes(32))) == "not_authentic"


@given(st.binary(max_size=60))
def test_only_named_errors_come_out_of_an_unsealed_refusal(rest: bytes) -> None:
    assert refusal(lambda: open_reply(b"\0" + rest, REPLY_KEY, bytes(32))) == "not_authentic"


@pytest.mark.parametrize("code", list(Code))
def test_an_unsealed_refusal_is_no_answer(code: Code) -> None:
    with pytest.raises(UnsealedRefusalError) as caught:
        open_reply(refusal_body(code), REPLY_KEY, bytes(32))
    assert caught.value.code is code


@pytest.mark.parametrize("size", [0, 1, 251, 252, 253, 1_000])
def test_answers_are_padded_to_256_bytes(size: int) -> None:
    reply = seal_reply(REPLY_KEY, bytes(32), bytes(size), bytes(16))
    assert (len(reply) - 1 - 16 - 16) % 256 == 0
    assert open_reply(reply, REPLY_KEY, bytes(32)) == bytes(size)


# --- Secrets --------------------------------------------------------------------------------------


def test_no_repr_shows_a_secret_or_a_content(body: bytes) -> None:
    opened = open_at_bank(body)
    shown = repr([opened, opened.inner, opened.signed, envelope()])
    for secret in (REPLY_KEY.hex(), repr(REPLY_KEY), b64u(REPLY_KEY), "account1", ORDER.memo):
        assert secret not in shown


def test_sealing_needs_the_recipients_suite() -> None:
    classic = client("ada-classic", Suite.CLASSIC)
    with pytest.raises(MisuseError, match="no key of suite 1"):
        seal(signed_order(), REPLY_KEY, envelope(), classic.bundle.encryption_key(Suite.HYBRID))
