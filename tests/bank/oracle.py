"""The ledger's rules once more, one order at a time and as simple as can be.

It shares no code with the ledger: no batches, no locks, no database, no objects of the bank. Where
the two differ, one of them is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class OracleAccount:
    balance: int = 0
    floor: int | None = 0
    """The lowest balance; None for none."""
    status: str = "open"
    currency: str = "TWC"
    places: int = 0
    kind: str = "customer"
    order_limit: int | None = None


@dataclass
class Oracle:
    accounts: dict[str, OracleAccount] = field(default_factory=dict)
    rights: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """(person, account) to permissions; owners have their permissions listed, too."""
    tellers: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    seen: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)

    def order(
        self, person: str, order_id: str, fingerprint: bytes, *, expired: bool, **asked: str
    ) -> str:
        """Return the code of the outcome: empty for accepted."""
        key = (person, order_id)
        if key in self.seen:
            before, code = self.seen[key]
            return code if before == fingerprint else "order_id_conflict"
        if expired:
            return "order_expired"
        if person in self.revoked:
            return "key_revoked"
        code = self._decide(person, **asked)
        self.seen[key] = (fingerprint, code)
        return code

    def _decide(self, person: str, operation: str, account: str, other: str, amount: str) -> str:
        if not self._is_number(amount):
            return "bad_amount"
        mine = self.accounts.get(account)
        rights = self.rights.get((person, account), set())
        allowed = operation in rights and mine is not None and mine.kind == "customer"
        if operation == "deposit":
            allowed = person in self.tellers and mine is not None and mine.kind == "customer"
        if mine is None or (not allowed and "view" not in rights):
            return "account_unavailable"
        value = self._minor_units(amount, mine.places)
        if value is None:
            return "bad_amount"
        if not allowed:
            return "permission_denied"
        own = f"cash-{mine.currency}"
        if operation == "transfer":
            source, target = account, other
            if other not in self.accounts or self.accounts[other].kind != "customer":
                return "destination_unknown"
        elif operation == "withdraw":
            source, target = account, own
        else:
            source, target = own, account
        return self._move(source, target, value, rights_limit=operation != "deposit")

    def _move(self, source: str, target: str, value: int, *, rights_limit: bool) -> str:
        if source == target:
            return "same_account"
        debit, credit = self.accounts[source], self.accounts[target]
        if debit.currency != credit.currency:
            return "currency_mismatch"
        if "frozen" in (debit.status, credit.status):
            return "account_frozen"
        if "closed" in (debit.status, credit.status):
            return "account_closed"
        if rights_limit and debit.order_limit is not None and value > debit.order_limit:
            return "limit_exceeded"
        if debit.floor is not None and debit.balance - value < debit.floor:
            return "insufficient_funds"
        debit.balance -= value
        credit.balance += value
        return ""

    @staticmethod
    def _is_number(amount: str) -> bool:
        whole, point, fraction = amount.partition(".")
        if not whole.isdigit() or (point and not fraction.isdigit()) or len(fraction) > 6:
            return False
        if int(whole) > 10**15:  # too large in every currency
            return False
        return (whole == "0" or whole[0] != "0") and int(whole + fraction) > 0

    @staticmethod
    def _minor_units(amount: str, places: int) -> int | None:
        whole, _, fraction = amount.partition(".")
        if len(fraction) > places:
            return None
        value = int(whole + fraction.ljust(places, "0"))
        return value if value <= 10**15 else None
