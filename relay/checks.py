"""System checks of the dictionary setting ``RELAY``.

==========  ========================================================================
relay.E001  ``RELAY`` has a key that means nothing
relay.E002  the relay's name is missing or too long
relay.E003  registration is neither ``open`` nor ``closed``
relay.E004  the id of a service is no client id
relay.E005  a pinned fingerprint is none
relay.E006  an allowed origin is none
relay.E007  a bound is no number above zero
relay.E008  two bounds contradict each other
relay.W001  anybody could be the first to claim a service's id (``--deploy``)
==========  ========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks

from protocol import limits
from protocol.identifiers import check_client_id
from relay.conf import DEFAULTS, relay_settings
from relay.limits import pinned_fingerprints

__all__ = ["TAG", "check_deployment", "check_settings"]

TAG: Final = "relay"

_NUMBERS: Final = tuple(
    name for name, default in DEFAULTS.items() if isinstance(default, int | float)
)


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """Look at every setting of the relay."""
    return [*_unknown(), *_who(), *_numbers()]


def check_deployment(**kwargs: Any) -> list[checks.CheckMessage]:
    """Warn where anybody could be the first to claim the id of a service."""
    if relay_settings.REGISTRATION != "open":
        return []
    try:
        pinned = pinned_fingerprints()
    except ValueError:
        return []  # relay.E005 says so
    free = [one for one in relay_settings.SERVICE_IDS if one.lower() not in pinned]
    return [
        checks.Warning(
            f"Registration is open and the id {one!r} of a service is not pinned.",
            hint="Name its fingerprint in RELAY['PINNED_FINGERPRINTS'], or close the registration.",
            id="relay.W001",
        )
        for one in free
    ]


def _unknown() -> Iterator[checks.CheckMessage]:
    for name in getattr(settings, "RELAY", {}):
        if name not in DEFAULTS:
            yield checks.Error(f"RELAY has no setting {name!r}.", id="relay.E001")


def _who() -> Iterator[checks.CheckMessage]:
    name = relay_settings.NAME
    if not isinstance(name, str) or not 1 <= len(name) <= limits.RELAY_NAME_CHARS_MAX:
        yield checks.Error(
            f"RELAY['NAME'] needs 1 to {limits.RELAY_NAME_CHARS_MAX} characters.", id="relay.E002"
        )
    if relay_settings.REGISTRATION not in ("open", "closed"):
        yield checks.Error("RELAY['REGISTRATION'] is 'open' or 'closed'.", id="relay.E003")
    for client_id in relay_settings.SERVICE_IDS:
        try:
            check_client_id(client_id)
        except ValueError as error:
            yield checks.Error(f"RELAY['SERVICE_IDS']: {error}", id="relay.E004")
    try:
        pinned_fingerprints()
    except ValueError as error:
        yield checks.Error(f"RELAY['PINNED_FINGERPRINTS']: {error}", id="relay.E005")
    for origin in relay_settings.ALLOWED_ORIGINS:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            yield checks.Error(
                f"RELAY['ALLOWED_ORIGINS']: {origin!r} is no origin such as https://bank.example.",
                id="relay.E006",
            )


def _numbers() -> Iterator[checks.CheckMessage]:
    wrong = [name for name in _NUMBERS if not _is_positive(getattr(relay_settings, name))]
    for name in wrong:
        yield checks.Error(f"RELAY[{name!r}] must be a number above 0.", id="relay.E007")
    if wrong:
        return
    relations = (
        (
            relay_settings.IN_FLIGHT_BYTES_MAX >= limits.BODY_CHARS_MAX,
            f"IN_FLIGHT_BYTES_MAX must let one body through ({limits.BODY_CHARS_MAX}).",
        ),
        (
            relay_settings.OUTBOX_BYTES_MAX >= 2 * limits.FRAME_BYTES_MAX,
            f"OUTBOX_BYTES_MAX must hold two frames ({2 * limits.FRAME_BYTES_MAX}).",
        ),
        (
            relay_settings.LEASE_SECONDS >= 2 * relay_settings.SWEEP_SECONDS,
            "LEASE_SECONDS must outlast two sweeps (SWEEP_SECONDS), which renew the lease.",
        ),
        (
            relay_settings.SENDS_BURST >= 1,
            "SENDS_BURST must let one frame through.",
        ),
    )
    for holds, words in relations:
        if not holds:
            yield checks.Error(f"RELAY: {words}", id="relay.E008")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
