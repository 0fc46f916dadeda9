"""Holds that no money moved: the journal and every balance are as they were."""

from __future__ import annotations

from bank.models import Entry, Transfer
from tests.bank.orders import balances


def journal() -> tuple[object, ...]:
    return (
        list(Transfer.objects.order_by("pk").values_list()),
        list(Entry.objects.order_by("pk").values_list()),
        balances(),
    )


class nothing_in_the_journal_changed:  # noqa: N801 - reads as a statement
    def __enter__(self) -> None:
        self.before = journal()

    def __exit__(self, *_: object) -> None:
        assert journal() == self.before
