"""The journal: transfers, and their two entries each.

Nothing here is ever changed or deleted; triggers of both databases refuse it. The references
have no constraint in the database, which would cost more than all else that a transfer costs:
the rows are proven to exist while they are locked, they can't be deleted, and ``verify_ledger``
checks the references again.
"""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from bank.models.accounts import Account, Currency
from bank.models.natural_keys import loaded_after
from bank.models.orders import Order


class TransferKind(models.TextChoices):
    """Why money moved."""

    TRANSFER = "transfer", "Transfer"
    WITHDRAWAL = "withdrawal", "Withdrawal"
    DEPOSIT = "deposit", "Deposit"
    OPENING = "opening", "Opening balance"
    REVERSAL = "reversal", "Reversal"


class TransferManager(models.Manager["Transfer"]):
    """Finds transfers by the id that receipts name."""

    def get_by_natural_key(self, transfer_uuid: str) -> Transfer:
        """Return that transfer, or raise ``Transfer.DoesNotExist``."""
        return self.get(uuid=uuid.UUID(transfer_uuid))


class Transfer(models.Model):
    """One positive amount, debited from one account and credited to another.

    The primary key is the transfer's number in the ledger's sequence, see ``Order``.
    """

    id = models.BigIntegerField(primary_key=True)
    uuid = models.UUIDField("transfer id", unique=True, help_text="The id that receipts name.")
    order = models.ForeignKey(
        Order,
        on_delete=models.PROTECT,
        related_name="transfers",
        db_constraint=False,
        db_index=False,
    )
    debit_account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        related_name="debits",
        db_constraint=False,
        db_index=False,
    )
    credit_account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        related_name="credits",
        db_constraint=False,
        db_index=False,
    )
    currency = models.ForeignKey(
        Currency, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    amount = models.BigIntegerField(help_text="In minor units of the currency.")
    kind = models.CharField(max_length=16, choices=TransferKind.choices)
    reverses = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="reversals",
        db_constraint=False,
        db_index=False,
        help_text="The transfer that this one takes back.",
    )
    booked_at = models.DateTimeField(help_text="The database's clock when it was booked.")
    value_date = models.DateField(
        null=True, blank=True, help_text="The date that the customer gave, if any."
    )

    objects = TransferManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-pk"]
        verbose_name = "transfer"
        verbose_name_plural = "transfers"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(amount__gt=0),
                name="bank_transfer_amount_positive",
                violation_error_message="The amount of a transfer is above zero.",
            ),
            models.CheckConstraint(
                condition=~Q(debit_account=F("credit_account")),
                name="bank_transfer_two_accounts",
                violation_error_message="A transfer has two different accounts.",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=TransferKind.values),
                name="bank_transfer_kind_known",
                violation_error_message="There is no such kind of transfer.",
            ),
            models.CheckConstraint(
                condition=Q(kind=TransferKind.REVERSAL, reverses__isnull=False)
                | (~Q(kind=TransferKind.REVERSAL) & Q(reverses__isnull=True)),
                name="bank_transfer_reversal_of_something",
                violation_error_message="A reversal, and nothing else, reverses a transfer.",
            ),
            # Partial: nearly every transfer reverses nothing and stays out of this index.
            models.UniqueConstraint(
                fields=["reverses"],
                condition=Q(reverses__isnull=False),
                name="bank_transfer_reversed_once",
                violation_error_message="A transfer is reversed at most once.",
            ),
        ]

    def __str__(self) -> str:
        return str(self.uuid)

    @loaded_after("bank.account", "bank.order")
    def natural_key(self) -> tuple[str]:
        """Return ``(uuid,)``."""
        return (str(self.uuid),)


class EntryManager(models.Manager["Entry"]):
    """Finds entries by account number and transfer."""

    def get_by_natural_key(self, account_number: str, transfer_uuid: str) -> Entry:
        """Return that entry, or raise ``Entry.DoesNotExist``."""
        return self.get(account__number=account_number, transfer__uuid=uuid.UUID(transfer_uuid))


class Entry(models.Model):
    """What one transfer did to one account; an account's entries are its statement.

    The primary key begins with the account, so it is the statement's index too.
    """

    pk = models.CompositePrimaryKey("account_id", "transfer_id")
    account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        related_name="entries",
        db_constraint=False,
        db_index=False,
    )
    transfer = models.ForeignKey(
        Transfer,
        on_delete=models.PROTECT,
        related_name="entries",
        db_constraint=False,
        db_index=False,
    )
    amount = models.BigIntegerField(
        help_text="In minor units: above zero for a credit, below for a debit."
    )
    balance_after = models.BigIntegerField(help_text="The account's balance after it.")

    objects = EntryManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["account_id", "-transfer_id"]
        verbose_name = "entry"
        verbose_name_plural = "entries"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=~Q(amount=0),
                name="bank_entry_amount_not_zero",
                violation_error_message="An entry has an amount.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} on account {self.account_id} by transfer {self.transfer_id}"

    @loaded_after("bank.account", "bank.transfer")
    def natural_key(self) -> tuple[str, str]:
        """Return ``(account number, transfer uuid)``."""
        return (self.account.number, str(self.transfer.uuid))
