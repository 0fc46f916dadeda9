"""Ids, names and numbers of accounts: parsed once at the edge, then trusted."""

from __future__ import annotations

import re
import unicodedata
import uuid
from typing import Annotated, Final

import msgspec

from protocol import limits

__all__ = [
    "ACCOUNT_NUMBER_PATTERN",
    "CLIENT_ID_PATTERN",
    "CURRENCY_PATTERN",
    "AccountNumber",
    "ClientId",
    "CurrencyCode",
    "Milliseconds",
    "UuidText",
    "check_client_id",
    "check_name",
    "display_name",
    "is_name_query",
    "is_printable",
    "name_key",
    "name_keys",
    "split_name",
    "uuid7",
]

# \Z rather than $: $ also matches before a newline at the end.
CLIENT_ID_PATTERN: Final = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
ACCOUNT_NUMBER_PATTERN: Final = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,33}\Z"
CURRENCY_PATTERN: Final = r"\A[A-Z][A-Z0-9]{2,11}\Z"
UUID7_PATTERN: Final = r"\A[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z"

ClientId = Annotated[str, msgspec.Meta(pattern=CLIENT_ID_PATTERN)]
AccountNumber = Annotated[str, msgspec.Meta(pattern=ACCOUNT_NUMBER_PATTERN)]
CurrencyCode = Annotated[str, msgspec.Meta(pattern=CURRENCY_PATTERN)]
UuidText = Annotated[str, msgspec.Meta(pattern=UUID7_PATTERN)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=limits.MILLISECONDS_MAX)]


def check_client_id(text: str) -> str:
    """Return ``text`` if it is a client id.

    :raises ValueError: with words that say what an id looks like.
    """
    if not re.match(CLIENT_ID_PATTERN, text):
        raise ValueError(
            f"{text!r} is no client id: 1 to {limits.CLIENT_ID_CHARS_MAX} letters a-z, digits, "
            "'.', '_' or '-', beginning with a letter or digit"
        )
    return text


def check_name(text: str) -> str:
    """Return a first or last name if it is in the form in which names travel.

    That form is: 1 to 100 characters, Unicode NFC, no comma nor anything that is compared as
    one (a full-width comma, say), no control or format characters, no white space at either end.

    :raises ValueError: with words that say what is wrong.
    """
    if not 1 <= len(text) <= limits.NAME_CHARS_MAX:
        raise ValueError(f"a name has 1 to {limits.NAME_CHARS_MAX} characters")
    if text != text.strip():
        raise ValueError("a name has no white space at its ends")
    if "," in unicodedata.normalize("NFKC", text):
        raise ValueError("a name has no comma")
    if not is_printable(text):
        raise ValueError("a name has no control or invisible characters")
    if unicodedata.normalize("NFC", text) != text:
        raise ValueError("a name is in Unicode normalization form C")
    return text


def display_name(first_name: str, last_name: str) -> str:
    """Return the name as people see it: "Last, First"."""
    return f"{last_name}, {first_name}"


def split_name(text: str) -> tuple[str, str]:
    """Return (first name, last name) of "Last, First", normalized to the form that travels.

    :raises ValueError: where there is not exactly one comma, or a part is no name.
    """
    last, comma, first = unicodedata.normalize("NFC", text).partition(",")
    if not comma or "," in first:
        raise ValueError(f'{text!r} is no name of the form "Last, First"')
    return check_name(first.strip()), check_name(last.strip())


def is_printable(text: str) -> bool:
    """Return whether a text has no control or invisible characters, as names must not."""
    # C covers controls, formats (invisible and bidirectional marks), surrogates and unassigned.
    return not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in text)


def is_name_query(text: str) -> bool:
    """Return whether a look-up text is a name (it has a comma, of any width) and not an id."""
    return "," in unicodedata.normalize("NFKC", text)


def name_key(text: str) -> str:
    """Return the key under which a name, or a part of it, is compared.

    Unicode NFKC, case folded, white space collapsed, so that "KÜPPERS" and "Ku\u0308ppers" meet.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    parts = (" ".join(part.split()) for part in folded.split(","))
    return ", ".join(parts)


def name_keys(first_name: str, last_name: str) -> tuple[str, str]:
    """Return the keys of "Last, First" and of "First, Last"; a look-up may match either."""
    return name_key(f"{last_name},{first_name}"), name_key(f"{first_name},{last_name}")


def uuid7(now_ms: int, random_bytes: bytes) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7) as text.

    :param now_ms: milliseconds since the Unix epoch.
    :param random_bytes: 10 random bytes.
    """
    if len(random_bytes) != 10:
        raise ValueError("10 random bytes are needed")
    value = (now_ms & (2**48 - 1)) << 80 | int.from_bytes(random_bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
