"""Encodings under everything else: base64url, pre-authentication encoding, strict JSON."""

from __future__ import annotations

import binascii
import json
import re
import struct
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from protocol import limits

__all__ = ["Part", "b64u", "check_unicode", "decode_strict", "pae", "unb64u"]

Part = bytes | str | int | None
"""A part of a pre-authentication encoding: text is UTF-8, a number is decimal ASCII,
``None`` is no bytes at all."""

T = TypeVar("T")

# From the alphabet of base64url to that of the decoder; what belongs only to the latter's, and the
# padding, become what neither knows.
_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")

# Up to its end, or that of the text where it has none, and never tried in another way: whoever
# wrote it would otherwise choose how long that takes.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKET: Final = re.compile(rb"[][{}]")


def check_unicode(text: str) -> str:
    """Return ``text`` if it can be written as UTF-8.

    Half of a surrogate pair can't: an escape in JSON leaves it, or bytes of the system that are no
    UTF-8.

    :raises ValueError: it has one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # The error itself would keep the text, which may be a secret.
        raise ValueError(f"character {error.start + 1} is not Unicode") from None
    return text


def b64u(data: bytes) -> str:
    """Return ``data`` as base64url without padding (RFC 4648, section 5)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def unb64u(text: str) -> bytes:
    """Return the bytes that ``text`` encodes; only the one canonical encoding is accepted.

    :raises ValueError: characters outside the alphabet, padding, an impossible length, or
        unused bits that are not zero (two texts would then mean the same bytes).
    """
    raw = text.encode("ascii", "replace").translate(_TO_STANDARD)
    try:
        data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ValueError("not base64url without padding") from error
    rest = len(data) % 3
    if rest and not text.endswith(b64u(data[-rest:])):
        raise ValueError("not canonical base64url")
    return data


def pae(*parts: Part) -> bytes:
    """Return the pre-authentication encoding of ``parts``.

    The number of parts, then each part with its length in front, every number as 64-bit
    little-endian: no two lists give the same bytes (PASETO, "Authentication Padding").
    """
    encoded = [struct.pack("<Q", len(parts))]
    for part in parts:
        data = _part_bytes(part)
        encoded.append(struct.pack("<Q", len(data)))
        encoded.append(data)
    return b"".join(encoded)


def _part_bytes(part: Part) -> bytes:
    if isinstance(part, bytes):
        return part
    if part is None:
        return b""
    return str(part).encode("utf-8")


def decode_strict(raw: bytes, kind: type[T]) -> T:
    """Decode signed JSON into ``kind``; unknown members, wrong types and repeats are refused.

    Repeated member names are looked for because parsers differ in which one they believe, and
    what was signed must mean one thing to everybody who ever reads it.

    :raises ValueError: with words that name what is wrong and where.
    """
    _check_depth(raw)
    try:
        value: T = _decoder(kind).decode(raw)  # type: ignore[arg-type]  # types are hashable
        # What is written exactly as this program writes it has nothing twice, but for the members
        # that are kept as they came.
        as_written = msgspec.json.encode(value) == raw
        for part in _raw_members(value) if as_written else [raw]:
            # Decoded here, for bytes the parser would let half surrogate pairs through.
            text = part.decode("utf-8")
            json.loads(
                text,
                object_pairs_hook=_refuse_repeats,
                parse_constant=_refuse_constant,
                parse_int=_bounded_integer,
            )
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    return value


@lru_cache(maxsize=64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return the parser of a type; making one for a union takes longer than it then parses."""
    return msgspec.json.Decoder(kind)


def _check_depth(raw: bytes) -> None:
    """Refuse what is nested more deeply than every reader must be able to follow."""
    if raw.count(b"{") + raw.count(b"[") <= limits.JSON_DEPTH_MAX:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", raw)):
        depth += 1 if bracket in b"{[" else -1
        if depth > limits.JSON_DEPTH_MAX:
            raise ValueError("nested too deeply")


def _raw_members(value: Any) -> list[bytes]:
    members = (getattr(value, name) for name in getattr(value, "__struct_fields__", ()))
    return [bytes(member) for member in members if isinstance(member, msgspec.Raw)]


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a member name appears twice")


def _bounded_integer(text: str) -> int:
    if len(text) > limits.JSON_INTEGER_CHARS_MAX:
        raise ValueError("an integer is too long")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
