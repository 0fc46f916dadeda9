"""What customers may ask: accounts, balances, statements, their own orders. Nothing is written.

Each answer is one snapshot of the database. Its ``sequence`` is the number of the newest entry that
it took into account on the accounts it is about, so of two answers about the same account the one
with the higher number is the later one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from django.db import connections, transaction
from django.db.models import Max, Q

from bank.authorization import Grants, load_grants
from bank.models import Account, Employee, EmployeeStatus, Entry, Order, Permission
from bank.receipts import stored_receipt
from bank.sequence import milliseconds, value_date_ms
from protocol import limits
from protocol.banking import (
    AccountLine,
    AccountsQuery,
    AccountsResult,
    BalanceLine,
    BalanceQuery,
    BalanceResult,
    OrderStatusQuery,
    Query,
    Result,
    SignedReceipt,
    StatementLine,
    StatementQuery,
    StatementResult,
    decode_order,
)
from protocol.errors import BankError, Code, ProtocolError
from protocol.sealing import Inner, SignedMessage

__all__ = ["answer_query", "snapshot"]


def answer_query(
    person_id: int, identity_key: bytes, query: Query, *, using: str = "default"
) -> Result | SignedReceipt | None:
    """Answer a query of a person.

    :param identity_key: the key that signed the query; it must be in force.
    :returns: a result; for ``order_status`` the stored receipt, or ``None`` where no such order of
        this person is recorded.
    :raises BankError: ``key_revoked`` or ``account_unavailable``.
    """
    with snapshot(using):
        if isinstance(query, OrderStatusQuery):
            _grants_for(person_id, identity_key, [], using)
            return _order_status(person_id, query.order_id, using)
        if isinstance(query, AccountsQuery):
            return _accounts(person_id, identity_key, query.after, using)
        account = _visible_account(person_id, identity_key, query.account, using)
        if isinstance(query, BalanceQuery):
            return BalanceResult(
                balance=_balance_line(account),
                status=account.status,
                sequence=_newest([account.pk], using),
            )
        return _statement(account, query, using)


@contextmanager
def snapshot(using: str) -> Iterator[None]:
    """Let every statement of the block see the same state of the database, and write nothing.

    On SQLite Django's own transactions take the write lock at once, which a reader must not do.
    """
    connection = connections[using]
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic(using=using):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
    else:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")


def _grants_for(
    person_id: int, identity_key: bytes, account_ids: Sequence[int], using: str
) -> Grants:
    """Read the permissions, after making sure that the key is in force."""
    grants = load_grants([person_id], account_ids, using=using)
    standing = grants.standing(person_id)
    if standing is None or not standing.accepted or standing.identity_key != identity_key:
        raise BankError(Code.KEY_REVOKED, "the key that signed this is not in force")
    return grants


def _visible_account(person_id: int, identity_key: bytes, number: str, using: str) -> Account:
    account = Account.objects.using(using).select_related("currency").filter(number=number).first()
    known = [] if account is None else [account.pk]
    grants = _grants_for(person_id, identity_key, known, using)
    if account is None or not grants.decide(person_id, account, Permission.VIEW):
        raise BankError(Code.ACCOUNT_UNAVAILABLE, f"there is no account {number} for you")
    return account


def _newest(account_ids: Sequence[int], using: str) -> int:
    """Return the number of the newest entry on these accounts; 0 without any."""
    entries = Entry.objects.using(using).filter(account_id__in=account_ids).order_by()
    newest: int | None = entries.aggregate(newest=Max("transfer_id"))["newest"]
    return newest or 0


def _balance_line(account: Account) -> BalanceLine:
    return BalanceLine(
        account=account.number,
        balance=account.balance,
        available=account.balance - account.held + account.credit_limit,
        currency=account.currency_id,
        exponent=account.currency.exponent,
    )


# --- Accounts -----------------------------------------------------------------------------------


def _accounts(person_id: int, identity_key: bytes, after: str | None, using: str) -> AccountsResult:
    visible: list[tuple[Account, list[str]]] = []
    cursor = after
    while len(visible) <= limits.ACCOUNTS_MAX:
        candidates = _candidates(person_id, cursor, using)
        grants = _grants_for(person_id, identity_key, [one.pk for one in candidates], using)
        for account in candidates:
            permissions = _permissions(grants, person_id, account)
            if Permission.VIEW in permissions:
                visible.append((account, permissions))
        if len(candidates) <= limits.ACCOUNTS_MAX:
            break
        cursor = candidates[-1].number
    page = visible[: limits.ACCOUNTS_MAX]
    return AccountsResult(
        accounts=[_account_line(account, permissions) for account, permissions in page],
        sequence=_newest([account.pk for account, _ in page], using),
        next_after=page[-1][0].number if len(visible) > len(page) else None,
    )


def _candidates(person_id: int, after: str | None, using: str) -> list[Account]:
    """Return accounts that the person owns, or whose owner employs the person, one page of them."""
    employers = Employee.objects.using(using).filter(
        person_id=person_id, status=EmployeeStatus.ACTIVE
    )
    accounts = Account.objects.using(using).filter(
        Q(owner_person_id=person_id)
        | Q(owner_organization__in=employers.order_by().values("organization"))
    )
    if after is not None:
        accounts = accounts.filter(number__gt=after)
    related = accounts.select_related("currency", "owner_person", "owner_organization")
    return list(related.order_by("number")[: limits.ACCOUNTS_MAX + 1])


def _permissions(grants: Grants, person_id: int, account: Account) -> list[str]:
    return [
        permission.value
        for permission in Permission
        if grants.decide(person_id, account, permission)
    ]


def _account_line(account: Account, permissions: list[str]) -> AccountLine:
    person = account.owner_person
    owner = account.owner_organization
    return AccountLine(
        account=account.number,
        owner=person.full_name if person is not None else owner.name if owner is not None else "",
        owner_kind="person" if person is not None else "organization",
        status=account.status,
        permissions=permissions,
        balance=account.balance,
        available=account.balance - account.held + account.credit_limit,
        currency=account.currency_id,
        exponent=account.currency.exponent,
    )


# --- Statements ---------------------------------------------------------------------------------


def _statement(account: Account, query: StatementQuery, using: str) -> StatementResult:
    entries = Entry.objects.using(using).filter(account=account)
    if query.before is not None:
        entries = entries.filter(transfer_id__lt=query.before)
    rows = list(
        entries.select_related(
            "transfer__order", "transfer__debit_account", "transfer__credit_account"
        ).order_by("-transfer_id")[: query.limit + 1]
    )
    lines = [_statement_line(entry) for entry in rows[: query.limit]]
    return StatementResult(
        account=account.number,
        currency=account.currency_id,
        exponent=account.currency.exponent,
        entries=lines,
        next_before=lines[-1].sequence if len(lines) < len(rows) else None,
        sequence=_newest([account.pk], using),
    )


def _statement_line(entry: Entry) -> StatementLine:
    transfer = entry.transfer
    debited = transfer.debit_account_id == entry.account_id
    other = transfer.credit_account if debited else transfer.debit_account
    value_date = transfer.value_date
    return StatementLine(
        sequence=entry.transfer_id,
        transfer_id=str(transfer.uuid),
        kind=transfer.kind,
        amount=entry.amount,
        balance_after=entry.balance_after,
        counterparty=other.number,
        memo=_memo_of(transfer.order),
        booked_at=milliseconds(transfer.booked_at),
        value_date=None if value_date is None else value_date_ms(value_date),
    )


def _memo_of(order: Order) -> str:
    """Return the memo as the customer signed it; it is kept nowhere else."""
    try:
        signed = SignedMessage.from_evidence(bytes(order.evidence))
        inner = msgspec.json.decode(signed.inner, type=Inner)
        return decode_order(bytes(inner.content)).memo
    except (ProtocolError, msgspec.MsgspecError):
        return ""


# --- Orders -------------------------------------------------------------------------------------


def _order_status(person_id: int, order_id: str, using: str) -> SignedReceipt | None:
    row = (
        Order.objects.using(using)
        .filter(person_id=person_id, order_id=uuid.UUID(order_id))
        .values_list("receipt", "receipt_signature")
        .first()
    )
    return None if row is None else stored_receipt(bytes(row[0]), bytes(row[1]))
