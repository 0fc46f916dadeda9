from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import b64u, check_unicode, decode_strict, pae, unb64u


class _Small(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    raw: msgspec.Raw = msgspec.Raw(b"null")


@given(st.binary(max_size=200))
def test_base64url_comes_back(data: bytes) -> None:
    assert unb64u(b64u(data)) == data


@given(st.text(alphabet="AQgwZaz09-_", max_size=12))
def test_no_two_texts_mean_the_same_bytes(text: str) -> None:
    try:
        data = unb64u(text)
    except ValueError:
        return
    assert b64u(data) == text


@given(st.text(max_size=20))
def test_any_other_text_is_refused_as_a_value(text: str) -> None:
    try:
        unb64u(text)
    except ValueError:
        return
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == unb64u(text)


@given(st.lists(st.binary(max_size=20), max_size=5), st.lists(st.binary(max_size=20), max_size=5))
def test_two_lists_never_give_the_same_encoding(one: list[bytes], other: list[bytes]) -> None:
    assert (pae(*one) == pae(*other)) == (one == other)


def test_parts_are_text_numbers_and_nothing() -> None:
    assert pae("é", 10, None) == pae("é".encode(), b"10", b"")


@given(st.binary(max_size=100))
def test_strict_json_raises_nothing_but_value_errors(raw: bytes) -> None:
    try:
        decode_strict(raw, _Small)
    except ValueError:
        return
    assert isinstance(msgspec.json.decode(raw), dict)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":1,"raw":{"b":1,"b":1}}', "twice"),
        (b'{"a":1,"raw":[{"b":1,"\\u0062":1}]}', "twice"),
        (b'{"a":1,"b":2}', "unknown field `b`"),
        (b'{"a":"1"}', "Expected `int`"),
        (b'{"a":1.0}', "Expected `int`"),
        (b'{"a":true}', "Expected `int`"),
        (b'{"raw":1}', "missing required field `a`"),
        (b'{"a":1,"raw":"\xff"}', "not UTF-8"),
        (b'{"a":1,"raw":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":1,"raw":"\\ud800"}', "malformed|truncated"),
        (b'{"a":1,"raw":["\\udc00 and more"]}', "malformed"),
        (b'{"a":1e0}', "Expected `int`"),
        (b'{"a":1,"raw":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
        (b'{"a":1,"raw":' + b"[" * 64 + b"]" * 64 + b"}", "nested too deeply"),
        (b'{"raw":' + b'{"}":' * 64 + b"1" + b"}" * 64 + b',"a":1}', "nested too deeply"),
        (b'{"a":1,"raw":' + b"1" * 101 + b"}", "too long"),
        (b'{"a":1,"raw":"' + b"[" * 100, "truncated"),
        (b'{"a":1,"raw":"' + b'\\"[' * 100, "truncated"),
        (b'{"a":1,"raw":-' + b"1" * 100 + b"}", "too long"),
        (b'{"a":1,"raw":NaN}', "malformed"),
        (b'{"a":1}x', "trailing"),
        ('{"a":1}'.encode("utf-16"), "malformed"),
    ],
)
def test_strict_json_says_what_is_wrong(raw: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_strict(raw, _Small)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 63 + b"]" * 63,
        b"[" + b"[]," * 100 + b"[]]",
        b'"' + b"[" * 100 + b'\\"' + b"{" * 100 + b'"',
        b'"' + b"[" * 100 + b'\\\\"',
        b"1" * 100,
        b"1" * 101 + b".5",
    ],
    ids=["deep", "many", "in text", "after a backslash", "long integer", "long fraction"],
)
def test_strict_json_within_its_bounds_is_read(raw: bytes) -> None:
    """Bounds that every reader can keep to, and none of this parser's own."""
    assert bytes(decode_strict(b'{"a":1,"raw":%b}' % raw, _Small).raw) == raw


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_that_can_be_written_is_unicode(text: str) -> None:
    assert check_unicode(text) == text


@pytest.mark.parametrize(
    "text", ["a\ud800", "a\udfffb", b"a\xff".decode("utf-8", "surrogateescape")]
)
def test_half_of_a_surrogate_pair_is_not_unicode(text: str) -> None:
    with pytest.raises(ValueError, match="character 2 is not Unicode") as caught:
        check_unicode(text)
    assert caught.value.__cause__ is None
