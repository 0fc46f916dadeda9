"""Whether the journal balances, and makes the balances that accounts have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bank.models import Account, Entry
from bank.verification.problems import Problem, Tally

__all__ = ["check_balances"]

_ACCOUNTS = Account._meta.db_table
_ENTRIES = Entry._meta.db_table


def check_balances(using: str, tally: Tally) -> Iterator[Problem]:
    """Recompute every balance from the entries, and compare every step on the way.

    Accounts and entries are both read in the order of the account's key, side by side.
    """
    sums: Counter[str] = Counter()
    entries = _Entries(using, tally)
    accounts = Account._base_manager.using(using).order_by("pk")
    for account_id, balance, held, currency in accounts.values_list(
        "pk", "balance", "held", "currency_id"
    ).iterator():
        tally.checked(_ACCOUNTS)
        yield from entries.until(account_id)
        computed = entries.total_of(account_id)
        yield from entries.take_found()
        sums[currency] += computed
        if computed != balance:
            yield Problem(
                _ACCOUNTS, str(account_id), f"has balance {balance}; its entries make {computed}"
            )
        if held:
            yield Problem(
                _ACCOUNTS, str(account_id), f"has {held} on hold, which nothing put there"
            )
    yield from entries.until(None)
    for currency, total in sorted(sums.items()):
        if total != 0:
            yield Problem(
                _ACCOUNTS, "", f"the balances in {currency} sum up to {total} instead of 0"
            )


class _Entries:
    """The stream of entries, taken one account at a time."""

    def __init__(self, using: str, tally: Tally) -> None:
        rows = Entry._base_manager.using(using).order_by("account_id", "transfer_id")
        self._rows = rows.values_list(
            "account_id",
            "transfer_id",
            "amount",
            "balance_after",
            "transfer__debit_account_id",
            "transfer__credit_account_id",
            "transfer__amount",
        ).iterator()
        self._tally = tally
        self._next = next(self._rows, None)
        self._found: list[Problem] = []

    def until(self, account_id: int | None) -> Iterator[Problem]:
        """Skip entries of accounts before this one: there are no such accounts."""
        while self._next is not None and (account_id is None or self._next[0] < account_id):
            yield Problem(_ENTRIES, str(self._next[:2]), "is of an account that does not exist")
            self._advance()

    def total_of(self, account_id: int) -> int:
        """Return the sum of the account's entries; what is wrong with them is kept."""
        total = 0
        expected_after = 0
        while self._next is not None and self._next[0] == account_id:
            key = str(self._next[:2])
            _, _, amount, after, *transfer = self._next
            total += amount
            expected_after += amount
            if after != expected_after:
                self._found.append(
                    Problem(
                        _ENTRIES, key, f"has balance_after {after}; it should be {expected_after}"
                    )
                )
                # The next entry is compared with what this one says: one slip, one line.
                expected_after = after
            if amount != _amount_of(account_id, *transfer):
                self._found.append(
                    Problem(_ENTRIES, key, f"has amount {amount}, which its transfer doesn't say")
                )
            self._advance()
        return total

    def take_found(self) -> Iterator[Problem]:
        """Return what was found since the last time."""
        found, self._found = self._found, []
        yield from found

    def _advance(self) -> None:
        self._tally.checked(_ENTRIES)
        self._next = next(self._rows, None)


def _amount_of(account_id: int, debit: int, credit: int, amount: int) -> int:
    """Return what a transfer does to an account; 0 where the account is neither side of it."""
    return (amount if account_id == credit else 0) - (amount if account_id == debit else 0)
