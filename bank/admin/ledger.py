"""Orders, receipts and the journal in the admin: read by operators, written by the ledger alone.

Entries have a primary key of two columns, which the admin can't list; they are shown with their
transfer and with their account.
"""

from __future__ import annotations

import json
from contextlib import suppress

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bank.admin.base import ReadOnlyAdmin
from bank.models import Order, Transfer
from bank.money import format_amount

SIGNATURE_BYTES = 64


@admin.register(Order)
class OrderAdmin(ReadOnlyAdmin):
    """Decided orders with the signed evidence and the signed receipt."""

    list_display = ("id", "received_at", "person", "operation", "outcome", "code", "order_id")
    list_filter = ("outcome", "operation", "code", "received_at")
    search_fields = ("=order_id", "person__client_id", "person__last_name", "person__first_name")
    search_help_text = "Order id, or id or name of the person."
    list_select_related = ("person",)
    show_full_result_count = False
    fields = (
        "id",
        "order_id",
        "person",
        "received_at",
        "operation",
        "outcome",
        "code",
        "shown_transfers",
        "shown_order",
        "shown_signature",
        "shown_hash",
        "shown_receipt",
        "shown_receipt_signature",
    )
    readonly_fields = fields

    @admin.display(description="transfers")
    def shown_transfers(self, order: Order) -> str:
        """The ids of what was booked for it."""
        return ", ".join(str(transfer) for transfer in order.transfers.all()) or "none"

    @admin.display(description="signed order")
    def shown_order(self, order: Order) -> SafeString:
        """The bytes that the customer signed, which are JSON."""
        return _document(bytes(order.evidence)[SIGNATURE_BYTES:])

    @admin.display(description="signature of the customer")
    def shown_signature(self, order: Order) -> str:
        """In hexadecimal digits."""
        return bytes(order.evidence)[:SIGNATURE_BYTES].hex()

    @admin.display(description="SHA-256 of the evidence")
    def shown_hash(self, order: Order) -> str:
        """In hexadecimal digits."""
        return bytes(order.evidence_hash).hex()

    @admin.display(description="receipt")
    def shown_receipt(self, order: Order) -> SafeString:
        """The bytes that the bank signed, which are JSON."""
        return _document(bytes(order.receipt))

    @admin.display(description="signature of the bank")
    def shown_receipt_signature(self, order: Order) -> str:
        """In hexadecimal digits."""
        return bytes(order.receipt_signature).hex()


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    """The journal: each transfer with its two entries."""

    list_display = (
        "id",
        "booked_at",
        "debit_account",
        "credit_account",
        "shown_amount",
        "kind",
        "uuid",
    )
    list_filter = ("kind", "currency", "booked_at")
    search_fields = ("=uuid", "=debit_account__number", "=credit_account__number")
    search_help_text = "Transfer id or account number, in full."
    list_select_related = ("debit_account", "credit_account", "currency")
    show_full_result_count = False
    fields = (
        "id",
        "uuid",
        "order",
        "booked_at",
        "value_date",
        "kind",
        "reverses",
        "debit_account",
        "credit_account",
        "shown_amount",
        "shown_entries",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        """Transfers with their order and its person, which the page names."""
        return super().get_queryset(request).select_related("order__person", "currency")

    @admin.display(description="amount")
    def shown_amount(self, transfer: Transfer) -> str:
        """The amount in units of the currency."""
        return f"{_amount(transfer, transfer.amount)} {transfer.currency_id}"

    @admin.display(description="entries")
    def shown_entries(self, transfer: Transfer) -> SafeString:
        """What it did to each of the two accounts."""
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                (
                    entry.account.number,
                    _amount(transfer, entry.amount),
                    _amount(transfer, entry.balance_after),
                )
                for entry in transfer.entries.select_related("account").order_by("amount")
            ),
        )
        return format_html(
            "<table><tr><th>account</th><th>amount</th><th>balance after</th></tr>{}</table>",
            rows,
        )


def _amount(transfer: Transfer, minor: int) -> str:
    return format_amount(minor, transfer.currency.exponent)


def _document(content: bytes) -> SafeString:
    """Show JSON with its members on lines of their own; anything else as it is."""
    text = content.decode("utf-8", errors="backslashreplace")
    with suppress(ValueError):
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    return format_html("<pre>{}</pre>", text)
