"""Locks; no other module takes any.

Every transaction that books locks all its accounts in one statement in the order of their
primary keys. Whoever takes locks in one order can't wait in a circle, so bookings don't deadlock
with each other.

``FOR NO KEY UPDATE`` is as strong as the UPDATE of a balance needs: two bookings of one account
wait for each other, while rows elsewhere that refer to the account can still be inserted. On
SQLite, where a transaction begins with the lock on the whole database (IMMEDIATE), there is
nothing to do.

Keys and permissions have no row locks: every order would take those of its person and employment.
Bookings share one lock instead (:func:`share_booking`), for as long as their transaction lasts, and
whoever takes something away waits for it once (:func:`outlast_bookings`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery

from bank.compiled import CompiledQuery, Pending, Slot
from bank.models import Account, Currency
from bank.statements import Conversation

__all__ = [
    "LockedAccount",
    "Locking",
    "for_update",
    "outlast_bookings",
    "own_accounts",
    "share_booking",
    "start_locking",
]

_BOOKING: Final = int.from_bytes(b"bookings")
"""The number of the lock that bookings share; of this database alone."""
_SHARE_BOOKING: Final = f"SELECT pg_advisory_xact_lock_shared({_BOOKING})"
_OUTLAST_BOOKINGS: Final = f"SELECT pg_advisory_xact_lock({_BOOKING})"


@dataclass(slots=True)
class LockedAccount:
    """An account as it is under the lock; amounts in minor units.

    ``balance`` is changed in memory while a batch is decided, so that later orders of the batch see
    what earlier ones did.
    """

    id: int
    number: str
    owner_person_id: int | None
    owner_organization_id: int | None
    kind: str
    currency: str
    exponent: int
    balance: int
    held: int
    credit_limit: int
    unlimited: bool
    status: str
    order_limit: int | None

    @property
    def available(self) -> int:
        """What may still be spent; an unlimited account may spend more."""
        return self.balance - self.held + self.credit_limit


def for_update(accounts: QuerySet[Account]) -> QuerySet[Account]:
    """Return the query with the row lock."""
    return accounts.select_for_update(no_key=True)


def _own_accounts() -> QuerySet[Account, tuple[int]]:
    named = Account.objects.filter(number__any_of=Slot("numbers")).order_by()
    return (
        Account.objects.filter(kind__any_of=Slot("kinds"), currency_id__in=named.values("currency"))
        .order_by()
        .values_list("pk")
    )


def _accounts_under_lock() -> QuerySet[Account, Any]:
    exponent = Currency.objects.filter(code=OuterRef("currency_id")).values("exponent")
    wanted = Q(number__any_of=Slot("numbers")) | Q(pk__any_of=Slot("own"))
    return (
        for_update(Account.objects.filter(wanted).order_by("pk"))
        .annotate(exponent=Subquery(exponent))
        .values_list(
            "id",
            "number",
            "owner_person_id",
            "owner_organization_id",
            "kind",
            "currency_id",
            "exponent",
            "balance",
            "held",
            "credit_limit",
            "unlimited",
            "status",
            "order_limit",
        )
    )


_OWN_ACCOUNTS: Final = CompiledQuery(_own_accounts)
_ACCOUNTS_UNDER_LOCK: Final = CompiledQuery(_accounts_under_lock)


def share_booking(talk: Conversation) -> None:
    """Begin to hold, until the transaction ends, the lock that all bookings share.

    Start it before anything is read: what is read after it, :func:`outlast_bookings` waits for.

    :param talk: in a transaction.
    """
    if talk.vendor == "postgresql":
        talk.start(_SHARE_BOOKING)


def outlast_bookings(using: str = DEFAULT_DB_ALIAS) -> None:
    """Once the open transaction has committed, wait for the bookings that began before.

    They may have read what it took away. Whoever begins later reads the new state, so when the
    operator is told, nothing that read the old one can still commit.

    The wait comes after the commit, in a transaction of its own: who waits here holds no lock that
    a booking could want, so no two can wait for each other. Bookings that come meanwhile queue up
    behind it, for as long as those take that are under way.
    """
    if connections[using].vendor == "postgresql":
        transaction.on_commit(lambda: _wait_for_bookings(using), using=using)


def _wait_for_bookings(using: str) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(_OUTLAST_BOOKINGS)


def own_accounts(talk: Conversation, numbers: Collection[str], kinds: Collection[str]) -> list[int]:
    """Return the keys of the bank's own accounts that are needed beside named ones.

    Which ones these are never changes once there are entries, so they are read without a lock,
    which keeps the locking query on two indexes.

    :param numbers: of the accounts that orders name.
    :param kinds: of the bank's own accounts, in every currency of the named ones.
    """
    if not kinds:
        return []
    return [key for (key,) in _OWN_ACCOUNTS.start(talk, numbers=numbers, kinds=kinds).rows()]


@dataclass(frozen=True, slots=True)
class Locking:
    """Accounts that are being locked."""

    _rows: Pending

    def result(self) -> list[LockedAccount]:
        """Return the accounts in the order of their keys; call it once."""
        return [LockedAccount(*row) for row in self._rows.rows()]


def start_locking(talk: Conversation, numbers: Collection[str], own: Collection[int]) -> Locking:
    """Begin to lock accounts until the transaction ends.

    What is started after it runs once the locks are held.

    :param talk: in a transaction.
    :param numbers: of the accounts that orders name; there may be none of that number.
    :param own: keys of the bank's own.
    """
    return Locking(_ACCOUNTS_UNDER_LOCK.start(talk, numbers=numbers, own=own))
