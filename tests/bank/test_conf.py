"""The bank's settings: defaults, what the project sets, and nothing kept."""

from __future__ import annotations

import pytest
from django.test import override_settings

from bank.conf import DEFAULTS, bank_settings, check_relay_url


def test_what_is_not_set_has_a_default() -> None:
    with override_settings(BANK={}):
        for name, default in DEFAULTS.items():
            assert getattr(bank_settings, name) == default


def test_what_is_set_counts_at_once_and_no_longer() -> None:
    before = bank_settings.ID
    with override_settings(BANK={"ID": "other-bank"}):
        assert bank_settings.ID == "other-bank"
    assert before == bank_settings.ID


def test_a_name_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no setting 'IDS'"):
        _ = bank_settings.IDS


@pytest.mark.parametrize(
    "url",
    [
        "ws://127.0.0.1:8000/relay",
        "wss://relay.example/relay",
        "ws://[::1]:8000/relay",
        "wss://bücher.example./",
    ],
)
def test_an_address_that_can_be_connected_to_is_taken(url: str) -> None:
    assert check_relay_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "junk",
        "http://x",
        "ws://",
        "ws://[bad",
        "ws://127.0.0.1:99999/relay",
        "ws://127.0.0.1:0/relay",
        "ws://127.0.0.1:port/relay",
        "ws://relay..example/relay",
        f"ws://{'a' * 64}.example/relay",
        "ws://relay.example/relay#part",
        "ws://relay.example/the relay",
        "",
        None,
        5,
    ],
)
def test_another_one_is_refused(url: object) -> None:
    with pytest.raises(ValueError, match="is no relay's address; one looks like wss://"):
        check_relay_url(url)
