"""Checks the whole ledger against itself: what was written, signed, answered, and is shown.

Nothing that the database says of itself is believed: not that its constraints and triggers are in
place, not that references lead somewhere, not that balances are what the journal makes them, not
that an order was signed by whom it names. Everything is read in one snapshot, row by row, so it
runs beside a working bank and needs little memory, however long the journal is.
"""

from __future__ import annotations

from bank.verification.problems import Problem, Tally
from bank.verification.run import rows_to_check, verify_ledger

__all__ = ["Problem", "Tally", "rows_to_check", "verify_ledger"]
