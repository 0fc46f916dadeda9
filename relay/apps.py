"""The relay as a Django application."""

from django.apps import AppConfig
from django.core.checks import register

from relay import checks


class RelayConfig(AppConfig):
    """Directory, mailbox and presence; its tables live in the database alias `relay`."""

    name = "relay"
    label = "relay"
    verbose_name = "Relay"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        register(checks.check_settings, checks.TAG)
        register(checks.check_deployment, checks.TAG, deploy=True)
