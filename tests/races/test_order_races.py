"""Orders against what changes at the same moment: their repetition, keys, permissions, locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from django.db import connection, transaction
from django.utils import timezone

from bank import ledger
from bank.authorization import load_grants
from bank.incoming import IncomingOrder, OrderOutcome
from bank.ledger import book
from bank.models import Account, EmployeePermission, Order, PersonKey
from bank.verification import verify_ledger
from protocol.errors import Code
from tests.bank.guards import drop_guards
from tests.bank.orders import BANK, BANK_ID, SmallBank, balances, order_of, small_bank, transfer
from tests.databases import TestDatabases
from tests.races.threads import (
    PATIENCE_SECONDS,
    HeldWriter,
    MeetingWriter,
    in_threads,
    switch_locks_off,
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
