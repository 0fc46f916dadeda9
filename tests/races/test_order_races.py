"""Orders against what changes at the same moment: their repetition, keys, permissions, locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from django.db import connection, transaction
from django.forms import modelform_factory
from django.utils import timezone

from bank import ledger
from bank.admin.base import save_recorded
from bank.audit import Actor
from bank.authorization import load_grants
from bank.incoming import IncomingOrder, OrderOutcome
from bank.ledger import book
from bank.models import Account, Employee, EmployeePermission, Order, PersonKey, Role
from bank.services import keys
from bank.services.accounts import freeze_account, thaw_account
from bank.services.employees import (
    dismiss_employee,
    set_employee_grants,
    set_employee_limit,
    suspend_employee,
)
from bank.services.persons import block_person, release_person
from bank.services.roles import delete_role, set_role_permissions
from bank.verification import verify_ledger
from protocol.errors import Code
from tests.bank.guards import drop_guards
from tests.bank.orders import BANK, BANK_ID, SmallBank, balances, order_of, small_bank, transfer
from tests.bank.parties import make_role, signed_bundle
from tests.databases import TestDatabases
from tests.races.threads import (
    PATIENCE_SECONDS,
    HeldWriter,
    MeetingWriter,
    in_threads,
    somebody_waits_for_a_lock,
    switch_locks_off,
    switch_shared_lock_off,
    wait_until_somebody_waits_for_a_lock,
)


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    assert connection.vendor == "postgresql"
    return small_bank()


# --- The same order on two connections ----------------------------------------------------------


def book_on_two_connections(order: IncomingOrder) -> tuple[MeetingWriter, list[OrderOutcome]]:
    writer = MeetingWriter(2)
    outcomes = in_threads([lambda: book([order], BANK, writer=writer)[0]] * 2)
    return writer, outcomes


def test_the_same_order_from_two_connections_is_booked_once(bank: SmallBank) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    writer, (one, other) = book_on_two_connections(order)
    assert not writer.met
    assert one == other
    assert one.code is None
    assert balances(["account1", "account2"]) == {"account1": 900, "account2": 1100}
    assert Order.objects.filter(order_id=order.order_id).count() == 1


def test_where_no_lock_is_shared_the_unique_id_decides(bank: SmallBank) -> None:
    """An order on accounts that don't exist locks nothing, so both connections try to record it."""
    order = order_of(bank.ada, transfer("nowhere", "elsewhere", 100))
    writer, (one, other) = book_on_two_connections(order)
    assert writer.met
    assert one == other
    assert one.code is Code.ACCOUNT_UNAVAILABLE
    assert Order.objects.filter(order_id=order.order_id).count() == 1


def test_control_without_lock_and_unique_id_it_is_booked_twice(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_locks_off(monkeypatch)
    drop_guards()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE bank_order DROP CONSTRAINT bank_order_once")
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    writer, (one, other) = book_on_two_connections(order)
    assert writer.met
    assert one != other
    assert Order.objects.filter(order_id=order.order_id).count() == 2


# --- Keys and permissions -----------------------------------------------------------------------


def revoke_key(bank: SmallBank) -> None:
    PersonKey.objects.filter(person=bank.ada).update(revoked_at=timezone.now())


def take_permission(bank: SmallBank) -> None:
    EmployeePermission.objects.filter(employee__person=bank.ada, permission="transfer").delete()


def freeze(bank: SmallBank) -> None:
    Account.objects.filter(number="account2").update(status="frozen")


def lower_limit(bank: SmallBank) -> None:
    Account.objects.filter(number="account1").update(order_limit=5)


CHANGES: list[tuple[Callable[[SmallBank], None], Code]] = [
    (revoke_key, Code.KEY_REVOKED),
    (take_permission, Code.PERMISSION_DENIED),
    (freeze, Code.ACCOUNT_FROZEN),
    (lower_limit, Code.LIMIT_EXCEEDED),
]


def change_while_an_order_waits(
    bank: SmallBank, change: Callable[[SmallBank], None]
) -> OrderOutcome:
    """Somebody holds the account; the order waits for the lock; the change commits meanwhile."""
    order = order_of(bank.ada, transfer("account1", "account2", 100))

    def hold_and_change() -> None:
        with transaction.atomic():
            list(Account.objects.select_for_update(no_key=True).filter(number="account1"))
            waiting.set()
            wait_until_somebody_waits_for_a_lock()
            change(bank)

    waiting = threading.Event()

    def give_order() -> OrderOutcome:
        assert waiting.wait(PATIENCE_SECONDS)
        return book([order], BANK)[0]

    _, outcome = in_threads([hold_and_change, give_order])
    assert isinstance(outcome, OrderOutcome)
    return outcome


@pytest.mark.parametrize(("change", "code"), CHANGES)
def test_what_is_committed_before_the_lock_counts(
    bank: SmallBank, change: Callable[[SmallBank], None], code: Code
) -> None:
    assert change_while_an_order_waits(bank, change).code is code
    assert balances(["account1", "account2"]) == {"account1": 1000, "account2": 1000}


@pytest.mark.parametrize("change", [revoke_key, take_permission])
def test_control_read_before_the_lock_it_would_not_count(
    bank: SmallBank, change: Callable[[SmallBank], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = list(Account.objects.values_list("pk", flat=True))
    early = load_grants([bank.ada.pk], accounts)
    monkeypatch.setattr(ledger, "start_grants", lambda *_: SimpleNamespace(result=lambda: early))
    assert change_while_an_order_waits(bank, change).code is None


@pytest.mark.parametrize("change", [revoke_key, take_permission])
def test_an_order_in_hand_ends_and_the_next_one_is_refused(
    bank: SmallBank, change: Callable[[SmallBank], None]
) -> None:
    first = order_of(bank.ada, transfer("account1", "account2", 1))
    later = order_of(bank.ada, transfer("account1", "account2", 2))
    writer = HeldWriter()

    def change_meanwhile() -> OrderOutcome:
        assert writer.reached.wait(PATIENCE_SECONDS)
        change(bank)
        writer.go_on.set()
        return book([later], BANK)[0]

    outcomes = in_threads([lambda: book([first], BANK, writer=writer)[0], change_meanwhile])
    assert outcomes[0].code is None
    assert outcomes[1].code in {Code.KEY_REVOKED, Code.PERMISSION_DENIED}
    assert balances(["account1"]) == {"account1": 999}
    # The clocks of revocation and booking may cross by the length of a transaction.
    assert [str(problem) for problem in verify_ledger(BANK_ID)] == []


# --- What the operator was told -----------------------------------------------------------------

ACTOR = Actor("user:operator")


def employment(bank: SmallBank) -> Employee:
    return Employee.objects.get(organization=bank.club, person=bank.ada)


def replace_key(bank: SmallBank) -> None:
    keys.rotate_key(ACTOR, bank.ada, signed_bundle("ada", generation=2, version=2), confirmed=True)


def suspend_in_the_admin(bank: SmallBank) -> None:
    """The form of an employee doesn't go through the service that suspends."""
    row = employment(bank)
    form = modelform_factory(Employee, fields=["status"])({"status": "suspended"}, instance=row)
    assert form.is_valid()
    save_recorded(ACTOR, row, form, change=True)


WITHDRAWALS: list[Callable[[SmallBank], object]] = [
    lambda bank: keys.revoke_key(ACTOR, bank.ada, "stolen"),
    replace_key,
    lambda bank: block_person(ACTOR, bank.ada, "suspicious"),
    lambda bank: suspend_employee(ACTOR, employment(bank), "on leave"),
    suspend_in_the_admin,
    lambda bank: dismiss_employee(ACTOR, employment(bank), "left"),
    lambda bank: set_employee_grants(ACTOR, employment(bank), ["view"], []),
    lambda bank: set_employee_limit(ACTOR, employment(bank), 1),
    lambda bank: set_role_permissions(ACTOR, Role.objects.get(), []),
    lambda bank: delete_role(ACTOR, Role.objects.get()),
    lambda bank: freeze_account(ACTOR, Account.objects.get(number="account1"), "dispute"),
]


def withdraw_while_an_order_is_in_hand(
    bank: SmallBank, withdraw: Callable[[SmallBank], object]
) -> tuple[int, int]:
    """Return how many orders there were when the operator was told, and how many in the end."""
    EmployeePermission.objects.filter(employee__person=bank.ada, permission="transfer").delete()
    employment(bank).roles.add(make_role(bank.club, "buyer", "transfer"))
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    writer = HeldWriter()
    told: list[int] = []

    def operate() -> None:
        assert writer.reached.wait(PATIENCE_SECONDS)
        withdraw(bank)
        told.append(Order.objects.count())

    def give_order() -> None:
        assert book([order], BANK, writer=writer)[0].code is None

    def let_it_go_on() -> None:
        """The operator waits for the order, or was told without waiting."""
        while not told and not somebody_waits_for_a_lock():
            time.sleep(0.01)
        writer.go_on.set()

    in_threads([operate, give_order, let_it_go_on])
    return told[0], Order.objects.count()


@pytest.mark.parametrize("withdraw", WITHDRAWALS)
def test_once_it_is_told_nothing_that_read_the_old_state_commits(
    bank: SmallBank, withdraw: Callable[[SmallBank], object]
) -> None:
    told, in_the_end = withdraw_while_an_order_is_in_hand(bank, withdraw)
    assert told == in_the_end
    later = order_of(bank.ada, transfer("account1", "account2", 100))
    assert book([later], BANK)[0].code is not None
    assert [str(problem) for problem in verify_ledger(BANK_ID)] == []


@pytest.mark.parametrize("withdraw", WITHDRAWALS[:-1])
def test_control_without_the_shared_lock_it_commits_later(
    bank: SmallBank,
    withdraw: Callable[[SmallBank], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switch_shared_lock_off(monkeypatch)
    told, in_the_end = withdraw_while_an_order_is_in_hand(bank, withdraw)
    assert told + 1 == in_the_end


def test_orders_and_withdrawals_at_the_same_time_all_end(bank: SmallBank) -> None:
    """Nobody waits in a circle, though withdrawals write rows that orders read or refer to."""

    def give_orders() -> None:
        for _ in range(40):
            book([order_of(bank.ada, transfer("account1", "account2", 1))], BANK)

    def operate() -> None:
        for _ in range(20):
            block_person(ACTOR, bank.ada, "suspicious")
            freeze_account(ACTOR, Account.objects.get(number="account1"), "dispute")
            release_person(ACTOR, bank.ada, "cleared")
            thaw_account(ACTOR, Account.objects.get(number="account1"), "settled")

    in_threads([give_orders, give_orders, operate])
    assert Order.objects.filter(person=bank.ada).count() == 80
    assert [str(problem) for problem in verify_ledger(BANK_ID)] == []


# --- Locks in the wrong order -------------------------------------------------------------------


@pytest.fixture
def patient_connection(bank: SmallBank) -> Iterator[None]:
    """Let this connection look for deadlocks late, so that the other side gives way."""
    with connection.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '15s'")
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET deadlock_timeout")


def test_a_deadlock_with_somebody_else_is_tried_again(
    bank: SmallBank, patient_connection: None
) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    lowest, highest = Account.objects.filter(number__in=["account1", "account2"]).order_by("pk")
    outcomes: list[OrderOutcome] = []

    def give_order() -> None:
        outcomes.extend(in_threads([lambda: book([order], BANK)[0]]))

    giver = threading.Thread(target=give_order)
    with transaction.atomic():
        # The wrong way round: the highest key first.
        list(Account.objects.select_for_update().filter(pk=highest.pk))
        giver.start()
        wait_until_somebody_waits_for_a_lock()
        list(Account.objects.select_for_update().filter(pk=lowest.pk))
    giver.join(PATIENCE_SECONDS)
    assert [outcome.code for outcome in outcomes] == [None]
    assert balances(["account1", "account2"]) == {"account1": 900, "account2": 1100}
