"""Settings: read lazily, checked, and turned into bounds."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.frames import Role
from relay import checks
from relay.conf import DEFAULTS, relay_settings
from relay.limits import RelayLimits, pinned_fingerprints

FINGERPRINT = "0123 4567 89ab cdef 0123 4567 89ab cdef"


def found(settings: Any, **relay: Any) -> list[str]:
    settings.RELAY = relay
    return [str(one.id) for one in checks.check_settings()]


def test_what_is_missing_has_a_default(settings: Any) -> None:
    settings.RELAY = {"NAME": "relay.example"}
    assert relay_settings.NAME == "relay.example"
    assert relay_settings.SERVICE_IDS == ["bank"]
    del settings.RELAY
    assert DEFAULTS["NAME"] == relay_settings.NAME
    with pytest.raises(AttributeError, match="no setting 'NAMES'"):
        _ = relay_settings.NAMES


def test_the_defaults_are_fine(settings: Any) -> None:
    assert found(settings) == []


@pytest.mark.parametrize(
    ("relay", "code"),
    [
        ({"NAMES": "x"}, "relay.E001"),
        ({"NAME": ""}, "relay.E002"),
        ({"NAME": "x" * 101}, "relay.E002"),
        ({"REGISTRATION": "ajar"}, "relay.E003"),
        ({"SERVICE_IDS": ["bank", "-"]}, "relay.E004"),
        ({"PINNED_FINGERPRINTS": {"bank": "xyz"}}, "relay.E005"),
        ({"PINNED_FINGERPRINTS": ["bank"]}, "relay.E005"),
        ({"ALLOWED_ORIGINS": ["bank.example"]}, "relay.E006"),
        ({"ALLOWED_ORIGINS": ["https://bank.example/page"]}, "relay.E006"),
        ({"ACK_SECONDS": 0}, "relay.E007"),
        ({"IN_FLIGHT_MAX": "many"}, "relay.E007"),
        ({"IN_FLIGHT_MAX": True}, "relay.E007"),
        ({"IN_FLIGHT_BYTES_MAX": 1_000}, "relay.E008"),
        ({"OUTBOX_BYTES_MAX": 1_000}, "relay.E008"),
        ({"LEASE_SECONDS": 5}, "relay.E008"),
        ({"SENDS_BURST": 0.5}, "relay.E008"),
    ],
)
def test_nonsense_is_named(settings: Any, relay: dict[str, Any], code: str) -> None:
    assert found(settings, **relay) == [code]


def test_a_deployment_is_warned_that_anybody_may_claim_the_bank(settings: Any) -> None:
    settings.RELAY = {}
    assert [one.id for one in checks.check_deployment()] == ["relay.W001"]
    settings.RELAY = {"REGISTRATION": "closed"}
    assert checks.check_deployment() == []
    settings.RELAY = {"PINNED_FINGERPRINTS": {"BANK": FINGERPRINT}}
    assert checks.check_deployment() == []
    settings.RELAY = {"PINNED_FINGERPRINTS": ["bank"]}
    assert checks.check_deployment() == []


@pytest.mark.parametrize("pins", [{"Bank": FINGERPRINT}, [f" Bank = {FINGERPRINT} "]])
def test_pins_are_a_mapping_or_a_list(settings: Any, pins: Any) -> None:
    settings.RELAY = {"PINNED_FINGERPRINTS": pins}
    assert pinned_fingerprints() == {"bank": bytes.fromhex(FINGERPRINT.replace(" ", ""))}


def test_bounds_come_from_the_settings(settings: Any) -> None:
    settings.RELAY = {"SENDS_PER_SECOND": 7, "SENDS_BURST": 9, "IDLE_SECONDS": 90}
    limits = RelayLimits.from_settings()
    assert (limits.idle_ms, limits.ack_ms) == (90_000, 60_000)
    person, service = limits.bounds(Role.PERSON), limits.bounds(Role.SERVICE)
    assert (person.sends_per_second, person.sends_burst) == (7, 9)
    assert service.sends_burst >= service.sends_per_second == limits.service_sends_per_second
    assert limits.terms(Role.PERSON).sends_per_second == 7
    assert limits.terms(Role.PERSON).idle_seconds_max == 90
