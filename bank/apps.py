"""The bank as a Django application."""

from django.apps import AppConfig


class BankConfig(AppConfig):
    """Parties, accounts, orders and the ledger; its tables live in the database alias `default`."""

    name = "bank"
    label = "bank"
    verbose_name = "Bank"
    default_auto_field = "django.db.models.BigAutoField"
