"""The relay's bounds, taken from the settings once for each process and named with their unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol import limits
from protocol.frames import Limits, Role
from protocol.keys import parse_fingerprint
from protocol.relay_events import ConnectionBounds
from relay.conf import relay_settings

__all__ = ["RelayLimits", "pinned_fingerprints"]


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Every bound of one relay process."""

    registration_ms: int
    """How long a connection may take to register."""
    idle_ms: int
    """How long a client may send no frame at all; the server's pings find the dead sooner."""
    ack_ms: int
    """How long a delivered message may wait for its `ack` before the client is too slow."""
    stall_ms: int
    """How long one write to a client may take before the client is too slow."""
    close_seconds: float
    """How long a client that reads too slowly gets for reading why it is closed."""
    drain_seconds: float
    """How long clients may go on acknowledging after `drain`, and how long the database may then
    take for what is left."""
    reconnect_spread_ms: int
    """Clients are sent away for a random time up to this, so they don't return all at once."""
    bad_frames_max: int
    sends_per_second: int
    sends_burst: int
    service_sends_per_second: int
    in_flight_max: int
    in_flight_bytes_max: int
    outbox_frames_max: int
    outbox_bytes_max: int
    connections_per_client_max: int
    mailbox_messages_max: int
    """How many messages wait for one recipient."""
    mailbox_bytes_max: int
    """The same in bytes of their bodies' text."""
    statuses_max: int
    """How many statuses are kept for one sender; beyond it the oldest are given up."""
    connections_max: int
    registrations_per_second: int
    """How many connections may begin in a second: checking a registration costs time."""
    store_queue_max: int
    """How many messages and acknowledgements may wait for the database."""
    held_bytes_max: int
    """How much of all messages may be delivered and not acknowledged, over all connections."""
    sweep_seconds: float
    lease_ms: int
    """How long a process counts as alive after its last sign of life."""
    forward_ms: int
    """How long a process waits for word of a message that it passed to another process."""

    @classmethod
    def from_settings(cls) -> RelayLimits:
        """Return what the settings say now."""
        return cls(
            registration_ms=_ms(relay_settings.REGISTRATION_SECONDS),
            idle_ms=_ms(relay_settings.IDLE_SECONDS),
            ack_ms=_ms(relay_settings.ACK_SECONDS),
            stall_ms=_ms(relay_settings.STALL_SECONDS),
            close_seconds=relay_settings.CLOSE_SECONDS,
            drain_seconds=relay_settings.DRAIN_SECONDS,
            reconnect_spread_ms=_ms(relay_settings.RECONNECT_SPREAD_SECONDS),
            bad_frames_max=relay_settings.BAD_FRAMES_MAX,
            sends_per_second=relay_settings.SENDS_PER_SECOND,
            sends_burst=relay_settings.SENDS_BURST,
            service_sends_per_second=relay_settings.SERVICE_SENDS_PER_SECOND,
            in_flight_max=relay_settings.IN_FLIGHT_MAX,
            in_flight_bytes_max=relay_settings.IN_FLIGHT_BYTES_MAX,
            outbox_frames_max=relay_settings.OUTBOX_FRAMES_MAX,
            outbox_bytes_max=relay_settings.OUTBOX_BYTES_MAX,
            connections_per_client_max=relay_settings.CONNECTIONS_PER_CLIENT_MAX,
            mailbox_messages_max=relay_settings.MAILBOX_MESSAGES_MAX,
            mailbox_bytes_max=relay_settings.MAILBOX_BYTES_MAX,
            statuses_max=relay_settings.STATUSES_MAX,
            connections_max=relay_settings.CONNECTIONS_MAX,
            registrations_per_second=relay_settings.REGISTRATIONS_PER_SECOND,
            store_queue_max=relay_settings.STORE_QUEUE_MAX,
            held_bytes_max=relay_settings.HELD_BYTES_MAX,
            sweep_seconds=relay_settings.SWEEP_SECONDS,
            lease_ms=_ms(relay_settings.LEASE_SECONDS),
            forward_ms=_ms(relay_settings.FORWARD_SECONDS),
        )

    def bounds(self, role: Role) -> ConnectionBounds:
        """Return the bounds of a connection in this role."""
        rate = self.sends_rate(role)
        return ConnectionBounds(
            in_flight_max=self.in_flight_max,
            in_flight_bytes_max=self.in_flight_bytes_max,
            sends_per_second=rate,
            sends_burst=max(self.sends_burst, rate if role is Role.SERVICE else 1),
            bad_frames_max=self.bad_frames_max,
        )

    def terms(self, role: Role) -> Limits:
        """Return what a client in this role is told."""
        return Limits(
            frame_bytes_max=limits.FRAME_BYTES_MAX,
            body_bytes_max=limits.BODY_BYTES_MAX,
            ttl_ms_max=limits.TTL_MS_MAX,
            in_flight_max=self.in_flight_max,
            sends_per_second=self.sends_rate(role),
            mailbox_messages_max=self.mailbox_messages_max,
            idle_seconds_max=self.idle_ms // 1_000,
        )

    def sends_rate(self, role: Role) -> int:
        """Return how many frames a second a client in this role may send."""
        return self.service_sends_per_second if role is Role.SERVICE else self.sends_per_second


def pinned_fingerprints() -> dict[str, bytes]:
    """Return the fingerprints that the settings pin, by the lower-case id.

    ``PINNED_FINGERPRINTS`` is a mapping of ids to fingerprints, or a list of ``id=fingerprint``.

    :raises ValueError: with words that name the entry that is none.
    """
    value = relay_settings.PINNED_FINGERPRINTS
    pairs = value.items() if isinstance(value, Mapping) else (_split_pin(text) for text in value)
    return {client_id.lower(): parse_fingerprint(text) for client_id, text in pairs}


def _split_pin(text: str) -> tuple[str, str]:
    client_id, equals, fingerprint = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not of the form id=fingerprint")
    return client_id.strip(), fingerprint.strip()


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)
