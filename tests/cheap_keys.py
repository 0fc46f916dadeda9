"""Key files that open at once, where a test is about something else than a passphrase's price.

What the programs ask for by default takes a third of a second each time, on purpose;
`tests/protocol/test_keyfile.py` holds how much that is.
"""

from __future__ import annotations

from typing import Final

from protocol.keyfile import Cost, KeyFile, encrypt_key_file
from protocol.keys import RandomBytes

CHEAPEST: Final = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
"""The least with which a key file is opened at all."""


def encrypt_cheaply(key_file: KeyFile, passphrase: str, random_bytes: RandomBytes) -> bytes:
    """Stand in for `encrypt_key_file` where a program leaves the cost to it, and only there."""
    return encrypt_key_file(key_file, passphrase, random_bytes, CHEAPEST)
