"""Encodings under everything else: base64url, pre-authentication encoding, strict JSON."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any, Final, TypeVar

import msgspec

__all__ = ["Part", "b64u", "decode_strict", "pae", "unb64u"]

Part = bytes | str | int | None
"""A part of a pre-authentication encoding: text is UTF-8, a number is decimal ASCII,
``None`` is no bytes at all."""

T = TypeVar("T")

_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def b64u(data: bytes) -> str:
    """Return ``data`` as base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64u(text: str) -> bytes:
    """Return the bytes that ``text`` encodes; only the one canonical encoding is accepted.

    :raises ValueError: characters outside the alphabet, padding, an impossible length, or
        unused bits that are not zero (two texts would then mean the same bytes).
    """
    raw = text.encode("ascii", "replace")
    if not _ALPHABET.issuperset(raw):
        raise ValueError("not base64url without padding")
    try:
        data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url without padding") from error
    if b64u(data) != text:
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
    try:
        value = msgspec.json.decode(raw, type=kind)
        json.loads(raw, object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    return value


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a member name appears twice")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
