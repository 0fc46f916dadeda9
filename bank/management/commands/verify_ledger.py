"""``manage.py verify_ledger``: check the whole ledger; exit 1 and name what is wrong."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection
from rich.console import Console
from rich.progress import Progress

from bank.conf import bank_settings
from bank.database_faults import first_words
from bank.verification import Tally, rows_to_check, verify_ledger
from protocol.encoding import unb64u
from protocol.errors import KeyFileFormatError
from protocol.keyfile import read_key_file_header
from protocol.keys import parse_fingerprint


class Command(BaseCommand):
    """Verifies beside a running bank; reads only."""

    help = (
        "Recompute every balance from the journal, and check every constraint, every reference, "
        "every signed order and every receipt. Exits 1 and names each row that is wrong."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what can be given."""
        parser.add_argument(
            "--fingerprint",
            action="append",
            default=[],
            help="a fingerprint that the bank has or had, beside that of "
            "TELLERWIRE_BANK_KEY_FILE; may be repeated. Where neither says any, every key counts "
            "that is enrolled for the bank",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command."""
        fingerprints = _fingerprints(options["fingerprint"])
        try:
            tally, found = self._verify(fingerprints)
        except DatabaseError as error:
            raise CommandError(
                f"the bank's database can't be read: {first_words(error)}"
            ) from error
        if found:
            raise CommandError(f"The ledger is not in order: {found} problems.", returncode=1)
        self.stdout.write(
            f"The ledger is in order: {tally.rows['bank_account']} accounts, "
            f"{tally.rows['bank_order']} orders, {tally.rows['bank_transfer']} transfers, "
            f"{tally.rows['bank_entry']} entries."
        )

    def _verify(self, fingerprints: Collection[bytes]) -> tuple[Tally, int]:
        """Print what is wrong, and return how many rows were checked and problems found."""
        _take_time()
        console = Console(file=sys.stderr)
        found = 0
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Verifying the ledger", total=rows_to_check())
            tally = Tally(lambda rows: bar.advance(task, rows))
            for problem in verify_ledger(
                bank_settings.ID, bank_fingerprints=fingerprints, tally=tally
            ):
                found += 1
                self.stdout.write(str(problem))
        return tally, found


def _take_time() -> None:
    """Let the transaction wait for whoever reads its output page by page: it locks nothing."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = 0")


def _fingerprints(given: Sequence[str]) -> set[bytes]:
    """Return what was given, and what the bank's key file says."""
    try:
        fingerprints = {parse_fingerprint(text) for text in given}
        if bank_settings.KEY_FILE and Path(bank_settings.KEY_FILE).exists():
            # The header is readable without the passphrase, and enough to compare with.
            header = read_key_file_header(Path(bank_settings.KEY_FILE).read_bytes())
            fingerprints.add(unb64u(header.fingerprint))
    except (ValueError, OSError, KeyFileFormatError) as error:
        raise CommandError(f"the bank's fingerprint: {error}") from error
    return fingerprints
