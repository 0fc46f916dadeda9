"""``manage.py import_permissions``: persons, organizations, accounts and permissions of a file."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from bank.audit import Actor
from bank.errors import BadAmountError, BankSetupError, ChangeRefusedError, LedgerError
from bank.incoming import OrderOutcome
from bank.issuing import check_bank_enrolled, issue_opening_balances
from bank.key_settings import open_keyring
from bank.models import Account, Entry
from bank.money import parse_amount
from bank.permissions_file import PermissionsFile, read_file
from bank.services.importing import Change, ImportReport, choose_currency, import_permissions
from protocol.errors import Code
from protocol.keyfile import KeyFile

ACTOR = Actor.command("import_permissions")


class Command(BaseCommand):
    """Reads a file, brings all of it into the books or nothing, and says what it did."""

    help = (
        "Import a bank_permissions.json with key bundles: all of it or nothing. It may be imported "
        "again; what the file doesn't name is left alone."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what can be given."""
        parser.add_argument("file", type=Path, help="the JSON file")
        parser.add_argument("--currency", metavar="CODE", help="by default the only one there is")
        parser.add_argument(
            "--exponent", type=int, help="decimal places of a currency that may be new"
        )
        parser.add_argument(
            "--without-keys",
            action="store_true",
            help="import the persons now; enrol their key bundles later",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what it would do")
        parser.add_argument(
            "--opening-balance",
            metavar="AMOUNT",
            help="issue this amount to each account of the file on which nothing was booked yet",
        )
        parser.add_argument("--key-file", help="the bank's, instead of TELLERWIRE_BANK_KEY_FILE")
        parser.add_argument("--passphrase-file", help="instead of TELLERWIRE_BANK_PASSPHRASE_FILE")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command."""
        try:
            content = read_file(options["file"], without_keys=options["without_keys"])
            bank_key = self._bank_key(options)
            report = self._import(content, options)
        except (ChangeRefusedError, BankSetupError) as error:
            raise CommandError(f"{error}\nNothing was imported.") from error
        self._tell(report, dry_run=options["dry_run"])
        if bank_key is not None and not options["dry_run"]:
            self._open_balances(bank_key, options["opening_balance"], report.accounts)

    def _import(self, content: PermissionsFile, options: dict[str, Any]) -> ImportReport:
        with transaction.atomic():
            currency = choose_currency(ACTOR, options["currency"], options["exponent"])
            if options["opening_balance"] is not None:
                try:
                    parse_amount(options["opening_balance"], currency.exponent)
                except BadAmountError as error:
                    raise BankSetupError(f"--opening-balance: {error.detail}.") from error
            report = import_permissions(ACTOR, content, currency)
            if options["dry_run"]:
                transaction.set_rollback(True)
        return report

    def _bank_key(self, options: dict[str, Any]) -> KeyFile | None:
        """Open the bank's key before anything is imported, if there is something to sign."""
        if options["opening_balance"] is None:
            return None
        key_file = open_keyring(options["key_file"], options["passphrase_file"]).key_file
        check_bank_enrolled(key_file)
        return key_file

    def _tell(self, report: ImportReport, *, dry_run: bool) -> None:
        for kind, name, change in report.lines:
            if change is not Change.UNCHANGED:
                self.stdout.write(f"{change.value:<9} {kind} {name}")
        counts = ", ".join(f"{report.count(change)} {change.value}" for change in Change)
        self.stdout.write(f"{'Would be: ' if dry_run else ''}{counts}.")

    def _open_balances(self, key_file: KeyFile, amount: str, accounts: list[Account]) -> None:
        entries = Entry.objects.filter(account__in=accounts)
        booked = set(entries.values_list("account_id", flat=True))
        untouched = [account.number for account in accounts if account.pk not in booked]
        try:
            outcomes = issue_opening_balances(key_file, [(number, amount) for number in untouched])
        except (BankSetupError, LedgerError) as error:
            raise CommandError(
                f"{error}\nThe file was imported. Run the same again to issue the rest of the "
                "opening balances."
            ) from error
        self._tell_balances(amount, outcomes)

    def _tell_balances(self, amount: str, outcomes: list[tuple[str, OrderOutcome]]) -> None:
        issued = [number for number, outcome in outcomes if outcome.code is None]
        self.stdout.write(f"Issued {amount} to {len(issued)} accounts.")
        # Another run was there between the look at the entries and the booking.
        for number, outcome in outcomes:
            if outcome.code is Code.ORDER_ID_CONFLICT:
                self.stdout.write(f"Already issued to account {number}.")
        refused = [
            f"account {number}: {outcome.code}"
            for number, outcome in outcomes
            if outcome.code not in (None, Code.ORDER_ID_CONFLICT)
        ]
        if refused:
            raise CommandError("Opening balances were refused:\n" + "\n".join(refused))
