"""The verification as a whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bank.models import Account, Entry, Order, Transfer
from bank.queries import snapshot
from bank.verification.guards import check_guards
from bank.verification.journal import check_balances
from bank.verification.keys import check_keys
from bank.verification.orders import check_orders
from bank.verification.problems import Problem, Tally
from bank.verification.storage import check_storage
from bank.verification.structure import check_structure

__all__ = ["rows_to_check", "verify_ledger"]


def rows_to_check(using: str = "default") -> int:
    """Return how many rows a verification will count, for a progress bar."""
    return sum(
        model._base_manager.using(using).count() for model in (Account, Entry, Order, Transfer)
    )


def verify_ledger(
    bank_id: str,
    *,
    bank_fingerprints: Collection[bytes] = (),
    using: str = "default",
    tally: Tally | None = None,
) -> Iterator[Problem]:
    """Check everything and yield what is wrong, as it is found.

    Where columns hold values that aren't of their kind, these are named and the rows are not read.

    :param bank_id: the bank's id, whose enrolled keys sign receipts.
    :param bank_fingerprints: where they are known from elsewhere than this database: then only
        keys with these fingerprints count as the bank's.
    :param tally: counts the rows that were checked.
    """
    counted = tally if tally is not None else Tally()
    with snapshot(using):
        yield from check_guards(using)
        unreadable = False
        for problem in check_storage(using):
            unreadable = True
            yield problem
        if unreadable:
            return
        yield from check_structure(using)
        yield from check_keys(using)
        yield from check_balances(using, counted)
        yield from check_orders(using, bank_id, bank_fingerprints, counted)
