"""The one decision, over the whole matrix of who, what account and what permission."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bank.authorization import Decision, decide, load_grants
from bank.models import (
    Account,
    AccountKind,
    Employee,
    EmployeePermission,
    EmployeeStatus,
    Organization,
    Person,
    PersonStatus,
    RolePermission,
)
from protocol.errors import Code
from tests.bank.parties import (
    make_account,
    make_employee,
    make_organization,
    make_person,
    make_role,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

PERMISSIONS = ("view", "transfer", "withdraw", "deposit")
NAMES = {
    "A": None,
    "D": Code.PERMISSION_DENIED,
    "U": Code.ACCOUNT_UNAVAILABLE,
    "K": Code.KEY_REVOKED,
    "S": Code.UNKNOWN_SENDER,
}
ACCOUNTS = ("own", "other", "club", "rival", "bank", "cash", "issuance")


@dataclass
class World:
    """One person whose standing the test sets, and an account of every sort."""

    person: Person
    club: Organization
    rival: Organization
    bank: Organization
    accounts: dict[str, Account]


@pytest.fixture
def world() -> World:
    person, other = make_person("demo-ada"), make_person("demo-ben")
    club, rival = make_organization("club"), make_organization("rival")
    bank = make_organization("bank", is_bank=True)
    accounts = {
        "own": make_account("own", person),
        "other": make_account("other", other),
        "club": make_account("club", club),
        "rival": make_account("rival", rival),
        "bank": make_account("bank", bank),
        "cash": make_account("cash", bank, kind=AccountKind.CASH, unlimited=True),
        "issuance": make_account("issuance", bank, kind=AccountKind.ISSUANCE, unlimited=True),
    }
    return World(person, club, rival, bank, accounts)


def nobody(world: World) -> None:
    pass


def employee(*permissions: str) -> Callable[[World], None]:
    def set_up(world: World) -> None:
        make_employee(world.club, world.person, *permissions)

    return set_up


def by_role(*permissions: str) -> Callable[[World], None]:
    def set_up(world: World) -> None:
        hired = make_employee(world.club, world.person)
        hired.roles.add(make_role(world.club, "role", *permissions))

    return set_up


def by_two_roles_and_directly(world: World) -> None:
    hired = make_employee(world.club, world.person, "view")
    hired.roles.add(make_role(world.club, "one", "transfer"))
    hired.roles.add(make_role(world.club, "two", "withdraw", "transfer"))


def role_without_being_given_it(world: World) -> None:
    make_employee(world.club, world.person, "view")
    make_role(world.club, "role", *PERMISSIONS)


def suspended(world: World) -> None:
    hired = make_employee(world.club, world.person, *PERMISSIONS, status=EmployeeStatus.SUSPENDED)
    hired.roles.add(make_role(world.club, "role", *PERMISSIONS))


def suspended_teller(world: World) -> None:
    make_employee(world.bank, world.person, "deposit", status=EmployeeStatus.SUSPENDED)


def teller(world: World) -> None:
    make_employee(world.bank, world.person, "deposit")


def teller_by_role(world: World) -> None:
    hired = make_employee(world.bank, world.person)
    hired.roles.add(make_role(world.bank, "tellers", "deposit"))


def all_at_the_bank(world: World) -> None:
    make_employee(world.bank, world.person, *PERMISSIONS)


def all_at_every_organization(world: World) -> None:
    for organization in (world.club, world.rival, world.bank):
        make_employee(organization, world.person, *PERMISSIONS)


def blocked(world: World) -> None:
    all_at_every_organization(world)
    Person.objects.filter(pk=world.person.pk).update(status=PersonStatus.BLOCKED)


def key_revoked(world: World) -> None:
    all_at_every_organization(world)
    world.person.keys.update(revoked_at=timezone.now(), revocation_reason="stolen")


def never_enrolled(world: World) -> None:
    all_at_every_organization(world)
    world.person.keys.all().delete()


# For each account the four permissions in the order view, transfer, withdraw, deposit:
# (A)llowed, permission (D)enied, account (U)navailable, (K)ey revoked.
#                                      own     other   club    rival   bank    cash    issuance
MATRIX: list[tuple[str, Callable[[World], None], str]] = [
    ("nobody", nobody,                  "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("employee without any", employee(), "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("view", employee("view"),          "AAAD    UUUU    ADDD    UUUU    UUUU    UUUU    UUUU"),
    ("transfer alone", employee("transfer"),
                                        "AAAD    UUUU    UAUU    UUUU    UUUU    UUUU    UUUU"),
    ("withdraw alone", employee("withdraw"),
                                        "AAAD    UUUU    UUAU    UUUU    UUUU    UUUU    UUUU"),
    ("view, transfer", employee("view", "transfer"),
                                        "AAAD    UUUU    AADD    UUUU    UUUU    UUUU    UUUU"),
    ("view, withdraw", employee("view", "withdraw"),
                                        "AAAD    UUUU    ADAD    UUUU    UUUU    UUUU    UUUU"),
    ("deposit at a customer", employee("deposit"),
                                        "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("everything at a customer", employee(*PERMISSIONS),
                                        "AAAD    UUUU    AAAD    UUUU    UUUU    UUUU    UUUU"),
    ("view by role", by_role("view"),   "AAAD    UUUU    ADDD    UUUU    UUUU    UUUU    UUUU"),
    ("everything by role", by_role(*PERMISSIONS),
                                        "AAAD    UUUU    AAAD    UUUU    UUUU    UUUU    UUUU"),
    ("a role without permissions", by_role(),
                                        "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("two roles and directly", by_two_roles_and_directly,
                                        "AAAD    UUUU    AAAD    UUUU    UUUU    UUUU    UUUU"),
    ("a role that was not given", role_without_being_given_it,
                                        "AAAD    UUUU    ADDD    UUUU    UUUU    UUUU    UUUU"),
    ("suspended", suspended,            "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("suspended teller", suspended_teller,
                                        "AAAD    UUUU    UUUU    UUUU    UUUU    UUUU    UUUU"),
    ("teller", teller,                  "AAAA    UUUA    UUUA    UUUA    UUUA    UUUU    UUUU"),
    ("teller by role", teller_by_role,  "AAAA    UUUA    UUUA    UUUA    UUUA    UUUU    UUUU"),
    ("everything at the bank", all_at_the_bank,
                                        "AAAA    UUUA    UUUA    UUUA    AAAA    ADDD    ADDD"),
    ("everything everywhere", all_at_every_organization,
                                        "AAAA    UUUA    AAAA    AAAA    AAAA    ADDD    ADDD"),
    ("blocked", blocked,                "KKKK    KKKK    KKKK    KKKK    KKKK    KKKK    KKKK"),
    ("key revoked", key_revoked,        "KKKK    KKKK    KKKK    KKKK    KKKK    KKKK    KKKK"),
    ("never enrolled", never_enrolled,  "KKKK    KKKK    KKKK    KKKK    KKKK    KKKK    KKKK"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "set_up", "expected"), MATRIX, ids=[row[0] for row in MATRIX])
def test_the_whole_matrix(
    world: World, case: str, set_up: Callable[[World], None], expected: str
) -> None:
    set_up(world)
    with nothing_changed():
        grants = load_grants([world.person.pk], [account.pk for account in world.accounts.values()])
        found = {
            name: "".join(
                _letter(grants.decide(world.person.pk, world.accounts[name], permission))
                for permission in PERMISSIONS
            )
            for name in ACCOUNTS
        }
        assert found == dict(zip(ACCOUNTS, expected.split(), strict=True))
        for name in ACCOUNTS:
            alone = "".join(
                _letter(decide(world.person, world.accounts[name], permission))
                for permission in PERMISSIONS
            )
            assert alone == found[name], name


def _letter(decision: Decision) -> str:
    assert bool(decision) is decision.allowed is (decision.code is None)
    if not decision.allowed:
        assert decision.order_limit is None
    return next(letter for letter, code in NAMES.items() if code == decision.code)


def test_a_person_whom_the_bank_does_not_know_is_denied(world: World) -> None:
    grants = load_grants([world.person.pk, 999_999], [world.accounts["own"].pk])
    with nothing_changed():
        decision = grants.decide(999_999, world.accounts["own"], "view")
    assert decision == Decision(allowed=False, code=Code.UNKNOWN_SENDER)


def test_a_person_who_was_not_loaded_is_denied(world: World) -> None:
    grants = load_grants([], [world.accounts["own"].pk])
    decision = grants.decide(world.person.pk, world.accounts["own"], "view")
    assert decision == Decision(allowed=False, code=Code.UNKNOWN_SENDER)


def test_an_account_that_was_not_loaded_gives_an_employee_nothing(world: World) -> None:
    all_at_every_organization(world)
    grants = load_grants([world.person.pk], [world.accounts["rival"].pk])
    assert not grants.decide(world.person.pk, world.accounts["club"], "view")
    assert grants.decide(world.person.pk, world.accounts["rival"], "view")


@pytest.mark.parametrize("permission", ["", "VIEW", "ADD", "admin", "view "])
def test_an_unknown_permission_raises(world: World, permission: str) -> None:
    all_at_every_organization(world)
    with nothing_changed(), pytest.raises(ValueError, match="is not a valid Permission"):
        decide(world.person, world.accounts["own"], permission)


def test_each_grant_counts_from_the_next_decision_and_no_longer_than_it_lasts(
    world: World,
) -> None:
    hired = make_employee(world.club, world.person, "view")
    role = make_role(world.club, "movers", "transfer")

    def may_transfer() -> bool:
        return decide(world.person, world.accounts["club"], "transfer").allowed

    assert not may_transfer()
    hired.roles.add(role)
    assert may_transfer()
    RolePermission.objects.filter(role=role).delete()
    assert not may_transfer()
    direct = EmployeePermission.objects.create(employee=hired, permission="transfer")
    assert may_transfer()
    Employee.objects.filter(pk=hired.pk).update(status=EmployeeStatus.SUSPENDED)
    assert not may_transfer()
    Employee.objects.filter(pk=hired.pk).update(status=EmployeeStatus.ACTIVE)
    assert may_transfer()
    direct.delete()
    assert not may_transfer()


@pytest.mark.parametrize(
    ("employee_limit", "account_limit", "expected"),
    [(None, None, None), (50, None, 50), (None, 70, 70), (50, 70, 50), (90, 70, 70), (0, 70, 0)],
)
def test_the_smaller_limit_counts(
    world: World, employee_limit: int | None, account_limit: int | None, expected: int | None
) -> None:
    account = world.accounts["club"]
    account.order_limit = account_limit
    make_employee(world.club, world.person, "transfer", "withdraw", order_limit=employee_limit)
    for permission in ("transfer", "withdraw"):
        decision = decide(world.person, account, permission)
        assert decision == Decision(allowed=True, order_limit=expected)


def test_the_owner_is_bound_by_the_limit_of_the_account(world: World) -> None:
    world.accounts["own"].order_limit = 25
    assert decide(world.person, world.accounts["own"], "transfer").order_limit == 25


def test_a_deposit_is_bound_by_the_limit_of_the_teller_alone(world: World) -> None:
    make_employee(world.bank, world.person, "deposit", order_limit=500)
    world.accounts["other"].order_limit = 25
    assert decide(world.person, world.accounts["other"], "deposit").order_limit == 500


def test_the_standing_names_the_key_in_force(world: World) -> None:
    key = world.person.keys.get()
    grants = load_grants([world.person.pk], [])
    standing = grants.standing(world.person.pk)
    assert standing is not None
    assert standing.accepted
    assert standing.fingerprint == key.fingerprint
    assert standing.identity_key == bytes(key.identity_key)
    assert grants.standing(999_999) is None


def test_the_number_of_queries_does_not_grow_with_the_batch(world: World) -> None:
    def queries_for(persons: list[Person]) -> int:
        accounts = [account.pk for account in world.accounts.values()]
        with CaptureQueriesContext(connection) as captured:
            load_grants([person.pk for person in persons], accounts)
        return len(captured)

    persons = [make_person(f"demo-{number}") for number in range(12)]
    for person in persons:
        make_employee(world.club, person, "view").roles.add(
            make_role(world.club, person.client_id, "transfer")
        )
    assert queries_for(persons[:1]) == queries_for(persons) == 1
