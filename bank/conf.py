"""The bank's settings: ``settings.BANK`` with defaults, read when they are asked for.

Nothing is kept, so ``override_settings`` works; whether the values make sense is checked by the
system checks in ``bank/checks.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings

__all__ = ["DEFAULTS", "BankSettings", "bank_settings"]

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "ID": "bank",
        "KEY_FILE": "",
        "PASSPHRASE_FILE": "",
        "RELAY_URL": "ws://127.0.0.1:8000/relay",
        # The group commit: how many orders may share one transaction.
        "BATCH_ORDERS_MAX": 1000,
        # How many opened requests may wait for the ledger before `busy` is answered.
        "QUEUE_ORDERS_MAX": 10_000,
    }
)


class BankSettings:
    """Read access to ``settings.BANK``; an attribute for each key of :data:`DEFAULTS`."""

    ID: str
    """The id under which the bank registers at the relay, and of its own row among the persons."""
    KEY_FILE: str
    """Path of the bank's encrypted key file; empty where this process doesn't sign."""
    PASSPHRASE_FILE: str
    """Path of the file that holds the passphrase of the key file."""
    RELAY_URL: str
    """WebSocket address of the relay: ``ws://`` or ``wss://``."""
    BATCH_ORDERS_MAX: int
    """How many orders at the most are booked in one transaction."""
    QUEUE_ORDERS_MAX: int
    """How many orders at the most wait to be booked."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of the setting ``name`` now.

        :raises AttributeError: for a name that is no setting of the bank.
        """
        if name not in DEFAULTS:
            raise AttributeError(f"the bank has no setting {name!r}")
        return getattr(settings, "BANK", {}).get(name, DEFAULTS[name])


bank_settings: Final = BankSettings()
