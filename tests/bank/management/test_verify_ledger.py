"""``verify_ledger``: what it prints, how it exits, and which of the bank's keys it believes."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from bank.audit import Actor
from bank.models import Entry
from bank.services.keys import rotate_key
from protocol.keyfile import new_key_file
from protocol.keys import format_fingerprint
from tests.bank.guards import drop_guards
from tests.bank.orders import BANK, BANK_ID, SmallBank, busy_bank, now_ms
from tests.cheap_keys import encrypt_cheaply

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return busy_bank()


def test_the_command_says_so_and_counts(bank: SmallBank) -> None:
    out = StringIO()
    call_command("verify_ledger", stdout=out)
    assert out.getvalue() == (
        "The ledger is in order: 5 accounts, 9 orders, 6 transfers, 12 entries.\n"
    )


def test_the_command_names_what_is_wrong_and_fails(bank: SmallBank) -> None:
    drop_guards()
    entry = Entry.objects.filter(amount__lt=0).order_by("-transfer_id")[0]
    Entry.objects.filter(pk=entry.pk).update(amount=F("amount") + 1)
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("verify_ledger", stdout=out)
    assert caught.value.returncode == 1
    assert f"bank_entry {entry.pk}: " in out.getvalue()
    assert "not in order" in str(caught.value)


def test_the_command_compares_the_banks_fingerprint(bank: SmallBank) -> None:
    call_command("verify_ledger", fingerprint=[BANK.fingerprint.hex()], stdout=StringIO())
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("verify_ledger", "--fingerprint", "ab" * 16, stdout=out)
    shown = format_fingerprint(BANK.fingerprint)
    assert (
        out.getvalue().count(
            f"receipt: is signed by another key that is enrolled for the bank, {shown};"
        )
        == 9
    )
    with pytest.raises(CommandError, match="fingerprint is 32 hexadecimal digits"):
        call_command("verify_ledger", fingerprint=["abc"])


def test_receipts_of_the_banks_earlier_identity_count_where_it_is_named(
    bank: SmallBank, tmp_path: Path, settings: Any
) -> None:
    """The key file names the new one; the database alone never says which ones came before."""
    new = new_key_file(BANK_ID, "Bank", "Test", now=now_ms(), random_bytes=os.urandom)
    rotate_key(Actor("user:operator"), bank.bank_person, new.signed_bundle, confirmed=True)
    path = tmp_path / "bank.key"
    path.write_bytes(encrypt_cheaply(new, "secret", os.urandom))
    settings.BANK = {"ID": BANK_ID, "KEY_FILE": str(path)}
    out = StringIO()
    with pytest.raises(CommandError, match="9 problems"):
        call_command("verify_ledger", stdout=out)
    shown = format_fingerprint(BANK.fingerprint)
    assert out.getvalue().count(f'give --fingerprint "{shown}"') == 9
    call_command("verify_ledger", "--fingerprint", shown, stdout=StringIO())
    others = ("--fingerprint", "ab" * 16, "--fingerprint", shown)
    call_command("verify_ledger", *others, stdout=StringIO())
