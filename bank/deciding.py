"""Whether an order is booked: every refusal, in the published order of precedence.

Nothing here reads or writes the database. It is given the accounts as they are under their locks
and the permissions as they are in the same transaction, and changes balances in memory only, so
an order sees what the orders before it in the same batch did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

from bank.authorization import Decision, Grants
from bank.errors import AmountFault, BadAmountError, CertainNoError
from bank.incoming import BankIdentity, IncomingOrder
from bank.locking import LockedAccount
from bank.models import AccountKind, AccountStatus, Permission, TransferKind
from bank.money import format_amount, parse_amount
from bank.sequence import value_date_of
from protocol import limits
from protocol.banking import Deposit, Issue, Order, Transfer, Withdraw
from protocol.errors import BankError, Code

__all__ = ["BALANCE_MAX", "Decider", "Posting", "accounts_of"]

BALANCE_MAX: Final = 2**63 - 1
"""The largest balance, and the largest debt, that a 64-bit column holds."""

_VALUE_DATE_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999, where calendars of most databases end."""

_PERMISSIONS: Final = {
    Transfer: Permission.TRANSFER,
    Withdraw: Permission.WITHDRAW,
    Deposit: Permission.DEPOSIT,
}
_KINDS: Final = {
    Transfer: TransferKind.TRANSFER,
    Withdraw: TransferKind.WITHDRAWAL,
    Deposit: TransferKind.DEPOSIT,
    Issue: TransferKind.OPENING,
}


@dataclass(frozen=True, slots=True)
class Posting:
    """A transfer that was decided; the balances are those after it, in minor units."""

    kind: TransferKind
    debit: LockedAccount
    credit: LockedAccount
    amount: int
    value_date: date | None
    debit_balance: int
    credit_balance: int


def accounts_of(order: Order) -> tuple[set[str], set[str]]:
    """Return the numbers that an order names, and the kinds of the bank's own that it needs."""
    if isinstance(order, Transfer):
        return {order.from_account, order.to_account}, set()
    kind = AccountKind.ISSUANCE if isinstance(order, Issue) else AccountKind.CASH
    return {order.account}, {kind.value}


class Decider:
    """Decides the orders of one batch, one after the other.

    :param bank: whose own key alone may issue money.
    :param now_ms: the database's clock, milliseconds since the epoch.
    """

    def __init__(
        self, bank: BankIdentity, accounts: Iterable[LockedAccount], grants: Grants, now_ms: int
    ) -> None:
        self._bank = bank
        self._grants = grants
        self._now_ms = now_ms
        self._by_number: dict[str, LockedAccount] = {}
        self._own: dict[tuple[str, str], LockedAccount] = {}
        for account in accounts:
            self._by_number[account.number] = account
            if account.kind != AccountKind.CUSTOMER:
                self._own[account.kind, account.currency] = account

    def may_view(self, person_id: int, account: LockedAccount) -> bool:
        """Return whether a receipt may tell this person the balance of the account."""
        return self._grants.decide(person_id, account, Permission.VIEW).allowed

    def decide(self, incoming: IncomingOrder) -> Posting:
        """Accept an order, and change the balances in memory.

        :raises BankError: with the first code, in the order of precedence, that fits; nothing was
            changed. A ``CertainNoError`` needs no record.
        """
        if incoming.expires_at <= self._now_ms:
            raise CertainNoError(
                Code.ORDER_EXPIRED, "the order expired before it reached the ledger"
            )
        self._check_key(incoming)
        order = incoming.order
        if order is None:
            raise BankError(Code.BAD_ORDER, incoming.problem)
        value_date = _value_date(order)
        _check_amount_alone(order.amount)
        named, decision = self._named_account(incoming, order)
        amount = parse_amount(order.amount, named.exponent)
        if decision.code is not None:
            raise BankError(decision.code, f"you may see {named.number}, but not do this to it")
        debit, credit = self._sides(order, named)
        _check_pair(order, debit, credit)
        _check_limits(decision, debit, credit, amount)
        _check_funds(debit, amount, visible=self.may_view(incoming.person_id, debit))
        debit.balance -= amount
        credit.balance += amount
        return Posting(
            _KINDS[type(order)], debit, credit, amount, value_date, debit.balance, credit.balance
        )

    def _check_key(self, incoming: IncomingOrder) -> None:
        """Refuse a key that is out of force for ever, or a person who is blocked for now.

        A key that was revoked or replaced never comes back, a blocked person may: then the same
        bytes would be booked, were their refusal not recorded.
        """
        standing = self._grants.standing(incoming.person_id)
        if standing is None or standing.identity_key != incoming.identity_key:
            raise CertainNoError(Code.KEY_REVOKED, "the key that signed this is not in force")
        if not standing.active:
            raise BankError(Code.KEY_REVOKED, "the bank accepts no orders of this person now")

    def _named_account(
        self, incoming: IncomingOrder, order: Order
    ) -> tuple[LockedAccount, Decision]:
        """Return the account that permission is needed for, and what was decided on it.

        A missing permission is told only after the amount: whoever sees the account may learn that
        the amount doesn't fit its currency.
        """
        number = order.from_account if isinstance(order, Transfer) else order.account
        account = self._by_number.get(number)
        decision = None
        if account is not None:
            decision = self._permission(incoming, order, account)
        if account is None or decision is None or decision.code is Code.ACCOUNT_UNAVAILABLE:
            raise BankError(Code.ACCOUNT_UNAVAILABLE, f"there is no account {number} for you")
        return account, decision

    def _permission(
        self, incoming: IncomingOrder, order: Order, account: LockedAccount
    ) -> Decision:
        if not isinstance(order, Issue):
            permission = _PERMISSIONS[type(order)]
            return self._grants.decide(incoming.person_id, account, permission)
        own_key = incoming.identity_key == self._bank.key.public
        if own_key and incoming.client_id == self._bank.bank_id:
            return Decision(allowed=True)
        visible = self.may_view(incoming.person_id, account)
        code = Code.PERMISSION_DENIED if visible else Code.ACCOUNT_UNAVAILABLE
        return Decision(allowed=False, code=code)

    def _sides(self, order: Order, named: LockedAccount) -> tuple[LockedAccount, LockedAccount]:
        """Return the debited and the credited account."""
        if isinstance(order, Transfer):
            destination = self._by_number.get(order.to_account)
            # Money leaves through the bank's own accounts by a withdrawal, never by a transfer.
            if destination is None or destination.kind != AccountKind.CUSTOMER:
                raise BankError(Code.DESTINATION_UNKNOWN, f"there is no account {order.to_account}")
            return named, destination
        kind = AccountKind.ISSUANCE if isinstance(order, Issue) else AccountKind.CASH
        own = self._own.get((kind.value, named.currency))
        if own is None:
            raise BankError(
                Code.DESTINATION_UNKNOWN,
                f"the bank has no {kind.value} account in {named.currency}",
            )
        return (named, own) if isinstance(order, Withdraw) else (own, named)


def _value_date(order: Order) -> date | None:
    if not isinstance(order, Transfer) or order.value_date is None:
        return None
    if order.value_date > _VALUE_DATE_MS_MAX:
        raise BankError(Code.BAD_ORDER, "the value date lies beyond the year 9999")
    return value_date_of(order.value_date)


def _check_amount_alone(text: str) -> None:
    """Refuse what is an amount in no currency, before anything is told about an account."""
    try:
        parse_amount(text, limits.CURRENCY_EXPONENT_MAX)
    except BadAmountError as error:
        if error.fault is not AmountFault.TOO_LARGE:
            raise
        # Too large for the finest currency is not yet too large for a coarser one.
        parse_amount(text.partition(".")[0], 0)


def _check_pair(order: Order, debit: LockedAccount, credit: LockedAccount) -> None:
    if debit is credit:
        raise BankError(Code.SAME_ACCOUNT, "both accounts are the same")
    wanted = order.currency or debit.currency
    if not wanted == debit.currency == credit.currency:
        raise BankError(
            Code.CURRENCY_MISMATCH,
            f"the currencies differ: {wanted}, {debit.currency}, {credit.currency}",
        )
    for code, status in (
        (Code.ACCOUNT_FROZEN, AccountStatus.FROZEN),
        (Code.ACCOUNT_CLOSED, AccountStatus.CLOSED),
    ):
        for account in (debit, credit):
            if account.status == status:
                raise BankError(code, f"account {account.number} is {status.value}")


def _check_limits(
    decision: Decision, debit: LockedAccount, credit: LockedAccount, amount: int
) -> None:
    limit = decision.order_limit
    if limit is not None and amount > limit:
        words = f"{format_amount(limit, debit.exponent)} {debit.currency}"
        raise BankError(Code.LIMIT_EXCEEDED, f"one order may move at most {words}")
    if credit.balance + amount > BALANCE_MAX or debit.balance - amount < -BALANCE_MAX:
        raise BankError(Code.LIMIT_EXCEEDED, "a balance would leave the range of the ledger")


def _check_funds(debit: LockedAccount, amount: int, *, visible: bool) -> None:
    """Refuse what is not there; how much is there is told to those who may see the account."""
    if debit.unlimited or debit.available >= amount:
        return
    words = "too little"
    if visible:
        words = f"{format_amount(debit.available, debit.exponent)} {debit.currency}"
    raise BankError(Code.INSUFFICIENT_FUNDS, f"{debit.number} has {words} available")
