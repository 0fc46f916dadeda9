"""The one decision: may this person do this to this account. What nothing grants is denied.

What is granted, and by what:

* a person may view, transfer from and withdraw from the accounts that he or she owns;
* an active employee of the organization that owns an account may do what the employee's
  permissions say, given directly or by roles of that organization;
* an active employee of the bank with the permission ``deposit`` may deposit to every customer's
  account, and does not thereby see it;
* the bank's own accounts (cash, issuance) may at the most be viewed: money enters and leaves
  through them only by withdrawals, deposits and the bank's own issues.

Whoever is blocked, or has no key in force, may do nothing at all.

How a denial is named is part of the rule. Who may not see an account is told
``account_unavailable``, exactly as if it did not exist; ``permission_denied`` is for those who
see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from django.db.models import (
    BigIntegerField,
    BinaryField,
    BooleanField,
    ExpressionWrapper,
    F,
    FilteredRelation,
    Q,
    QuerySet,
    Value,
)

from bank.compiled import CompiledQuery, Pending, Slot
from bank.models import (
    Account,
    AccountKind,
    Employee,
    EmployeeStatus,
    Permission,
    Person,
    PersonStatus,
)
from bank.statements import Conversation, conversation
from protocol.errors import Code

__all__ = [
    "AccountFacts",
    "Decision",
    "Grants",
    "GrantsReading",
    "Standing",
    "decide",
    "load_grants",
    "start_grants",
]


class AccountFacts(Protocol):
    """What the decision reads of an account; ``Account`` has it, and so may a leaner row."""

    @property
    def kind(self) -> str:
        """One of ``AccountKind``."""

    @property
    def owner_person_id(self) -> int | None:
        """The owner, where that is a person."""

    @property
    def owner_organization_id(self) -> int | None:
        """The owner, where that is an organization."""

    @property
    def order_limit(self) -> int | None:
        """The largest amount that one order may take from the account, in minor units."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed; truthy if so.

    :param code: ``None`` where it is allowed, else the wire code of the refusal.
    :param order_limit: the largest amount of one order, in minor units of the account's currency;
        ``None`` for no limit. The smaller one of the employee's limit and the account's.
    """

    allowed: bool
    code: Code | None = None
    order_limit: int | None = None

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Standing:
    """How a person stands with the bank.

    :param active: not blocked.
    :param fingerprint: 32 hexadecimal digits of the key in force, or ``None`` without one.
    :param identity_key: the 32 bytes of that key's public half.
    """

    active: bool
    fingerprint: str | None
    identity_key: bytes | None

    @property
    def accepted(self) -> bool:
        """Whether the bank acts on what this person signs."""
        return self.active and self.fingerprint is not None


@dataclass(slots=True)
class _Employment:
    """What an active employee of one organization may do, and up to which amount."""

    order_limit: int | None
    permissions: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Grants:
    """What :func:`load_grants` read: enough to decide for these persons and these accounts.

    It is as of one moment. Read it inside the transaction that acts on it and drop it after.
    """

    _standings: Mapping[int, Standing]
    _employments: Mapping[tuple[int, int], _Employment]
    _bank_id: int | None

    def standing(self, person_id: int) -> Standing | None:
        """Return how a person stands, or ``None`` for one whom the bank doesn't know."""
        return self._standings.get(person_id)

    def decide(self, person_id: int, account: AccountFacts, permission: str) -> Decision:
        """Return whether the person may do that to the account.

        :raises ValueError: if there is no such permission; that is a bug, not a refusal.
        """
        wanted = Permission(permission)
        standing = self._standings.get(person_id)
        if standing is None:
            return Decision(allowed=False, code=Code.UNKNOWN_SENDER)
        if not standing.accepted:
            return Decision(allowed=False, code=Code.KEY_REVOKED)
        if wanted is Permission.DEPOSIT:
            granted = self._deposit(person_id, account)
        elif wanted is Permission.VIEW:
            granted = self._view(person_id, account)
        else:
            granted = self._debit(person_id, account, wanted)
        if granted is not None:
            return granted
        if self._view(person_id, account) is not None:
            return Decision(allowed=False, code=Code.PERMISSION_DENIED)
        return Decision(allowed=False, code=Code.ACCOUNT_UNAVAILABLE)

    def _employment(
        self, person_id: int, organization_id: int | None, permission: Permission
    ) -> _Employment | None:
        """Return the employment that gives the permission, or ``None`` where none does."""
        if organization_id is None:
            return None
        employment = self._employments.get((person_id, organization_id))
        if employment is None or permission.value not in employment.permissions:
            return None
        return employment

    def _view(self, person_id: int, account: AccountFacts) -> Decision | None:
        owns = account.owner_person_id == person_id
        employed = self._employment(person_id, account.owner_organization_id, Permission.VIEW)
        return Decision(allowed=True) if owns or employed is not None else None

    def _debit(
        self, person_id: int, account: AccountFacts, permission: Permission
    ) -> Decision | None:
        if account.kind != AccountKind.CUSTOMER:
            return None
        if account.owner_person_id == person_id:
            return Decision(allowed=True, order_limit=account.order_limit)
        employed = self._employment(person_id, account.owner_organization_id, permission)
        if employed is None:
            return None
        order_limit = _smaller(employed.order_limit, account.order_limit)
        return Decision(allowed=True, order_limit=order_limit)

    def _deposit(self, person_id: int, account: AccountFacts) -> Decision | None:
        if account.kind != AccountKind.CUSTOMER:
            return None
        teller = self._employment(person_id, self._bank_id, Permission.DEPOSIT)
        if teller is None:
            return None
        # The account's own limit is on what an order takes from it, and a deposit takes nothing.
        return Decision(allowed=True, order_limit=teller.order_limit)


def load_grants(
    person_ids: Iterable[int], account_ids: Iterable[int], *, using: str = "default"
) -> Grants:
    """Read what is needed to decide for these persons on these accounts, in one query.

    Call it inside the transaction that acts on the decisions, after its locks were taken: then
    a permission or key counts no more once whoever withdrew it was told so.

    :param person_ids: primary keys of persons; unknown ones are denied later.
    :param account_ids: primary keys of the accounts that decisions may be about.
    :param using: the database alias.
    """
    with conversation(using) as talk:
        persons, accounts = set(person_ids), set(account_ids)
        return GrantsReading(
            _GRANTS_BY_KEY.start(talk, persons=persons, accounts=accounts)
        ).result()


def start_grants(talk: Conversation, persons: set[int], numbers: set[str]) -> GrantsReading:
    """Begin what :func:`load_grants` does, inside a block of ``bank.statements``.

    :param numbers: of the accounts that decisions may be about, beside the bank's own.
    """
    return GrantsReading(_GRANTS_BY_NUMBER.start(talk, persons=persons, accounts=numbers))


@dataclass(frozen=True, slots=True)
class GrantsReading:
    """Grants that are being read."""

    _rows: Pending

    def result(self) -> Grants:
        """Return the grants; call it once, inside the block in which it was begun."""
        standings: dict[int, Standing] = {}
        employments: dict[tuple[int, int], _Employment] = {}
        bank_id: int | None = None
        for person_id, organization_id, flag, order_limit, text, key in self._rows.rows():
            if organization_id is None:
                identity_key = None if key is None else bytes(key)
                standings[person_id] = Standing(bool(flag), text, identity_key)
                continue
            place = (person_id, organization_id)
            employment = employments.setdefault(place, _Employment(order_limit))
            if text is not None:
                employment.permissions.add(text)
            if flag:
                bank_id = organization_id
        return Grants(standings, employments, bank_id)


def decide(person: Person, account: Account, permission: str) -> Decision:
    """Return whether one person may do that to one account, as of now.

    :raises ValueError: if there is no such permission.
    """
    return load_grants([person.pk], [account.pk]).decide(person.pk, account, permission)


def _grants(accounts: Q) -> QuerySet[Any, Any]:
    """Return standings and employments in one query, so that all is as of one moment.

    A row of six: person, organization (none for a standing), active or at the bank, order
    limit, fingerprint or permission, identity key.
    """
    employees = _active_employees(accounts)
    return _standings().union(
        _direct_permissions(employees), _role_permissions(employees), all=True
    )


def _standings() -> QuerySet[Person, Any]:
    return (
        Person.objects.filter(pk__any_of=Slot("persons"))
        .annotate(key_in_force=FilteredRelation("keys", condition=Q(keys__revoked_at__isnull=True)))
        .order_by()
        .values_list(
            "pk",
            Value(None, output_field=BigIntegerField()),
            ExpressionWrapper(Q(status=PersonStatus.ACTIVE), output_field=BooleanField()),
            Value(None, output_field=BigIntegerField()),
            "key_in_force__fingerprint",
            "key_in_force__identity_key",
        )
    )


def _active_employees(accounts: Q) -> QuerySet[Employee]:
    """Return the employments that can matter: at the bank, or at an owner of these accounts."""
    owners = (
        Account.objects.filter(accounts, owner_organization__isnull=False)
        .order_by()
        .values("owner_organization_id")
    )
    return Employee.objects.filter(
        Q(organization__is_bank=True) | Q(organization_id__in=owners),
        person__pk__any_of=Slot("persons"),
        status=EmployeeStatus.ACTIVE,
    ).order_by()


def _employments(employees: QuerySet[Employee], permission: str) -> QuerySet[Employee, Any]:
    return employees.values_list(
        "person_id",
        "organization_id",
        "organization__is_bank",
        "order_limit",
        permission,
        Value(None, output_field=BinaryField()),
    )


def _direct_permissions(employees: QuerySet[Employee]) -> QuerySet[Employee, Any]:
    """Return every employment, with its permissions or with none."""
    return _employments(employees, "permissions__permission")


def _role_permissions(employees: QuerySet[Employee]) -> QuerySet[Employee, Any]:
    """Return what roles give; a role of another organization gives nothing."""
    given = employees.filter(
        roles__organization_id=F("organization_id"),
        roles__permissions__permission__isnull=False,
    )
    return _employments(given, "roles__permissions__permission")


_GRANTS_BY_KEY: Final = CompiledQuery(lambda: _grants(Q(pk__any_of=Slot("accounts"))))
_GRANTS_BY_NUMBER: Final = CompiledQuery(lambda: _grants(Q(number__any_of=Slot("accounts"))))


def _smaller(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two limits, where ``None`` is no limit."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
