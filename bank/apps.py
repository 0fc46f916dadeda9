"""The bank as a Django application."""

from django.apps import AppConfig
from django.core.checks import Tags, register

from bank import checks


class BankConfig(AppConfig):
    """Parties, accounts, orders and the ledger; its tables live in the database alias `default`."""

    name = "bank"
    label = "bank"
    verbose_name = "Bank"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        register(checks.check_settings)
        register(checks.check_key_file, Tags.security, deploy=True)
        register(checks.check_connection, Tags.database)
        register(checks.check_demo_rows, Tags.database, deploy=True)
