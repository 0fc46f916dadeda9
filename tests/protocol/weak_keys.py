"""Public keys that no identity may have."""

from tests.vectors.cases_keys import ED25519_SMALL_ORDER

WEAK_IDENTITIES = [
    *ED25519_SMALL_ORDER,
    (2**255 - 19 + 3).to_bytes(32, "little"),  # not canonical
    (2).to_bytes(32, "little"),  # no point
    bytes(31),
]
