"""Orders: what customers signed, and what the bank answered for ever."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact

from bank.models.natural_keys import loaded_after
from bank.models.parties import Person

HASH_BYTES = 32
SIGNATURE_BYTES = 64


class OrderOperation(models.TextChoices):
    """What an order asks for."""

    TRANSFER = "transfer", "Transfer"
    WITHDRAW = "withdraw", "Withdraw"
    DEPOSIT = "deposit", "Deposit"
    ISSUE = "issue", "Issue"
    UNREADABLE = "", "Not readable"


class OrderResult(models.TextChoices):
    """How an order ended; both ends are final."""

    ACCEPTED = "accepted", "Accepted"
    REFUSED = "refused", "Refused"


class OrderManager(models.Manager["Order"]):
    """Finds orders by the person who gave them and the id that the person chose."""

    def get_by_natural_key(self, client_id: str, order_id: str) -> Order:
        """Return that order, or raise ``Order.DoesNotExist``."""
        return self.get(person__client_id=client_id, order_id=uuid.UUID(order_id))


class Order(models.Model):
    """A signed order that was decided, with the evidence and the signed receipt.

    The primary key is the order's number in the ledger's sequence: numbers are drawn while the
    accounts are locked, so of two orders on the same account the later one has the higher number.
    An order's transfers have numbers of the same sequence, from the order's own on. Rows are
    written once; triggers refuse every change.
    """

    id = models.BigAutoField(primary_key=True)
    person = models.ForeignKey(Person, on_delete=models.PROTECT, related_name="orders")
    order_id = models.UUIDField("order id")
    evidence_hash = models.BinaryField(
        max_length=HASH_BYTES, help_text="SHA-256 of the evidence; the receipt refers to it."
    )
    evidence = models.BinaryField(
        help_text="The customer's signature, then exactly the bytes that it signs."
    )
    operation = models.CharField(max_length=16, choices=OrderOperation.choices, blank=True)
    outcome = models.CharField(max_length=16, choices=OrderResult.choices)
    code = models.CharField(
        max_length=32, blank=True, default="", help_text="Why it was refused; empty if it wasn't."
    )
    receipt = models.BinaryField(help_text="Exactly the bytes of the receipt.")
    receipt_signature = models.BinaryField(
        max_length=SIGNATURE_BYTES, help_text="The bank's signature of the receipt."
    )
    received_at = models.DateTimeField(help_text="The database's clock when it was decided.")

    objects = OrderManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-pk"]
        verbose_name = "order"
        verbose_name_plural = "orders"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # The id first: ids of version 7 rise with time, so new orders meet at the end of the
            # index, and a batch looks its ids up one by one instead of for every person.
            models.UniqueConstraint(
                fields=["order_id", "person"],
                name="bank_order_once",
                violation_error_message="This person already gave an order with this id.",
            ),
            models.CheckConstraint(
                condition=Q(operation__in=OrderOperation.values),
                name="bank_order_operation_known",
                violation_error_message="There is no such operation.",
            ),
            models.CheckConstraint(
                condition=Q(outcome=OrderResult.ACCEPTED, code="")
                | (Q(outcome=OrderResult.REFUSED) & ~Q(code="")),
                name="bank_order_code_if_refused",
                violation_error_message="A refused order has a code, an accepted one has none.",
            ),
            models.CheckConstraint(
                condition=Q(Exact(Length("evidence_hash"), HASH_BYTES)),
                name="bank_order_evidence_hash_size",
                violation_error_message="The hash of the evidence has 32 bytes.",
            ),
            models.CheckConstraint(
                condition=Q(Exact(Length("receipt_signature"), SIGNATURE_BYTES)),
                name="bank_order_receipt_signature_size",
                violation_error_message="The signature of the receipt has 64 bytes.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order_id} of {self.person}"

    @property
    def sequence(self) -> int:
        """The order's number in the ledger's sequence."""
        return self.pk

    @loaded_after("bank.person", "bank.personkey")
    def natural_key(self) -> tuple[str, str]:
        """Return ``(client_id, order id)``."""
        return (self.person.client_id, str(self.order_id))
