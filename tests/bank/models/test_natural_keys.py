"""Fixtures with natural keys: what is dumped loads into an empty database and is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core import serializers
from django.core.management import call_command

from bank.models import Account, Currency, Employee, Person
from tests.bank.parties import (
    make_account,
    make_employee,
    make_organization,
    make_person,
    make_role,
)

pytestmark = pytest.mark.django_db

EDITED = (
    "currency",
    "person",
    "personkey",
    "organization",
    "role",
    "rolepermission",
    "employee",
    "employeepermission",
    "account",
)


def dumped() -> str:
    """The bank without primary keys, every reference by natural key."""
    models = [apps.get_model("bank", name) for name in EDITED]
    rows = [row for model in models for row in model._default_manager.order_by("pk")]
    return serializers.serialize(
        "json", rows, use_natural_foreign_keys=True, use_natural_primary_keys=True
    )


def test_a_dump_loads_into_an_empty_database_and_again(tmp_path: Path) -> None:
    ada, club = make_person("demo-ada"), make_organization("demo-club")
    make_employee(club, ada, "view").roles.add(make_role(club, "movers", "transfer"))
    make_account("account1", club)
    make_account("account2", ada)
    before = dumped()
    assert not any("pk" in row for row in json.loads(before) if row["model"] != "bank.currency")
    (tmp_path / "bank.json").write_text(before, encoding="utf-8")
    call_command("loaddata", str(tmp_path / "bank.json"), verbosity=0)
    assert dumped() == before, "rows that are there are found by their natural keys"


def test_each_model_is_found_by_its_natural_key() -> None:
    ada, club = make_person("demo-ada"), make_organization("demo-club")
    employee = make_employee(club, ada, "view")
    role = make_role(club, "movers", "transfer")
    account = make_account("account1", club)
    rows: list[Any] = [
        ada,
        ada.keys.get(),
        club,
        employee,
        employee.permissions.get(),
        role,
        role.permissions.get(),
        account,
    ]
    for row in rows:
        assert type(row)._default_manager.get_by_natural_key(*row.natural_key()) == row
    currency = account.currency
    assert Currency.objects.get_by_natural_key("TWC") == currency
    with pytest.raises(Person.DoesNotExist):
        Person.objects.get_by_natural_key("demo-eve")
    with pytest.raises(Employee.DoesNotExist):
        Employee.objects.get_by_natural_key("demo-club", "demo-eve")
    with pytest.raises(Account.DoesNotExist):
        Account.objects.get_by_natural_key("account9")


def test_what_a_row_is_called() -> None:
    ada, club = make_person("demo-ada"), make_organization("demo-club")
    employee, role = make_employee(club, ada, "view"), make_role(club, "movers", "transfer")
    assert str(ada) == "Test, Demo-ada (demo-ada)"
    assert str(ada.keys.get()) == "Test, Demo-ada (demo-ada) generation 1"
    assert str(employee) == "Test, Demo-ada (demo-ada) at Demo-club"
    assert str(role) == "movers at Demo-club"
    assert str(make_account("account1", club)) == "account1"
    assert make_account("account2", ada).available == 0
    assert make_account("cash", club, kind="cash", unlimited=True).available is None
