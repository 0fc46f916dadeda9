"""Compiled queries: the same rows as the ORM gives, from SQL that never changes."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from bank.compiled import CompiledQuery, Slot
from bank.models import Account, Order
from tests.bank.orders import SmallBank, small_bank

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def _accounts() -> QuerySet[Account, Any]:
    return (
        Account.objects.filter(number__any_of=Slot("numbers"))
        .order_by("number")
        .values_list("number", "unlimited", "owner_person__client_id", "balance")
    )


def _orders() -> QuerySet[Order, Any]:
    return (
        Order.objects.filter(order_id__any_of=Slot("ids"))
        .order_by("pk")
        .values_list("order_id", "received_at", "evidence_hash")
    )


def test_rows_are_those_of_the_orm(bank: SmallBank) -> None:
    wanted = {"account2", "account3", "cash-TWC", "nobody's"}
    expected = list(
        Account.objects.filter(number__in=wanted)
        .order_by("number")
        .values_list("number", "unlimited", "owner_person__client_id", "balance")
    )
    assert CompiledQuery(_accounts).rows("default", numbers=wanted) == expected
    assert [type(row[1]) for row in expected] == [bool] * 3


def test_values_are_converted_like_those_of_the_orm(bank: SmallBank) -> None:
    ids = list(Order.objects.values_list("order_id", flat=True))
    rows = CompiledQuery(_orders).rows("default", ids=[*ids, uuid.uuid4()])
    expected = list(
        Order.objects.order_by("pk").values_list("order_id", "received_at", "evidence_hash")
    )
    assert [(row[0], row[1], bytes(row[2])) for row in rows] == [
        (row[0], row[1], bytes(row[2])) for row in expected
    ]


def test_an_empty_list_finds_nothing(bank: SmallBank) -> None:
    assert CompiledQuery(_accounts).rows("default", numbers=[]) == []


def test_it_is_compiled_once_and_its_sql_never_changes(bank: SmallBank) -> None:
    built = []

    def build() -> QuerySet[Account, Any]:
        built.append(True)
        return _accounts()

    query = CompiledQuery(build)
    with CaptureQueriesContext(connection) as captured:
        query.rows("default", numbers=["account2"])
        query.rows("default", numbers=["account1", "account2", "account3"])
    assert len(built) == 1
    assert len(captured) == 2


def test_a_missing_list_is_an_error_of_the_caller(bank: SmallBank) -> None:
    with pytest.raises(KeyError, match="numbers"):
        CompiledQuery(_accounts).rows("default")
