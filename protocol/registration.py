"""Registration: a client proves to the relay that it holds the key of its bundle.

The proof signs the relay's name and both sides' nonces, so it is good for one connection to one
relay: a relay that passes it on to another relay, or keeps it for later, gains nothing.
"""

from __future__ import annotations

from protocol import limits
from protocol.bundles import Bundle
from protocol.encoding import pae
from protocol.errors import Code, RelayError
from protocol.identifiers import ClientId
from protocol.keys import IdentityKey, verify

__all__ = ["check_proof", "make_proof", "proof_message"]


def proof_message(
    *,
    relay_name: str,
    relay_nonce: bytes,
    client_nonce: bytes,
    client_id: ClientId,
    version: int,
    role: str,
    bundle_hash: bytes,
) -> bytes:
    """Return the bytes that the proof signs."""
    return pae(
        "tw1 register",
        relay_name,
        relay_nonce,
        client_nonce,
        client_id,
        version,
        role,
        bundle_hash,
    )


def make_proof(
    identity: IdentityKey,
    bundle: Bundle,
    *,
    relay_name: str,
    relay_nonce: bytes,
    client_nonce: bytes,
    role: str,
) -> bytes:
    """Return the 64-byte proof for the relay that sent this challenge."""
    return identity.sign(
        proof_message(
            relay_name=relay_name,
            relay_nonce=relay_nonce,
            client_nonce=client_nonce,
            client_id=bundle.id,
            version=limits.PROTOCOL_VERSION,
            role=role,
            bundle_hash=bundle.hash,
        )
    )


def check_proof(
    proof: bytes,
    bundle: Bundle,
    *,
    relay_name: str,
    relay_nonce: bytes,
    client_nonce: bytes,
    claimed_id: ClientId,
    version: int,
    role: str,
) -> None:
    """Check a registration.

    :param bundle: as opened from the same registration.
    :raises RelayError: ``unsupported_version``, ``bad_bundle`` where the bundle is another id's,
        ``proof_refused`` where the signature is not by the bundle's identity over this challenge.
    """
    if version != limits.PROTOCOL_VERSION:
        raise RelayError(Code.UNSUPPORTED_VERSION, f"version {version} is not spoken here")
    if bundle.id != claimed_id:
        raise RelayError(Code.BAD_BUNDLE, f"the bundle is that of {bundle.id}")
    message = proof_message(
        relay_name=relay_name,
        relay_nonce=relay_nonce,
        client_nonce=client_nonce,
        client_id=claimed_id,
        version=version,
        role=role,
        bundle_hash=bundle.hash,
    )
    if not verify(bundle.identity_key, proof, message):
        raise RelayError(Code.PROOF_REFUSED, "the proof of possession is wrong")
