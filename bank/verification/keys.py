"""Whether the columns of every enrolled key say what its signed bundle says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bank.models import PersonKey
from bank.verification.problems import Problem
from protocol.bundles import Bundle, SignedBundle, open_bundle
from protocol.errors import ProtocolError

__all__ = ["check_keys"]

_KEYS: Final = PersonKey._meta.db_table


def check_keys(using: str) -> Iterator[Problem]:
    """Name each enrolled key whose bundle is broken, or says something else than its row."""
    rows = PersonKey._base_manager.using(using).order_by("pk")
    for row in rows.values(
        "pk", "person__client_id", "identity_key", "fingerprint", "generation", "bundle"
    ).iterator():
        key = str(row["pk"])
        try:
            bundle = open_bundle(msgspec.convert(row["bundle"], SignedBundle))
        except (msgspec.ValidationError, ProtocolError) as error:
            yield Problem(_KEYS, key, f"its bundle is broken: {error}")
        else:
            for name in _different(row, bundle):
                yield Problem(_KEYS, key, f"{name} is not that of its bundle")


def _different(row: Mapping[str, Any], bundle: Bundle) -> Iterator[str]:
    pairs = {
        "person": (row["person__client_id"], bundle.id),
        "identity_key": (bytes(row["identity_key"]), bundle.identity_key),
        "fingerprint": (row["fingerprint"], bundle.fingerprint.hex()),
        "generation": (row["generation"], bundle.generation),
    }
    return (name for name, (stored, signed) in pairs.items() if stored != signed)
