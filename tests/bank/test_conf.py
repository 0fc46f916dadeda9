"""The bank's settings: defaults, what the project sets, and nothing kept."""

from __future__ import annotations

import pytest
from django.test import override_settings

from bank.conf import DEFAULTS, bank_settings


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
