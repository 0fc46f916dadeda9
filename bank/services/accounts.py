"""Accounts and currencies: opening, freezing, thawing, closing, limits. Money never moves here."""

from __future__ import annotations

from collections.abc import Collection

from bank.audit import Actor, recorded
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import (
    Account,
    AccountKind,
    AccountStatus,
    Currency,
    Organization,
    Person,
)
from bank.services import saving

__all__ = [
    "close_account",
    "create_currency",
    "ensure_bank_accounts",
    "freeze_account",
    "open_account",
    "set_account_limits",
    "thaw_account",
]


def create_currency(actor: Actor, code: str, exponent: int, name: str) -> Currency:
    """Add a currency whose amounts have ``exponent`` decimal places.

    :raises ChangeRefusedError: ``bad_value`` or ``already_exists``.
    """
    currency = Currency(code=code, exponent=exponent, name=name)
    saving.add(actor, currency)
    return currency


def open_account(
    actor: Actor,
    number: str,
    owner: Person | Organization,
    currency: Currency,
    *,
    kind: AccountKind = AccountKind.CUSTOMER,
    credit_limit: int = 0,
    order_limit: int | None = None,
) -> Account:
    """Open an account with a balance of zero.

    :param kind: ``cash`` and ``issuance`` only for the bank's organization; these have no limit
        below zero.
    :param credit_limit: how far below zero the balance may go, in minor units.
    :param order_limit: the largest amount that one order may take, in minor units.
    :raises ChangeRefusedError: ``bad_value``, ``already_exists`` or ``not_allowed``.
    """
    organization = owner if isinstance(owner, Organization) else None
    of_bank = organization is not None and organization.is_bank
    if kind is not AccountKind.CUSTOMER and not of_bank:
        raise ChangeRefusedError(
            ChangeFault.NOT_ALLOWED, f"Only the bank's organization has {kind.value} accounts."
        )
    account = Account(
        number=number,
        owner_person=owner if isinstance(owner, Person) else None,
        owner_organization=organization,
        currency=currency,
        kind=kind,
        unlimited=kind is not AccountKind.CUSTOMER,
        credit_limit=credit_limit,
        order_limit=order_limit,
    )
    saving.add(actor, account)
    return account


def ensure_bank_accounts(
    actor: Actor, bank: Organization, currency: Currency
) -> tuple[Account, Account]:
    """Return the bank's cash account and issuance account of a currency, opened where missing.

    Their numbers are "cash-" and "issuance-" with the currency's code.
    """
    return (
        _ensure_bank_account(actor, bank, currency, AccountKind.CASH),
        _ensure_bank_account(actor, bank, currency, AccountKind.ISSUANCE),
    )


def freeze_account(actor: Actor, account: Account, reason: str) -> None:
    """Let an open account take part in no transfer until it is thawed.

    :raises ChangeRefusedError: ``wrong_state`` unless it is open.
    """
    _move(actor, account, {AccountStatus.OPEN}, AccountStatus.FROZEN, reason)


def thaw_account(actor: Actor, account: Account, reason: str) -> None:
    """Open a frozen account again.

    :raises ChangeRefusedError: ``wrong_state`` unless it is frozen.
    """
    _move(actor, account, {AccountStatus.FROZEN}, AccountStatus.OPEN, reason)


def close_account(actor: Actor, account: Account, reason: str) -> None:
    """Close an account for ever; its history stays.

    :raises ChangeRefusedError: ``wrong_state`` if its balance is not zero, something is held on
        it, or it is closed already.
    """
    usable = {AccountStatus.OPEN, AccountStatus.FROZEN}
    _move(actor, account, usable, AccountStatus.CLOSED, reason, balance=0, held=0)


def set_account_limits(
    actor: Actor, account: Account, *, credit_limit: int, order_limit: int | None
) -> None:
    """Set how far below zero the balance may go, and how much one order may take.

    :raises ChangeRefusedError: ``bad_value``, also where the balance is already below the new
        limit; ``not_allowed`` for the bank's own accounts, which have no credit limit.
    """
    if account.kind != AccountKind.CUSTOMER and credit_limit != account.credit_limit:
        raise ChangeRefusedError(
            ChangeFault.NOT_ALLOWED, "The credit limit of the bank's own accounts is not used."
        )
    saving.change(actor, account, credit_limit=credit_limit, order_limit=order_limit)


def _ensure_bank_account(
    actor: Actor, bank: Organization, currency: Currency, kind: AccountKind
) -> Account:
    existing = Account.objects.filter(currency=currency, kind=kind).first()
    return existing or open_account(
        actor, f"{kind.value}-{currency.code}", bank, currency, kind=kind
    )


def _move(
    actor: Actor,
    account: Account,
    from_statuses: Collection[AccountStatus],
    to_status: AccountStatus,
    reason: str,
    **further: int,
) -> None:
    """Change the status if the row, as it is when the statement runs, allows it.

    The condition is part of the statement: it waits for an order that holds the row's lock
    and then looks at the balance which that order left.
    """
    with recorded(actor, account, reason):
        moved = Account.objects.filter(pk=account.pk, status__in=from_statuses, **further).update(
            status=to_status
        )
        account.refresh_from_db()
        if not moved:
            raise ChangeRefusedError(ChangeFault.WRONG_STATE, _why_not(account, from_statuses))


def _why_not(account: Account, from_statuses: Collection[AccountStatus]) -> str:
    if account.status not in from_statuses:
        return f"Account {account.number} is {account.get_status_display().lower()}."
    if account.held:
        return f"Account {account.number} has amounts on hold."
    return f"The balance of account {account.number} is not zero."
