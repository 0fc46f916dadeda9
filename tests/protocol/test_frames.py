from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames, limits
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from protocol.frames import (
    ClientFrame,
    Deliver,
    Register,
    RelayFrame,
    Role,
    Send,
    decode_client_frame,
    decode_nonce,
    decode_relay_frame,
    encode,
)
from tests.protocol.cast import MESSAGE_ID, ada, refusal
from tests.vectors.files import vectors

CLIENT_FRAMES = {kind.__struct_config__.tag: kind for kind in get_args(ClientFrame)}
RELAY_FRAMES = {kind.__struct_config__.tag: kind for kind in get_args(RelayFrame)}
EXAMPLES = [
    *((decode_client_frame, example) for example in vectors("frames")["from_client"]),
    *((decode_relay_frame, example) for example in vectors("frames")["from_relay"]),
]
WRONG_VALUES = [None, True, 1.5, -1, "", "\x00", [], {}, [None], {"a": 1}, 2**64, "x" * 300]
MEMBERS = [
    (decode, example, member)
    for decode, example in EXAMPLES
    for member in (
        field.encode_name
        for field in msgspec.structs.fields((CLIENT_FRAMES | RELAY_FRAMES)[example["type"]])
    )
]


def _code(decode: Any, text: str | bytes) -> Code | None:
    return refusal(lambda: decode(text))


def test_every_frame_has_an_example_in_the_vectors() -> None:
    known = vectors("frames")
    assert {example["type"] for example in known["from_client"]} == set(CLIENT_FRAMES)
    assert {example["type"] for example in known["from_relay"]} == set(RELAY_FRAMES)


def test_no_frame_is_of_both_sides() -> None:
    assert not set(CLIENT_FRAMES) & set(RELAY_FRAMES)
    for _, example in EXAMPLES:
        other = decode_relay_frame if example["type"] in CLIENT_FRAMES else decode_client_frame
        assert _code(other, msgspec.json.encode(example)) == "bad_frame"


@pytest.mark.parametrize(
    ("decode", "example", "member"),
    MEMBERS,
    ids=[f"{example['type']} {member}" for _, example, member in MEMBERS],
)
def test_every_member_of_every_frame_has_a_type(decode: Any, example: Any, member: str) -> None:
    """Of twelve values of every kind, most are wrong for any member; only named errors come out."""
    damaged = [msgspec.json.encode(example | {member: value}) for value in WRONG_VALUES]
    codes = [_code(decode, text) for text in damaged]
    assert set(codes) <= {"bad_frame", None}
    assert codes.count(Code.BAD_FRAME) >= 6


@pytest.mark.parametrize(("decode", "example"), EXAMPLES)
def test_unknown_members_are_refused(decode: Any, example: Any) -> None:
    assert _code(decode, msgspec.json.encode(example | {"more": 1})) == "bad_frame"


def test_of_a_member_that_appears_twice_the_last_one_counts() -> None:
    text = encode(frames.Ack(id=MESSAGE_ID, sender="ada"))
    twice = decode_client_frame(text[:-1] + ',"from":"ben"}')
    assert twice == frames.Ack(id=MESSAGE_ID, sender="ben")


def test_what_is_too_long_is_refused_as_such() -> None:
    text = encode(frames.Lookup(id=MESSAGE_ID, query="x"))
    full = text + " " * (limits.FRAME_BYTES_MAX - len(text))
    assert decode_client_frame(full).__class__ is frames.Lookup
    assert _code(decode_client_frame, full + " ") == "frame_too_large"
    # 65,000 characters of three bytes each.
    wide = text[:-2] + "\u20ac" * 65_000 + '"}'
    assert _code(decode_client_frame, wide) == "frame_too_large"


@pytest.mark.parametrize("text", ["\ud800", '"\ud800"', '{"type":"ack","id":"\ud800"}'])
def test_half_a_surrogate_pair_is_a_bad_frame(text: str) -> None:
    assert _code(decode_client_frame, text) == "bad_frame"


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_only_named_errors_come_out_of_the_parser(text: str | bytes) -> None:
    for decode in (decode_client_frame, decode_relay_frame):
        assert _code(decode, text) == "bad_frame"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_frame_is_refused_or_still_a_frame(example: Any, data: st.DataObject) -> None:
    decode, members = example
    name = data.draw(st.sampled_from(sorted(members)) | st.text(max_size=6))
    damaged = msgspec.json.encode(members | {name: data.draw(_json)})
    code = refusal(lambda: decode(damaged))
    assert code in {"bad_frame", None}
    if code is None:
        frame = decode(damaged)
        assert decode(encode(frame)) == frame


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_frame_with_a_flipped_byte_raises_only_named_errors(
    example: Any, data: st.DataObject
) -> None:
    decode, members = example
    raw = bytearray(msgspec.json.encode(members))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert refusal(lambda: decode(bytes(raw))) in {"bad_frame", None}


@pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "=" * 43, "A" * 42 + "B", "+" * 43])
def test_only_32_bytes_are_a_nonce(text: str) -> None:
    assert _code(decode_nonce, text) == "bad_frame"
    assert decode_nonce("A" * 43) == bytes(32)


@pytest.mark.parametrize(
    ("body", "is_canonical"),
    [
        ("AA", True),
        ("AAA", True),
        ("AAAA", True),
        ("A-_w", True),
        ("AAAAAQ", True),
        ("A", False),
        ("AAAAA", False),
        ("AB", False),
        ("AAB", False),
        ("AA==", False),
        ("A+/w", False),
        ("AA\n", False),
        ("AAA\u00e9", False),
        ("\u0661AAA", False),
    ],
)
def test_a_body_is_canonical_base64url(body: str, is_canonical: bool) -> None:
    text = encode(Send(id=MESSAGE_ID, to="bank", kind=frames.Kind.NOTICE, ttl_ms=0, body=body))
    assert _code(decode_client_frame, text) == (None if is_canonical else "bad_frame")


@given(st.text(frames._ALPHABET + "=+/ \u0661", min_size=1, max_size=9))
def test_a_body_is_taken_if_it_can_be_decoded(body: str) -> None:
    expected = None
    try:
        unb64u(body)
    except ValueError:
        expected = Code.BAD_FRAME
    text = encode(Send(id=MESSAGE_ID, to="bank", kind=frames.Kind.NOTICE, ttl_ms=0, body=body))
    assert _code(decode_client_frame, text) == expected


def test_no_repr_shows_a_body() -> None:
    body = b64u(b"a sealed body")
    send = Send(id=MESSAGE_ID, to="bank", kind=frames.Kind.NOTICE, ttl_ms=0, body=body)
    deliver = Deliver(MESSAGE_ID, "ada", frames.Kind.NOTICE, 1, 1, body)
    register = Register("ada", ada().signed_bundle, "A" * 43, 1, Role.PERSON, "B" * 86)
    shown = repr([send, deliver, register])
    assert body not in shown
    assert ada().signed_bundle.bundle not in shown
    assert "13 characters" not in shown
    assert f"{len(body)} char" in shown
