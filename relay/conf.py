"""The relay's settings: the dictionary ``RELAY``, read lazily, with a default for what is missing.

Read ``relay_settings.NAME`` and so on. A name that is no setting raises, so that a misspelt one is
noticed; `relay/checks.py` looks at the values.
"""

from typing import Any, Final

from django.conf import settings

DEFAULTS: Final[dict[str, Any]] = {
    # Who the relay is, and whom it lets in.
    "NAME": "relay.localhost",
    "REGISTRATION": "open",
    "ALLOWED_ORIGINS": [],
    "SERVICE_IDS": ["bank"],
    "PINNED_FINGERPRINTS": {},
    # Time-outs.
    "REGISTRATION_SECONDS": 10,
    "IDLE_SECONDS": 86_400,
    "ACK_SECONDS": 60,
    "STALL_SECONDS": 20,
    "CLOSE_SECONDS": 5,
    "DRAIN_SECONDS": 5,
    "RECONNECT_SPREAD_SECONDS": 5,
    # One connection.
    "BAD_FRAMES_MAX": 10,
    "SENDS_PER_SECOND": 1_000,
    "SENDS_BURST": 2_000,
    "SERVICE_SENDS_PER_SECOND": 50_000,
    "IN_FLIGHT_MAX": 256,
    "IN_FLIGHT_BYTES_MAX": 8_388_608,
    "OUTBOX_FRAMES_MAX": 2_048,
    "OUTBOX_BYTES_MAX": 16_777_216,
    # One client.
    "CONNECTIONS_PER_CLIENT_MAX": 16,
    "MAILBOX_MESSAGES_MAX": 1_000,
    "MAILBOX_BYTES_MAX": 33_554_432,
    "STATUSES_MAX": 1_000,
    # One process.
    "CONNECTIONS_MAX": 10_000,
    "REGISTRATIONS_PER_SECOND": 200,
    "STORE_QUEUE_MAX": 10_000,
    "HELD_BYTES_MAX": 536_870_912,
    # Sweeps, and what lies between processes.
    "SWEEP_SECONDS": 5,
    "LEASE_SECONDS": 30,
    "FORWARD_SECONDS": 5,
}
"""Every setting with its default; the bounds are explained in `relay/limits.py`."""


class RelaySettings:
    """The settings as attributes, looked up anew each time."""

    def __getattr__(self, name: str) -> Any:
        """Return the setting, or its default."""
        if name not in DEFAULTS:
            raise AttributeError(f"the relay has no setting {name!r}")
        return getattr(settings, "RELAY", {}).get(name, DEFAULTS[name])


relay_settings: Final = RelaySettings()
