"""``manage.py init_bank``: a new bank, ready for `runbank` and `import_permissions`."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from bank.audit import Actor
from bank.conf import bank_settings
from bank.errors import BankSetupError, ChangeRefusedError
from bank.key_settings import key_path, now_ms, open_keyring, passphrase
from bank.keyring import write_key_file
from bank.models import Organization
from bank.services.installation import NewCurrency, ensure_bank
from protocol.errors import ProtocolError
from protocol.keyfile import KeyFile, encrypt_key_file, new_key_file
from protocol.keys import format_fingerprint

PIN_FILE_MODE: Final = 0o644


class Command(BaseCommand):
    """Creates what a bank needs and doesn't have yet; running it again changes nothing."""

    help = (
        "Create the bank's key file (if there is none), its organization, its own person with "
        "the enrolled key, and the cash and issuance accounts of the given currencies."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what can be given."""
        parser.add_argument(
            "--currency",
            action="append",
            default=[],
            metavar="CODE:PLACES:NAME",
            help='a currency, as in "EUR:2:Euro"; may be repeated',
        )
        parser.add_argument("--first-name", default="The")
        parser.add_argument("--last-name", default="Bank")
        parser.add_argument("--organization", default="the-bank", help="code of the organization")
        parser.add_argument("--organization-name", default="The Bank")
        parser.add_argument("--key-file", help="instead of TELLERWIRE_BANK_KEY_FILE")
        parser.add_argument("--passphrase-file", help="instead of TELLERWIRE_BANK_PASSPHRASE_FILE")
        parser.add_argument(
            "--pin-file",
            help="a file to write for the relay's TELLERWIRE_RELAY_PINNED_FINGERPRINTS_FILE",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command."""
        currencies = [_parse_currency(text) for text in options["currency"]]
        try:
            key_file, organization = self._set_up(options, currencies)
            if options["pin_file"]:
                _write_pin(Path(options["pin_file"]), key_file)
        except (BankSetupError, ChangeRefusedError, ProtocolError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"The bank is {organization.name}, id {key_file.client_id}.\n"
            f"Its fingerprint, for customers' configurations: "
            f"{format_fingerprint(key_file.fingerprint)}"
        )

    def _set_up(
        self, options: dict[str, Any], currencies: Sequence[NewCurrency]
    ) -> tuple[KeyFile, Organization]:
        path = key_path(options["key_file"])
        if path.exists():
            key_file = open_keyring(options["key_file"], options["passphrase_file"]).key_file
            return key_file, _ensure_rows(key_file, options, currencies)
        secret = passphrase(options["passphrase_file"], confirm=True)
        key_file = new_key_file(
            bank_settings.ID,
            options["first_name"],
            options["last_name"],
            now=now_ms(),
            random_bytes=os.urandom,
        )
        data = encrypt_key_file(key_file, secret, os.urandom)
        # The file is written last before the commit. What is refused before leaves nothing behind.
        # And if the commit fails, the file stays and the next run enrols its key; in the other
        # order a crash would leave a key enrolled that nobody has, and no other could follow it.
        with transaction.atomic():
            organization = _ensure_rows(key_file, options, currencies)
            _create_key_file(path, data)
        self.stdout.write(f"Made the key file {path}.")
        return key_file, organization


def _ensure_rows(
    key_file: KeyFile, options: dict[str, Any], currencies: Sequence[NewCurrency]
) -> Organization:
    return ensure_bank(
        Actor.command("init_bank"),
        key_file.bundle,
        organization_code=options["organization"],
        organization_name=options["organization_name"],
        currencies=currencies,
    )


def _create_key_file(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_key_file(path, data)
    except OSError as error:
        raise BankSetupError(f"{path} can't be made: {error.strerror}") from error


def _write_pin(path: Path, key_file: KeyFile) -> None:
    """Write `id=fingerprint`, which is public: the relay may run as somebody else."""
    line = f"{key_file.client_id}={format_fingerprint(key_file.fingerprint)}\n".encode("ascii")
    try:
        if not path.is_file() or path.read_bytes() != line:
            path.write_bytes(line)
            path.chmod(PIN_FILE_MODE)
    except OSError as error:
        raise BankSetupError(f"{path} can't be written: {error.strerror}") from error


def _parse_currency(text: str) -> NewCurrency:
    code, _, rest = text.partition(":")
    places, _, name = rest.partition(":")
    if not places.isascii() or not places.isdigit():
        raise CommandError(f'{text!r} is no currency; write CODE:PLACES:NAME as in "EUR:2:Euro"')
    return NewCurrency(code, int(places), name or code)
