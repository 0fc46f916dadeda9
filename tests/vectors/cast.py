"""Who plays in the vectors: three clients whose keys come from fixed seeds, and a relay."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

from tests.vectors.primitives import (
    b64u,
    compact,
    ed25519_public,
    pae,
    seed,
    sign,
    x25519_public,
    x_wing_key,
)

NOW = 1_790_000_000_000
"""The time at which everything in the vectors happens: 2026-09-21 14:13:20 UTC."""
DAY = 86_400_000
RELAY_NAME = "relay.example"
HYBRID, CLASSIC = 1, 2


@dataclass(frozen=True)
class PrekeyPair:
    """A prekey of either suite, from its 32-byte secret."""

    suite: int
    secret: bytes

    @functools.cached_property
    def public(self) -> bytes:
        if self.suite == HYBRID:
            return x_wing_key(self.secret).public
        return x25519_public(self.secret)

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(pae("tw1 key id", self.suite, self.public)).digest()[:8]

    def described(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "secret": self.secret.hex(),
            "public": self.public.hex(),
            "key_id": self.key_id.hex(),
        }


@dataclass(frozen=True)
class Client:
    """A client of the vectors."""

    id: str
    first_name: str
    last_name: str
    identity_seed: bytes
    prekeys: tuple[PrekeyPair, ...]

    @functools.cached_property
    def identity(self) -> bytes:
        return ed25519_public(self.identity_seed)

    @property
    def fingerprint(self) -> bytes:
        return hashlib.sha256(pae("tw1 fingerprint", self.id, self.identity)).digest()[:16]

    @property
    def suites(self) -> list[int]:
        return [pair.suite for pair in self.prekeys]

    def prekey(self, suite: int) -> PrekeyPair:
        return next(pair for pair in self.prekeys if pair.suite == suite)

    def bundle(self, **changes: Any) -> dict[str, Any]:
        """Return the members of this client's bundle, with some of them changed."""
        return {
            "version": 1,
            "id": self.id,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "generation": 1,
            "identity_key": b64u(self.identity),
            "encryption_keys": [
                {"suite": pair.suite, "key_id": b64u(pair.key_id), "public": b64u(pair.public)}
                for pair in self.prekeys
            ],
            "valid_from": NOW - DAY,
            "valid_to": NOW + 365 * DAY,
            "previous_fingerprint": None,
        } | changes

    def sign_bundle(self, raw: bytes, previous: Client | None = None) -> dict[str, Any]:
        """Return the signed bundle as it travels."""
        message = b"tw1 bundle\0" + raw
        previous_signature = None if previous is None else sign(previous.identity_seed, message)
        return {
            "bundle": b64u(raw),
            "signature": b64u(sign(self.identity_seed, message)),
            "previous_signature": None if previous_signature is None else b64u(previous_signature),
        }

    def signed_bundle(self, previous: Client | None = None, **changes: Any) -> dict[str, Any]:
        return self.sign_bundle(compact(self.bundle(**changes)), previous)


def _client(
    client_id: str,
    first_name: str,
    last_name: str,
    suites: tuple[int, ...] = (HYBRID, CLASSIC),
    generation: str = "",
) -> Client:
    label = client_id + generation
    return Client(
        client_id,
        first_name,
        last_name,
        seed(f"{label} identity"),
        tuple(PrekeyPair(suite, seed(f"{label} prekey {suite}")) for suite in suites),
    )


ADA = _client("demo-ada", "Ada", "Ärlig")
ADA_LATER = _client("demo-ada", "Ada", "Ärlig", generation=" later")
"""The same client after it changed its identity key."""
BEN = _client("demo-ben", "Ben", "Beispiel", suites=(CLASSIC,))
"""A client that only offers suite 2."""
BANK = _client("bank", "Demo", "Bank")
MALLORY = _client("mallory", "Mallory", "Malheur")
