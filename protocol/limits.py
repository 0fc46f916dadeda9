"""Every bound of the wire, named with its unit last; relations are checked at import.

A deployment may set the relay's operational bounds (rates, quotas, time-outs) in its settings;
what stands here is what every implementation must respect to be understood.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "tellerwire.v1"

# Frames and bodies.
FRAME_BYTES_MAX: Final = 131_072
"""A frame's JSON text, in bytes of UTF-8."""
BODY_BYTES_MAX: Final = 81_920
"""The body of a `send`, decoded: a sealed message or a reply."""
BODY_CHARS_MAX: Final = (BODY_BYTES_MAX * 4 + 2) // 3
"""The same as base64url text without padding."""
INNER_BYTES_MAX: Final = 65_536
"""The signed JSON inside a sealed message, and the JSON of an answer."""
JSON_DEPTH_MAX: Final = 64
"""How deeply strict JSON may be nested; its outermost object is the first level."""
JSON_INTEGER_CHARS_MAX: Final = 100
"""An integer in strict JSON, as it is written."""
SEAL_PADDING_BYTES: Final = 256
"""Plaintexts are padded with zero bytes to a multiple of this."""

# Identifiers and texts.
CLIENT_ID_CHARS_MAX: Final = 64
NAME_CHARS_MAX: Final = 100
QUERY_CHARS_MAX: Final = 2 * NAME_CHARS_MAX + 8
ACCOUNT_NUMBER_CHARS_MAX: Final = 34
CURRENCY_CODE_CHARS_MAX: Final = 12
CURRENCY_EXPONENT_MAX: Final = 6
AMOUNT_CHARS_MAX: Final = 256
AMOUNT_MINOR_UNITS_MAX: Final = 10**15
"""The largest amount of one order; 9,000 of them still fit a signed 64-bit balance."""
MEMO_CHARS_MAX: Final = 140
DETAIL_CHARS_MAX: Final = 500
RELAY_NAME_CHARS_MAX: Final = 100
TEXT_MESSAGE_CHARS_MAX: Final = 16_000
CANDIDATES_MAX: Final = 10
"""How many clients an ambiguous name lists at the most."""

# Keys.
NONCE_BYTES: Final = 32
BUNDLE_BYTES_MAX: Final = 8_192
BUNDLE_ENCRYPTION_KEYS_MAX: Final = 8
BUNDLE_VALIDITY_MS_MAX: Final = 20 * 366 * 86_400_000

# Times.
MILLISECONDS_MAX: Final = 2**53 - 1
CLOCK_TOLERANCE_MS: Final = 60_000
"""How far ahead a peer's clock may be."""
MESSAGE_LIFETIME_MS_MAX: Final = 30 * 86_400_000
"""From `issued_at` to `expires_at` of a sealed message; also the longest time to live."""
TTL_MS_MAX: Final = MESSAGE_LIFETIME_MS_MAX

# Pages.
STATEMENT_ENTRIES_MAX: Final = 50
ACCOUNTS_MAX: Final = 50
"""How many accounts one answer to `accounts` lists at the most."""

SEAL_OVERHEAD_BYTES_MAX: Final = 1 + 8 + 1_120 + 16 + 64 + 32 + 4 + (SEAL_PADDING_BYTES - 1)

_RELATIONS: Final = {
    "a full sealed message fits a body": INNER_BYTES_MAX + SEAL_OVERHEAD_BYTES_MAX
    <= BODY_BYTES_MAX,
    "a full body fits a frame": BODY_CHARS_MAX + 2_048 <= FRAME_BYTES_MAX,
    "a full bundle fits a frame": BUNDLE_BYTES_MAX * 4 // 3 + 2_048 <= FRAME_BYTES_MAX,
    "candidates' bundles fit a frame": CANDIDATES_MAX * (BUNDLE_BYTES_MAX * 4 // 3 + 256) + 2_048
    <= FRAME_BYTES_MAX,
    "a memo in an order fits a message": MEMO_CHARS_MAX * 12 < INNER_BYTES_MAX,
    # A character of a memo is at most six bytes of JSON, one of a name at most four.
    "a full page of a statement fits an answer": STATEMENT_ENTRIES_MAX * (MEMO_CHARS_MAX * 6 + 400)
    + 1_024
    <= INNER_BYTES_MAX,
    "a full page of accounts fits an answer": ACCOUNTS_MAX * (2 * NAME_CHARS_MAX * 4 + 400) + 1_024
    <= INNER_BYTES_MAX,
    "a text message fits": TEXT_MESSAGE_CHARS_MAX * 4 + 1_024 <= INNER_BYTES_MAX,
}
for _relation, _holds in _RELATIONS.items():
    if not _holds:
        raise AssertionError(f"protocol limits contradict each other: {_relation}")
