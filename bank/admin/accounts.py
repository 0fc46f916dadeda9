"""Admin pages of currencies and accounts. Balances are shown, and changed nowhere here."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bank.admin.base import AuditedAdmin, ReadOnlyInline
from bank.admin.forms import AccountForm
from bank.models import Account, AccountKind, Currency, Entry
from bank.money import format_amount
from bank.services.accounts import close_account, freeze_account, thaw_account

ENTRIES_SHOWN = 20
FIXED_BY_ENTRIES = ("number", "owner_person", "owner_organization", "kind", "currency")


class NeverDeletedAdmin(AuditedAdmin):
    """Rows that stay for ever, because what was booked refers to them."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes these."""
        return False


class AccountInline(ReadOnlyInline):
    """The accounts of an owner."""

    model = Account
    fields = ("number", "kind", "currency", "shown_balance", "status")
    readonly_fields = fields

    @admin.display(description="balance")
    def shown_balance(self, account: Account) -> str:
        """The balance in units of the currency."""
        return amount_of(account, account.balance)


@admin.register(Currency)
class CurrencyAdmin(NeverDeletedAdmin):
    """Currencies; the decimal places are fixed as soon as there is an account."""

    list_display = ("code", "name", "exponent")
    search_fields = ("code", "name")
    fields = ("code", "name", "exponent")

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """What accounts rely on stays."""
        if not isinstance(obj, Currency):
            return ()
        return ("code", "exponent") if obj.accounts.exists() else ("code",)


@admin.register(Account)
class AccountAdmin(NeverDeletedAdmin):
    """Accounts: opened, limited, frozen, thawed and closed here; never filled or emptied."""

    form = AccountForm
    list_display = ("number", "owner", "kind", "currency", "shown_balance", "status")
    list_filter = ("status", "kind", "currency")
    search_fields = (
        "number",
        "owner_person__client_id",
        "owner_person__last_name",
        "owner_person__first_name",
        "owner_organization__code",
        "owner_organization__name",
    )
    autocomplete_fields = ("owner_person", "owner_organization", "currency")
    list_select_related = ("owner_person", "owner_organization", "currency")
    actions = ("freeze", "thaw", "close")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """What can be said of a new account; what the ledger made of one that exists."""
        given = (*FIXED_BY_ENTRIES, "credit_limit", "order_limit")
        if obj is None:
            return given
        shown = ("status", "shown_balance", "shown_held", "shown_available", "newest_entries")
        return (*given, *shown)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """Balances always; owner and currency once something was booked."""
        shown = ("status", "shown_balance", "shown_held", "shown_available", "newest_entries")
        if not isinstance(obj, Account):
            return shown
        fixed = FIXED_BY_ENTRIES if Entry.objects.filter(account=obj).exists() else ()
        # The bank's own accounts have no limit below zero that could be set.
        limit = () if obj.kind == AccountKind.CUSTOMER else ("credit_limit", "kind")
        return (*shown, *fixed, *limit)

    @admin.display(description="balance", ordering="balance")
    def shown_balance(self, account: Account) -> str:
        """The balance in units of the currency."""
        return amount_of(account, account.balance)

    @admin.display(description="on hold")
    def shown_held(self, account: Account) -> str:
        """The amount on hold."""
        return amount_of(account, account.held)

    @admin.display(description="available")
    def shown_available(self, account: Account) -> str:
        """Balance without what is on hold, with the credit limit."""
        available = account.available
        return "without limit" if available is None else amount_of(account, available)

    @admin.display(description=f"newest entries (at most {ENTRIES_SHOWN})")
    def newest_entries(self, account: Account) -> SafeString:
        """The newest entries, newest first."""
        entries = Entry.objects.filter(account=account).select_related("transfer")
        newest = entries.order_by("-transfer_id")[:ENTRIES_SHOWN]
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                (
                    f"{entry.transfer.booked_at:%Y-%m-%d %H:%M:%S}",
                    entry.transfer.get_kind_display(),
                    amount_of(account, entry.amount),
                    amount_of(account, entry.balance_after),
                )
                for entry in newest
            ),
        )
        if not rows:
            return SafeString("none")
        return format_html(
            "<table><tr><th>booked at (UTC)</th><th>kind</th><th>amount</th>"
            "<th>balance after</th></tr>{}</table>",
            rows,
        )

    @admin.action(description="Freeze: no transfers until thawed", permissions=["change"])
    def freeze(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        """Freeze the chosen accounts."""
        self.run_for_each(request, queryset, freeze_account, "is now frozen")

    @admin.action(description="Thaw: allow transfers again", permissions=["change"])
    def thaw(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        """Thaw the chosen accounts."""
        self.run_for_each(request, queryset, thaw_account, "is now open")

    @admin.action(description="Close for ever (balance must be zero)", permissions=["change"])
    def close(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        """Close the chosen accounts."""
        self.run_for_each(request, queryset, close_account, "is now closed")


def amount_of(account: Account, minor: int) -> str:
    """Return an amount of this account as people read it: "12.50 EUR"."""
    return f"{format_amount(minor, account.currency.exponent)} {account.currency_id}"
